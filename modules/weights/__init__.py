"""Weights in files: reading them safely, what is known of them, and the names that other code bases give them."""
