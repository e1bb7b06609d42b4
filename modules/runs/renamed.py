"""Settings that had another name before: what a configuration of then is told."""

RENAMED: dict[str, str] = {
    "model.decoder_depth": "model.decoder.depth",
    "model.decoder_dim": "model.decoder.dim",
    "model.decoder_heads": "model.decoder.heads",
}
"""Old name -> new name, as on the command line, without the dashes."""
