"""Splits of NTU RGB+D by the names of recordings, and the recordings that are left out."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

from datamodules.skeleton.raw import NTU_NAME, NTUName

NTU60_SETUPS = 17
NTU60_CLASSES = 60
TRAIN_CAMERAS = frozenset({2, 3})
NTU60_SUBJECTS = frozenset({1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38})
NTU120_SUBJECTS = NTU60_SUBJECTS | {
    *(45, 46, 47, 49, 50, 52, 53, 54, 55, 56, 57, 58, 59, 70, 74, 78, 80, 81, 82, 83),
    *(84, 85, 86, 89, 91, 92, 93, 94, 95, 97, 98, 100, 103),
}
MISSING = Path(__file__).with_name("ntu_missing.txt")

TRAINS: dict[str, Callable[[NTUName], bool]] = {
    # The longer list also works for NTU RGB+D 60, whose subjects end at 40.
    "xsub": lambda name: name.performer in NTU120_SUBJECTS,
    "xview": lambda name: name.camera in TRAIN_CAMERAS,
    "xset": lambda name: name.setup % 2 == 0,
}
"""For each benchmark, whether a sample is for training, by performer, camera or setup."""


def is_ntu60(name: NTUName) -> bool:
    """Whether a sample of NTU RGB+D 120 is also in the first part, NTU RGB+D 60."""
    return name.setup <= NTU60_SETUPS and name.action <= NTU60_CLASSES


@cache
def missing_samples() -> tuple[str, ...]:
    """The 535 samples whose skeletons are missing or incomplete; the first 302 are of NTU RGB+D 60."""
    lines = MISSING.read_text().splitlines()
    return tuple(match[0] for line in lines if not line.startswith("#") and (match := NTU_NAME.match(line)))
