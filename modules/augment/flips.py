"""Mirroring clips, if that does not change their labels."""

import re
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from modules.core.errors import SettingError
from modules.language.grammar import flip_words

HALF = 0.5
CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
"""Position between the words of a name such as SwipeLeft."""


def flip_some(clip: Tensor, generator: torch.Generator, probability: float = HALF) -> Tensor:
    """Mirror some clips left to right, consistently for all frames of a clip.

    Args:
        clip: [B, T, H, W, C]
        generator: source of randomness.
        probability: probability of mirroring a clip.
    """
    chosen = torch.rand(len(clip), generator=generator, device=clip.device) < probability
    return torch.where(chosen[:, None, None, None, None], clip.flip(3), clip)


def flips_change_labels(data: Any) -> bool:
    """Whether a mirrored clip may belong to another class: the data module declares it, or the name of a class would have to be
    mirrored too, such as 'Swiping Left' or 'SwipeLeft' (a folder of videos has no other way to declare this)."""
    names = [CAMEL.sub(" ", name).lower() for name in getattr(data, "class_names", None) or ()]
    return getattr(data, "flips_change_labels", False) or any(flip_words(name) != name for name in names)


class RandomFlip:
    """Mirrors some training clips. Stored in a method; `Method.take_data` passes it the data.

    Args:
        setting: name of the setting on the command line.
        asked: probability of mirroring a clip; None uses one half, or 0 if classes of the data depend on left and right.

    Raises:
        SettingError: if it is not a probability.
    """

    def __init__(self, setting: str, asked: float | None) -> None:
        if asked is not None and not 0 <= asked <= 1:
            raise SettingError(f"{setting} is {asked}; it must be at least 0 and at most 1, or null.")
        self.setting, self.asked = setting, asked
        self.probability = HALF if asked is None else asked

    def take_data(self, data: Any) -> None:
        """Determine the probability. Prints a message if the data disable it, or if a setting mirrors such data
        anyway.

        Args:
            data: data module after its setup; None if there is none.
        """
        if not flips_change_labels(data):
            self.probability = HALF if self.asked is None else self.asked
            return
        name = type(data).__name__
        if self.asked is None:
            rank_zero_info(
                f"Classes or captions of {name} depend on left and right, so no clip is mirrored unless {self.setting} is set."
            )
        elif self.asked:
            rank_zero_warn(
                f"{self.setting} is {self.asked:g}, so clips are mirrored although left and right matter in {name}; set "
                f"it to 0, or remove it, to mirror none."
            )
        self.probability = self.asked or 0.0

    def __call__(self, clip: Tensor, generator: torch.Generator) -> Tensor:
        """Mirror some clips left to right, consistently for all frames of a clip: [B, T, H, W, C]."""
        return flip_some(clip, generator, self.probability)
