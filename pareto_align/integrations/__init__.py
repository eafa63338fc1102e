"""Ways into other libraries' trainers: one module a library, imported only by those who use it."""
