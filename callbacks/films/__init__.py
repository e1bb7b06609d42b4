"""Callbacks that draw films: interpolated clips, propagated labels."""
