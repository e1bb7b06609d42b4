"""Videos with captions: the json lists of VindLU and Singularity (official code), and data sets that use them.

A list contains objects `{"video": path, "caption": sentence}`; several sentences of a video, or several videos of a sentence,
may be given as a list. Multiple choice also has `answer`, the index of the correct sentence. Punctuation and case are
handled by the tokenizer.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.base import VideoDataModule
from datamodules.lists.files import read_json
from datamodules.lists.folders import usual_first, video_files
from datamodules.lists.manifest import Manifest, check_root, is_file
from datamodules.lists.packed import PackedLists, PackedStrings
from datamodules.video.sampling import ViewSettings
from modules.core.errors import SettingError
from modules.language.tokenizers import clean


class VideoText(VideoDataModule):
    """Videos with captions, from train.json, val.json and test.json, or from the lists in the settings.

    In training every pair of a video and a sentence is a sample; in evaluation every video is a sample with all its sentences.
    Videos are found at their path below `root`, or by their name in any layout and with any suffix; missing ones are counted.
    A subset of the training set (`subset.fraction`) contains the same fraction of the videos of every sentence; with the same
    `subset.seed` smaller subsets are contained in larger ones. A test uses the clip of evaluation (with `segment` the middle
    frame of each part), needs no training list, and has no `views`. The label of a sample is the index of its sentence in the
    list, or the correct answer.

    Benchmarks: `sentences` treats sentences separately, `paragraphs` joins the sentences of a video into one text.
    """

    benchmarks: ClassVar[tuple[str, ...]] = ("sentences", "paragraphs")
    flips_change_labels = True
    places = ("", "annotations", "anno", "labels")

    @property
    def official(self) -> dict[str, str]:
        """Names of the lists by split."""
        return {split: f"{split}.json" for split in ("train", "val", "test")}

    @property
    def paragraphs(self) -> bool:
        """Whether the sentences of a video are one text."""
        return self.benchmark == "paragraphs"

    def read_official(self, split: str) -> Manifest | None:
        """See `VideoDataModule.read_official`."""
        return self.read_first(split, self.official[split]) if split in self.official else None

    def read_listed(self, path: Path, split: str) -> Manifest:
        """See `VideoDataModule.read_listed`."""
        return text_manifest(self.root, read_text_rows(path, self.paragraphs, split == "train"), path)

    def setup(self, stage: str) -> None:
        """See `VideoDataModule.setup`. A test needs no training list.

        Raises:
            SettingError: as there, and if `views` is set.
        """
        if self.views != ViewSettings():
            raise SettingError(f"data.views is not for {type(self).__name__}, whose tests use data.clip; leave it out.")
        trains = self.lists.of("train") is not None or self.find_list(self.official["train"]) is not None
        if stage != "test" or self.train_manifest is not None or trains:
            super().setup(stage)
            return
        check_root(self.root)
        self.test_manifest = self.read_split("test") or self.read_split("val")
        if self.test_manifest is None:
            raise self.lacks(self.official["val"], "data.lists.test")
        if self.faults is None or self.trainer is not self._reported_to:
            self._start_report()

    @property
    def test_views(self) -> None:
        """Test videos are read as in validation."""
        return None


class MSRVTT(VideoText):
    """MSR-VTT: 10,000 videos with 20 sentences each.

    Benchmarks: 9k and 7k train with that many videos and test with 1,000 others (`1k-A`); `choice` trains like 9k and tests
    which of five sentences is right (model.task choice).
    """

    benchmarks = ("9k", "7k", "choice")

    @property
    def official(self) -> dict[str, str]:
        """Names of the lists by split (VindLU)."""
        train = "7k" if self.benchmark == "7k" else "9k"
        test = "msrvtt_mc_test.json" if self.benchmark == "choice" else "msrvtt_ret_test1k.json"
        return {"train": f"msrvtt_ret_train{train}.json", "val": "msrvtt_ret_test1k.json", "test": test}


class SSv2Text(VideoText):
    """Something-Something v2 for retrieval (Singularity, https://arxiv.org/abs/2206.03428).

    Benchmarks: `template` uses the class ('Putting something on something') as the sentence, which many videos share; `label`
        uses
    the sentence that names the objects.
    """

    benchmarks = ("template", "label")

    @property
    def official(self) -> dict[str, str]:
        """Names of the lists by split (VindLU)."""
        return {split: f"ssv2_ret_{self.benchmark}_{name}.json" for split, name in (("train", "train"), ("val", "val_small"))}


class DiDeMo(VideoText):
    """DiDeMo: 10,000 videos of up to 30 seconds; the sentences of a video are joined into one paragraph."""

    benchmarks = ()
    paragraphs = True

    @property
    def official(self) -> dict[str, str]:
        """Names of the lists by split (VindLU)."""
        return {split: f"didemo_ret_{split}.json" for split in ("train", "val", "test")}


class TextRow(NamedTuple):
    """A video of a list with its sentences, and the index of the correct one in multiple choice."""

    video: str
    texts: list[str]
    answer: int | None = None


def read_text_rows(path: Path, paragraphs: bool = False, pairs: bool = False) -> list[TextRow]:
    """The rows of a json list.

    Args:
        path: the list.
        paragraphs: join the sentences of an entry.
        pairs: one row per pair of a video and a sentence, for training; otherwise one row per video.

    Raises:
        SettingError: if the file is missing or has another format; the message names the entry.
    """
    if not is_file(path):
        raise SettingError(
            f"The list {path} does not exist; set data.lists.train, data.lists.val and data.lists.test to json lists."
        )
    entries = read_json(path)
    if not isinstance(entries, list) or not entries:
        raise SettingError(f"{path} contains no list of videos; pass a json list of objects with video and caption.")
    rows: list[TextRow] = []
    for number, entry in enumerate(entries):
        videos, texts = (_strings(entry, name, f"{path}: entry {number}") for name in ("video", "caption"))
        texts = [" ".join(texts)] if paragraphs else texts
        answer = entry.get("answer")
        if answer is not None and not (isinstance(answer, int) and 0 <= answer < len(texts)):
            raise SettingError(f"{path}: entry {number} has the answer {answer!r}, but {len(texts)} sentences, counted from 0.")
        rows += [TextRow(video, texts, answer) for video in videos]
    if pairs:
        return [TextRow(row.video, [text]) for row in rows for text in row.texts]
    if any(row.answer is not None for row in rows):
        return rows
    together: dict[str, list[str]] = {}
    for row in rows:
        together.setdefault(row.video, []).extend(row.texts)
    return [TextRow(video, texts) for video, texts in together.items()]


def _strings(entry: Any, name: str, where: str) -> list[str]:
    """The strings of an entry, which may be a single one."""
    value = entry.get(name) if isinstance(entry, dict) else None
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not values or not all(isinstance(one, str) and one.strip() for one in values):
        raise SettingError(
            f"{where} is {entry!r:.200}; expected an object with video and caption, each a text or a list of texts."
        )
    return values


def text_manifest(root: Path, rows: list[TextRow], source: Path) -> Manifest:
    """A manifest from rows, with the files of the videos; missing ones stay in it and are counted in a warning.

    Raises:
        SettingError: if most videos are missing, which means that the root is wrong.
    """
    files = video_files(root)
    known, stems = set(files), {Path(file).stem: file for file in reversed(usual_first(files))}
    where = {
        video: video if video in known else stems.get(Path(video).stem) for video in dict.fromkeys(row.video for row in rows)
    }
    missing = [video for video, file in where.items() if file is None and not is_file(root / video)]
    if len(missing) > len(where) / 2:
        raise SettingError(
            f"{len(missing)} of the {len(where)} videos of {source} are not below {root} (the first: {missing[0]}); set "
            "data.root to their folder."
        )
    if missing:
        rank_zero_warn(
            f"{len(where) - len(missing)} of the {len(where)} videos of {source} are below {root}; {len(missing)} are missing, "
            f"the first is {missing[0]}. Report results with these counts."
        )
    answers = [row.answer for row in rows]
    labels = _numbers(row.texts[0] for row in rows) if None in answers else answers
    return Manifest(
        root,
        PackedStrings(where[row.video] or row.video for row in rows),
        np.array(labels, np.int64),
        texts=PackedLists(row.texts for row in rows),
    )


def _numbers(texts: Iterable[str]) -> list[int]:
    """A number for each sentence; equal sentences have equal numbers."""
    cleaned = [" ".join(clean(text)) for text in texts]
    number = {text: place for place, text in enumerate(sorted(set(cleaned)))}
    return [number[text] for text in cleaned]
