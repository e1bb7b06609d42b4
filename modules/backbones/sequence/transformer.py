"""A transformer on sequences of features, such as those of the segments of a long video (encoder of LV-MAE).

Paper: LV-MAE, https://arxiv.org/abs/2504.03501. A segment's feature is a token, without an embedding layer; a class token comes
first; positions are fixed sin-cos codes of the index in the sequence (0 for the class token); padding is hidden from attention.

Axis letters: `S` steps of the longest sequence, `D` width of the encoder, `F` width of the features.

Sequences are padded with 0 at the end, and so are outputs. A sequence ends at its last step that is not 0 everywhere, so no
lengths are passed along with features and tokens.
"""

from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.backbones.checks import check_sequences
from modules.backbones.intermediates import Layered, Layers
from modules.backbones.vit.blocks import drop_path_rates, init_blocks, layer_norm, make_blocks
from modules.core.errors import SettingError, check_positive, check_range, check_whole, given
from modules.core.loading import load_strictly
from modules.core.preprocessing import say
from modules.core.tokens import gather_tokens
from modules.weights.files import read_checkpoint
from modules.weights.names.lvmae import encoder_weights
from modules.weights.passport import check_heads


def step_positions(steps: int, dim: int) -> Tensor:
    """Fixed sin-cos codes of the indices in a sequence (MAE, official code), computed in float64; 0 for the class token.

    The first half of the channels are sines, the second half cosines of n / 10000^(j / (dim / 2)).

    Args:
        steps: steps of the longest sequence.
        dim: width of a code, even.

    Returns:
        float32 [1, 1 + steps, dim]
    """
    rate = torch.pow(10000.0, -torch.arange(dim // 2, dtype=torch.float64) / (dim / 2))
    angle = torch.arange(steps, dtype=torch.float64)[:, None] * rate
    return F.pad(torch.cat([angle.sin(), angle.cos()], 1), (0, 0, 1, 0)).float()[None]


def valid_steps(sequence: Tensor) -> Tensor:
    """Which steps come before the padding: float [B, S, F] -> bool [B, S]."""
    present = (sequence != 0).any(2)
    return present.flip(1).cumsum(1).flip(1) > 0


def key_mask(valid: Tensor) -> Tensor:
    """Which tokens attention may look at; the class token always.

    Args:
        valid: bool [B, S], which of the other tokens are no padding.

    Returns:
        bool [B, 1, 1, 1 + S]
    """
    return F.pad(valid, (1, 0), value=True)[:, None, None]


class SequenceTransformer(Layered, nn.Module):
    """Transformer on sequences of features of any length.

    Args:
        embed_dim: width of the encoder. The defaults are the paper's.
        depth: number of blocks.
        num_heads: attention heads.
        mlp_ratio: hidden width of the MLP over the width of the tokens.
        max_steps: longest sequence of training. Longer ones get further positions, with a message.
        input_dim: width of the features; null for that of the encoder. Another width is projected to the encoder's, which the
            paper does not do.
        pooling: `mean` averages the tokens of the steps (linear evaluation, official code), `class` takes the class token.
        drop_path: highest stochastic depth rate.
        checkpoint: file with encoder weights: ours, or an official one of LV-MAE.

    Raises:
        SettingError: if a size is impossible, or the checkpoint does not fit.
    """

    kind: Literal["feature"] = "feature"

    def __init__(
        self,
        embed_dim: int = 1024,
        depth: int = 32,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        max_steps: int = 256,
        input_dim: int | None = None,
        pooling: Literal["mean", "class"] = "mean",
        drop_path: float = 0.0,
        checkpoint: str | None = None,
    ) -> None:
        super().__init__()
        check_whole("model.backbone", 1, depth=depth, num_heads=num_heads, max_steps=max_steps, **given(input_dim=input_dim))
        check_whole("model.backbone", 2, embed_dim=embed_dim)
        check_positive("model.backbone", mlp_ratio=mlp_ratio)
        check_range("model.backbone", 0, 1, drop_path=drop_path)
        if embed_dim % num_heads or embed_dim % 2:
            raise SettingError(
                f"model.backbone.embed_dim is {embed_dim}; it must be even, and a multiple of model.backbone.num_heads "
                f"{num_heads}."
            )
        self.embed_dim, self.num_heads, self.mlp_ratio, self.max_steps = embed_dim, num_heads, mlp_ratio, max_steps
        self.input_dim, self.pooling = input_dim or embed_dim, pooling
        self.project: nn.Module = nn.Identity() if self.input_dim == embed_dim else nn.Linear(self.input_dim, embed_dim)
        self.cls_token = nn.Parameter(nn.init.normal_(torch.empty(1, 1, embed_dim), std=0.02))
        self.blocks = make_blocks(embed_dim, num_heads, mlp_ratio, drop_path_rates(drop_path, depth), False)
        self.norm = layer_norm(embed_dim)
        self.register_buffer("positions", step_positions(max_steps, embed_dim), persistent=False)
        self.positions: Tensor
        self._told = False
        init_blocks(self)
        if checkpoint is not None:
            weights, steps = encoder_weights(read_checkpoint(checkpoint, "model.backbone.checkpoint").weights)
            load_strictly(self, weights, checkpoint)
            check_heads(checkpoint, "model.backbone.checkpoint", num_heads)
            if steps not in (None, max_steps):
                say([f"{checkpoint} was trained on up to {steps} steps, model.backbone.max_steps is {max_steps}."])

    def preprocess(self, clip: Tensor) -> Tensor:
        """Features divided by their length, padding unchanged: float [B, S, F] -> float32 [B, S, F]."""
        clip = clip.float()
        check_sequences(clip, self.cls_token, self.input_dim, type(self).__name__)
        return F.normalize(clip, dim=2)

    def positions_of(self, steps: int) -> Tensor:
        """Positions [1, 1 + S, D] of a number of steps."""
        if steps <= self.max_steps:
            return self.positions[:, : 1 + steps]
        if not self._told:
            say([f"A sequence has {steps} steps, more than model.backbone.max_steps {self.max_steps}: positions go on."])
            self._told = True
        return step_positions(steps, self.embed_dim).to(self.positions)

    def embed(self, sequence: Tensor, visible: Tensor | None = None) -> Tensor:
        """The class token and the tokens of the visible steps, with the positions of their original indices.

        Args:
            sequence: float [B, S, F], from `preprocess`.
            visible: int64 [B, Nv], indices of steps; None for all.

        Returns:
            [B, 1 + Nv, D]
        """
        check_sequences(sequence, self.cls_token, self.input_dim, type(self).__name__)
        tokens = self.project(sequence) + self.positions_of(sequence.shape[1])[:, 1:]
        if visible is not None:
            tokens = gather_tokens(tokens, visible)
        return torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1).to(tokens.dtype), tokens], 1)

    def encode(self, sequence: Tensor, valid: Tensor, visible: Tensor | None = None) -> Tensor:
        """The encoded class token and visible steps; padding is 0.

        Args:
            sequence: float [B, S, F], from `preprocess`.
            valid: bool [B, Nv], which visible steps are no padding.
            visible: see `embed`.

        Returns:
            [B, 1 + Nv, D]
        """
        return self._through(self.embed(sequence, visible), valid).through()

    def _through(self, tokens: Tensor, valid: Tensor) -> Layers:
        mask, there = key_mask(valid), F.pad(valid, (1, 0), value=True)[..., None]

        def grid(hidden: Tensor, norm: bool) -> Tensor:
            return ((self.norm(hidden) if norm else hidden) * there)[:, 1:].transpose(1, 2)

        blocks = [partial(block, attn_mask=mask) for block in self.blocks]
        return Layers(tokens, blocks, grid, lambda hidden: self.norm(hidden) * there)

    def layers(self, clip: Tensor) -> Layers:
        """See `Layered.layers`; the grid is [B, D, S]."""
        return self._through(self.embed(clip), valid_steps(clip))

    def forward_features(self, sequence: Tensor) -> Tensor:
        """The class token and the tokens of all steps, 0 for padding: float [B, S, F], from `preprocess` -> [B, 1 + S, D]."""
        return self.layers(sequence).through()

    def forward(self, sequence: Tensor) -> Tensor:
        """Mean of the steps' tokens, or the class token: [B, S, F] -> float32 [B, D]."""
        tokens = self.forward_features(sequence).float()
        if self.pooling == "class":
            return tokens[:, 0]
        count = valid_steps(sequence).sum(1, keepdim=True).clamp_min(1)
        return tokens[:, 1:].sum(1) / count

    def compiled_parts(self) -> list[nn.Module]:
        """Modules to compile: the blocks."""
        return list(self.blocks)

    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay, in addition to biases and one-dimensional parameters: none (MAE, official code)."""
        return set()

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Parameters grouped by layer: class token and projection, each block, the norm."""
        parts = [list(block.parameters()) for block in self.blocks]
        return [[self.cls_token, *self.project.parameters()], *parts, list(self.norm.parameters())]
