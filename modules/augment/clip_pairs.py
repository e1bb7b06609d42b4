"""Colours and blur of the two clips of a pair, drawn once per clip (CVRL, https://arxiv.org/abs/2008.03800, official code).

Colour jitter (brightness, contrast, saturation and hue in random order, each clipped to 0..1), then grey, blur and
solarisation. All frames of a clip are changed in the same way. As in TensorFlow, contrast is relative to one mean per channel
of the complete clip, and hue and saturation are those of HSV. Crops are the data module's.

Numbers are drawn on the host, in the loader workers where there are any, and applied on the device clip by clip: they are plain
numbers, so nothing is copied in a step, and a clip costs only the changes that it gets.

Axis letters: planes are the channels of one clip, float [3, T, H, W] from 0 to 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from modules.core.batch import Batch
from modules.core.errors import check_range
from modules.core.randomness import host_generator, worker_rng

GREY = (0.2989, 0.587, 0.114)
SIGMAS = (0.1, 2.0)
"""Range of the standard deviation of the blur, in pixels."""
BLUR_SHARE = 10
"""Side of the clip over that of the blur's kernel."""
PAIRS = 8
"""First part of the key of the workers' random numbers."""
DRAWS = 13
"""Random numbers per clip: four for the order, four factors, jitter, grey, blur, its standard deviation, solarisation."""


class Chances(NamedTuple):
    """Probabilities of the changes in which the two clips of a pair may differ."""

    blur: float
    solarise: float


FORMS: dict[str, tuple[Chances, Chances]] = {
    "code": (Chances(1.0, 0.0), Chances(0.1, 0.2)),
    "paper": (Chances(0.5, 0.0), Chances(0.5, 0.0)),
}
"""Both clips of a pair: in the official code, and in the paper."""


class Look(NamedTuple):
    """Changes of one clip; None for those that it does not get."""

    jitter: tuple[tuple[str, float], ...] = ()
    """names of `JITTER` with their factors (hue: shift, as a fraction of the circle), in order"""
    grey: bool = False
    sigma: float | None = None
    """standard deviation of the blur in pixels"""
    solarise: bool = False


# --- Operations on planes ---


def brightness(planes: Tensor, factor: float) -> Tensor:
    """Multiply all values."""
    return planes * factor


def contrast(planes: Tensor, factor: float) -> Tensor:
    """Multiply the distance to the mean of the channel over all frames."""
    mean = planes.mean((1, 2, 3), keepdim=True)
    return torch.lerp(mean, planes, factor)


def saturation(planes: Tensor, factor: float) -> Tensor:
    """Multiply the saturation of HSV, at most up to 1."""
    value, low = planes.amax(0), planes.amin(0)
    # The saturation is (value - low) / value, so above 1 / saturation, the factor would take it over 1.
    largest = value / (value - low).clamp_min(1e-12)
    return value - (value - planes) * largest.clamp_max(factor)


def hue(planes: Tensor, shift: float) -> Tensor:
    """Turn the hue of HSV by a fraction of the circle."""
    value, low = planes.amax(0), planes.amin(0)
    spread = value - low
    safe = torch.where(spread > 0, spread, 1)
    red, green, blue = planes
    from_green = torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    sixth = torch.where(value == red, (green - blue) / safe, from_green) + 6 * shift
    made = []
    for peak in (5, 3, 1):
        away = (peak + sixth).remainder(6)
        made.append(value - spread * torch.minimum(away, 4 - away).clamp(0, 1))
    return torch.stack(made)


def grey(planes: Tensor) -> Tensor:
    """All channels become their weighted sum."""
    red, green, blue = planes
    return (GREY[0] * red + GREY[1] * green + GREY[2] * blue).expand_as(planes)


def gaussian_blur(planes: Tensor, size: int, sigma: float) -> Tensor:
    """Blur each frame, with zeros outside of it.

    Args:
        planes: see above.
        size: side of the kernel; an even one is increased by one.
        sigma: standard deviation in pixels.
    """
    radius = size // 2
    places = torch.arange(-radius, radius + 1, dtype=torch.float32, device=planes.device)
    kernel = torch.softmax(-places.square() / (2 * sigma**2), 0)
    frames = planes.flatten(0, 1)[:, None]
    frames = F.conv2d(frames, kernel.view(1, 1, 1, -1), padding=(0, radius))
    return F.conv2d(frames, kernel.view(1, 1, -1, 1), padding=(radius, 0)).view_as(planes)


def solarise(planes: Tensor) -> Tensor:
    """Invert values of one half and more."""
    return torch.where(planes < 0.5, planes, 1 - planes)


JITTER: dict[str, Callable[[Tensor, float], Tensor]] = {
    "brightness": brightness,
    "contrast": contrast,
    "saturation": saturation,
    "hue": hue,
}


# --- Clips ---


@dataclass
class PairAugmentation:
    """Colours and blur of the two clips of a pair, independent of each other.

    Args:
        form: `code` blurs every first clip and a tenth of the second ones, of which a fifth are solarised (official code);
            `paper` blurs one half of all clips and solarises none.
        jitter: probability of the colour jitter (official code: 0.8).
        strength: factor on the range of the jitter; 1 is brightness, contrast and saturation times 0.2 to 1.8, and a hue
            shifted by at most a fifth of the circle (official code).
        grey: probability of grey clips (official code: 0.2), drawn with or without jitter.

    Raises:
        SettingError: if a number is out of range.
    """

    form: Literal["code", "paper"] = "code"
    jitter: float = 0.8
    strength: float = 1.0
    grey: float = 0.2

    def __post_init__(self) -> None:
        check_range("model.augmentation", 0, 1, jitter=self.jitter, grey=self.grey)
        # With more, factors would be negative.
        check_range("model.augmentation", 0, 1.25, strength=self.strength)

    def looks(self, draws: list[list[float]], view: int) -> list[Look]:
        """Changes of some clips.

        Args:
            draws: `DRAWS` numbers per clip, uniform from 0 to 1.
            view: 0 for first clips of pairs, 1 for second ones.
        """
        chances, large, small = FORMS[self.form][view], 0.8 * self.strength, 0.2 * self.strength
        made = []
        for *order, b, c, s, h, jitter, is_grey, blur, width, inverted in draws:
            factors = (1 + large * (2 * b - 1), 1 + large * (2 * c - 1), 1 + large * (2 * s - 1), small * (2 * h - 1))
            changes = tuple(zip(JITTER, factors, strict=True))
            shuffled = tuple(changes[place] for place in sorted(range(4), key=order.__getitem__))
            made.append(
                Look(
                    shuffled if jitter < self.jitter else (),
                    is_grey < self.grey,
                    SIGMAS[0] + (SIGMAS[1] - SIGMAS[0]) * width if blur < chances.blur else None,
                    inverted < chances.solarise,
                )
            )
        return made

    def draw(self, count: int, generator: torch.Generator) -> list[list[Look]]:
        """Changes of both clips of some pairs.

        Args:
            count: number of pairs.
            generator: source of randomness; on a GPU, it seeds one on the host.
        """
        draws = torch.rand(count, 2, DRAWS, generator=host_generator(generator), dtype=torch.float32)
        return [self.looks(draws[:, view].tolist(), view) for view in (0, 1)]

    def prepare(self, seed: int, batch: Batch, epoch: int | None) -> None:
        """Draw the changes for a batch, as a `modules.core.batch.Preparation`: a function of seed, epoch and row.

        Args:
            seed: seed of the run.
            batch: see `Preparation`.
            epoch: see `Preparation`.
        """
        when = () if epoch is None else (epoch,)
        draws = np.stack([worker_rng(PAIRS, seed, *when, row).random((2, DRAWS)) for row in batch.index.tolist()])
        batch.prepared = [self.looks(draws[:, view].tolist(), view) for view in (0, 1)]

    def prepare_copies(self, stream: str, seed: int, batch: Batch, epoch: int | None) -> None:
        """Draw the changes of one copy of each clip of a batch, as of second clips of pairs; see `prepare`.

        Args:
            stream: name of the stream of the clips, of which there may be several per sample.
            seed: seed of the run.
            batch: see `Preparation`.
            epoch: see `Preparation`.
        """
        views, when = batch.stream(stream, "video").data.shape[1], () if epoch is None else (epoch,)
        draws = [worker_rng(PAIRS, seed, *when, row).random((views, DRAWS)) for row in batch.index.tolist()]
        batch.prepared = self.looks(np.concatenate(draws).tolist(), 1)

    def __call__(self, clips: Tensor, looks: list[Look]) -> Tensor:
        """Change some clips.

        Args:
            clips: uint8 [B, T, H, W, 3]
            looks: changes of each clip.

        Returns:
            float32 [B, T, H, W, 3] from 0 to 255, not rounded; a view of planes.
        """
        planes = clips.permute(0, 4, 1, 2, 3).contiguous()
        with torch.autocast(clips.device.type, enabled=False):
            made = torch.stack([apply(clip.float() / 255, look) for clip, look in zip(planes, looks, strict=True)])
        return made.mul_(255).permute(0, 2, 3, 4, 1)


def apply(planes: Tensor, look: Look) -> Tensor:
    """Change one clip: float [3, T, H, W] from 0 to 1 -> the same."""
    for name, factor in look.jitter:
        planes = JITTER[name](planes, factor).clamp(0, 1)
    if look.grey:
        planes = grey(planes)
    if look.sigma is not None:
        planes = gaussian_blur(planes, blur_size(planes.shape[2]), look.sigma)
    return solarise(planes) if look.solarise else planes


def blur_size(height: int) -> int:
    """Side of the blur's kernel for clips of some height: a tenth of it, and odd (23 for 224)."""
    return 2 * (height // BLUR_SHARE // 2) + 1
