"""Generated data sets: no files, no download."""
