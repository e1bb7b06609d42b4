"""Frames out of video files, the right ones or an error."""
