"""Action detection in boxes of key frames, as in SEVERE's evaluation of encoders on AVA (https://arxiv.org/abs/2203.14221,
official code, which is SlowFast's).

The encoder's last map is averaged over time, each box of the key frame is cropped from it by RoIAlign and max-pooled, and
a sigmoid per action classifies it. Boxes come with the data, in the test those of a person detector; their own scores are not
used.

Deviations from the official code:

* in the metric, boxes of a key frame are compared with the true ones from the highest score down (`official_order` switches);
* validation reads whole frames, as the test does, and not centre crops;
* several processes average their losses, each the mean over its own boxes, of which they may have different numbers (as in the
  official code); so they are not exactly equivalent to one with the joined batch.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.ops import roi_align
from torchvision.utils import draw_bounding_boxes

from modules.augment.flips import RandomFlip
from modules.backbones.cnn.base import VideoCNN
from modules.backbones.frame_tower import FrameTower
from modules.backbones.vit.beit_video import BEiTVideo
from modules.backbones.vit.video_vit import VideoViT
from modules.core.batch import Batch, Regions
from modules.core.distributed import gather_lists, gather_once
from modules.core.errors import SettingError
from modules.core.output import Answers, Columns, Predicted, StepOutput
from modules.core.run import run_of
from modules.downstream.labels import SeveralLabels
from modules.downstream.metrics.frame_average_precision import frame_average_precisions
from modules.layers.heads import Standardised, linear_in_float32
from modules.training.method import Method
from modules.training.optim import ScheduleSettings, SGDSettings

REGION = 7
"""Rows and columns that RoIAlign samples a box at."""
SHOWN, SHOWN_SIDE = 4, 336
TRUE_COLOUR, NO_COLOUR = "lime", "white"


class ActionDetection(Method):
    """Trains an action classifier for boxes of key frames, alone or together with the pretrained backbone
    (`model.backbone.checkpoint`).

    `val/map` and `test/map` are the frame mAP in percent, at an overlap of 0.5, over the evaluated actions of the data.

    Args:
        backbone: encoder. A video transformer needs square frames (`data.films.square`); its tokens after the final norm form
            the map. In the official code, all encoders use pixels of mean 0.45 and standard deviation 0.225
            (`model.backbone.normalisation`).
        num_classes: actions.
        dropout: on the pooled feature of a box, before the head.
        flip: probability of mirroring a training clip with its boxes; null takes 0.5, or 0 if classes depend on
            left and right.
        frozen: train only the classifier, on standardised features of the encoder in evaluation mode.
        official_order: compares boxes of a key frame with the true ones in the order of the detector's list.
        optim: optimiser and schedule; null uses SGD at 0.1 with 5 epochs of warm-up, times 0.1 at epochs 10 and 15.

    Raises:
        SettingError: if a value is out of range.
    """

    predicts_by_encoder = False

    def __init__(
        self,
        backbone: VideoViT | VideoCNN | BEiTVideo | FrameTower,
        num_classes: int = 80,
        dropout: float = 0.5,
        flip: float | None = None,
        frozen: bool = False,
        official_order: bool = False,
        optim: ScheduleSettings | None = None,
    ) -> None:
        super().__init__(optim or SGDSettings(0.1, warmup_epochs=5, weight_decay=1e-7, milestones=[10, 15]))
        self.flip = RandomFlip("model.flip", flip)
        if not 0 <= dropout < 1:
            raise SettingError(f"model.dropout is {dropout}; it must be at least 0 and below 1.")
        self.backbone, self.frozen, self.official_order = backbone, frozen, official_order
        self.stride = (
            backbone.grid.patch if isinstance(backbone, VideoViT | BEiTVideo | FrameTower) else backbone.smallest_clip[1]
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(backbone.embed_dim, num_classes)
        self.standardise: nn.Module = Standardised(backbone.embed_dim) if frozen else nn.Identity()
        self.test_record: dict[str, Any] = {}
        """Record of the last test: `key_frames` (used), `missed` (indices of unreadable ones), `boxes` (scored),
        `average_precision` by action in percent, null for actions without true boxes."""
        self._seen: list[tuple[Tensor, Tensor]] = []
        self._missed: list[int] = []
        self._frames: list[int] = []
        if isinstance(backbone, BEiTVideo):
            # Not used for tokens, so it would get no gradient.
            backbone.pool_norm.requires_grad_(False)
        if frozen:
            backbone.requires_grad_(False)
            self.train()

    def train(self, mode: bool = True) -> "ActionDetection":
        """Training mode, of which a frozen backbone takes no notice."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    # --- Network ---

    def logits(self, video: Tensor, boxes: Tensor) -> Tensor:
        """Scores of the actions in boxes.

        Args:
            video: float [B, 3, T, H, W], normalised.
            boxes: float32 [M, 5], row of the clip, and corners in pixels.

        Returns:
            float32 [M, K]
        """
        if isinstance(self.backbone, VideoViT | BEiTVideo | FrameTower):
            side = self.backbone.image_size
            if tuple(video.shape[-2:]) != (side, side):
                raise SettingError(
                    f"{type(self.backbone).__name__} takes frames of {side} x {side} pixels; set data.films.square to true."
                )
            maps = self.backbone.forward_features(video).transpose(1, 2).unflatten(2, self.backbone.grid[:3])
        else:
            maps = self.backbone.forward_features(video)  # type: ignore[operator]
        regions = roi_align(maps.float().mean(2), boxes, REGION, 1 / self.stride, aligned=True)
        return linear_in_float32(self.head, self.dropout(self.standardise(regions.amax((2, 3)))))

    # --- Training ---

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        """Binary cross-entropy, mean over boxes and actions; see `Method.step`. A batch without a box has a loss of 0."""
        regions = regions_of(batch)
        clip, boxes, actions = self.inputs(batch)[:, 0], regions.box, regions.action
        if actions.shape[1] != self.head.out_features:
            raise SettingError(
                f"model.num_classes is {self.head.out_features}, but the data has {actions.shape[1]} actions; make them equal."
            )
        if self.flip.probability:
            clip, boxes = flip_with_boxes(clip, boxes, generator, self.flip.probability)
        logits = self.logits(self.normalise(clip), boxes)
        loss = binary_cross_entropy_with_logits(logits, actions, reduction="sum") / max(1, logits.numel())
        scores = logits.detach().sigmoid()
        return {"loss": loss, "show": {"clip": clip, "boxes": boxes, "actions": actions, "scores": scores}}

    def pictures(self, output: StepOutput) -> dict[str, Tensor]:
        """Key frames with boxes: true actions, and the likeliest ones with their probabilities in percent."""
        show = output["show"]
        drawn = draw_actions(show["clip"], show["boxes"], show["actions"], show["scores"])
        return {"key_frame": drawn, "clip": show["clip"]}

    # --- Evaluation ---

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep the scores of a batch of key frames."""
        self._keep(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep the scores of a batch of key frames."""
        self._keep(batch)

    def on_test_start(self) -> None:
        """Compare the data's clips with the backbone's, as before training."""
        self.on_fit_start()

    def predict_step(self, batch: Batch, batch_idx: int) -> Predicted:
        """Keep the scores of a batch of key frames; gives the number of each key frame and of its boxes, [B, 2]."""
        self._keep(batch)
        count = regions_of(batch).box[:, 0].long().bincount(minlength=len(batch.index))
        return Predicted(batch.index, batch.substituted >= 0, torch.stack([batch.index, count], 1).double())

    def answers(self, paths: list[str], value: Tensor) -> Answers:
        """How many boxes each key frame has, and in the table `boxes` the scored actions of each: see `Labels.answers`. Corners
        are shares of width and height."""
        evaluation = run_of(self.trainer).datamodule.evaluation("test")
        key_frames, names = evaluation.key_frames, list(evaluation.scored.values())
        scores, number = self._gather()
        rows = frame_of_boxes(key_frames)[number].tolist()
        corners = key_frames.boxes[number.numpy()].T.tolist()
        boxes: Columns = {
            "path": [key_frames.paths[row] for row in rows],
            "second": key_frames.seconds[rows].tolist(),
            **dict(zip(("x1", "y1", "x2", "y2"), corners, strict=True)),
        }
        told = SeveralLabels().answers(scores[:, list(evaluation.scored)], names)
        seconds = key_frames.seconds[value[:, 0].long().numpy()].tolist()
        return Answers({"second": seconds, "boxes": value[:, 1].long().tolist()}, told.facts, {"boxes": boxes | told.columns})

    def on_predict_epoch_start(self) -> None:
        """Start empty."""
        self.on_validation_epoch_start()

    def on_validation_epoch_start(self) -> None:
        """Reset the collected results."""
        self._seen, self._missed, self._frames = [], [], []

    def on_test_epoch_start(self) -> None:
        """Reset the collected results."""
        self.on_validation_epoch_start()
        self.test_record = {}

    def on_validation_epoch_end(self) -> None:
        """Log the frame mAP as `val/map`."""
        self._report("val")

    def on_test_epoch_end(self) -> None:
        """Log the frame mAP as `test/map`, and keep the record."""
        self.test_record = self._report("test")

    def _keep(self, batch: Batch) -> None:
        regions = regions_of(batch)
        scores = self.logits(self.normalise(self.inputs(batch)[:, 0]), regions.box).sigmoid()
        # Unreadable key frames are not replaced by others.
        used = (batch.substituted < 0)[regions.box[:, 0].long()]
        self._seen.append((scores[used], regions.number[used]))
        self._frames += batch.index[batch.substituted < 0].tolist()
        self._missed += batch.index[batch.substituted >= 0].tolist()

    def _gather(self) -> tuple[Tensor, Tensor]:
        """Scores of the boxes of all processes, [M, K], and their numbers, on the host."""
        # A process without a box takes part all the same.
        none = (
            torch.empty(0, self.head.out_features, device=self.device),
            torch.empty(0, dtype=torch.long, device=self.device),
        )
        scores, number = (torch.cat(parts) for parts in zip(none, *self._seen, strict=True))
        scores, number = gather_once(self.trainer, scores, number, number)
        return scores.cpu(), number.cpu()

    def _report(self, stage: str) -> dict[str, Any]:
        """Log the mAP over all processes, of key frames that were read or have no box to score; gives `test_record`."""
        evaluation = run_of(self.trainer).datamodule.evaluation(stage)
        key_frames, scored = evaluation.key_frames, list(evaluation.scored)
        scores, number = self._gather()
        used, missed = (sorted(set(gather_lists(rows))) for rows in (self._frames, self._missed))
        frame = frame_of_boxes(key_frames)[number]
        unread = torch.ones(len(key_frames), dtype=torch.bool)
        unread[used] = False
        found = frame_average_precisions(
            frame, torch.from_numpy(key_frames.boxes)[number], scores[:, scored], evaluation.truth, scored,
            unread.nonzero()[:, 0], self.official_order,
        )  # fmt: skip
        if not found.isnan().all():
            self.log(f"{stage}/map", 100 * found.nanmean().float(), prog_bar=True, sync_dist=True)
        elif stage == "test":
            raise SettingError("No test key frame that was read has a true box of a scored action; check the official lists.")
        each = {
            name: None if ap.isnan() else 100 * float(ap) for name, ap in zip(evaluation.scored.values(), found, strict=True)
        }
        return {"key_frames": len(used), "missed": missed, "boxes": len(number), "average_precision": each}


def frame_of_boxes(key_frames: Any) -> Tensor:
    """Number of the key frame of each box of a table of key frames: int64 [M]."""
    counts = torch.from_numpy(key_frames.first).diff()
    return torch.repeat_interleave(torch.arange(len(counts)), counts)


def regions_of(batch: Batch) -> Regions:
    """The boxes of a batch of key frames. Raises SettingError for others."""
    if batch.regions is None:
        raise SettingError(
            "ActionDetection needs key frames with boxes, which the data do not have; choose --data AVA or SyntheticBoxes."
        )
    return batch.regions


def flip_with_boxes(clip: Tensor, boxes: Tensor, generator: torch.Generator, probability: float) -> tuple[Tensor, Tensor]:
    """Mirror some clips left to right, with their boxes.

    Args:
        clip: [B, T, H, W, C]
        boxes: float [M, 5], row of the clip, and x1 y1 x2 y2 in pixels.
        generator: source of randomness.
        probability: of a clip to be mirrored.
    """
    chosen = torch.rand(len(clip), generator=generator, device=clip.device) < probability
    row, x1, y1, x2, y2 = boxes.unbind(1)
    width = clip.shape[3]
    mirrored = torch.stack([row, width - x2, y1, width - x1, y2], 1)
    clip = torch.where(chosen[:, None, None, None, None], clip.flip(3), clip)
    return clip, torch.where(chosen[row.long()][:, None], mirrored, boxes)


def draw_actions(clip: Tensor, boxes: Tensor, actions: Tensor, scores: Tensor) -> Tensor:
    """Key frames with boxes. A box says its true actions, counted from 1, then the two likeliest with percent; it is green
    where it has true ones, and white elsewhere.

    Args:
        clip: uint8 [B, T, H, W, 3].
        boxes: float [M, 5], row of the clip, and x1 y1 x2 y2 in pixels.
        actions: float [M, K], 1 for the true actions of each box.
        scores: float [M, K], probabilities of the actions of each box.

    Returns:
        uint8 [n, 1, H, W, 3], of the first few clips.
    """
    clip = clip[:SHOWN]
    middle = clip[:, clip.shape[1] // 2].permute(0, 3, 1, 2).cpu()
    factor = max(1, SHOWN_SIDE // max(middle.shape[2:]))
    drawn = []
    for row, frame in enumerate(middle.repeat_interleave(factor, 2).repeat_interleave(factor, 3)):
        mine = boxes[:, 0] == row
        words, colours = [], []
        for true, score in zip(actions[mine].cpu(), scores[mine].cpu(), strict=True):
            names = [str(action + 1) for action in true.nonzero()[:, 0].tolist()]
            best = score.topk(min(2, len(score)))
            guesses = [
                f"{action + 1} {100 * value:.0f}%" for value, action in zip(*(part.tolist() for part in best), strict=True)
            ]
            words.append(f"{' '.join(names) or '-'} | {', '.join(guesses)}")
            colours.append(TRUE_COLOUR if names else NO_COLOUR)
        enlarged = boxes[mine, 1:].cpu() * factor
        drawn.append(draw_bounding_boxes(frame, enlarged, words, colours, width=2) if words else frame)
    return torch.stack(drawn).permute(0, 2, 3, 1)[:, None]
