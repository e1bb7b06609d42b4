"""STMAE: hide 90 % of a clip's tokens at random, over space and time alike, and predict their pixels.

Papers: Masked Autoencoders As Spatiotemporal Learners (MAE-ST), https://arxiv.org/abs/2205.09113, and Self-supervised learning
of video representations from a child's perspective, https://arxiv.org/abs/2402.00300, which trains the same method on
recordings of a head camera. A uniformly random mask hides 90 % of the tokens; the encoder sees the rest after a class token; a
narrow decoder, with its own positions and class token, predicts the pixels of every hidden token; the loss is the mean
squared error. Unlike VideoMAE, a hidden token may be visible a slice earlier or later, positions are learned, and pixels are
not normalised per token. After training, the decoder fills in what another mask hides: `CenterMask` the middle of a clip (the
callback `Interpolations` draws it), `TemporalMask` its end.

Shapes for ViT-H with patches of 14, at 16 x 224 x 224: 2048 tokens, 204 visible, prediction [B, 1844, 1176].

The defaults are those of the second paper. MAE-ST's own form consists of settings: `backbone.learned` joint without a class
token, or separable with one; `target.normalise`, per token over all channels; `target.frames`, half of the clip's frames.
Outputs, losses and gradients agree with the official code of both (tests/parity/test_st_mae.py).

Differences from the official code:

* the mask is drawn on the device, and its visible tokens are in the order of the clip, which changes no output;
* training uses bf16 with the loss in float32, instead of fp16 with a scaler;
* the decoder is only projected to pixels at hidden tokens, the only ones that count.
"""

import torch
import torch.nn.functional as F

from modules.augment.flips import RandomFlip
from modules.backbones.vit.decoder import DecoderSettings
from modules.backbones.vit.spacetime_vit import SpacetimeDecoder, SpacetimeViT
from modules.core.batch import Batch
from modules.core.output import StepOutput
from modules.layers.masked_autoencoder import MaskedAutoencoder
from modules.layers.relations import RelationSettings
from modules.layers.targets import Target, constant_loss
from modules.masks.base import MaskGenerator
from modules.training.optim import AdamWSettings


class STMAE(MaskedAutoencoder):
    """Spatiotemporal masked autoencoder (https://arxiv.org/abs/2205.09113, https://arxiv.org/abs/2402.00300).

    Args:
        backbone: encoder, kept after pretraining.
        target: what is predicted; both papers use InputPixelTarget.
        mask: which tokens are hidden; both papers use UniformMask with ratio 0.9.
        decoder: size of the decoder; the second paper's is 512 wide with 4 blocks of 16 heads.
        flip: probability of mirroring a training clip; null takes one half, or 0 if classes of the data distinguish left and
            right.
        init_from: file with the weights of the whole method (encoder and decoder) to start from, loaded strictly: our
            .ckpt or .safetensors, or an official .pth. Optimiser and schedule start afresh.
        optim: optimiser and schedule.
        relations: distillation of the relations of visible tokens from a frozen teacher, in addition; null for none.
    """

    backbone: SpacetimeViT

    def __init__(
        self,
        backbone: SpacetimeViT,
        target: Target,
        mask: MaskGenerator,
        decoder: DecoderSettings = DecoderSettings(),  # noqa: B008  (never mutated; shows the defaults in --help)
        flip: float | None = None,
        init_from: str | None = None,
        optim: AdamWSettings = AdamWSettings(),  # noqa: B008
        relations: RelationSettings | None = None,
    ) -> None:
        super().__init__(backbone, target, mask, optim, relations)
        self.flip = RandomFlip("model.flip", flip)
        self.decoder = SpacetimeDecoder(backbone, target.dim(backbone.grid), decoder)
        if init_from is not None:
            self.start_from(init_from)

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        """Mirror some clips, mask, encode, decode, compare. Videos are [B, V, T, H, W, 3]; each clip counts as a sample."""
        clip = self.inputs(batch).flatten(0, 1)
        if self.training:
            clip = self.flip(clip, generator)
        mask = self.draw_mask(clip.shape[0], generator)
        target = self.targets(clip, mask.targets)
        tokens = self.encode(clip, mask.visible)
        prediction = self.decoder(tokens, mask.visible, mask.targets)
        output: StepOutput = {
            "loss": F.mse_loss(prediction.float(), target),
            "log": {"constant_loss": constant_loss(target)},
            "show": {"clip": clip, "masked": mask.targets, "prediction": prediction.detach(), "target": target},
        }
        return self.with_relations(output, tokens, mask.visible)

    def no_weight_decay(self) -> set[str]:
        """Nothing besides biases and one-dimensional parameters: in pretraining, tokens and positions decay (official code)."""
        return set()
