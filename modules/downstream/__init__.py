"""Downstream tasks for pretrained backbones, one per file."""
