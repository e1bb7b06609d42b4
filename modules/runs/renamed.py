"""Settings that had another name before: what a configuration of then is told."""

RENAMED: dict[str, str] = {
    "model.decoder_depth": "model.decoder.depth",
    "model.decoder_dim": "model.decoder.dim",
    "model.decoder_heads": "model.decoder.heads",
    "data.clip.sampling": "data.clip.sampler",
    "data.clip.stride": "data.clip.sampler.stride",
    "data.clip.fps": "data.clip.sampler.fps",
    "data.clip.short": "data.clip.sampler.short",
    "data.clip.centre": "data.clip.crop.centre",
    "data.clip.scale": "data.clip.crop.scale",
    "data.clip.ratio": "data.clip.crop.ratio",
}
"""Old name -> new name, as on the command line, without the dashes."""
