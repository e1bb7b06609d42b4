"""Management of runs: command line, run folder, checkpoints, provenance."""
