"""Mirroring whole clips, where that leaves the labels what they are."""

import re
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from modules.core.errors import SettingError
from modules.language.grammar import flip_words

HALF = 0.5
CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
"""Between the words of a name such as SwipeLeft."""


def flip_some(clip: Tensor, generator: torch.Generator, probability: float = HALF) -> Tensor:
    """Mirror some clips left to right, all frames of a clip alike.

    Args:
        clip: [B, T, H, W, C]
        generator: source of randomness.
        probability: of a clip to be mirrored.
    """
    chosen = torch.rand(len(clip), generator=generator, device=clip.device) < probability
    return torch.where(chosen[:, None, None, None, None], clip.flip(3), clip)


def check_flip(setting: str, flip: float | None) -> None:
    """Refuse what is no probability.

    Raises:
        SettingError: naming the setting.
    """
    if flip is not None and not 0 <= flip <= 1:
        raise SettingError(f"{setting} is {flip}; it must be at least 0 and at most 1, or null.")


def flips_change_labels(data: Any) -> bool:
    """Whether a mirrored clip may belong to another class: the data module says so, or the name of a class would have to be
    mirrored too, as 'Swiping Left' or 'SwipeLeft' (a folder of videos has no other way to say so)."""
    names = [CAMEL.sub(" ", name).lower() for name in getattr(data, "class_names", None) or ()]
    return getattr(data, "flips_change_labels", False) or any(flip_words(name) != name for name in names)


def choose_flip(flip: float | None, data: Any, setting: str) -> float:
    """Probability of mirroring a training clip: as set, or else 0 where that changes labels and one half elsewhere. Says in one
    line where the data turn it off, or where a setting mirrors such data all the same.

    Args:
        flip: the setting; None leaves it to the data.
        data: data module, set up; None where there is none.
        setting: its name on the command line.
    """
    if not flips_change_labels(data):
        return HALF if flip is None else flip
    name = type(data).__name__
    if flip is None:
        rank_zero_info(f"Left and right are classes or words of {name}, so no clip is mirrored, unless {setting} says so.")
    elif flip:
        rank_zero_warn(
            f"{setting} is {flip:g}, so clips are mirrored although left and right are classes or words of {name}; set it to "
            "0, or leave it out, to mirror none."
        )
    return flip or 0.0
