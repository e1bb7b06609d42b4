"""Sentences about motion: facts measured on trajectories, their wording, and tokenisation."""
