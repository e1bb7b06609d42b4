"""The decoder of masked methods."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from modules.backbones.vit.blocks import init_blocks, layer_norm, make_blocks, scale_names
from modules.backbones.vit.positions import position_codes
from modules.backbones.vit.video_vit import VideoViT
from modules.core.errors import SettingError, check_positive, given
from modules.core.tokens import gather_tokens


class Widths(Protocol):
    """What a decoder's size depends on."""

    embed_dim: int
    num_heads: int


@dataclass
class DecoderSettings:
    """Size of the decoder.

    Args:
        depth: number of blocks (4 in the official scripts, 12 for ViT-L and ViT-H).
        dim: width; None uses half of the encoder's.
        heads: attention heads; None uses half of the encoder's.
        recompute_blocks: trade compute for memory: activations of blocks are recomputed in the backward pass. With many
            masked tokens, the decoder stores more activations than the encoder.
    """

    depth: int = 4
    dim: int | None = None
    heads: int | None = None
    recompute_blocks: bool = False

    def __post_init__(self) -> None:
        check_positive("model.decoder", depth=self.depth, **given(dim=self.dim, heads=self.heads))

    def sizes(self, encoder: Widths) -> tuple[int, int]:
        """Width and heads for an encoder.

        Raises:
            SettingError: if the width is not a multiple of the heads.
        """
        dim, heads = self.dim or encoder.embed_dim // 2, self.heads or max(1, encoder.num_heads // 2)
        if dim % heads:
            raise SettingError(
                f"The decoder's width {dim} is not a multiple of its {heads} heads; set model.decoder.dim or "
                "model.decoder.heads."
            )
        return dim, heads


class MaskedDecoder(nn.Module):
    """Decoder of VideoMAE. It predicts a vector for every masked token from the encoded visible ones.

    Visible tokens come first, then mask tokens, both in ascending order and with position codes. Only the mask tokens are
    normalised and projected to predictions.

    Args:
        encoder: encoder whose tokens are decoded; it defines the token grid, the MLP ratio and the kind of attention.
        out_dim: width of a prediction.
        settings: size of the decoder.
    """

    def __init__(self, encoder: VideoViT, out_dim: int, settings: DecoderSettings) -> None:
        super().__init__()
        self.recompute_blocks = settings.recompute_blocks
        self.embed_dim, self.num_heads = settings.sizes(encoder)
        # Left at PyTorch's default initialisation, as in the official code.
        self.embed = nn.Linear(encoder.embed_dim, self.embed_dim, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, self.embed_dim))
        rates = [0.0] * settings.depth
        self.blocks = make_blocks(self.embed_dim, self.num_heads, encoder.mlp_ratio, rates, encoder.cosine_attention)
        self.norm = layer_norm(self.embed_dim)
        self.head = nn.Linear(self.embed_dim, out_dim)
        self.register_buffer("positions", torch.empty(0), persistent=False)
        self.positions: Tensor
        self.follow(encoder)
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)
        init_blocks(self.blocks)
        init_blocks(self.head)

    def follow(self, encoder: VideoViT) -> None:
        """Update the position codes to the grids of the encoder."""
        self.positions = position_codes(encoder.grid, encoder.trained_grid, self.embed_dim).to(encoder.positions)

    def compiled_parts(self) -> list[nn.Module]:
        """Modules to compile: the blocks."""
        return list(self.blocks)

    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay, in addition to biases and one-dimensional parameters."""
        return {"mask_token"} | scale_names(self.blocks)

    def forward(self, tokens: Tensor, visible: Tensor, masked: Tensor) -> Tensor:
        """Predict masked tokens.

        Args:
            tokens: [B, Nv, De] encoded visible tokens.
            visible: int64 [B, Nv], their indices.
            masked: int64 [B, Nm], indices of the tokens to predict.

        Returns:
            [B, Nm, out_dim] in the order of `masked`.
        """
        positions = self.positions.expand(tokens.shape[0], -1, -1)
        seen = self.embed(tokens) + gather_tokens(positions, visible)
        hidden = self.mask_token + gather_tokens(positions, masked)
        sequence = torch.cat([seen, hidden.to(seen.dtype)], dim=1)
        again = self.recompute_blocks and self.training
        for block in self.blocks:
            sequence = recompute(block, sequence, use_reentrant=False) if again else block(sequence)
        result: Tensor = self.head(self.norm(sequence[:, visible.shape[1] :]))
        return result
