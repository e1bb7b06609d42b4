"""Generated clips with boxes for action detection: which of several objects moves, and how. No files, no download."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.generated.base import GeneratedData, Part
from datamodules.generated.motion import check_frames
from datamodules.lists.packed import PackedStrings
from datamodules.loading.loader import SampleKey
from datamodules.sets.ava import Evaluation
from datamodules.settings import LoadSettings
from datamodules.video.key_frames import RATE, KeyFrames
from datamodules.video.sampling import ClipSettings
from modules.core.batch import Batch, Regions, Stream, TrueBoxes
from modules.core.errors import SettingError
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


class SyntheticBoxes(GeneratedData):
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

    flips_change_labels = True
    """Right and left are actions."""

    def __init__(
        self,
        clip: ClipSettings = ClipSettings(frames=16, size=32),  # noqa: B008  (never mutated; shows the defaults in --help)
        batch_size: int = 32,
        reading: LoadSettings = LoadSettings(num_workers=0),  # noqa: B008
        train_videos: int = 2048,
        val_videos: int = 512,
        seed: int = 0,
    ) -> None:
        super().__init__(clip, batch_size, reading, train_videos, val_videos, train_videos, seed)
        self._pools: dict[Split, BoxPool] = {}
        check_frames("data.clip.frames", clip.frames)
        if clip.views > 1:
            raise SettingError("SyntheticBoxes has one clip per key frame; leave out data.clip.clips and data.clip.repeat.")
        self.check_batch()
        self.check_unrelated("generated clips are not parts of one video")

    @property
    def class_names(self) -> list[str]:
        """Names of the actions, in the order of their numbers."""
        return list(ACTIONS)

    def setup(self, stage: str | None = None) -> None:
        """Makes the clips, unless they are made already."""
        if self._pools:
            return
        counts: dict[Split, int] = {"train": self.train_videos, "val": self.val_videos}
        for split, count in counts.items():
            clips = make_box_clips(count, self.clip.frames, self.clip.size, split, self.seed)
            self._pools[split] = BoxPool(clips, detected(clips, split, self.seed))

    def evaluation(self, stage: str) -> Evaluation:
        """What 'val' or 'test', which are the same clips, are scored with; frames and boxes are numbered as in batches."""
        return self._pools["val"].evaluation()

    def dataset(self, part: Part) -> BoxPool:
        """Clips in memory; a test has the validation clips."""
        self.setup()
        return self._pools["train" if part in ("train", "probe") else "val"]
