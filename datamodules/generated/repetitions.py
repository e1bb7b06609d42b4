"""Generated videos of repeated motions for counting: no files, no download."""

import torch
from torch.utils.data import Dataset

from datamodules.generated.base import GeneratedData, Part
from datamodules.loading.loader import SampleKey
from datamodules.settings import LoadSettings
from datamodules.video.sampling import ClipSettings
from modules.core.batch import Batch, Stream
from modules.core.errors import SettingError
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


class SyntheticRepetitions(GeneratedData):
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
        super().__init__(clip, batch_size, reading, train_videos, val_videos, probe_samples, seed)
        self.cycles = cycles
        self._pools: dict[Split, RepetitionPool] = {}
        self._check()

    def _check(self) -> None:
        self.check_batch()
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

    def setup(self, stage: str | None = None) -> None:
        """Make the videos, unless they are made already."""
        if not self._pools:
            self._check()
            self._pools = {"train": self._make("train", self.train_videos), "val": self._make("val", self.val_videos)}

    def _make(self, split: Split, count: int) -> RepetitionPool:
        return RepetitionPool(make_repetitions(count, self.clip.frames, self.clip.size, split, self.seed, self.cycles))

    def dataset(self, part: Part) -> RepetitionPool:
        """Videos in memory; a test has the validation videos."""
        self.setup()
        return self._pools["train" if part in ("train", "probe") else "val"]
