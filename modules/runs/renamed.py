"""Settings that had another name before: what a configuration of then is told."""

RENAMED: dict[str, str] = {}
"""Old name -> new name, as on the command line, without the dashes."""
