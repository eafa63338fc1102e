"""The surgery on the model: what is put in the place of its layers, its norms, its head and its attention."""
