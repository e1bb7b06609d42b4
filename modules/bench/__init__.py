"""The command `bench`: the speed of a run, its bottleneck, and what to change."""
