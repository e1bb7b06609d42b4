"""One table of names per foreign code base: pure functions on dictionaries of tensors."""
