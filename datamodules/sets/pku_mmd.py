"""PKU-MMD: skeletons of labelled intervals that `python main.py prepare pku` has cut out and prepared."""

from pathlib import Path
from typing import Literal

import numpy as np

from datamodules.skeleton.base import SkeletonDataModule, Split
from datamodules.skeleton.clips import SkeletonClipSettings
from datamodules.skeleton.raw import PKU_CLASSES
from datamodules.skeleton.store import open_store
from modules.core.errors import SettingError


class PKUMMD(SkeletonDataModule):
    """PKU-MMD: part 1 has some 21,500 intervals of 51 actions; part 2 is smaller and harder, 41 of the same actions.

    Args:
        root: folder that `python main.py prepare pku` wrote.
        part: which part must be in it.
        benchmark: xsub holds people out for validation, xview a camera.
        clip: clips per recording, frames, and how training crops are drawn.
        batch_size: recordings per batch and device; a batch holds batch_size x clip.clips clips.
        num_workers: worker processes per device.
        seed: order and crops are functions of it; null takes the run's seed.
        probe_samples: training recordings that probes read, with centre crops.
        fraction: share of the training recordings to train on.
        per_class: take that share of every class, rounded up; false takes it of all, rounded down.
        subset_seed: which recordings these are.
    """

    num_classes = PKU_CLASSES

    def __init__(
        self,
        root: str,
        part: Literal[1, 2] = 1,
        benchmark: Literal["xsub", "xview"] = "xsub",
        clip: SkeletonClipSettings = SkeletonClipSettings(),  # noqa: B008  (never mutated; shows the defaults in --help)
        batch_size: int = 64,
        num_workers: int = 4,
        seed: int | None = None,
        probe_samples: int = 4096,
        fraction: float = 1.0,
        per_class: bool = False,
        subset_seed: int = 0,
    ) -> None:
        super().__init__(clip, batch_size, num_workers, seed, probe_samples, fraction, per_class, subset_seed)
        self.root, self.part, self.benchmark = root, part, benchmark

    def load(self) -> Split:
        """See `SkeletonDataModule.load`."""
        command = f"python main.py prepare pku --part {self.part} --raw DIR --labels DIR --splits DIR --out DIR"
        recordings = open_store(Path(self.root), "pku", command)
        if recordings.header["part"] != self.part:
            raise SettingError(
                f"data.root {self.root} holds part {recordings.header['part']} of PKU-MMD; set data.part to it, or data.root "
                f"to the folder of part {self.part}."
            )
        split = recordings.header["splits"][self.benchmark]
        videos = np.array([name.rpartition("_")[0] for name in recordings.name.tolist()])
        train, val = (np.flatnonzero(np.isin(videos, split[name])) for name in ("train", "val"))
        return Split(recordings, train, val)
