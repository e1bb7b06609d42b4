"""VJEPA: predict the features of hidden blocks of a clip from the features of the rest.

Papers: V-JEPA, https://arxiv.org/abs/2404.08471, and V-JEPA 2, https://arxiv.org/abs/2506.09985. Two sets of blocks are drawn
for each clip: many small ones and a few large ones. For each set, an encoder sees only what is outside the blocks; a narrow
predictor gets its features and a mask token at every hidden position, and predicts the features that a momentum copy of the
encoder gives to the complete clip, normalised per token. The loss is their mean absolute difference. There are no pixels to
reconstruct and no negatives; only the momentum copy and the predictor keep the features from becoming constant, so watch
`collapse/rankme` (callback `CollapseAlarm`) and `train/target_std`.

The momentum copy is the encoder that is kept (`backbone`), as in the papers' evaluation; `online` is the one that is trained.

Shapes for ViT-L at 16 x 224 x 224, 24 clips per GPU, blocks cut: 1568 tokens, contexts of about 379 and 108, predictions of
about 753 and 1096 per clip, each [B, Nt, 1024].

V-JEPA 2 has rotary positions (`backbone.codes` tiled_rotary, as released), one mask token for all sets (`predictor.token_of`
length), a constant momentum, and a constant rate after the warm-up, which ends with a run of longer clips at a falling one
(configs/vjepa2.yaml and vjepa2_cooldown.yaml).

Outputs, losses, gradients, the momentum update, masks and schedules agree with the official code of both
(tests/parity/test_vjepa.py). Differences from it:

* Places of blocks come from seed, epoch and row, and their size from seed, epoch and the batch's place in the epoch, instead
  of a global generator and the number of the iteration; they are drawn where batches are read.
* `unequal` pad keeps all tokens instead of cutting clips to the smallest number of the batch. Several processes then equal one
  with the joined batch. It is off by default because it costs tokens: see docs/performance.md.
* Encoder and predictor are clipped apart by `trainer.gradient_clip_val`, and only after the warm-up, as in the official code of
  V-JEPA; Lightning itself clips all parameters together.
* The momentum update is at the start of the next step instead of the end of the step, with the same momentum, so that every
  checkpoint is at the same point of a step. The last update of a run is therefore missing from its end.
* All clips of a run are equally long; V-JEPA 2's code can mix lengths.
"""

from functools import partial

import torch
import torch.nn.functional as F
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from modules.augment.flips import RandomFlip
from modules.backbones.vit.predictor import PredictorSettings, VJEPAPredictor
from modules.backbones.vit.vjepa_vit import VJEPAViT
from modules.core.batch import Batch, Preparation
from modules.core.distributed import gather_rows
from modules.core.errors import SettingError
from modules.core.loading import load_strictly
from modules.core.output import StepOutput
from modules.core.randomness import host_generator, worker_rng
from modules.core.run import trainer_of
from modules.core.tokens import gather_tokens, patchify
from modules.layers.contrast.momentum import follow, frozen_copy
from modules.layers.drawing.clips import hide_tokens, replace_tokens, similarity_map
from modules.masks.base import Mask
from modules.masks.blocks import PLACES, MultiBlockMask, Unequal, draw_sets, prepare_sets
from modules.training.method import Method
from modules.training.optim import PhasedSettings
from modules.training.schedules import Schedule
from modules.weights.files import read_checkpoint
from modules.weights.names.vjepa import is_vjepa, our_names
from modules.weights.passport import check_heads

SHORT, LONG = MultiBlockMask(8, (0.15, 0.15)), MultiBlockMask(2, (0.7, 0.7))
"""The sets of blocks of both papers."""


class VJEPA(Method):
    """Prediction of features of hidden blocks (https://arxiv.org/abs/2404.08471, https://arxiv.org/abs/2506.09985).

    Args:
        backbone: encoder. A momentum copy of it makes the targets, and is kept after pretraining.
        masks: sets of blocks, which are predicted separately; both papers have 8 small and 2 large blocks.
        predictor: size of the predictor.
        momentum: momentum of the copy; without a horizon, it ends with the schedule of the learning rate. V-JEPA 2 keeps
            0.99925.
        unequal: `cut` all clips of a batch to the smallest number of tokens, as published, or `pad` them to the largest.
        flip: probability of mirroring a training clip; null takes one half, or 0 if classes of the data distinguish left and
            right.
        init_from: file with the weights of the whole method to start from, loaded strictly: our .ckpt or .safetensors, or an
            official .pt with the entries encoder, predictor and target_encoder. Optimiser and schedule start afresh.
        optim: optimiser and schedule.

    Raises:
        SettingError: if masks do not fit the encoder's token grid, or weights do not fit.
    """

    backbone: VJEPAViT

    def __init__(
        self,
        backbone: VJEPAViT,
        masks: list[MultiBlockMask] = [SHORT, LONG],  # noqa: B006  (never mutated; shows the defaults in --help)
        predictor: PredictorSettings = PredictorSettings(),  # noqa: B008
        momentum: Schedule = Schedule(0.998, 1.0, "linear"),  # noqa: B008
        unequal: Unequal = "cut",
        flip: float | None = None,
        init_from: str | None = None,
        optim: PhasedSettings = PhasedSettings(),  # noqa: B008
    ) -> None:
        super().__init__(optim)
        momentum.check("model.momentum")
        if not masks:
            raise SettingError("model.masks is empty; give at least one set of blocks.")
        for one in masks:
            one.check(backbone.grid)
        self.masks, self.unequal, self.momentum = masks, unequal, momentum
        self.online, self.backbone = backbone, frozen_copy(backbone)
        self.predictor_settings = predictor
        self.predictor = VJEPAPredictor(backbone, len(masks), predictor)
        self.flip = RandomFlip("model.flip", flip)
        self._followed = -1
        """Optimiser steps before the last update of the momentum copy."""
        if init_from is not None:
            self.start_from(init_from)

    def preparation(self) -> Preparation:
        """Masks are drawn in the loader workers; see `Method.preparation`."""
        return partial(prepare_sets, self.masks, self.backbone.grid, self.unequal, self.stream, self.seed)

    def draw_masks(self, count: int, generator: torch.Generator) -> list[Mask]:
        """The masks of a batch that was not prepared; on a GPU, they are copied to it."""
        seeds = torch.randint(2**31, (count, 2), generator=host_generator(generator)).tolist()
        rngs = [worker_rng(PLACES, *row) for row in seeds]
        masks = draw_sets(self.masks, self.backbone.grid, self.unequal, seeds[0][0], rngs)
        moved: list[Mask] = apply_to_collection(masks, Tensor, Tensor.to, generator.device)
        return moved

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        """Mirror some clips, encode what is outside the blocks, predict what is inside. Videos are [B, V, T, H, W, 3]; each
        clip counts as a sample."""
        clip, grid = self.inputs(batch).flatten(0, 1), self.backbone.grid
        if self.training:
            clip = self.flip(clip, generator)
            self.update_copy()
        masks: list[Mask] = batch.prepared or self.draw_masks(len(clip), generator)
        cubes = patchify(self.normalise(clip), grid).flatten(2)
        targets = self.targets(cubes)
        predictions, wanted, losses = [], [], []
        for number, mask in enumerate(masks):
            context = self.online.encode(gather_tokens(cubes, mask.visible), grid, mask.visible, valid=mask.valid_visible)
            predictions.append(self.predictor(context, mask.visible, mask.targets, number, valid_of(mask)).float())
            wanted.append(gather_tokens(targets, mask.targets))
            losses.append(self.difference(predictions[-1], wanted[-1], mask.valid))
        return {
            "loss": torch.stack(losses).mean(),
            "log": {
                **{f"loss_{number}": loss.detach() for number, loss in enumerate(losses)},
                "reg_loss": spread_penalty([one.detach() for one in predictions], masks),
                "target_std": targets.std(dim=(0, 1)).mean(),
            },
            "show": {
                "clip": clip,
                "masks": masks,
                "predictions": [one.detach() for one in predictions],
                "targets": wanted,
            },
        }

    @torch.no_grad()
    def update_copy(self) -> None:
        """Let the momentum copy follow the encoder, once per optimiser step."""
        if trainer_of(self) is None or self.global_step != self._followed:
            follow(self.backbone, self.online, self.scheduled(self.momentum, ahead=-1))
            self._followed = self.global_step

    @torch.no_grad()
    def targets(self, cubes: Tensor) -> Tensor:
        """Features of all tokens by the momentum copy, normalised per token: [B, N, 3 * P] -> float32 [B, N, D]."""
        features = self.backbone.encode(cubes, self.backbone.grid).float()
        return F.layer_norm(features, features.shape[-1:])

    def difference(self, prediction: Tensor, target: Tensor, valid: Tensor | None) -> Tensor:
        """Mean absolute difference over all valid tokens of all processes.

        Args:
            prediction: float32 [B, Nt, D]
            target: float32 [B, Nt, D]
            valid: bool [B, Nt], False for padding; None if there is none.
        """
        if valid is None:
            return F.l1_loss(prediction, target)
        error = F.l1_loss(prediction, target, reduction="none").mean(2)
        # Processes count different numbers of tokens. In validation they run different numbers of steps, so they cannot
        # communicate.
        total = valid.sum().float()
        total = gather_rows(total[None]).mean() if self.training else total
        return torch.where(valid, error, 0).sum() / total

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients of encoder and predictor apart, in epochs after the warm-up (official code)."""
        if not gradient_clip_val or self.current_epoch <= self._schedule["warmup"]:
            return
        if gradient_clip_algorithm == "value":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        for part in (self.online, self.predictor):
            torch.nn.utils.clip_grad_norm_(part.parameters(), float(gradient_clip_val))

    @torch.no_grad()
    def pictures(self, output: StepOutput) -> dict[str, Tensor]:
        """The clip; for each set of masks, what the encoder sees of it, and the similarity of prediction and target."""
        show, grid = output["show"], self.backbone.grid
        clip = show["clip"]
        drawn = {"clip": clip}
        for number, (mask, prediction, target) in enumerate(
            zip(show["masks"], show["predictions"], show["targets"], strict=True)
        ):
            if mask.valid is not None:
                # In place of padding, which has other tokens, the first predicted token again.
                wide = mask.valid[..., None]
                mask = mask._replace(targets=torch.where(mask.valid, mask.targets, mask.targets[:, :1]))
                prediction, target = (torch.where(wide, one, one[:, :1]) for one in (prediction, target))
            hidden = hidden_of(mask, grid.tokens)
            black = torch.zeros(*hidden.shape, 3, grid.token_pixels, device=clip.device)
            context = replace_tokens(clip, hidden, black, grid)
            drawn[f"context_{number}"] = hide_tokens(context, mask.targets, grid)
            drawn[f"similarity_{number}"] = similarity_map(clip, mask.targets, prediction, target, grid)
        return drawn

    def picture_notes(self) -> dict[str, str]:
        """What the colours of `pictures` mean; see `Method.picture_notes`."""
        notes = {}
        for number in range(len(self.masks)):
            notes[f"context_{number}"] = "grey: predicted; black: neither"
            notes[f"similarity_{number}"] = "brightness: similarity of prediction and target; black: not predicted"
        return notes

    def start_from(self, path: str) -> None:
        """Load the whole method strictly, from a file of this project or an official .pt.

        Args:
            path: value of model.init_from.

        Raises:
            SettingError: if the weights do not fit.
        """
        content = read_checkpoint(path, "model.init_from")
        may_miss = ("online.code_number", "backbone.code_number") if is_vjepa(content.weights) else ()
        origin = self.backbone.origin(path, content)
        load_strictly(self, our_names(content.weights), path, may_miss)
        check_heads(path, "model.init_from", self.backbone.num_heads, self.predictor.num_heads)
        self.adopt(origin)


def valid_of(mask: Mask) -> Tensor | None:
    """Which tokens of the context and of the prediction, one after the other, are not padding; None if all are."""
    if mask.valid is None or mask.valid_visible is None:
        return None
    return torch.cat([mask.valid_visible, mask.valid], dim=1)


def hidden_of(mask: Mask, tokens: int) -> Tensor:
    """Tokens that are not in the context of a clip: int64 [B, N]. Rows with fewer are filled with others of them."""
    seen = torch.zeros(len(mask.visible), tokens, dtype=torch.bool, device=mask.visible.device)
    valid = torch.ones_like(mask.visible, dtype=torch.bool) if mask.valid_visible is None else mask.valid_visible
    # Padding has other tokens than the context, so no index occurs twice.
    seen.scatter_(1, mask.visible, valid)
    order = seen.byte().argsort(dim=1, stable=True)
    return torch.where(seen.gather(1, order), order[:, :1], order)


def spread_penalty(predictions: list[Tensor], masks: list[Mask]) -> Tensor:
    """How far the standard deviations of predictions over the tokens of a clip fall short of 1, as the official code logs it:
    the mean of relu(1 - mean over the sets of sqrt(variance + 1e-4)).

    Args:
        predictions: float32 [B, Nt, D] of each set.
        masks: the sets.
    """
    deviations = []
    for prediction, mask in zip(predictions, masks, strict=True):
        valid = torch.ones_like(mask.targets, dtype=torch.bool) if mask.valid is None else mask.valid
        weight = valid[..., None].float()
        count = weight.sum(1)
        mean = (prediction * weight).sum(1) / count
        variance = ((prediction - mean[:, None]).square() * weight).sum(1) / (count - 1).clamp_min(1)
        deviations.append((variance + 1e-4).sqrt())
    return F.relu(1 - torch.stack(deviations).mean(0)).mean()
