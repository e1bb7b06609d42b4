"""Convolutional networks on clips."""
