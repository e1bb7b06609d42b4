"""Contrast of clips: the network that follows by momentum, its queue of keys, and methods built from them."""
