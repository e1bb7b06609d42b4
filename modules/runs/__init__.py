"""What makes a run reproducible and easy to read: command line, run folder, checkpoints, provenance."""
