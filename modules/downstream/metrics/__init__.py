"""How downstream tasks are scored, apart from networks and data."""
