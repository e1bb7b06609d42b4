"""Encoders of sequences of features."""
