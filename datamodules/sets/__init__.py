"""One file per data set: where its lists are, their format, and special cases."""
