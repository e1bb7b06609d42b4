"""RSPNet: which of two clips plays at the same speed as a third one, and which video is it from?

Paper: RSPNet, https://arxiv.org/abs/2011.07949. Two windows of a video are cut at different times. The first one gives the
query, the second one two keys: its frames at the query's speed and at another one. Speeds are 1 (consecutive frames) and 2
(every second frame); all clips have the same number of frames. An encoder with two heads sees the query, its momentum copy
the keys:

* relative speed: in the space of one head, the query must be nearer to the key of its own speed than to the other key (margin
  ranking loss). Both keys show the same scene, so the appearance does not help;
* appearance: in the space of the other head, both keys are positives of the query, and keys of other videos, kept in a queue,
  are negatives (two cross-entropies as in MoCo).

Shapes for the 3D ResNet-18: windows [B, 2, 32, 112, 112, 3], clips of 16 frames, features [B, 512], compared in 128 dimensions,
queue [16384, 128], which contains keys of the other speed only.

Details of the official code that are kept: the momentum update comes first, then the keys of the other speed, then those of
the same speed; the clip of speed 1 is always the first half of the window; the margin 2 is compared with cosines over the
temperature 0.07 (0.14 in cosines; the paper's 0.15 could not be verified); augmentation changes the window before its frames
are chosen; heads are linear (`contrast.hidden: null` is its `mlp`).

Differences from the official code:

* it works with one GPU too. Official: at least two, since keys are shuffled between GPUs, so that batch norm's statistics do
  not reveal pairs. With one process nothing is shuffled;
* `split: sample` draws the speed of each sample separately; the official `split: batch` gives half of the batch speed 1. With
  several other speeds, the drawn one is the same in all processes; the official code draws one in each, although their clips
  then differ in length;
* crops are resized with antialiasing; the encoder has no unused classifier, which official files contain;
* the heads `conv`, `convbn` and `speednet` do not exist.

With several processes, batch norm must see the whole batch (trainer.sync_batchnorm) for loss and gradients to equal those of
one process with the joined batch, and `split` must be `sample`: with `batch`, half of the samples of each process have speed 1.
The momentum update happens once per batch, also with gradient accumulation.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from modules.augment.clip_jitter import ClipJitter
from modules.augment.flips import RandomFlip
from modules.backbones.cnn.base import VideoCNN
from modules.core.batch import Batch
from modules.core.device import constant
from modules.core.errors import SettingError, check_range
from modules.core.output import StepOutput
from modules.core.randomness import device_generator, host_generator
from modules.layers.contrast.momentum_contrast import ContrastSettings
from modules.layers.contrast.speed_contrast import SpeedContrast
from modules.layers.drawing.clips import framed
from modules.training.method import Method
from modules.training.optim import SGDSettings

SHUFFLE_STREAM = 4
Split = Literal["batch", "sample"]


class Speeds(NamedTuple):
    """Speeds of the clips of a batch."""

    query: Tensor
    """int64 [B], of the query and the first key"""
    other: Tensor
    """int64 [B], of the second key"""
    frames: int
    """frames of each clip, T'"""


def split_batch(order: Tensor, speed: int, frames: int) -> Speeds:
    """Speed 1 for the first half of a permutation, and another speed for the rest (official code).

    Args:
        order: int64 [B], permutation of the samples.
        speed: the other speed.
        frames: frames of a window.
    """
    first = order.argsort() < len(order) // 2
    return Speeds(torch.where(first, 1, speed), torch.where(first, speed, 1), frames // speed)


def split_samples(draws: Tensor, speeds: tuple[int, ...], frames: int) -> Speeds:
    """The speeds of each sample, independent of the others. Clips are as short as the highest speed requires.

    Args:
        draws: float [B, 2], uniform from 0 to 1: whether the query has speed 1, and the other speed.
        speeds: other speeds, equally likely.
        frames: frames of a window.
    """
    first = draws[:, 0] < 0.5
    speed = constant(speeds, torch.int64, draws.device)[(draws[:, 1] * len(speeds)).long()]
    return Speeds(torch.where(first, 1, speed), torch.where(first, speed, 1), frames // max(speeds))


def play(windows: Tensor, speed: Tensor, frames: int) -> Tensor:
    """The first frames of windows, at the speed of each.

    Args:
        windows: [B, T, ...]
        speed: int64 [B]
        frames: T', so that T' * speed is at most T.

    Returns:
        [B, T', ...]
    """
    chosen = torch.arange(frames, device=windows.device) * speed[:, None]
    return windows[torch.arange(len(windows), device=windows.device)[:, None], chosen]


class RSPNet(Method):
    """Relative speed perception (https://arxiv.org/abs/2011.07949).

    Args:
        backbone: encoder, kept after pretraining.
        contrast: heads, queue and key branch.
        speeds: speeds besides 1, one of which is drawn.
        split: `batch` draws one speed for the batch of all processes, and half of the samples play it; `sample` draws the speed
            of each sample.
        margin: difference of the similarities, over the temperature, from which a query has no ranking loss.
        speed_weight: weight of the ranking loss; that of the appearance loss is 1.
        colour: grey and colour jitter, drawn for each window.
        optim: optimiser and schedule.
        flip: probability of mirroring a window; null takes one half, or 0 if classes of the data distinguish left and right.
    """

    def __init__(
        self,
        backbone: VideoCNN,
        contrast: ContrastSettings = ContrastSettings(hidden=0, temperature=0.07),  # noqa: B008  (never mutated)
        speeds: tuple[int, ...] = (2,),
        split: Split = "batch",
        margin: float = 2.0,
        speed_weight: float = 1.0,
        colour: ClipJitter = ClipJitter(),  # noqa: B008
        optim: SGDSettings = SGDSettings(),  # noqa: B008
        flip: float | None = None,
    ) -> None:
        super().__init__(optim)
        if not speeds or min(speeds) < 1 or max(speeds) < 2:
            raise SettingError(f"model.speeds is {list(speeds)}; set it to integers of at least 1, of which one is at least 2.")
        check_range("model", 0, margin=margin, speed_weight=speed_weight)
        self.flip = RandomFlip("model.flip", flip)
        self.backbone = backbone
        self.speeds, self.split = tuple(speeds), split
        self.margin, self.speed_weight, self.colour = margin, speed_weight, colour
        self.contrast = SpeedContrast(backbone, contrast)

    def on_fit_start(self) -> None:
        """Check the batch size and the frames before the first step."""
        super().on_fit_start()
        self.contrast.check(self.trainer)
        clip = getattr(getattr(self.trainer, "datamodule", None), "clip", None)
        fewest, speed = self.backbone.smallest_clip[0], max(self.speeds)  # type: ignore[index]
        if clip is not None and clip.frames < fewest * speed:
            raise SettingError(
                f"data.clip.frames is {clip.frames}, which leaves {clip.frames // speed} frames at speed {speed}, but "
                f"{type(self.backbone).__name__} needs {fewest}; set data.clip.frames to {fewest * speed} or more."
            )

    def on_train_start(self) -> None:
        """Check the queue against the size of the data set before the first step."""
        super().on_train_start()
        self.contrast.check_data(self.trainer)

    def draw_speeds(self, count: int, frames: int, generator: torch.Generator, common: torch.Generator) -> Speeds:
        """Speeds of a batch of windows.

        Args:
            count: number of windows, B.
            frames: frames of a window.
            generator: source of randomness of this process.
            common: generator in the same state in every process, for the speed of the batch.
        """
        if self.split == "sample":
            return split_samples(torch.rand(count, 2, generator=generator, device=self.device), self.speeds, frames)
        speed = self.speeds[0]
        if len(self.speeds) > 1:
            # It determines the number of frames. The host needs it, and processes can only shuffle keys of the same size.
            speed = self.speeds[int(torch.randint(len(self.speeds), (1,), generator=host_generator(common)))]
        return split_batch(torch.randperm(count, generator=generator, device=self.device), speed, frames)

    def augment(self, windows: Tensor, generator: torch.Generator) -> Tensor:
        """Change the colours of windows and mirror some of them: uint8 [B, T, H, W, 3] -> float of the same shape, 0..255."""
        return self.flip(self.colour(windows.float(), generator), generator)

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        """Augment both windows, choose the frames of each speed, encode, compare. Videos are [B, 2, T, H, W, 3]."""
        video = self.inputs(batch)
        if video.shape[1] != 2:
            raise SettingError(f"RSPNet needs two windows of each video, not {video.shape[1]}; set data.clip.clips to 2.")
        first, second = self.augment(video[:, 0], generator), self.augment(video[:, 1], generator)
        shuffle = device_generator(self.device, SHUFFLE_STREAM, self.seed, self.global_step)
        # In validation, nothing is shuffled, and the numbers must be the same in every epoch.
        speeds = self.draw_speeds(len(video), video.shape[2], generator, shuffle if self.training else generator)
        query = play(first, speeds.query, speeds.frames)
        same, other = play(second, speeds.query, speeds.frames), play(second, speeds.other, speeds.frames)
        found = self.contrast.compare_speeds(
            self.backbone, self.normalise(query), self.normalise(same), self.normalise(other), self.margin, shuffle
        )
        appearance = found.same.loss + found.other.loss
        return {
            "loss": appearance + self.speed_weight * found.ranking,
            "log": {
                "appearance_loss": appearance.detach(),
                "speed_loss": found.ranking.detach(),
                "speed_accuracy": found.right_share,
                "top1": found.same.top1,
                "top5": found.same.top5,
                "batch_top1": found.same.batch_top1,
            },
            "show": {
                "clip": query.round().byte(),
                "same_speed": same.round().byte(),
                "other_speed": other.round().byte(),
                "right": found.right,
            },
        }

    def pictures(self, output: StepOutput) -> dict[str, Tensor]:
        """The query in a frame that shows the answer, and both keys."""
        show = output["show"]
        query = framed(show["clip"], show["right"])
        return {"query": query, "same_speed": show["same_speed"], "other_speed": show["other_speed"]}

    def picture_notes(self) -> dict[str, str]:
        """What the frame means."""
        return {"query": "frame: green if the key of the same speed is nearer, orange if the other one is"}
