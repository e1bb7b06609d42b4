"""Video vision transformer with learned positions and a class token: encoder and decoder of MAE-ST.

Papers: Masked Autoencoders As Spatiotemporal Learners (MAE-ST), https://arxiv.org/abs/2205.09113, and Self-supervised learning
of video representations from a child's perspective, https://arxiv.org/abs/2402.00300, which uses the same network. It is
`VideoViT` with three differences: positions are learned, a class token comes first, and biases of keys exist (which change no
output). Initial weights are those of the official code, where queries, keys and values have one matrix each.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from modules.backbones.checks import check_video
from modules.backbones.pixels import PixelInput
from modules.backbones.vit.blocks import init_blocks, layer_norm, make_blocks
from modules.backbones.vit.decoder import DecoderSettings
from modules.backbones.vit.positions import Learned, LearnedPositions, resize_tables
from modules.backbones.vit.video_vit import VideoViT
from modules.core.errors import SettingError
from modules.core.loading import load_strictly
from modules.core.preprocessing import Normalisation, Origin, say
from modules.core.tokens import Grid, Pooling, gather_tokens, patchify
from modules.weights.files import read_checkpoint
from modules.weights.names.videomae import encoder_weights
from modules.weights.origin import origin_of
from modules.weights.passport import check_heads
from modules.weights.sizes import Size

GREY = Normalisation((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))
"""Normalisation of MAE-ST (official code)."""


class SpacetimeViT(VideoViT):
    """Video vision transformer with learned positions and a class token (encoder).

    It accepts clips of any length and size, like `VideoViT`; learned positions are interpolated to them.

    Args:
        size: see `VideoViT`. The paper on child's perspective uses huge with patches of 14.
        image_size: see `VideoViT`.
        num_frames: see `VideoViT`.
        patch_size: see `VideoViT`.
        tubelet_size: see `VideoViT`.
        embed_dim: see `VideoViT`.
        depth: see `VideoViT`.
        num_heads: see `VideoViT`.
        mlp_ratio: see `VideoViT`.
        drop_path: see `VideoViT`.
        recompute_blocks: see `VideoViT`.
        learned: `separable`, a table for time and one for space; or `joint`, one table of all tokens (MAE-ST's option).
        class_token: whether there is a class token.
        pooling: how `forward` pools tokens after the final norm: `class` takes the class token, for fine-tuning (in
            pretraining, no loss depends on its output); `mean` and `time` average the others, see `VideoViT`.
        checkpoint: file with encoder weights: ours, or an official .pth of MAE-ST. Separable positions of other clip sizes
            are resized.
        normalisation: see `VideoViT`; null uses that of the weights, or MAE-ST's mean 0.45 and standard deviation 0.225.

    Raises:
        SettingError: if sizes do not divide, `class` has no class token to take, or the checkpoint does not fit.
    """

    usual_normalisation = GREY

    def __init__(
        self,
        size: Size = "base",
        image_size: int = 224,
        num_frames: int = 16,
        patch_size: int | None = None,
        tubelet_size: int = 2,
        embed_dim: int | None = None,
        depth: int | None = None,
        num_heads: int | None = None,
        mlp_ratio: float | None = None,
        drop_path: float = 0.0,
        recompute_blocks: bool = False,
        learned: Learned = "separable",
        class_token: bool = True,
        pooling: Literal["class", "mean", "time"] = "mean",
        checkpoint: str | None = None,
        normalisation: Normalisation | None = None,
    ) -> None:
        averaging: Pooling = "mean" if pooling == "class" else pooling
        super().__init__(
            size,
            image_size,
            num_frames,
            patch_size,
            tubelet_size,
            embed_dim,
            depth,
            num_heads,
            mlp_ratio,
            drop_path,
            recompute_blocks=recompute_blocks,
            pooling=averaging,
            normalisation=normalisation,
        )
        if pooling == "class" and not class_token:
            raise SettingError(
                "model.backbone.pooling is class, but model.backbone.class_token is false; set it to true, or pooling to mean."
            )
        self.learned, self.pools_class, self.prefix_tokens = learned, pooling == "class", int(class_token)
        self.positions = torch.empty(0)  # the fixed codes of `VideoViT`, unused here
        self.pos_embed = LearnedPositions(self.grid, self.embed_dim, learned, class_token)
        nn.init.xavier_uniform_(self.patch_embed.weight)
        init_blocks(self.blocks, joint_qkv=False)
        self._told: set[Grid] = set()
        """grids of which it was said that positions are interpolated to them"""
        if checkpoint is not None:
            content = read_checkpoint(checkpoint, "model.backbone.checkpoint")
            weights, lines = resize_tables(encoder_weights(content.weights), self.grid, checkpoint)
            # A network that was fine-tuned with averaged tokens has no final norm.
            load_strictly(self, weights, checkpoint, may_miss=() if self.pools_class else ("norm.",))
            check_heads(checkpoint, "model.backbone.checkpoint", self.num_heads)
            say(lines + self.adopt(origin_of(checkpoint, content)))

    def adopt(self, origin: Origin) -> list[str]:
        """See `PixelInput.adopt`. Learned positions need no sizes of earlier clips."""
        return PixelInput.adopt(self, origin)

    def positions_of(self, grid: Grid) -> Tensor:
        """Positions [1, N, D], interpolated for other grids than the settings'."""
        if grid[:3] != self.grid[:3] and grid not in self._told:
            sizes = (" x ".join(map(str, one[:3])) for one in (self.grid, grid))
            say(["Learned positions are interpolated from {} to {} tokens for clips of other frames or size.".format(*sizes)])
            self._told.add(grid)
        positions: Tensor = self.pos_embed(grid)
        return positions

    def embed_tokens(self, cubes: Tensor, grid: Grid, visible: Tensor | None = None) -> Tensor:
        """See `VideoViT.embed_tokens`; the class token comes first."""
        return self.pos_embed.with_prefix(super().embed_tokens(cubes, grid, visible))

    def forward(self, video: Tensor) -> Tensor:
        """Pooled features: [B, 3, T, H, W] -> [B, D], or [B, t * D] with pooling `time`."""
        if not self.pools_class:
            return super().forward(video)
        check_video(video, self.patch_embed.weight, type(self).__name__)
        grid = self.clip_grid(video)
        return self.transform(self.embed_tokens(patchify(video, grid).flatten(2), grid))[:, 0]

    def no_weight_decay(self) -> set[str]:
        """Class token and positions (fine-tuning, official code)."""
        return {f"pos_embed.{name}" for name, _ in self.pos_embed.named_parameters()}

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """See `VideoViT.layer_groups`; class token and positions belong to the embedding."""
        first, *others = super().layer_groups()
        return [[*first, *self.pos_embed.parameters()], *others]


class SpacetimeDecoder(nn.Module):
    """Decoder of MAE-ST. It predicts a vector for every masked token from the encoded visible ones.

    It has its own positions and class token, of the encoder's kind. The class token comes first, then visible tokens, then
    mask tokens; the official code has tokens in the clip's order, which changes no output.

    Args:
        encoder: encoder whose tokens are decoded; it defines the token grid, the MLP ratio, and the kind of positions.
        out_dim: width of a prediction.
        settings: size of the decoder.
    """

    def __init__(self, encoder: SpacetimeViT, out_dim: int, settings: DecoderSettings) -> None:
        super().__init__()
        self.recompute_blocks = settings.recompute_blocks
        self.embed_dim, self.num_heads = settings.sizes(encoder)
        self.grid = encoder.grid
        self.embed = nn.Linear(encoder.embed_dim, self.embed_dim)
        self.mask_token = nn.Parameter(nn.init.normal_(torch.empty(1, 1, self.embed_dim), std=0.02))
        self.pos_embed = LearnedPositions(encoder.grid, self.embed_dim, encoder.learned, encoder.prefix_tokens == 1)
        self.blocks = make_blocks(self.embed_dim, self.num_heads, encoder.mlp_ratio, [0.0] * settings.depth, False)
        self.norm = layer_norm(self.embed_dim)
        self.head = nn.Linear(self.embed_dim, out_dim)
        init_blocks(self, joint_qkv=False)

    def compiled_parts(self) -> Sequence[nn.Module]:
        """Modules to compile: the blocks."""
        return list(self.blocks)

    def sequence(self, tokens: Tensor, visible: Tensor, masked: Tensor) -> Tensor:
        """Output of the last block for visible and mask tokens, [B, Nv + Nm, D]; arguments as in `forward`."""
        positions = self.pos_embed(self.grid).expand(tokens.shape[0], -1, -1)
        seen = self.embed(tokens) + gather_tokens(positions, visible)
        hidden = self.mask_token + gather_tokens(positions, masked)
        sequence = self.pos_embed.with_prefix(torch.cat([seen, hidden.to(seen.dtype)], dim=1))
        again = self.recompute_blocks and self.training
        for block in self.blocks:
            sequence = recompute(block, sequence, use_reentrant=False) if again else block(sequence)
        return sequence[:, sequence.shape[1] - visible.shape[1] - masked.shape[1] :]

    def forward(self, tokens: Tensor, visible: Tensor, masked: Tensor) -> Tensor:
        """Predict masked tokens.

        Args:
            tokens: [B, Nv, De] encoded visible tokens, without the class token.
            visible: int64 [B, Nv], their indices.
            masked: int64 [B, Nm], indices of the tokens to predict.

        Returns:
            [B, Nm, out_dim] in the order of `masked`.
        """
        result: Tensor = self.head(self.norm(self.sequence(tokens, visible, masked)[:, visible.shape[1] :]))
        return result
