"""Audio of video and audio files: decoding, resampling, cutting the part that belongs to a clip."""
