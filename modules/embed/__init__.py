"""Features of whole collections of videos by any encoder: `python main.py embed`."""
