"""Losses that several methods can share: pure functions, in float32."""
