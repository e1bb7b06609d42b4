"""Augmentation of whole clips for classification, on the device: RandAugment, colour jitter, flip, erasing, mixup and cutmix.

Fine-tuning of VideoMAE and SEVERE's video CNNs (both official code). timm draws the operations of RandAugment and their
strengths, erases boxes and mixes; `modules.augment.pixels` changes the pixels. Random numbers are drawn once per clip
(mixing: once per batch) and are the same for all frames, except for the noise of erased boxes. They are drawn on the host,
to avoid host syncs: those of RandAugment and the jitter in the loader workers, and the others from the seed of the
step's generator; noise is drawn on the device.

Deviations from the official code, which works on PIL images in the loader's workers:

* operations run on the cropped and resized clip instead of the whole picture, from which the crop was cut after them;
* rotation, shear and translation interpolate bilinearly instead of bicubically.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from timm.data.auto_augment import RandAugment, rand_augment_transform
from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from modules.augment.flips import RandomFlip
from modules.augment.pixels import KIND_OF, Change, Group, change_pixels, group_changes
from modules.core.batch import Batch
from modules.core.errors import SettingError
from modules.core.randomness import derive_seed, seeded_host_libraries, seeded_libraries, worker_rng

PIXELS, BOXES, MIXING, PREPARED = 1, 2, 3, 7


@dataclass
class ClipAugmentation:
    """Augmentation of training clips, in the order of the settings, after the crop of the data module.

    Args:
        rand_augment: timm's name of a RandAugment, or null for none. In the official fine-tuning, 4 operations are drawn with
            replacement from 15, each applied with probability 1/2, with a strength of 7 of 10 and standard deviation 0.5.
        jitter: colour jitter as torchvision's: largest change of brightness, contrast and saturation, in random order (SEVERE
            0.4).
        hue: largest shift of the hue, at most 0.5, with the jitter (SEVERE 0.2).
        flip: probability of mirroring; null takes 0.5, or 0 if classes depend on left and right.
        erase: probability of filling a box with normal noise, after normalisation.
    """

    rand_augment: str | None = "rand-m7-n4-mstd0.5-inc1"
    jitter: float = 0.0
    hue: float = 0.0
    flip: float | None = None
    erase: float = 0.25

    def __post_init__(self) -> None:
        if self.rand_augment is not None:
            rand_augment(self.rand_augment)
        for name, highest in (("jitter", 1.0), ("hue", 0.5), ("erase", 1.0)):
            _check("augmentation", name, getattr(self, name), highest)
        self.mirror()  # checks the probability

    def mirror(self) -> RandomFlip:
        """The random flip with the configured probability."""
        return RandomFlip("model.augmentation.flip", self.flip)


@dataclass
class Mixing:
    """Mixup and cutmix: each clip is mixed with the clip at the mirrored position of the batch, with the same ratio for all.

    With an odd number of clips one is not mixed, nor are pairs with an unlabelled clip.

    Args:
        mixup: parameter of the Beta distribution of the ratio; 0 disables mixup.
        cutmix: the same for cutmix, which pastes a box of this fraction of the frame, the same in all frames; 0 disables it.
        probability: probability that a batch is mixed.
        switch: probability of cutmix if both are enabled.
    """

    mixup: float = 0.8
    cutmix: float = 1.0
    probability: float = 1.0
    switch: float = 0.5

    def __post_init__(self) -> None:
        for name, highest in (("mixup", math.inf), ("cutmix", math.inf), ("probability", 1), ("switch", 1)):
            _check("mixing", name, getattr(self, name), highest)
        if self.mixup == self.cutmix == 0:
            raise SettingError("model.mixing has mixup 0 and cutmix 0; set model.mixing to null to disable mixing.")


def _check(group: str, name: str, value: float, highest: float) -> None:
    if not 0 <= value <= highest:
        limit = "" if highest == math.inf else f" and at most {highest:g}"
        raise SettingError(f"model.{group}.{name} is {value}; it must be at least 0{limit}.")


# --- Before normalisation ---


def _note(changes: list[Change], *levels: float, name: str) -> list[Change]:
    return [*changes, Change(name, levels)]


def rand_augment(name: str) -> RandAugment:
    """timm's RandAugment of that name. Instead of changing PIL images, it appends its operations to lists of changes.

    Raises:
        SettingError: if timm does not know the name, or the operations are not supported for clips.
    """
    try:
        found = rand_augment_transform(name, {})
        for operation in found.ops:
            change = operation.name.removesuffix("Increasing")
            KIND_OF[change]  # raises KeyError if it is not supported
            operation.aug_fn, operation.kwargs = _note, {"name": change}
    except (AssertionError, KeyError, ValueError) as error:
        raise SettingError(
            f"model.augmentation.rand_augment is {name}, which is not a RandAugment config of timm for clips; use one like "
            "rand-m7-n4-mstd0.5-inc1, or null."
        ) from error
    return found


def jitter_colours(settings: ClipAugmentation, rng: np.random.Generator) -> list[Change]:
    """Brightness, contrast, saturation and hue in random order."""
    changes = []
    for chosen in rng.permutation(4):
        low, high = (-settings.hue, settings.hue) if chosen == 3 else (1 - settings.jitter, 1 + settings.jitter)
        changes.append(Change(("Brightness", "Contrast", "Color", "Hue")[chosen], (rng.uniform(low, high),)))
    return changes


def draw_changes(count: int, settings: ClipAugmentation, seed: int) -> list[list[Change]]:
    """Changes of some clips other than mirroring, before normalisation.

    Args:
        count: number of clips.
        settings: settings of the augmentation.
        seed: source of randomness.
    """
    changes: list[list[Change]] = [[] for _ in range(count)]
    if settings.rand_augment is not None:
        operations = rand_augment(settings.rand_augment)
        with seeded_host_libraries(seed, PIXELS):
            changes = [operations(own) for own in changes]
    if settings.jitter or settings.hue:
        rng = worker_rng(seed, PIXELS)
        changes = [own + jitter_colours(settings, rng) for own in changes]
    return changes


def prepare_pixels(settings: ClipAugmentation, stream: str, seed: int, batch: Batch, epoch: int | None) -> None:
    """Draw the changes for `augment_pixels` for a training batch, as a `modules.core.batch.Preparation`.

    Args:
        settings: settings of the augmentation.
        stream: name of the stream of the clips.
        seed: seed of the run. A clip's changes are a function of it, the epoch, the sample's row and the clip's view.
        batch: see `Preparation`.
        epoch: see `Preparation`.
    """
    if epoch is None:
        return
    views, _, height, width = batch.stream(stream, "video").data.shape[1:5]
    seeds = (derive_seed(PREPARED, seed, epoch, row, 0) for row in batch.index.tolist())
    changes = [own for one in seeds for own in draw_changes(views, settings, one)]
    batch.prepared = group_changes(changes, (height, width))


def augment_pixels(
    clips: Tensor, settings: ClipAugmentation, generator: torch.Generator, groups: list[Group] | None = None
) -> Tensor:
    """Apply the augmentations before normalisation.

    Args:
        clips: uint8 [N, T, H, W, 3]
        settings: settings of the augmentation.
        generator: source of randomness, on the device of the clips.
        groups: the clips' changes without mirroring; None draws them from the seed of the generator.

    Returns:
        uint8 [N, T, H, W, 3]
    """
    if groups is None:
        changes = draw_changes(len(clips), settings, generator.initial_seed())
        groups = move_data_to_device(group_changes(changes, (clips.shape[2], clips.shape[3])), clips.device)
    clips = change_pixels(clips, groups)
    mirror = settings.mirror()
    return mirror(clips, generator) if mirror.probability else clips


# --- After normalisation ---


def erase_boxes(video: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Fill a box of some clips with normal noise: the same box in all frames, with independent noise per frame (timm).

    Args:
        video: float [N, 3, T, H, W], normalised.
        probability: probability that a box of a clip is erased.
        generator: source of randomness, on the device of the clips.

    Returns:
        float [N, 3, T, H, W]; `video` may be changed in place.
    """
    with seeded_libraries(generator.initial_seed(), BOXES):
        # Frames are passed as channels, so timm draws independent noise for each.
        erased = RandomErasing(probability, mode="pixel", device=video.device)(video.flatten(1, 2))
    return erased.view_as(video)


def mix_clips(
    video: Tensor, targets: Tensor, settings: Mixing, generator: torch.Generator, labelled: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Mixup or cutmix of a batch with itself in reversed order (timm).

    Args:
        video: float [N, 3, T, H, W]; may be changed in place.
        targets: float [N, K], probabilities of the classes.
        settings: settings of mixing.
        generator: generator of the step; the ratio and the box are drawn from its seed.
        labelled: bool [N], which clips have labels; None if all do. Others are not mixed.

    Returns:
        Mixed clips and targets.
    """
    pairs = len(video) // 2 * 2
    if not pairs:
        return video, targets
    mixup = Mixup(
        settings.mixup, settings.cutmix, None, settings.probability, settings.switch, label_smoothing=0, num_classes=pairs
    )
    with seeded_libraries(generator.initial_seed(), MIXING):
        # Frames are passed as channels. The clips' indices are passed as classes, which gives the ratio of each clip.
        plain = video[:pairs] if labelled is None else video[:pairs].clone()
        mixed, shares = mixup(video[:pairs].flatten(1, 2), torch.arange(pairs, device=video.device))
    mixed, blend = mixed.view_as(plain), shares.to(targets) @ targets[:pairs]
    if labelled is not None:
        both = labelled[:pairs] & labelled[:pairs].flip(0)
        mixed = torch.where(both.view(-1, *[1] * (video.ndim - 1)), mixed, plain)
        blend = torch.where(both[:, None], blend, targets[:pairs])
    return torch.cat([mixed, video[pairs:]]), torch.cat([blend, targets[pairs:]])
