"""What every method shares while it trains: the base class, optimisers and schedules, resuming, averages of weights."""
