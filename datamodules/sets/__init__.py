"""One data set, one file: where its lists are, what they say, and what is special about it."""
