"""Parameter names of other code bases, one file each: pure functions on dictionaries of tensors."""
