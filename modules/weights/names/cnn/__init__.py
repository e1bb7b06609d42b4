"""Parameter names of convolutional networks in other code bases."""
