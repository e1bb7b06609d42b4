"""SEVERE by one command."""
