"""Encoders of sound, and what they look at."""
