"""Transformers on clips."""
