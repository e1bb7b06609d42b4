"""Generated videos with a mask of each moving object in every frame, for label propagation. No files, no download."""

import torch
from lightning import LightningDataModule
from torch.utils.data import Dataset

from datamodules.loading.loader import EpochSampler, ResumableLoader, SampleKey
from datamodules.sequences import FEWEST, as_it_is, one_video
from modules.core.batch import Batch, Kind, Stream
from modules.core.errors import MAX_SEED, SettingError, check_whole
from modules.core.run import Measure
from modules.scenes.backgrounds import Background
from modules.scenes.captioned import Stage
from modules.scenes.streams import WorldStreams
from modules.scenes.world import WorldSettings
from modules.scenes.world_pictures import WorldClips, make_world


class SyntheticSequences(LightningDataModule):
    """Videos of moving objects with their masks, for `LabelPropagation`; needs no files.

    Objects may hide each other, and leave on one side to come back on the other.

    Args:
        videos: number of videos.
        frames: frames of each.
        size: side of the square frames in pixels.
        objects: objects per video, each with its own mask.
        background: black, noise, gradient or texture.
        seed: of the videos.

    Raises:
        SettingError: if a number is out of range.
    """

    measure: Measure = "objects"
    num_labels: int | None = None

    def __init__(
        self,
        videos: int = 4,
        frames: int = 16,
        size: int = 64,
        objects: int = 2,
        background: Background = "texture",
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_whole("data", 1, videos=videos, size=size)
        check_whole("data", FEWEST, frames=frames)
        check_whole("data", 1, 8, objects=objects)
        check_whole("data", 0, MAX_SEED, seed=seed)
        self.count, self.world = videos, WorldSettings(objects=objects)
        self.stage = Stage(frames, size, "val", seed, (background,))
        self.batch_size = 1
        self.clips: WorldClips | None = None

    @property
    def streams(self) -> dict[str, Kind]:
        """Streams of a batch."""
        return {"video": "video"}

    @property
    def sequence_names(self) -> list[str]:
        """Names of the videos in order."""
        return [f"video_{number:04d}" for number in range(self.count)]

    def check(self, stage: str) -> None:
        """Make the videos before a network is built."""
        self.setup(stage)

    def setup(self, stage: str) -> None:
        """Make the videos, unless they are made already.

        Raises:
            SettingError: for commands other than test.
        """
        if stage != "test":
            raise SettingError(f"{type(self).__name__} is only for python main.py test with --model LabelPropagation.")
        if self.clips is None:
            self.clips = make_world(self.count, self.stage, self.world, WorldStreams(mask=True))

    def test_dataloader(self) -> ResumableLoader:
        """The videos in order, one per batch."""
        assert self.clips is not None
        trainer = self.trainer
        ranks = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
        sampler = EpochSampler(self.count, 0, False, *ranks)
        return ResumableLoader(GeneratedSequences(self.clips), sampler, 1, collate_fn=as_it_is)


class GeneratedSequences(Dataset[Batch]):
    """Generated videos in memory, one per batch.

    Args:
        clips: with masks.
    """

    def __init__(self, clips: WorldClips) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips.motion)

    def __getitems__(self, keys: list[SampleKey]) -> Batch:
        """The batch of one video."""
        (row,) = [key.row for key in keys]
        masks = self.clips.streams["mask"]
        assert isinstance(masks, Stream)
        planes = masks.data[row, 0]
        # The visible parts of objects do not overlap.
        ids = (planes.byte() * torch.arange(1, planes.shape[-1] + 1, dtype=torch.uint8)).sum(-1, dtype=torch.uint8)
        return one_video(row, self.clips.video[row][None], {"mask": ids})
