"""Clips for an encoder: as in its training, if the weights record it, or as requested by the user."""

from typing import Any

from datamodules.video.crops import Centre
from datamodules.video.samplers import Dense, Jittered, Sampler, Segments, Spanning, Strided, Timed
from datamodules.video.sampling import ClipSettings
from modules.convert.load import Loaded
from modules.core.errors import SettingError, given
from modules.weights.run_config import inside, parse_config

USUAL_SIZE, USUAL_STRIDE = 224, 4
PREPARATION = ("rate", "steps", "whole", "median", "standardise", "window")
"""What of `SignalSettings` is not about the files."""
ALONE = (Dense, Segments, Spanning, Strided, Timed)
"""Samplers of clips that stand alone. That of Jittered is Dense's in evaluation, and others need several clips."""


def sampler_of(loaded: Loaded, stride: int | None) -> Sampler | None:
    """Sampler with the requested stride, otherwise that of training; None if it is not recorded."""
    if stride is not None:
        return Dense(stride)
    dense = Dense(loaded.stride) if loaded.stride is not None else None
    noted = _noted(loaded, "clip", "sampler")
    name, settings = str(noted.get("class_path")).rpartition(".")[2], inside(noted, "init_args")
    try:
        if name == Jittered.__name__:
            return Dense(**settings)
        return next((sampler(**settings) for sampler in ALONE if sampler.__name__ == name), dense)
    except (TypeError, SettingError):  # settings of another version
        return dense


def signal_of(loaded: Loaded) -> dict[str, Any]:
    """Preparation of signals in training, by the names of `SignalSettings`; empty if it is not recorded."""
    noted = _noted(loaded, "streams", "signal")
    return {name: noted[name] for name in PREPARATION if name in noted}


def _noted(loaded: Loaded, *names: str) -> dict[str, Any]:
    """Data settings of the encoder's training; empty if they are not recorded."""
    config = loaded.passport.get("config")
    return inside(parse_config(config), "data", "init_args", *names) if isinstance(config, str) and config else {}


def usual_clip(loaded: Loaded, stride: int | None, clips: int) -> ClipSettings:
    """Video clips as in the encoder's training; unrecorded settings have their usual values."""
    sampler = sampler_of(loaded, stride) or Dense(USUAL_STRIDE)
    return ClipSettings(frames=loaded.frames, size=loaded.size or USUAL_SIZE, clips=clips, sampler=sampler, crop=Centre())


def known_clip(loaded: Loaded, frames: int | None, stride: int | None, clips: int) -> dict[str, Any]:
    """Recorded or requested settings of clips, by the names of `ClipSettings`; the data set chooses the rest."""
    # In passports of signals, frames are steps of the signal.
    noted = _noted(loaded, "clip").get("frames") if signal_of(loaded) else loaded.passport.get("frames")
    known = given(
        frames=frames or getattr(loaded.network, "num_frames", None) or noted,
        size=loaded.size,
        sampler=sampler_of(loaded, stride),
    )
    return known | {"clips": clips, "crop": Centre()}
