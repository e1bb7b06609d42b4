"""EPIC-Kitchens-100: what hands do in kitchens, seen from the head; verbs, nouns and both."""

import re
from pathlib import Path
from typing import Literal, NamedTuple

from lightning.pytorch.utilities import rank_zero_warn

from datamodules.base import VideoDataModule
from datamodules.video.decode import Decoder
from datamodules.video.manifest import Manifest, by_stem
from datamodules.video.official import class_label, find_file, found_manifest, read_table
from datamodules.video.sampling import ClipSettings, ViewSettings
from modules.core.errors import SettingError

FOLDERS = ("", "epic-kitchens-100-annotations", "annotations")
VERBS, NOUNS = 97, 300
COLUMNS = ("narration_id", "video_id", "start_timestamp", "stop_timestamp", "verb_class", "noun_class")


class Segment(NamedTuple):
    """A narrated action: when it is in which video, and what is done."""

    name: str
    video: str
    start: float
    stop: float
    verb: int
    noun: int


class EpicKitchens100(VideoDataModule):
    """EPIC-Kitchens-100, as one clip per narration, `P01_01_12.mp4`.

    The recordings are long; `python main.py prepare videos --list EPIC_100_train.csv` cuts them. The official lists of
    training and validation give the labels; an action is a pair of verb and noun that occurs in one of them.

    Args:
        root: folder of the clips.
        target: what is classified. Of 97 verbs and 300 nouns; actions are numbered in the order of verb, then noun.
        train_list: list of training videos; null looks for the official name in `root`.
        val_list: list of validation videos; null looks for the official name in `root`.
        clip: frames, stride, size, crop and number of clips.
        batch_size: videos per batch and device; a batch holds batch_size x clip.clips x clip.repeat clips.
        num_workers: worker processes per device that decode.
        seed: order, frames and crops are functions of it; null takes the run's seed.
        probe_samples: training videos that online probes read, with centre crops.
        fraction: share of the training videos to train on, the same of every class.
        subset_seed: which videos these are.
        max_bad_fraction: share of broken files above which the run stops, see `VideoDataModule`.
        decode_timeout: seconds after which a file counts as broken; null waits for ever.
        decoder: library that decodes.
        views: clips and crops of each test video.
    """

    def __init__(
        self,
        root: str,
        target: Literal["verb", "noun", "action"] = "verb",
        train_list: str | None = None,
        val_list: str | None = None,
        clip: ClipSettings = ClipSettings(),  # noqa: B008  (never mutated; shows the defaults in --help)
        batch_size: int = 16,
        num_workers: int = 4,
        seed: int | None = None,
        probe_samples: int = 2048,
        fraction: float = 1.0,
        subset_seed: int = 12345,
        max_bad_fraction: float = 0.05,
        decode_timeout: float | None = 60.0,
        decoder: Decoder = "pyav",
        views: ViewSettings = ViewSettings(),  # noqa: B008
    ) -> None:
        super().__init__(
            root,
            train_list,
            val_list,
            clip,
            batch_size,
            num_workers,
            seed,
            probe_samples,
            fraction,
            subset_seed,
            max_bad_fraction,
            decode_timeout,
            decoder,
            views=views,
        )
        self.target = target

    def read_split(self, split: str) -> Manifest | None:
        """See `VideoDataModule.read_split`."""
        listed = self._list(split)
        if split == "test" or (listed is None and split == "val"):
            return None
        if listed is None:
            raise SettingError(f"{self.root} holds no EPIC_100_train.csv; set data.train_list to the official list.")
        segments = read_segments(listed)
        if self.target == "action":
            others = [read_segments(other) for part in ("train", "val") if (other := self._list(part)) is not None]
            pairs = sorted({(row.verb, row.noun) for rows in others for row in rows})
            number = {pair: label for label, pair in enumerate(pairs)}
            rows = [(row.name, number[row.verb, row.noun]) for row in segments]
            names = [f"verb {verb}, noun {noun}" for verb, noun in pairs]
        else:
            rows = [(row.name, row.verb if self.target == "verb" else row.noun) for row in segments]
            names = [f"{self.target} {label}" for label in range(VERBS if self.target == "verb" else NOUNS)]
        return found_manifest(self.root, rows, by_stem(self.root), listed, names)

    def _list(self, split: str) -> Path | None:
        official = "train" if split == "train" else "validation"
        return self.given_list(split) or find_file(self.root, FOLDERS, [f"EPIC_100_{official}.csv"])


def read_segments(path: Path) -> list[Segment]:
    """The narrations of an official list. Some stop before they start; these are left out.

    Raises:
        SettingError: if the file or a column is missing, or a row has no times or labels; names the line.
    """
    segments, left_out = [], []
    for line, row in read_table(path, COLUMNS):
        verb = class_label(row["verb_class"], VERBS, f"Line {line} of {path}")
        noun = class_label(row["noun_class"], NOUNS, f"Line {line} of {path}")
        start, stop = (seconds(row[name], path, line) for name in ("start_timestamp", "stop_timestamp"))
        if stop > start:
            segments.append(Segment(row["narration_id"], row["video_id"], start, stop, verb, noun))
        else:
            left_out.append(row["narration_id"])
    if left_out:
        rank_zero_warn(f"{path}: {len(left_out)} narrations stop before they start and are left out, the first: {left_out[0]}.")
    return segments


def seconds(text: str, path: Path, line: int) -> float:
    """Seconds of a time like 00:01:02.5.

    Raises:
        SettingError: if it is of another form.
    """
    match = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", text.strip())
    if match is None:
        raise SettingError(f"Line {line} of {path} has the time {text!r}; expected hours:minutes:seconds.")
    return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])
