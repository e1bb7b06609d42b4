"""Metrics of downstream tasks, independent of networks and data."""
