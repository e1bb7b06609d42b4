"""Normalisation of pixels: mean, standard deviation and channel order, and the inverse."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from modules.core.device import table
from modules.core.errors import SettingError

Triple = tuple[float, float, float]


def _per_channel(values: Triple, scale: float) -> np.ndarray:
    """Numbers [3, 1, 1, 1] for clips from 0 to `scale` instead of 0 to 1, as a product of float32 values."""
    return (np.float32(scale) * np.array(values, np.float32)).reshape(3, 1, 1, 1)


@dataclass(frozen=True)
class Normalisation:
    """The normalisation of pixels that a network's weights expect.

    Args:
        mean: mean of red, green and blue, from 0 to 1.
        std: standard deviation of red, green and blue, in the same unit.
        channels: channel order of the network's input.

    Raises:
        SettingError: if a number is not finite, or a standard deviation is not above 0.
    """

    mean: Triple
    std: Triple
    channels: Literal["RGB", "BGR"] = "RGB"

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            # JSON and YAML have lists.
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        numbers = (*self.mean, *self.std)
        if len(numbers) != 6 or len(self.mean) != 3 or not all(map(math.isfinite, numbers)) or min(self.std) <= 0:
            raise SettingError(
                f"normalisation has mean {self.mean} and std {self.std}; pass three finite numbers each, for red, green and "
                "blue from 0 to 1, std above 0."
            )
        if self.channels not in ("RGB", "BGR"):
            raise SettingError(f"normalisation.channels is {self.channels!r}; it must be RGB or BGR.")

    def __str__(self) -> str:
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return f"mean ({mean}), std ({std}), {self.channels}"

    def apply(self, clip: Tensor) -> Tensor:
        """Normalise clips for the network (a view of channels-last memory).

        Args:
            clip: uint8 or float [B, T, H, W, 3], red, green, blue from 0 to 255.

        Returns:
            float32 [B, 3, T, H, W]
        """
        return self.apply_planes(clip.permute(0, 4, 1, 2, 3))

    def apply_planes(self, planes: Tensor) -> Tensor:
        """`apply` for pixels in another shape, such as cubes: uint8 or float [N, 3, ...] -> float32 of the same shape."""
        planes = (planes.flip(1) if self.channels == "BGR" else planes).float()
        mean, std = (self.constant(name, planes, 255).view(3, *[1] * (planes.ndim - 2)) for name in ("mean", "std"))
        return (planes - mean) / std

    def restore(self, video: Tensor) -> Tensor:
        """Inverse of `apply`, but with the range 0 to 1: float [B, 3, T, H, W] -> the same shape, red, green, blue."""
        pixels = video * self.constant("std", video) + self.constant("mean", video)
        return pixels.flip(1) if self.channels == "BGR" else pixels

    def constant(self, name: Literal["mean", "std"], like: Tensor, scale: float = 1) -> Tensor:
        """Mean or standard deviation in the network's channel order: [3, 1, 1, 1], of the type and on the device of `like`.

        It is not a buffer of a module, because half precision would round buffers.
        """
        values = getattr(self, name) if self.channels == "RGB" else getattr(self, name)[::-1]
        return table(_per_channel, values, scale, dtype=like.dtype, device=like.device)

    def as_record(self) -> dict[str, Any]:
        """Plain numbers for passports and checkpoints; `channels` is included only if it is not RGB."""
        record: dict[str, Any] = {"mean": list(self.mean), "std": list(self.std)}
        return record if self.channels == "RGB" else record | {"channels": self.channels}

    @classmethod
    def of_record(cls, record: Any) -> "Normalisation | None":
        """Inverse of `as_record`; None for invalid records."""
        if not isinstance(record, dict) or not {"mean", "std"} <= record.keys():
            return None
        try:
            return cls(record["mean"], record["std"], record.get("channels") or "RGB")
        except (SettingError, TypeError, ValueError):
            return None


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Torchvision's published video networks.
KINETICS = Normalisation((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))
# From -1 to 1: BEiT and VindLU.
HALF = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# From 0 to 1: VCOP, CVRL.
TO_ONE = Normalisation((0, 0, 0), (1, 1, 1))
# TCLR (official code of SEVERE).
BGR_TO_ONE = Normalisation((0, 0, 0), (1, 1, 1), "BGR")
IMAGENET_MEAN, IMAGENET_STD = IMAGENET.mean, IMAGENET.std


def normalise(clip: Tensor) -> Tensor:
    """`IMAGENET.apply`. The normalisation of a backbone is defined by its `preprocess`."""
    return IMAGENET.apply(clip)


@dataclass(frozen=True)
class Origin:
    """Facts about the network that weights come from; None if unknown."""

    source: str
    """file, for messages"""
    normalisation: Normalisation | None = None
    """normalisation of its clips"""
    frames: int | None = None
    """number of frames that its position codes were trained for"""
    size: int | None = None
    """side of these frames in pixels"""
    usual: tuple[int, int] | None = None
    """frames and size of all published networks of this architecture"""
    bn_eps: float | None = None
    """eps of its BatchNorm"""
    padding: Literal["same", "symmetric"] | None = None
    """padding of layers with a stride, see `SlowOnly`"""
    encoding: str | None = None
    """what the first layer sees of the frames, see `CaffeNet`"""
    window: int | None = None
    """frames of a run, for encodings of runs"""


PADDINGS: tuple[Literal["same", "symmetric"], ...] = ("same", "symmetric")


def known_origin(source: str, normalisation: Any, facts: Any) -> Origin:
    """An `Origin` from the content of JSON, YAML or a pickle. Values of an unexpected type are ignored.

    Args:
        source: file, for messages.
        normalisation: output of `Normalisation.as_record`.
        facts: `pretrained_frames` and `pretrained_size`, else `num_frames` and `image_size`; `bn_eps`; `padding`;
            `encoding` and `window`.
    """
    facts = facts if isinstance(facts, dict) else {}
    frames, size = (
        next((facts[name] for name in names if type(facts.get(name)) is int and facts[name] > 0), None)
        for names in (("pretrained_frames", "num_frames"), ("pretrained_size", "image_size"))
    )
    eps = facts.get("bn_eps")
    eps = eps if isinstance(eps, float) else None
    padding = next((name for name in PADDINGS if facts.get("padding") == name), None)
    encoding = facts["encoding"] if isinstance(facts.get("encoding"), str) else None
    window = facts["window"] if type(facts.get("window")) is int else None
    return Origin(
        source,
        Normalisation.of_record(normalisation),
        frames,
        size,
        bn_eps=eps,
        padding=padding,
        encoding=encoding,
        window=window,
    )


def settle_normalisation(
    asked: Normalisation | None, origin: Origin, default: Normalisation
) -> tuple[Normalisation, list[str]]:
    """The normalisation of a backbone's clips, from the setting, else the weights, else the default; and lines to print.

    Args:
        asked: the backbone's setting.
        origin: origin of its weights.
        default: default of its family.
    """
    known, setting = origin.normalisation, "model.backbone.normalisation"
    if asked is not None:
        differs = known is not None and known != asked
        return asked, [f"{setting} is {asked}, though {origin.source} was trained with {known}."] if differs else []
    if known is None:
        return default, [f"{origin.source} does not record its normalisation: {default} assumed; set {setting} to change it."]
    return known, [f"Clips are normalised as in the training of {origin.source}: {known}."] if known != default else []


def say(lines: list[str]) -> None:
    """Print lines in the first process."""
    for line in lines:
        rank_zero_info(line)
