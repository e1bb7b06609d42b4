"""Generated videos of repeated motions for counting: no files, no download."""

from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import Dataset

from datamodules.loading.loader import EpochSampler, LoaderMemory, ResumableLoader, SampleKey
from datamodules.loading.single_pass import SinglePass
from datamodules.settings import LoadSettings
from datamodules.video.sampling import ClipSettings
from modules.core.batch import Batch, Kind, Preparation, Stream
from modules.core.errors import MAX_SEED, SettingError, check_whole
from modules.scenes.classes import Split
from modules.scenes.tasks.repetitions import REPEATED, CycleSettings, RepetitionClips, make_repetitions


class RepetitionPool(Dataset[Batch]):
    """Finished videos in memory, served in batches that are as long as the longest of their videos, as `UCFRep` has them.

    Args:
        clips: the videos and their cycles.
    """

    def __init__(self, clips: RepetitionClips) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips.video)

    def __getitems__(self, keys: list[SampleKey]) -> Batch:
        """A complete batch at once."""
        index = torch.tensor([key.row for key in keys])
        cycles = self.clips.cycles
        length, count = cycles.length[index], cycles.number[index]
        longest, borders = int(length.max()), int(count.max()) + 1
        extra = {
            "count": count,
            "borders": cycles.borders[index, :borders],
            "previous": cycles.previous[index, :longest],
            "next": cycles.next[index, :longest],
        }
        video = Stream("video", self.clips.video[index, None, :longest], length=length)
        return Batch(index, self.clips.motion[index], {"video": video}, extra=extra)


def _whole(batch: Batch) -> Batch:
    return batch


class SyntheticRepetitions(SinglePass, LightningDataModule):
    """Generated videos of one object that repeats a motion on black, for `RepetitionCounting`; needs no files.

    The object goes to and fro, grows and shrinks, or turns to and fro (`label`). Videos begin where a cycle begins and end
    where one ends; a batch has the fields of those of `UCFRep`. They are generated once, at set-up, and kept in memory.
    Training and validation share no colours, fill patterns, aspects or stroke widths.

    Args:
        clip: only `frames`, of the longest possible video, and `size` are used.
        batch_size: videos per batch and process.
        reading: worker processes. The videos are in memory, so 0 is best.
        train_videos: videos to train on.
        val_videos: videos to validate on, with other objects.
        cycles: number and length of the cycles.
        probe_samples: number of training videos in `probe_dataloader`.
        seed: seed of the videos and of their order.

    Raises:
        SettingError: if the settings do not fit each other.
    """

    preparation: Preparation | None = None
    """What the method does with batches of training and validation as soon as they are read."""

    def __init__(
        self,
        clip: ClipSettings = ClipSettings(frames=64, size=32),  # noqa: B008  (never mutated; shows the defaults in --help)
        batch_size: int = 32,
        reading: LoadSettings = LoadSettings(num_workers=0),  # noqa: B008
        train_videos: int = 512,
        val_videos: int = 128,
        cycles: CycleSettings = CycleSettings(),  # noqa: B008
        probe_samples: int = 512,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_whole("data", 1, batch_size=batch_size, train_videos=train_videos, val_videos=val_videos)
        check_whole("data", 1, probe_samples=probe_samples)
        check_whole("data", 0, MAX_SEED, seed=seed)
        self.clip, self.batch_size, self.reading = clip, batch_size, reading
        self.train_videos, self.val_videos, self.probe_samples = train_videos, val_videos, min(probe_samples, train_videos)
        self.cycles, self.seed = cycles, seed
        self._pools: dict[str, RepetitionPool] = {}
        self._train_loader = LoaderMemory()
        self._check()

    def _check(self) -> None:
        if self.batch_size > self.train_videos:
            raise SettingError(
                f"data.batch_size is {self.batch_size} but data.train_videos is {self.train_videos}: an epoch would have "
                "no full batch; lower the first or raise the second."
            )
        if self.clip != ClipSettings(frames=self.clip.frames, size=self.clip.size):
            raise SettingError("Generated repetitions are complete videos; of data.clip set only frames and size.")
        if self.clip.frames < self.cycles.frames:
            raise SettingError(
                f"data.clip.frames is {self.clip.frames}, but {self.cycles.most} cycles of {self.cycles.shortest} frames need "
                f"{self.cycles.frames}; raise it, or lower data.cycles.most or data.cycles.shortest."
            )

    @property
    def class_names(self) -> list[str]:
        """Names of the motions, in the order of their labels."""
        return list(REPEATED)

    @property
    def num_classes(self) -> int:
        """Number of motions."""
        return len(REPEATED)

    @property
    def streams(self) -> dict[str, Kind]:
        """Streams of a batch."""
        return {"video": "video"}

    def setup(self, stage: str | None = None) -> None:
        """Make the videos, unless they are made already."""
        if not self._pools:
            self._check()
            self._pools = {"train": self._make("train", self.train_videos), "val": self._make("val", self.val_videos)}

    def _make(self, split: Split, count: int) -> RepetitionPool:
        return RepetitionPool(make_repetitions(count, self.clip.frames, self.clip.size, split, self.seed, self.cycles))

    def _loader(self, name: str) -> ResumableLoader:
        self.setup()
        count = {"train": self.train_videos, "val": self.val_videos, "probe": self.probe_samples}[name]
        trainer = self.trainer
        ranks = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
        sampler = EpochSampler(count, self.seed, name == "train", *ranks)
        pool = self._pools["val" if name == "val" else "train"]
        workers, ahead = self.reading.num_workers, self.reading.prefetch_factor
        prepare = self.preparation if name != "probe" else None
        return ResumableLoader(pool, sampler, self.batch_size, workers, _whole, prefetch_factor=ahead, prepare=prepare)

    def train_dataloader(self) -> ResumableLoader:
        """Training videos in a random order; the last, incomplete batch is dropped."""
        return self._train_loader.keep(self._loader("train"))

    def val_dataloader(self) -> ResumableLoader:
        """Validation videos in fixed order."""
        return self._loader("val")

    def test_dataloader(self) -> ResumableLoader:
        """The validation videos."""
        return self._loader("val")

    def probe_dataloader(self) -> ResumableLoader:
        """The first `probe_samples` training videos in fixed order."""
        return self._loader("probe")

    def state_dict(self) -> dict[str, Any]:
        """Position of training within the epoch."""
        return {"loader": self._train_loader.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the position within the epoch."""
        self._train_loader.load_state_dict(state["loader"])
