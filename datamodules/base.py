"""What all video data modules share. A data set says where its files and labels are; nothing else differs."""

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.video.dataset import VideoClipDataset, collate
from datamodules.video.decode import Decoder
from datamodules.video.faults import FaultLog
from datamodules.video.loader import EpochSampler, LoaderMemory, ResumableLoader
from datamodules.video.manifest import UNLABELLED, Manifest, check_root
from datamodules.video.sampling import ClipSettings
from modules.core.errors import SettingError


class VideoDataModule(LightningDataModule, ABC):
    """Clips from video files.

    Workers decode, crop and resize; batches are uint8 (see `modules.core.contracts.VideoBatch`) and everything else
    happens on the device. Broken files are replaced, counted and named in `bad_videos.tsv` in the run's folder.

    Args:
        root: folder of the videos; relative paths in lists start here.
        train_list: list of training videos; null looks for the data set's usual files in `root`.
        val_list: list of validation videos; null looks for the data set's usual files in `root`.
        clip: frames, stride, size, crop and number of clips.
        batch_size: videos per batch and device; a batch holds batch_size x clip.clips x clip.repeat clips.
        num_workers: worker processes per device that decode.
        seed: order, frames and crops are functions of it; null takes the run's seed.
        probe_samples: labelled training videos that online probes read, with centre crops.
        max_bad_fraction: share of broken files among those read so far above which the run stops with their list;
            judged once 100 different files were read.
        decode_timeout: seconds after which a file counts as broken; null waits for ever.
        decoder: library that decodes; decord and torchcodec are optional extras.
    """

    def __init__(
        self,
        root: str,
        train_list: str | None = None,
        val_list: str | None = None,
        clip: ClipSettings = ClipSettings(),  # noqa: B008  (never mutated; shows the defaults in --help)
        batch_size: int = 16,
        num_workers: int = 4,
        seed: int | None = None,
        probe_samples: int = 2048,
        max_bad_fraction: float = 0.05,
        decode_timeout: float | None = 60.0,
        decoder: Decoder = "pyav",
    ) -> None:
        super().__init__()
        self.root = Path(root)
        self.train_list = Path(train_list) if train_list else None
        self.val_list = Path(val_list) if val_list else None
        self.clip, self.batch_size, self.num_workers = clip, batch_size, num_workers
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self.probe_samples, self.max_bad_fraction = probe_samples, max_bad_fraction
        self.decode_timeout, self.decoder = decode_timeout, decoder
        self.train_manifest: Manifest | None = None
        self.val_manifest: Manifest | None = None
        self.faults: FaultLog | None = None
        self._fault_state: dict[str, Any] | None = None
        self._train_loader = LoaderMemory()

    @abstractmethod
    def read_split(self, split: str) -> Manifest | None:
        """Manifest of 'train' or 'val'; None if the data set has no such split."""

    @property
    def num_classes(self) -> int | None:
        """Classes of the training videos; None without labels."""
        if self.train_manifest is None or self.train_manifest.labels.max() == UNLABELLED:
            return None
        return self.train_manifest.num_classes

    @property
    def class_names(self) -> list[str] | None:
        """Names by label, where known."""
        return (self.train_manifest.class_names or None) if self.train_manifest is not None else None

    @property
    def manifest_hash(self) -> str | None:
        """Hash of the training list, for the record of a run."""
        return self.train_manifest.sha256() if self.train_manifest is not None else None

    def setup(self, stage: str) -> None:
        """Read the lists and check the settings.

        Raises:
            SettingError: for a missing folder or list, no videos, a wrong root, or a batch larger than the data set.
        """
        if self.train_manifest is not None:
            return
        check_root(self.root)
        train = self.read_split("train")
        if train is None:
            raise SettingError(
                f"No list of training videos was found in {self.root}; set data.train_list, or data.root to the folder "
                "that holds it."
            )
        rank, world = self._rank()
        if len(train) // world < self.batch_size:
            raise SettingError(
                f"data.batch_size {self.batch_size} on {world} device(s) is more than the {len(train)} training videos "
                f"of {self.root}; lower it."
            )
        self.train_manifest, self.val_manifest = train, _same_classes(train, self.read_split("val"))
        self.faults = FaultLog(train.paths, self.max_bad_fraction)
        if self._fault_state is not None:
            self.faults.load_state_dict(self._fault_state)
        if self.trainer is not None and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.faults.write_to(Path(self.trainer.default_root_dir), rank)

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def _loader(self, manifest: Manifest, train: bool, faults: FaultLog | None) -> ResumableLoader:
        dataset = VideoClipDataset(manifest, self.clip, self.seed, train, self.decoder, self.decode_timeout)
        sampler = EpochSampler(len(manifest), self.seed, train, *self._rank())
        return ResumableLoader(
            dataset,
            sampler,
            self.batch_size,
            self.num_workers,
            collate,
            faults.record if faults is not None else None,
        )

    def train_dataloader(self) -> ResumableLoader:
        """Random clips in random order."""
        assert self.train_manifest is not None
        return self._train_loader.keep(self._loader(self.train_manifest, train=True, faults=self.faults))

    def val_dataloader(self) -> ResumableLoader | list[ResumableLoader]:
        """Centre clips of the validation videos in order; nothing where there are none."""
        return self._loader(self.val_manifest, train=False, faults=None) if self.val_manifest is not None else []

    def probe_dataloader(self) -> ResumableLoader:
        """Centre clips of evenly picked training videos, for probes."""
        assert self.train_manifest is not None
        count = min(self.probe_samples, len(self.train_manifest))
        rows = np.linspace(0, len(self.train_manifest) - 1, count).astype(int)
        return self._loader(self.train_manifest.subset(rows), train=False, faults=None)

    def state_dict(self) -> dict[str, Any]:
        """Broken files met so far, and where in the epoch the training is."""
        faults = self.faults.state_dict() if self.faults is not None else self._fault_state
        return {"faults": faults, "loader": self._train_loader.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the broken files met so far, and where in the epoch the training was."""
        self._train_loader.load_state_dict(state["loader"])
        self._fault_state = state["faults"]
        if self.faults is not None and self._fault_state is not None:
            self.faults.load_state_dict(self._fault_state)


def _same_classes(train: Manifest, val: Manifest | None) -> Manifest | None:
    """Validation videos with the label numbers of training: a split that lacks a class must not shift those behind it."""
    if val is None or not train.class_names or not val.class_names or val.class_names == train.class_names:
        return val
    if unknown := sorted(set(val.class_names) - set(train.class_names)):
        rank_zero_warn(
            f"{len(unknown)} classes of the validation videos in {val.root} are not among those of training and count as "
            f"unlabelled: {', '.join(unknown[:5])}{' ...' if len(unknown) > 5 else ''}."
        )
    return val.with_classes(train.class_names)
