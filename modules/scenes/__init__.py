"""Generated clips and bodies with labels: what moves, over what, and everything that is known about it."""
