"""Encoders of tables of sensors."""
