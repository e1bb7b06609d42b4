"""What every method shares: contracts, randomness, optimisation, checkpoints."""
