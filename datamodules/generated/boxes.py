"""Generated clips with boxes for action detection: which of several objects moves, and how. No files, no download."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.generated.motion import check_frames
from datamodules.lists.packed import PackedStrings
from datamodules.loading.loader import EpochSampler, LoaderMemory, ResumableLoader, SampleKey
from datamodules.loading.single_pass import SinglePass
from datamodules.sets.ava import Evaluation
from datamodules.settings import LoadSettings
from datamodules.video.key_frames import RATE, KeyFrames
from datamodules.video.sampling import ClipSettings
from modules.core.batch import Batch, Kind, Preparation, Regions, Stream, TrueBoxes
from modules.core.errors import MAX_SEED, SettingError, check_whole
from modules.scenes.classes import Draws, Split
from modules.scenes.tasks.boxes import ACTIONS, BoxClips, make_box_clips

SHIFTED = 0.08
"""How far the edges of a detected box are from those of the true one at most, in sides of that box: the two always overlap by
more than the half that the metric asks for."""


class BoxPool(Dataset[Batch]):
    """Finished clips in memory, served in complete batches.

    Args:
        clips: of one split.
        boxes: float32 [N, K, 4], of the detector, as shares of the frame.
    """

    def __init__(self, clips: BoxClips, boxes: Tensor) -> None:
        self.clips, self.boxes = clips, boxes
        self.actions = clips.action[..., None] == torch.arange(len(ACTIONS))

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitems__(self, keys: list[SampleKey]) -> Batch:
        """A complete batch at once."""
        index = torch.tensor([key.row for key in keys])
        objects, size = self.boxes.shape[1], self.clips.video.shape[3]
        row = torch.arange(len(index)).repeat_interleave(objects)[:, None]
        corners, actions = self.boxes[index].flatten(0, 1) * size, self.actions[index]
        numbers = (index[:, None] * objects + torch.arange(objects)).flatten()
        regions = Regions(torch.cat([row.float(), corners], 1), actions.flatten(0, 1).float(), numbers)
        video = Stream("video", self.clips.video[index][:, None])
        return Batch(index, actions.any(1).float(), {"video": video}, regions=regions)

    def evaluation(self) -> Evaluation:
        """What the clips are scored with."""
        count, objects = self.boxes.shape[:2]
        frames = self.clips.video.shape[1]
        key_frames = KeyFrames(
            Path(),
            PackedStrings(f"clip_{number:06d}" for number in range(count)),
            np.arange(count),
            seconds=np.full(count, frames // 2 / RATE),
            boxes=self.boxes.flatten(0, 1).double().numpy(),
            actions=self.actions.flatten(0, 1).numpy(),
            first=np.arange(count + 1) * objects,
        )
        frame, number = (self.clips.action >= 0).nonzero(as_tuple=True)
        truth = TrueBoxes(frame, self.clips.boxes[frame, number].double(), self.clips.action[frame, number])
        return Evaluation(key_frames, truth, dict(enumerate(ACTIONS)))


def detected(clips: BoxClips, split: Split, seed: int) -> Tensor:
    """Boxes of an imperfect detector, cut at the edges of the frame: float32 [N, K, 4]."""
    count, objects = clips.boxes.shape[:2]
    shift = Draws(seed, split, torch.arange(count)).many("detected", 4 * objects, -SHIFTED, SHIFTED)
    sides = (clips.boxes[..., 2:] - clips.boxes[..., :2]).repeat(1, 1, 2)
    return (clips.boxes + shift.view_as(clips.boxes).float() * sides).clamp(0, 1)


class SyntheticBoxes(SinglePass, LightningDataModule):
    """Clips of three objects of which one moves, with boxes in the middle frame, for action detection; needs no files.

    All clips are generated once, at set-up, and kept in memory as uint8. The actions of a box are eight motions, of which the
    one that moves has one and the others have none; `modules.scenes.tasks.boxes` says what the key frame does not tell.
    Training and validation share actions but no colours, fill patterns, proportions or stroke widths. Boxes are slightly wrong,
    as those of a detector are, and scored against the true ones; validation and test are the same clips.

    Args:
        clip: frames and size; the other fields are for files.
        batch_size: clips per batch and process.
        reading: worker processes. The clips are in memory, so 0 is best.
        train_videos: clips to train on.
        val_videos: clips to validate and test on, with other objects.
        seed: of the clips, their boxes and their order.
    """

    class_names = ACTIONS
    num_classes = len(ACTIONS)
    flips_change_labels = True
    """Right and left are actions."""
    preparation: Preparation | None = None
    """What the method does with batches of training and validation as soon as they are read."""

    def __init__(
        self,
        clip: ClipSettings = ClipSettings(frames=16, size=32),  # noqa: B008  (never mutated; shows the defaults in --help)
        batch_size: int = 32,
        reading: LoadSettings = LoadSettings(num_workers=0),  # noqa: B008
        train_videos: int = 2048,
        val_videos: int = 512,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_whole("data", 1, batch_size=batch_size, train_videos=train_videos, val_videos=val_videos)
        check_whole("data", 0, MAX_SEED, seed=seed)
        check_frames("data.clip.frames", clip.frames)
        if clip.views > 1:
            raise SettingError("SyntheticBoxes has one clip per key frame; leave out data.clip.clips and data.clip.repeat.")
        if batch_size > train_videos:
            raise SettingError(
                f"data.batch_size is {batch_size} but data.train_videos is {train_videos}: an epoch would have no full batch; "
                "lower the first or raise the second."
            )
        self.clip, self.batch_size, self.reading, self.seed = clip, batch_size, reading, seed
        self.counts: dict[Split, int] = {"train": train_videos, "val": val_videos}
        self._pools: dict[Split, BoxPool] = {}
        self._train_loader = LoaderMemory()

    @property
    def streams(self) -> dict[str, Kind]:
        """Streams of a batch."""
        return {"video": "video"}

    def setup(self, stage: str | None = None) -> None:
        """Makes the clips, unless they are made already."""
        if self._pools:
            return
        for split, count in self.counts.items():
            clips = make_box_clips(count, self.clip.frames, self.clip.size, split, self.seed)
            self._pools[split] = BoxPool(clips, detected(clips, split, self.seed))

    def evaluation(self, stage: str) -> Evaluation:
        """What 'val' or 'test', which are the same clips, are scored with; frames and boxes are numbered as in batches."""
        return self._pools["val"].evaluation()

    def _loader(self, split: Split) -> ResumableLoader:
        self.setup()
        pool, trainer = self._pools[split], self.trainer
        ranks = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
        sampler = EpochSampler(len(pool), self.seed, split == "train", *ranks)
        workers, ahead, prepare = self.reading.num_workers, self.reading.prefetch_factor, self.preparation
        return ResumableLoader(pool, sampler, self.batch_size, workers, _complete, prefetch_factor=ahead, prepare=prepare)

    def train_dataloader(self) -> ResumableLoader:
        """Training clips in a random order; the last, incomplete batch is dropped."""
        return self._train_loader.keep(self._loader("train"))

    def val_dataloader(self) -> ResumableLoader:
        """Validation clips in fixed order."""
        return self._loader("val")

    def test_dataloader(self) -> ResumableLoader:
        """The validation clips."""
        return self._loader("val")

    def state_dict(self) -> dict[str, Any]:
        """Position of training within the epoch."""
        return {"loader": self._train_loader.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the position within the epoch."""
        self._train_loader.load_state_dict(state["loader"])


def _complete(batch: Batch) -> Batch:
    return batch
