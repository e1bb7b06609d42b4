"""Motion, appearance and rendering of synthetic objects in clips."""
