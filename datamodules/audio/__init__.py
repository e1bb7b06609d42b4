"""Sound of video and audio files: decoding, resampling, cutting out what a clip shows."""
