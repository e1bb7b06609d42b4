"""What pretrained backbones are used for, one task per file."""
