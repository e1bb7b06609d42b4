"""Mask generators, which choose visible and predicted tokens in exact numbers, on the device."""
