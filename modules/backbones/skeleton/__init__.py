"""Encoders of skeletons."""
