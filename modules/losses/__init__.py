"""Losses that two or more methods could share: pure functions, in float32."""
