"""VideoMAE: mask most of a clip and predict the pixels of the masked tokens.

Paper: VideoMAE, https://arxiv.org/abs/2203.12602. A tube mask hides 90 % of the tokens; the encoder sees the rest; a narrow
decoder predicts, for every masked cube, its pixels normalised by the cube's own mean and standard deviation; the loss is the
mean squared error.

VideoMAE V2 (https://arxiv.org/abs/2303.16727) also masks the decoder: `decoder_mask` selects the tokens that are decoded.
In addition to the encoded tokens, the decoder gets a mask token at each of these positions, also at visible ones; the loss is
the mean over the tokens that are both decoded and masked for the encoder. At 16 x 224 x 224 with `RunningCellMask`: 784 decoded
tokens, 704 of which count.

Shapes for ViT-B at 16 x 224 x 224: 1568 tokens, 160 visible, prediction [B, 1408, 1536].

The numbers equal those of the official code (see `modules/backbones/vit/video_vit.py` for the network). Masks are
drawn on the device instead of in the loader; training uses bf16 with the loss in float32, instead of fp16 with a scaler.
Dual masking and cosine attention (`backbone.cosine_attention`, which V2's recipes leave off) agree with V2's official code
(tests/parity/test_videomae_v2.py). With several processes, the mean is over the counted tokens of all processes; in the
official code, each process averages its own.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.backbones.vit.decoder import DecoderSettings
from modules.backbones.vit.video_vit import VideoViT
from modules.core.batch import Batch
from modules.core.distributed import gather_rows
from modules.core.output import StepOutput
from modules.layers.masked_autoencoder import MaskedAutoencoder
from modules.layers.relations import RelationSettings
from modules.layers.targets import Target, constant_loss
from modules.masks.base import MaskGenerator, is_among
from modules.training.optim import AdamWSettings


class VideoMAE(MaskedAutoencoder):
    """Masked video autoencoder (https://arxiv.org/abs/2203.12602).

    Args:
        backbone: encoder, kept after pretraining.
        target: what is predicted; the paper uses PixelTarget.
        mask: which tokens are hidden; the paper uses TubeMask with ratio 0.9.
        decoder: size of the decoder.
        decoder_mask: which tokens are not decoded; VideoMAE V2 uses RunningCellMask with ratio 0.5. Null decodes
            exactly the masked tokens.
        init_from: file with the weights of the whole method (encoder and decoder) to start from, loaded strictly: our
            .ckpt or .safetensors, or an official .pth. Optimiser and schedule start afresh.
        optim: optimiser and schedule.
        relations: distillation of the relations of visible tokens from a frozen teacher, in addition; null for none.
    """

    def __init__(
        self,
        backbone: VideoViT,
        target: Target,
        mask: MaskGenerator,
        decoder: DecoderSettings = DecoderSettings(),  # noqa: B008  (never mutated; shows the defaults in --help)
        decoder_mask: MaskGenerator | None = None,
        init_from: str | None = None,
        optim: AdamWSettings = AdamWSettings(),  # noqa: B008
        relations: RelationSettings | None = None,
    ) -> None:
        super().__init__(backbone, target, mask, optim, relations)
        if decoder_mask is not None:
            decoder_mask.check(backbone.grid, "model.decoder_mask")
        self.decoder_mask = decoder_mask
        self.build_decoder(decoder)
        if init_from is not None:
            self.start_from(init_from)

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        """Mask, encode, decode, compare. Videos are [B, V, T, H, W, 3]; each clip counts as a sample."""
        grid = self.backbone.grid
        clip = self.inputs(batch).flatten(0, 1)
        mask = self.draw_mask(clip.shape[0], generator)
        decoded, counts = mask.targets, None
        if self.decoder_mask is not None:
            decoded = self.decoder_mask.draw(clip.shape[0], grid, generator).visible
            counts = is_among(decoded, mask.targets, grid.tokens).float()
        target = self.targets(clip, decoded)
        tokens = self.encode(clip, mask.visible)
        prediction = self.decoder(tokens, mask.visible, decoded)
        output: StepOutput = {
            "loss": self.loss(prediction.float(), target, counts),
            "log": {"constant_loss": constant_loss(target, counts)},
            "show": {
                "clip": clip,
                "masked": mask.targets,
                "decoded": decoded,
                "prediction": prediction.detach(),
                "target": target,
            },
        }
        return self.with_relations(output, tokens, mask.visible)

    def loss(self, prediction: Tensor, target: Tensor, counts: Tensor | None) -> Tensor:
        """Mean squared error over the tokens that are decoded and masked for the encoder.

        Args:
            prediction: float32 [B, Nd, D]
            target: float32 [B, Nd, D]
            counts: float32 [B, Nd], 1 for decoded tokens that are masked; None if all are.
        """
        if counts is None:
            return F.mse_loss(prediction, target)
        error = F.mse_loss(prediction, target, reduction="none").mean(2)
        # Processes may count different numbers of tokens. In validation they run different numbers of steps, so they cannot
        # communicate.
        total = gather_rows(counts.sum()[None]) if self.training else counts.sum()
        return (error * counts).sum() / total.mean().clamp_min(1)
