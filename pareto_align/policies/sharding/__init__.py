"""A base model whose weights lie on several ranks: processes that each have a part of it, and run the same policies."""
