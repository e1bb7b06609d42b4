"""One file per data set: location and format of its lists, and special cases."""
