"""Skeleton recordings: raw files, pre-processing, one memory-mapped store per data set, temporal crops."""
