"""SEVERE, the benchmark of how well video representations generalise: `python main.py severe`."""
