"""Training code that all methods share: the base class, optimisers and schedules, resuming, weight averaging."""
