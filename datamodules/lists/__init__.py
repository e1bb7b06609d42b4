"""Lists of samples: read from files and folders, joined with labels, cut into subsets."""
