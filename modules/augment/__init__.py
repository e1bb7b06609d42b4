"""Random changes of whole clips and bodies, batched on the device."""
