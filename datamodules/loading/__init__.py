"""Resumable order of batches, fault-tolerant worker processes, and the report of files that could not be read."""
