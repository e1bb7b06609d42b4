"""From video files to uint8 clips: decode, choose frames, crop and resize."""
