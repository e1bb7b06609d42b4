"""Lists of samples: reading files and folders, matching labels, selecting subsets."""
