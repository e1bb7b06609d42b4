"""Sentences about motion: facts measured on trajectories, the words for them, and sentences as numbers."""
