"""What keeps a run safe and readable: the command line, its folder, its checkpoints, its record."""
