"""Input of sound encoders."""
