"""Counting of repetitions as in SEVERE (https://arxiv.org/abs/2203.14221, official code), after context-aware and
scale-insensitive counting (https://arxiv.org/abs/2005.08465): a video CNN that sees two cycles at a time.

One batch is used for several optimiser steps: after each of them the two cycles move on in every clip, with
the predicted lengths (see `modules/downstream/cycles.py`), or start again if they fail or pass the end of the clip.
This state does not outlive the batch, so a resumed run equals the uninterrupted one. Lightning, its schedules and all
callbacks count a batch as one step. (`python main.py replay` repeats the first of its steps, with the weights that were kept.)

Deviations from the official code:

* every batch has `steps_per_batch` steps. There a batch ends earlier if all of its clips have reached their end;
* a step without any known cycle has a loss of 0 instead of NaN;
* random numbers are functions of (seed, epoch, batch, step).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer

from modules.augment.flips import RandomFlip
from modules.backbones.cnn.base import VideoCNN
from modules.backbones.frame_tower import FrameTower
from modules.backbones.vit.beit_video import BEiTVideo
from modules.backbones.vit.video_vit import VideoViT
from modules.core.batch import Batch
from modules.core.distributed import gather_once
from modules.core.errors import SettingError
from modules.core.output import Answers, Predicted, StepOutput
from modules.core.run import run_of
from modules.downstream.cycles import (
    ANCHORS,
    TRAIN_LIMIT,
    Counted,
    CycleTargets,
    best_ratio,
    count_cycles,
    cycle_targets,
    first_states,
    frame_numbers,
    move,
)
from modules.layers.heads import Standardised, linear_in_float32
from modules.training.method import Method
from modules.training.optim import AdamSettings, ScheduleSettings

BOX_WEIGHT = 50.0
STRIP_HEIGHT = 8
GREY, GREEN, YELLOW, RED = (90, 90, 90), (0, 200, 0), (255, 220, 0), (230, 40, 40)


@dataclass
class _Walk:
    """Positions of the two cycles between the steps on a batch."""

    number: int = 0
    states: Tensor | None = None


class RepetitionCounting(Method):
    """Counts the repetitions in videos (data `UCFRep`), from a pretrained backbone (`model.backbone.checkpoint`).

    Logged are MAE, the mean of |predicted - true| / true, and OBO, the fraction of videos that are off by at most one, with
    every video counted once. `test` stores the counts of all videos in the result file.

    Args:
        backbone: encoder.
        steps_per_batch: steps of the optimiser with each batch.
        frozen: train only the last layers, on standardised features of the encoder in evaluation mode.
        frames: of the clips that the encoder sees; null takes those of a video transformer, and 32 for a video CNN.
        flip: probability of mirroring a training clip; null takes 0.5, or 0 if classes depend on left and right.
        clips_per_forward: clips per forward pass in evaluation; limits memory.
        optim: optimiser and schedule, whose warm-up and milestones count batches and epochs as usual; null uses Adam at a
            constant 5e-5 with a weight decay of 1e-3.

    Raises:
        SettingError: if a number of steps, frames or clips is invalid.
    """

    predicts_by_encoder = False

    def __init__(
        self,
        backbone: VideoCNN | VideoViT | BEiTVideo | FrameTower,
        steps_per_batch: int = 11,
        frozen: bool = False,
        frames: int | None = None,
        flip: float | None = None,
        clips_per_forward: int = 64,
        optim: ScheduleSettings | None = None,
    ) -> None:
        super().__init__(optim or AdamSettings(5e-5, weight_decay=1e-3, milestones=[]))
        self.flip = RandomFlip("model.flip", flip)
        self.backbone, self.frozen = backbone, frozen
        self.steps_per_batch, self.clips_per_forward = steps_per_batch, clips_per_forward
        for name in ("steps_per_batch", "clips_per_forward"):
            if getattr(self, name) < 1:
                raise SettingError(f"model.{name} is {getattr(self, name)}; set it to 1 or more.")
        taken = getattr(backbone, "num_frames", None)
        if None not in (frames, taken) and frames != taken:
            raise SettingError(f"model.frames is {frames} but model.backbone.num_frames is {taken}; make them equal.")
        self.frames = next(number for number in (frames, taken, 32) if number is not None)
        if self.frames % 2 or self.frames < 4:
            setting = "model.backbone.num_frames" if frames is None else "model.frames"
            raise SettingError(f"{setting} is {self.frames}; counting needs an even number of at least 4.")
        width, anchors = backbone.feature_dim, len(ANCHORS)
        self.fc_cls_1, self.fc_box_1 = nn.Linear(width, 2 * anchors), nn.Linear(width, anchors)
        self.fc_cls_2, self.fc_box_2 = nn.Linear(width, 2 * anchors), nn.Linear(width, anchors)
        self.standardise: nn.Module = Standardised(width) if frozen else nn.Identity()
        self.test_record: dict[str, Any] = {}
        """Record of the last test: `videos` (used), `missed` (indices of unreadable ones), `counts` (by video)."""
        self._walk: _Walk | None = None
        self._shown: tuple[Tensor, ...] = ()
        self._seen: list[tuple[Tensor, Tensor]] = []
        if isinstance(backbone, BEiTVideo):
            # Not used for the pooled feature, so it would get no gradient.
            backbone.norm.requires_grad_(False)
        if frozen:
            backbone.requires_grad_(False)
            self.train()

    def train(self, mode: bool = True) -> "RepetitionCounting":
        """Training mode, of which a frozen backbone takes no notice."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    # --- Network ---

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions for the previous and the next cycle.

        Args:
            clips: float [N, 3, frames, H, W].

        Returns:
            float32 logits [N, 2, 2, A] (cycle, not near or near, anchor) and boxes [N, 2, A].
        """
        feature = self.standardise(self.backbone(clips))
        layers = (self.fc_cls_1, self.fc_cls_2, self.fc_box_1, self.fc_box_2)
        logits_1, logits_2, *boxes = (linear_in_float32(layer, feature) for layer in layers)
        return torch.stack([logits_1, logits_2], 1).unflatten(2, (2, len(ANCHORS))), torch.stack(boxes, 1)

    def cut(self, video: Tensor, length: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """Clips that the network sees.

        Args:
            video: uint8 [B, T, H, W, 3].
            length: int64 [B], frames of it that count.
            states: float64 [B, P, 3].

        Returns:
            uint8 [B * P, frames, H, W, 3], and which frames lie outside the video: bool [B * P, frames].
        """
        numbers = frame_numbers(states, self.frames)
        row = torch.arange(len(video), device=video.device)[:, None, None]
        outside = (numbers < 0) | (numbers >= length[:, None, None])
        return video[row, numbers.clamp(0, video.shape[1] - 1)].flatten(0, 1), outside.flatten(0, 1)

    def prepare(self, clips: Tensor, outside: Tensor) -> Tensor:
        """Normalise clips, and fill frames outside the video with the mean of the backbone's normalisation.

        The mean is filled in after normalisation, where it is not exactly grey (official code).

        Args:
            clips: uint8 [N, frames, H, W, 3].
            outside: bool [N, frames].

        Returns:
            float32 [N, 3, frames, H, W]
        """
        video = self.normalise(clips)
        mean = self.backbone.normalisation.constant("mean", video)  # type: ignore[union-attr, operator]
        return torch.where(outside[:, None, :, None, None], mean, video)

    @torch.no_grad()
    def count(self, video: Tensor, length: Tensor) -> Counted:
        """Repetitions in whole videos; see `count_cycles`.

        Args:
            video: uint8 [B, T, H, W, 3].
            length: int64 [B], frames of it that count.
        """

        def answer(states: Tensor) -> tuple[Tensor, Tensor]:
            # States are small, clips are not.
            share = max(1, self.clips_per_forward // len(video))
            parts = [self(self.prepare(*self.cut(video, length, some))) for some in states.split(share, 1)]
            logits, box = (
                torch.cat([part.unflatten(0, (len(video), -1)) for part in kind], 1) for kind in zip(*parts, strict=True)
            )
            return logits.softmax(3)[:, :, :, 1], box

        return count_cycles(answer, length)

    def whole(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Videos uint8 [B, T, H, W, 3], and how many frames of each count, int64 [B]."""
        stream = batch.stream(self.stream, *self.kinds)
        video = stream.data[:, 0]
        length = stream.length if stream.length is not None else batch.index.new_full((len(video),), video.shape[1])
        return video, length

    @torch.no_grad()
    def embed(self, batch: Batch, encoder: str = "backbone") -> Tensor:
        """Features [B, D] of frames that are spread over each video."""
        video, length = self.whole(batch)
        places = torch.linspace(0, 1, self.frames, device=video.device)
        numbers = ((length - 1)[:, None] * places).round().long()
        return self.backbone(self.normalise(video[torch.arange(len(video), device=video.device)[:, None], numbers])).float()

    # --- Training ---

    def on_fit_start(self) -> None:
        """Compare settings of data and trainer with what is needed, before the first step.

        Raises:
            SettingError: if they do not fit.
        """
        data = run_of(self.trainer).datamodule
        self.take_data(data)
        clip, size = getattr(data, "clip", None), getattr(self.backbone, "image_size", None)
        if clip is not None and size not in (None, clip.size):
            raise SettingError(f"data.clip.size is {clip.size} but model.backbone.image_size is {size}; make them equal.")
        if self.trainer.accumulate_grad_batches > 1:
            raise SettingError(
                "trainer.accumulate_grad_batches must be 1: each batch gives several steps; raise data.batch_size instead."
            )

    def on_test_start(self) -> None:
        """Compare settings, as before training."""
        self.on_fit_start()

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Several optimiser steps with one batch: the closure (`step` and its gradients) is called before each of them."""
        self._walk = _Walk()
        try:
            for number in range(self.steps_per_batch):
                self._walk.number = number
                super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        finally:
            self._walk = None

    def seeded_step(self, batch: Batch, epoch: int, batch_idx: int, rank: int) -> StepOutput:
        """A step of the walk; outside of training the first one. See `Method.seeded_step`."""
        number = self._walk.number if self._walk is not None else 0
        return super().seeded_step(batch, epoch * self.steps_per_batch + number, batch_idx, rank)

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        """Loss of one state of each clip; see `Method.step`.

        Args:
            batch: of `UCFRep`: videos [B, 1, T, H, W, 3] with their length, and in `extra` `count` int64 [B], `borders` int64
                [B, K], and `previous` and `next` int64 [B, T], length - 1 of the cycle before and after each frame, or -1.
            generator: source of randomness.
        """
        (video, length), cycles = self.whole(batch), self._cycles(batch)
        walk = self._walk or _Walk()
        count, label = cycles["count"], cycles["next"][:, 0]
        if walk.states is None:
            walk.states = first_states(length, count, label, generator)
        states = walk.states
        clips, outside = self.cut(video, length, states[:, None])
        clips = self.flip(clips, generator)
        logits, box = self(self.prepare(clips, outside))
        left, middle, right = states.unbind(-1)
        before = cycle_targets(_at(cycles["previous"], middle, length), middle - left + 1)
        after = cycle_targets(_at(cycles["next"], middle + 1, length), right - middle)
        cls_loss, box_loss = cycle_loss(logits, box, (before, after))
        ratios = best_ratio(logits.detach().softmax(2)[:, :, 1], box.detach(), TRAIN_LIMIT)
        self._shown = (length, cycles["borders"], states, move(states, ratios)[0])
        walk.states = self._move_on(states, ratios, first_states(length, count, label, generator), length, generator)
        return {
            "loss": cls_loss + BOX_WEIGHT * box_loss,
            "log": {"cls_loss": cls_loss.detach(), "box_loss": box_loss.detach()},
            "show": {"clip": clips},
        }

    @staticmethod
    def _cycles(batch: Batch) -> dict[str, Tensor]:
        if missing := [name for name in ("count", "previous", "next", "borders") if name not in batch.extra]:
            raise SettingError(f"The data have no annotated cycles ({missing[0]}); counting needs --data UCFRep.")
        return batch.extra

    @staticmethod
    def _move_on(states: Tensor, ratios: Tensor, anew: Tensor, length: Tensor, generator: torch.Generator) -> Tensor:
        """The states of the next step: a twentieth to a fifth of the clip further on, or a new start."""
        parts = 5 + 15 * torch.rand(len(length), generator=generator, device=length.device, dtype=torch.float64)
        moved, failed = move(states, ratios, (length / parts).clamp_min(1).trunc())
        return torch.where((failed | (moved[:, 1] >= length))[:, None], anew, moved)

    def pictures(self, output: StepOutput) -> dict[str, Tensor]:
        """The clips that the network saw, and where the cycles are: see `draw_cycles`."""
        return {"clip": output["show"]["clip"], "cycles": draw_cycles(*self._shown)}

    # --- Evaluation ---

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count."""
        self._keep(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Count."""
        self._keep(batch)

    def on_predict_start(self) -> None:
        """Compare settings, as before training."""
        self.on_fit_start()

    def predict_step(self, batch: Batch, batch_idx: int) -> Predicted:
        """Counts of a batch of videos, [B, 1].

        Raises:
            SettingError: for data that do not give whole videos.
        """
        if batch.stream(self.stream, *self.kinds).length is None:
            raise SettingError("RepetitionCounting counts in whole videos, of which the data give parts; choose --data UCFRep.")
        return Predicted(batch.index, batch.substituted >= 0, self.count(*self.whole(batch)).counts[:, None])

    def answers(self, paths: list[str], value: Tensor) -> Answers:
        """The count of each video, rounded half to even as in the test, and as the network said it."""
        return Answers({"count": value[:, 0].round().long().tolist(), "estimate": value[:, 0].tolist()})

    def on_validation_epoch_start(self) -> None:
        """Reset the collected results."""
        self._seen = []

    def on_test_epoch_start(self) -> None:
        """Reset the collected results."""
        self._seen, self.test_record = [], {}

    def on_validation_epoch_end(self) -> None:
        """Log the errors as `val/*`."""
        self._report("val")

    def on_test_epoch_end(self) -> None:
        """Log the errors as `test/*`, and keep the counts."""
        data = run_of(self.trainer).datamodule
        manifest = getattr(data, "test_manifest", None)
        found, true, number, missed = self._report("test")
        names = manifest.paths if manifest is not None else {row: str(row) for row in number.tolist()}
        rows = zip(number.tolist(), found.tolist(), true.tolist(), strict=True)
        counts = {names[row]: {"predicted": predicted, "true": count} for row, predicted, count in rows}
        self.test_record = {"videos": len(true), "missed": missed, "counts": counts}

    def _keep(self, batch: Batch) -> None:
        count = self._cycles(batch)["count"]
        found = self.count(*self.whole(batch)).counts
        self._seen.append((found[:, None], torch.stack([batch.index, count, batch.substituted], 1)))

    def _report(self, stage: str) -> tuple[Tensor, Tensor, Tensor, list[int]]:
        """Log the errors over all processes; returns predictions, true counts, and indices of read and unreadable samples."""
        # A process without samples takes part as well.
        rows = torch.empty(0, 1, dtype=torch.float64, device=self.device)
        none = (rows, torch.empty(0, 3, dtype=torch.long, device=self.device))
        found, facts = (torch.cat(parts) for parts in zip(none, *self._seen, strict=True))
        self._seen = []
        found, facts = gather_once(self.trainer, found, facts, facts[:, 0])
        number, true, substituted = facts.unbind(1)
        used = substituted < 0
        if used.any():
            errors = counting_errors(found[used, 0], true[used])
            self.log_dict({f"{stage}/{name}": value.float() for name, value in errors.items()}, sync_dist=True)
        return found[used, 0], true[used], number[used], number[~used].tolist()


def _at(labels: Tensor, place: Tensor, length: Tensor) -> Tensor:
    """Labels [B, T] at frames [B]; -1 behind the end of a clip."""
    here = labels.gather(1, place.long().clamp(0, labels.shape[1] - 1)[:, None])[:, 0]
    return torch.where(place < length, here, -1)


def cycle_loss(logits: Tensor, box: Tensor, targets: tuple[CycleTargets, CycleTargets]) -> tuple[Tensor, Tensor]:
    """Cross-entropy over all anchors of known cycles, and smooth L1 of the boxes, each summed over the two cycles.

    Boxes without a target cost nothing, but count in the mean (official code).

    Args:
        logits: float32 [B, 2, 2, A], see `RepetitionCounting.forward`.
        box: float32 [B, 2, A].
        targets: of the previous and of the next cycle.
    """
    losses = []
    for cycle, target in enumerate(targets):
        entropy = F.cross_entropy(logits[:, cycle], target.positive, ignore_index=-1, reduction="sum")
        known = (target.positive >= 0).sum().clamp_min(1)
        off = F.smooth_l1_loss(box[:, cycle], target.box.float(), reduction="none")
        losses.append((entropy / known, torch.where(target.positive == 1, off, 0.0).mean()))
    return losses[0][0] + losses[1][0], losses[0][1] + losses[1][1]


def counting_errors(found: Tensor, true: Tensor) -> dict[str, Tensor]:
    """Errors of counts, which are rounded half to even before.

    Args:
        found: float64 [N].
        true: int64 [N], from 1.

    Returns:
        `MAE` (mean of |found - true| / true), `MAE_std` (its standard deviation over videos), `MAE_over` and `MAE_under` (the
        mean over videos with too high and too low a count alone; 0 without any), `OBO` (fraction of videos that are off by at
        most one).
    """
    off = found.round() - true
    relative = off.abs() / true
    errors = {"MAE": relative.mean(), "MAE_std": relative.std(correction=0), "OBO": (off.abs() <= 1).double().mean()}
    for name, some in (("MAE_over", off > 0), ("MAE_under", off < 0)):
        errors[name] = torch.where(some, relative, 0.0).sum() / some.sum().clamp_min(1)
    return errors


def draw_cycles(length: Tensor, borders: Tensor, states: Tensor, corrected: Tensor) -> Tensor:
    """Strips over time, one pixel per frame: true borders in green, the cycles as assumed in yellow and as predicted in red.

    Args:
        length: int64 [B].
        borders: int64 [B, K], frames; -1 for none.
        states: float64 [B, 3], as assumed.
        corrected: float64 [B, 3], as the network says.

    Returns:
        uint8 [B, 1, 24, T, 3]; frames behind the end of a clip are black.
    """
    time = torch.arange(int(length.max()), device=length.device)
    rows = []
    for places, colour in ((borders, GREEN), (states.long(), YELLOW), (corrected.long(), RED)):
        marked = (places[:, :, None] == time).any(1)[..., None]
        grey = torch.tensor(GREY, device=time.device) * (time < length[:, None])[..., None]
        rows.append(torch.where(marked, torch.tensor(colour, device=time.device), grey))
    strip = torch.stack(rows, 1).to(torch.uint8)
    return strip.repeat_interleave(STRIP_HEIGHT, 1)[:, None]
