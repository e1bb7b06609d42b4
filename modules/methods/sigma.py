"""SIGMA: masked video modelling with learned target features; balanced assignments prevent collapse.

Paper: SIGMA, https://arxiv.org/abs/2407.15447. VideoMAE's encoder, mask and decoder, but for each masked cube the
decoder predicts a feature instead of pixels: that of a small MLP trained jointly on the cube's pixels (SIGMA-MLP), or of a
frozen image encoder (SIGMA-DINO). Features and predictions are both compared with the same learned prototypes; Sinkhorn-Knopp
turns each branch's cosines into an assignment that uses all prototypes equally often over the global batch; and each branch is
trained by cross-entropy to predict the other branch's assignment.

    cross-entropy(target's cosines / 0.1, prediction's assignment)   trains MLP and prototypes
    cross-entropy(prediction's cosines / 0.1, target's assignment)   trains encoder and decoder

Shapes for ViT-B at 16 x 224 x 224: 1568 tokens, 160 visible, prediction [B, 1408, 256] (MLP) or [B, 1408, 768] (DINO-B),
scores [B * 1408, 3000].

Following the official code rather than the paper's text: assignments are hard (`sinkhorn.soft` for soft ones), the two losses
are added, the MLP has four linear layers, and prototypes are trained from the first step. In training the assignments are
balanced over all processes, in validation over the batch of each. There is no warm-up of the prototypes, no queue and no
momentum encoder.

Differences from the official code:

* cosines, Sinkhorn and losses are in float32 (TF32 on GPUs, as `main.py` sets it); the official cosines are in float16.
* DINO's tower runs in bf16 on a GPU unless the target's `precision` is 32; the official one runs in float32.
* Sinkhorn-Knopp does not rewrite its matrix (`modules/losses/sinkhorn.py`).
* gradients of the losses are computed chunk by chunk with the losses, so that no n x K matrix is kept for the backward pass.
* prototypes whose norm is 1 within 1e-6 are left unchanged, so that repeating a step gives identical bits.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from modules.backbones.vit.decoder import DecoderSettings
from modules.backbones.vit.video_vit import VideoViT
from modules.core.batch import Batch
from modules.core.device import constant
from modules.core.errors import SettingError, check_positive
from modules.core.loading import load_strictly
from modules.core.output import StepOutput
from modules.layers.drawing.clips import hide_tokens, replace_tokens, similarity_map
from modules.layers.masked_autoencoder import MaskedAutoencoder
from modules.layers.relations import RelationSettings
from modules.layers.targets import Target
from modules.losses.contrast import unit_rows
from modules.losses.sinkhorn import SinkhornSettings, balance, chunk_rows, shares
from modules.masks.base import MaskGenerator
from modules.training.optim import AdamWSettings
from modules.weights.files import Checkpoint, read_checkpoint
from modules.weights.names.videomae import from_official, is_official


@torch.no_grad()
def normalise_rows(values: Tensor) -> None:
    """Normalise rows to length 1 in place, without gradient; rows whose length is 1 within 1e-6 are left unchanged.

    Args:
        values: float [K, C], a parameter.
    """
    length = values.norm(dim=1, keepdim=True)
    values.copy_(torch.where((length - 1).abs() < 1e-6, values, values / length))


class Swapped(NamedTuple):
    """Result of `swapped_loss`."""

    target: Tensor
    """scalar, mean cross-entropy of the targets' scores with the predictions' assignments"""
    prediction: Tensor
    """scalar, mean cross-entropy of the predictions' scores with the targets' assignments"""
    assigned: Tensor
    """int64 [2, n], best prototype of each target and of each prediction, balanced"""


class ChunkedCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of many rows over many classes, without materialising all logits at once.

    The gradients are computed along with the loss, chunk by chunk, and scaled in the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, prototypes: Tensor, temperature: float, labels: Callable[[slice], Tensor], learn: bool
    ) -> Tensor:
        """See `chunked_cross_entropy`; without `learn`, no gradients are computed."""
        rows, count, loss = chunk_rows(prototypes), len(features), features.new_zeros(())
        of_features, of_prototypes = (
            torch.zeros_like(value) if learn and need else None
            for value, need in zip((features, prototypes), ctx.needs_input_grad[:2], strict=True)
        )
        for own in (slice(start, start + rows) for start in range(0, count, rows)):
            log_shares = (features[own] @ prototypes.T).div_(temperature).log_softmax(dim=1)
            wanted = labels(own)
            if wanted.ndim == 1:
                loss += F.nll_loss(log_shares, wanted, reduction="sum") / count
            else:
                loss -= (log_shares * wanted).sum() / count
            if of_features is None and of_prototypes is None:
                continue
            # The gradient of the scores is softmax minus labels.
            excess = log_shares.exp_()
            if wanted.ndim == 1:
                excess.scatter_add_(1, wanted[:, None], excess.new_full((len(wanted), 1), -1))
            else:
                excess.sub_(wanted)
            excess.div_(count * temperature)
            if of_features is not None:
                torch.mm(excess, prototypes, out=of_features[own])
            if of_prototypes is not None:
                of_prototypes.addmm_(excess.T, features[own])
        ctx.save_for_backward(of_features, of_prototypes)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients that `forward` computed."""
        return *(None if value is None else outer[0] * value for value in ctx.saved_tensors), None, None, None


def chunked_cross_entropy(
    features: Tensor, prototypes: Tensor, temperature: float, labels: Callable[[slice], Tensor]
) -> Tensor:
    """Mean cross-entropy of the scores of rows over prototypes: a scalar.

    Args:
        features: float32 [n, C], unit rows.
        prototypes: float32 [K, C], unit rows.
        temperature: divides the scores.
        labels: gives the labels of a slice of rows: int64 [m], or float32 [m, K] whose rows sum to 1.
    """
    return ChunkedCrossEntropy.apply(features, prototypes, temperature, labels, torch.is_grad_enabled())


def swapped_loss(
    target: Tensor,
    prediction: Tensor,
    prototypes: Tensor,
    temperature: float,
    settings: SinkhornSettings,
    over_processes: bool = False,
) -> Swapped:
    """Each branch predicts the other's assignment (SIGMA, official code).

    The prototypes are trained by `Swapped.target` only. No gradient passes through an assignment. Peak memory: the n x K matrix
    of `balance`, before the losses; these need a few chunks of 32 MB, and gradients as large as the inputs for the backward
    pass.

    Args:
        target: float [n, C], one row per masked token.
        prediction: float [n, C], one row per masked token.
        prototypes: float32 [K, C], unit rows.
        temperature: divides the cosines.
        settings: settings of the assignments.
        over_processes: balance over all processes; see `balance`.
    """
    with torch.autocast(target.device.type, enabled=False):
        rows = unit_rows(target), unit_rows(prediction)
        balanced = balance(rows, prototypes, settings, over_processes)

        def labels(branch: int, own: slice) -> Tensor:
            if not settings.soft:
                return balanced.best[branch, own]
            with torch.no_grad():
                return shares(rows[branch][own] @ prototypes.T, balanced.log_weights[branch], settings.epsilon)

        return Swapped(
            chunked_cross_entropy(rows[0], prototypes, temperature, partial(labels, 1)),
            chunked_cross_entropy(rows[1], prototypes.detach(), temperature, partial(labels, 0)),
            balanced.best,
        )


@torch.no_grad()
def usage(assigned: Tensor, count: int) -> dict[str, Tensor]:
    """How a batch uses the prototypes, as scalars from 0 to 1.

    Args:
        assigned: int64 [n], assigned prototype of each row.
        count: number of prototypes, K.

    Returns:
        `perplexity`: exponential of the entropy of the prototypes' shares over K, 1 if all are used equally often;
        `used`: share of the prototypes that have at least one row. Neither exceeds n / K.
    """
    rows = torch.zeros(count, device=assigned.device).scatter_add_(0, assigned, torch.ones_like(assigned, dtype=torch.float32))
    return {"perplexity": torch.special.entr(rows / len(assigned)).sum().exp() / count, "used": (rows > 0).float().mean()}


def prototype_colours(assigned: Tensor) -> Tensor:
    """A colour for each prototype: int64 [...] -> float [..., 3] in [0, 1]; consecutive numbers differ in hue."""
    hue = assigned[..., None] * 0.618034 + constant((0, 1 / 3, 2 / 3), torch.float32, assigned.device)
    return 0.5 + 0.5 * torch.cos(2 * torch.pi * hue)


def sigma_weights(content: Checkpoint, path: str, setting: str) -> dict[str, Tensor]:
    """Weights of a complete SIGMA under our names, from our .ckpt or .safetensors or an official .pth.

    Args:
        content: content of the file.
        path: path of the file, for error messages.
        setting: setting that names the file, for error messages.

    Raises:
        SettingError: if the file contains no prototypes.
    """
    weights = content.weights
    if "prototypes" not in weights:
        raise SettingError(f"{setting} names {path}, which contains no prototypes; pass weights from SIGMA pretraining.")
    return from_official(weights) if is_official(weights) else weights


def sizes_of(weights: dict[str, Tensor]) -> tuple[int, int, list[int] | None]:
    """Number and width of the prototypes, and widths of the MLP's layers (None without MLP), from `sigma_weights`."""
    count, width = weights["prototypes"].shape
    names = (f"projection.{layer}.weight" for layer in itertools.count(0, 2))
    widths = [len(weights[name]) for name in itertools.takewhile(weights.__contains__, names)]
    return count, width, widths or None


@dataclass
class MLPSettings:
    """The MLP that is trained on the target. The defaults are the paper's.

    Args:
        widths: widths of its linear layers, with GELU between them.
        checkpoint: file of a pretrained SIGMA whose MLP is loaded and frozen; null trains a new one.

    Raises:
        SettingError: if there is no layer or a width is not positive.
    """

    widths: list[int] = field(default_factory=lambda: [1024, 1024, 512, 256])
    checkpoint: str | None = None

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1:
            raise SettingError(
                f"model.mlp.widths is {self.widths}; set one positive width or more, or model.mlp to null for no MLP."
            )


def make_mlp(in_dim: int, widths: list[int]) -> nn.Sequential:
    """Linear layers of these widths with GELU between them; parameters are named `0.*`, `2.*` and so on."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise([in_dim, *widths]):
        layers += [nn.Linear(before, after), nn.GELU()]
    return nn.Sequential(*layers[:-1])


class SIGMA(MaskedAutoencoder):
    """Sinkhorn-guided masked video modelling (https://arxiv.org/abs/2407.15447).

    Args:
        backbone: encoder, kept after pretraining.
        target: source of the target features: PixelTarget with an `mlp` (SIGMA-MLP), or TimmTarget without one (SIGMA-DINO).
        mask: which tokens are hidden; the paper uses TubeMask with ratio 0.9.
        mlp: the MLP that is trained on the target; null uses the target unchanged.
        num_prototypes: number of prototypes, K.
        temperature: divides the cosines in the losses.
        sinkhorn: how tokens are assigned to prototypes.
        decoder: size of the decoder.
        init_from: file with the weights of the whole method to start from, loaded strictly: our .ckpt or .safetensors, or an
            official .pth. The file sets the number of prototypes and the widths of the MLP. Optimiser and schedule
            start afresh.
        optim: optimiser and schedule.
        relations: distillation of the relations of visible tokens from a frozen teacher, in addition; null for none.
    """

    def __init__(
        self,
        backbone: VideoViT,
        target: Target,
        mask: MaskGenerator,
        mlp: MLPSettings | None = None,
        num_prototypes: int = 3000,
        temperature: float = 0.1,
        sinkhorn: SinkhornSettings = SinkhornSettings(),  # noqa: B008  (never mutated; shows the defaults in --help)
        decoder: DecoderSettings = DecoderSettings(),  # noqa: B008
        init_from: str | None = None,
        optim: AdamWSettings = AdamWSettings(),  # noqa: B008
        relations: RelationSettings | None = None,
    ) -> None:
        super().__init__(backbone, target, mask, optim, relations)
        sinkhorn.check("model.sinkhorn")
        check_positive("model", num_prototypes=num_prototypes, temperature=temperature)
        widths = mlp.widths if mlp is not None else None
        if init_from is not None:
            weights = self.own_weights(read_checkpoint(init_from, "model.init_from"), init_from)
            num_prototypes, width, widths = sizes_of(weights)
            if not widths and width != target.dim(backbone.grid):
                raise SettingError(
                    f"model.init_from names {init_from}, whose features are {width} wide, but those of model.target are "
                    f"{target.dim(backbone.grid)} wide; choose the target that it was trained with."
                )
        self.temperature, self.sinkhorn = temperature, sinkhorn
        self.projection = make_mlp(target.dim(backbone.grid), widths) if widths else None
        width = widths[-1] if widths else target.dim(backbone.grid)
        self.prototypes = nn.Parameter(unit_rows(torch.randn(num_prototypes, width)))
        self.build_decoder(decoder, width)
        if init_from is not None:
            self.start_from(init_from)
        if mlp is not None and mlp.checkpoint is not None:
            self.freeze_projection(mlp.checkpoint)

    def own_weights(self, content: Checkpoint, path: str) -> dict[str, Tensor]:
        """See `MaskedAutoencoder.own_weights`; the file must contain prototypes."""
        return sigma_weights(content, path, "model.init_from")

    def freeze_projection(self, path: str) -> None:
        """Load the MLP of a pretrained SIGMA and freeze it (official code: `--mlp_preloading`).

        Args:
            path: value of model.mlp.checkpoint.

        Raises:
            SettingError: if this method or the file has no MLP, or if the two MLPs differ.
        """
        weights = sigma_weights(read_checkpoint(path, "model.mlp.checkpoint"), path, "model.mlp.checkpoint")
        inner = {key.removeprefix("projection."): value for key, value in weights.items() if key.startswith("projection.")}
        if self.projection is None or not inner:
            lacking = path if self.projection is not None else "the file of model.init_from"
            raise SettingError(f"model.mlp.checkpoint is {path}, but {lacking} contains no MLP; pass a SIGMA-MLP.")
        load_strictly(self.projection, inner, path)
        self.projection.requires_grad_(False)

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        """Mask, encode, decode, assign, compare. Videos are [B, V, T, H, W, 3]; each clip counts as a sample."""
        clip = self.inputs(batch).flatten(0, 1)
        mask = self.draw_mask(clip.shape[0], generator)
        target = self.targets(clip, mask.targets)
        tokens = self.encode(clip, mask.visible)
        prediction = self.decoder(tokens, mask.visible, mask.targets)
        if self.projection is not None:
            target = self.projection(target)
        normalise_rows(self.prototypes)
        # In validation, processes may have different numbers of batches, so each balances its own.
        swapped = swapped_loss(
            target.flatten(0, 1), prediction.flatten(0, 1), self.prototypes, self.temperature, self.sinkhorn, self.training
        )
        output: StepOutput = {
            "loss": swapped.target + swapped.prediction,
            "log": self.monitor(swapped),
            "show": {
                "clip": clip,
                "masked": mask.targets,
                "prediction": prediction.detach(),
                "target": target.detach(),
                "assigned": swapped.assigned.unflatten(1, mask.targets.shape).transpose(0, 1),
            },
        }
        return self.with_relations(output, tokens, mask.visible)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: torch.optim.Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Lightning's step, then normalise the prototypes; they stay normalised if a step is skipped."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        normalise_rows(self.prototypes)

    @torch.no_grad()
    def monitor(self, swapped: Swapped) -> dict[str, Tensor]:
        """Scalars that show collapse: both losses, agreement of the branches, use of the prototypes by this process's rows.

        Args:
            swapped: result of `swapped_loss` for a step.
        """
        log = {"loss_target": swapped.target.detach(), "loss_prediction": swapped.prediction.detach()}
        log["agreement"] = (swapped.assigned[0] == swapped.assigned[1]).float().mean()
        for branch, assigned in zip(("target", "prediction"), swapped.assigned, strict=True):
            log |= {f"{name}_{branch}": value for name, value in usage(assigned, len(self.prototypes)).items()}
        return log

    @torch.no_grad()
    def pictures(self, output: StepOutput) -> dict[str, Tensor]:
        """Clip, what the encoder saw, similarity of prediction and target, and the prototypes of both as colours."""
        found, grid = output["show"], self.backbone.grid
        clip, masked = found["clip"], found["masked"]
        shown = {
            "clip": clip,
            "visible": hide_tokens(clip, masked, grid),
            "similarity": similarity_map(clip, masked, found["prediction"], found["target"], grid),
        }
        for branch, assigned in zip(("target", "prediction"), found["assigned"].unbind(1), strict=True):
            flat = prototype_colours(assigned)[..., None].expand(-1, -1, -1, grid.token_pixels)
            shown[f"prototypes_{branch}"] = replace_tokens(clip, masked, flat, grid)
        return shown
