"""The command `bench`: how fast a run is, what limits it, and what to change."""
