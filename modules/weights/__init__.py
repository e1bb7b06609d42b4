"""Weight files: safe reading, their metadata, and the parameter names of other code bases."""
