"""Batches in an order that can be resumed, worker processes that may fail, and the report of files that could not be read."""
