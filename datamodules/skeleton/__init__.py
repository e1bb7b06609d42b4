"""Recordings of skeletons: raw files, pre-processing, one memory-mapped store per data set, crops in time."""
