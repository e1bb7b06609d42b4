"""From video files to uint8 clips: decode, sample frames, crop and resize."""
