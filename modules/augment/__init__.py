"""Augmentation of clips and skeletons, batched on the device."""
