"""Augmentation of whole clips for classification, on the device: RandAugment, colour jitter, flip, erasing, mixup and cutmix.

Fine-tuning of VideoMAE and SEVERE's video CNNs (both official code). Whatever is drawn is drawn once per clip (mixing: once
per batch) and is the same in all its frames, but for the noise of erased boxes. The numbers that choose operations, boxes and
shares are drawn on the host, from the seed of the step's generator, so that nothing waits for the device; noise is drawn there.

Deviations from the official code, which works on PIL images in the loader's workers:

* operations run on the cropped and resized clip instead of the whole picture, from which the crop was cut after them;
* rotation, shear and translation interpolate bilinearly instead of bicubically.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torchvision.transforms.v2.functional as tv
from torch import Tensor

from modules.core.errors import SettingError
from modules.core.randomness import worker_rng
from modules.layers.flips import flip_some

GREY = [128.0, 128.0, 128.0]
FULL = 10
"""RandAugment's magnitudes go from 0 to this."""
# Share of the picture and logarithm of height / width of an erased box, and how often a box that does not fit is drawn anew.
ERASED_AREA = (0.02, 1 / 3)
LOG_RATIO = (math.log(0.3), -math.log(0.3))
ATTEMPTS = 10


@dataclass
class ClipAugmentation:
    """What is done to training clips, in the order of the settings, besides the crop that the data module makes.

    Args:
        operations: RandAugment's operations per clip, drawn with replacement from 15, each done with probability 1/2; 0 for
            none. The official recipe of fine-tuning is `rand-m7-n4-mstd0.5-inc1`.
        magnitude: mean strength of an operation, of 10.
        magnitude_std: deviation of the strength, drawn for each operation and cut to 0..10.
        jitter: colour jitter as torchvision's: largest change of brightness, contrast and saturation, in random order (SEVERE
            0.4).
        hue: largest shift of the hue, at most 0.5, with the jitter (SEVERE 0.2).
        flip: probability of mirroring left to right.
        erase: probability of filling a box with normal noise, after normalisation.
    """

    operations: int = 4
    magnitude: float = 7.0
    magnitude_std: float = 0.5
    jitter: float = 0.0
    hue: float = 0.0
    flip: float = 0.5
    erase: float = 0.25

    def __post_init__(self) -> None:
        for name, highest in (("operations", math.inf), ("magnitude", FULL), ("magnitude_std", FULL), ("jitter", 1)):
            _check("augmentation", name, getattr(self, name), highest)
        for name, highest in (("hue", 0.5), ("flip", 1), ("erase", 1)):
            _check("augmentation", name, getattr(self, name), highest)


@dataclass
class Mixing:
    """Mixup and cutmix: each clip is mixed with the clip at the mirrored place of the batch, with one share for all.

    With an odd number of clips the one in the middle is mixed with itself.

    Args:
        mixup: parameter of the Beta distribution of the share; 0 for no mixup.
        cutmix: likewise for cutmix, which pastes a box of this share of the picture, the same in all frames; 0 for none.
        probability: of a batch to be mixed.
        switch: probability of cutmix where both are on.
    """

    mixup: float = 0.8
    cutmix: float = 1.0
    probability: float = 1.0
    switch: float = 0.5

    def __post_init__(self) -> None:
        for name, highest in (("mixup", math.inf), ("cutmix", math.inf), ("probability", 1), ("switch", 1)):
            _check("mixing", name, getattr(self, name), highest)
        if self.mixup == self.cutmix == 0:
            raise SettingError("model.mixing has mixup 0 and cutmix 0; set model.mixing to null to mix nothing.")


def _check(group: str, name: str, value: float, highest: float) -> None:
    if not 0 <= value <= highest:
        limit = "" if highest == math.inf else f" and at most {highest:g}"
        raise SettingError(f"model.{group}.{name} is {value}; it must be at least 0{limit}.")


PIXELS, BOXES, MIXING = 1, 2, 3


def host_rng(generator: torch.Generator, stream: int) -> np.random.Generator:
    """A generator on the host for one use in the step of a generator on the device, whatever was drawn from that before."""
    return worker_rng(generator.initial_seed(), stream)


# --- RandAugment ---


def _geometric(
    clip: Tensor, angle: float = 0.0, across: float = 0.0, down: float = 0.0, shear: tuple[float, float] = (0.0, 0.0)
) -> Tensor:
    # PIL shears about the upper left corner, and turns about the centre.
    centre = [0.0, 0.0] if any(shear) else None
    degrees = [math.degrees(math.atan(part)) for part in shear]
    shift = [across * clip.shape[-1], down * clip.shape[-2]]
    return tv.affine(clip, angle, shift, 1.0, degrees, tv.InterpolationMode.BILINEAR, fill=GREY, center=centre)


def _solarize_add(clip: Tensor, amount: int) -> Tensor:
    return torch.where(clip < 128, (clip.int() + amount).clamp(max=255).to(clip.dtype), clip)


# Each takes a clip uint8 [T, 3, H, W], a strength from 0 to 1 and a sign: the 'increasing' set of timm.
OPERATIONS: tuple[Callable[[Tensor, float, int], Tensor], ...] = (
    lambda clip, strength, sign: tv.autocontrast(clip),
    lambda clip, strength, sign: tv.equalize(clip),
    lambda clip, strength, sign: tv.invert(clip),
    lambda clip, strength, sign: _geometric(clip, angle=30 * strength * sign),
    # No bit at all, at full strength, would be a black clip.
    lambda clip, strength, sign: tv.posterize(clip, max(1, 4 - int(4 * strength))),
    lambda clip, strength, sign: tv.solarize(clip, 256 - int(256 * strength)),
    lambda clip, strength, sign: _solarize_add(clip, int(110 * strength)),
    lambda clip, strength, sign: tv.adjust_saturation(clip, 1 + 0.9 * strength * sign),
    lambda clip, strength, sign: tv.adjust_contrast(clip, 1 + 0.9 * strength * sign),
    lambda clip, strength, sign: tv.adjust_brightness(clip, 1 + 0.9 * strength * sign),
    lambda clip, strength, sign: tv.adjust_sharpness(clip, 1 + 0.9 * strength * sign),
    lambda clip, strength, sign: _geometric(clip, shear=(0.3 * strength * sign, 0.0)),
    lambda clip, strength, sign: _geometric(clip, shear=(0.0, 0.3 * strength * sign)),
    lambda clip, strength, sign: _geometric(clip, across=0.45 * strength * sign),
    lambda clip, strength, sign: _geometric(clip, down=0.45 * strength * sign),
)


def rand_augment(clip: Tensor, settings: ClipAugmentation, rng: np.random.Generator) -> Tensor:
    """Some random operations of random strength, the same in all frames.

    Args:
        clip: uint8 [T, 3, H, W]
        settings: how many, and how strong.
        rng: draws them.
    """
    for chosen in rng.integers(len(OPERATIONS), size=settings.operations):
        magnitude = rng.normal(settings.magnitude, settings.magnitude_std)
        sign = 1 if rng.random() < 0.5 else -1
        if rng.random() < 0.5:
            clip = OPERATIONS[chosen](clip, min(max(magnitude, 0.0), FULL) / FULL, sign)
    return clip


def jitter_colours(clip: Tensor, settings: ClipAugmentation, rng: np.random.Generator) -> Tensor:
    """Brightness, contrast, saturation and hue in random order: uint8 [T, 3, H, W] -> the same."""
    low, high = 1 - settings.jitter, 1 + settings.jitter
    for chosen in rng.permutation(4):
        if chosen == 3:
            clip = tv.adjust_hue(clip, rng.uniform(-settings.hue, settings.hue))
        else:
            change = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation)[chosen]
            clip = change(clip, rng.uniform(low, high))
    return clip


def augment_pixels(clips: Tensor, settings: ClipAugmentation, generator: torch.Generator) -> Tensor:
    """All that is done before normalisation.

    Args:
        clips: uint8 [N, T, H, W, 3]
        settings: what is done.
        generator: source of randomness, on the device of the clips.

    Returns:
        uint8 [N, T, H, W, 3]
    """
    rng = host_rng(generator, PIXELS)
    if settings.operations or settings.jitter or settings.hue:
        changed = []
        for clip in clips.permute(0, 1, 4, 2, 3):
            clip = rand_augment(clip, settings, rng)
            changed.append(jitter_colours(clip, settings, rng) if settings.jitter or settings.hue else clip)
        clips = torch.stack(changed).permute(0, 1, 3, 4, 2)
    return flip_some(clips, generator, settings.flip) if settings.flip else clips


# --- After normalisation ---


def erase_boxes(video: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Fill a box of some clips with normal noise, the same box in all frames, each with noise of its own.

    Args:
        video: float [N, 3, T, H, W], normalised.
        probability: of a clip to lose a box.
        generator: source of randomness, on the device of the clips.

    Returns:
        The same tensor, changed in place.
    """
    rng = host_rng(generator, BOXES)
    height, width = video.shape[-2:]
    for clip in video:
        if rng.random() >= probability:
            continue
        for _ in range(ATTEMPTS):
            area = rng.uniform(*ERASED_AREA) * height * width
            ratio = math.exp(rng.uniform(*LOG_RATIO))
            down, across = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < down < height and 0 < across < width:
                y, x = int(rng.integers(height - down + 1)), int(rng.integers(width - across + 1))
                box = clip[:, :, y : y + down, x : x + across]
                box.copy_(torch.randn(box.shape, generator=generator, device=video.device))
                break
    return video


def mix_clips(video: Tensor, targets: Tensor, settings: Mixing, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mixup or cutmix of a batch with itself in reversed order.

    Args:
        video: float [N, 3, T, H, W]
        targets: float [N, K], probabilities of the classes.
        settings: what is drawn.
        generator: of the step; the share and the box come from its seed.

    Returns:
        Mixed clips and targets.
    """
    rng = host_rng(generator, MIXING)
    if rng.random() >= settings.probability:
        return video, targets
    cut = settings.cutmix > 0 and (settings.mixup == 0 or rng.random() < settings.switch)
    share = float(rng.beta(settings.cutmix, settings.cutmix) if cut else rng.beta(settings.mixup, settings.mixup))
    if cut:
        height, width = video.shape[-2:]
        half_down, half_across = (int(side * math.sqrt(1 - share)) // 2 for side in (height, width))
        y, x = int(rng.integers(height)), int(rng.integers(width))
        top, bottom = max(0, y - half_down), min(height, y + half_down)
        left, right = max(0, x - half_across), min(width, x + half_across)
        mixed = video.clone()
        mixed[..., top:bottom, left:right] = video.flip(0)[..., top:bottom, left:right]
        # The share that is left when the picture's border cuts the box.
        share = 1 - (bottom - top) * (right - left) / (height * width)
    else:
        mixed = torch.lerp(video.flip(0), video, share)
    return mixed, torch.lerp(targets.flip(0), targets, share)
