"""The decoder of siamese masked autoencoders: one image is predicted from a few of its own tokens and from another image.

The network is that of CropMAE's official code (https://arxiv.org/abs/2403.17823), which it also uses for SiamMAE
(https://arxiv.org/abs/2305.14344): blocks of cross-attention, feed-forward layer and self-attention, in this order, each with
a residual connection and a norm after it. The hidden width of the feed-forward layer is 2048 whatever the width of the decoder,
and dropout is on in training.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modules.backbones.frame_tower import FrameTower
from modules.backbones.vit.blocks import init_blocks, layer_norm
from modules.backbones.vit.positions import sincos_positions_2d
from modules.core.errors import SettingError, check_positive, check_range


@dataclass
class CrossDecoderSettings:
    """Size of the decoder.

    Args:
        depth: number of blocks.
        dim: width.
        heads: attention heads.
        hidden: width of the feed-forward layers.
        dropout: dropout rate of attention weights, of the feed-forward layers, and of the output of each part of a block.
    """

    depth: int = 4
    dim: int = 256
    heads: int = 8
    hidden: int = 2048
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check_positive("model.decoder", depth=self.depth, dim=self.dim, heads=self.heads, hidden=self.hidden)
        check_range("model.decoder", 0, 1, dropout=self.dropout)
        if self.dim % self.heads or self.dim % 4:
            raise SettingError(
                f"model.decoder.dim is {self.dim}, which must be a multiple of model.decoder.heads ({self.heads}) and, for the "
                "position codes, of 4; change one of them."
            )


class CrossBlock(nn.Module):
    """Cross-attention, feed-forward layer, self-attention; the norms come after the residual connections.

    Parts have the names of `torch.nn.TransformerDecoderLayer`, as in the official code.

    Args:
        settings: size of the decoder.
    """

    def __init__(self, settings: CrossDecoderSettings) -> None:
        super().__init__()
        dim, heads, rate = settings.dim, settings.heads, settings.dropout
        self.self_attn = nn.MultiheadAttention(dim, heads, rate, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(dim, heads, rate, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(dim, settings.hidden), nn.Linear(settings.hidden, dim)
        self.norm1, self.norm2, self.norm3 = layer_norm(dim), layer_norm(dim), layer_norm(dim)
        self.dropout, self.activation = nn.Dropout(rate), nn.GELU()

    def forward(self, tokens: Tensor, memory: Tensor) -> Tensor:
        """Tokens [B, N, D] of the predicted image, and those of the other image [B, M, D] -> [B, N, D]."""
        crossed, _ = self.multihead_attn(tokens, memory, memory, need_weights=False)
        tokens = self.norm2(tokens + self.dropout(crossed))
        hidden = self.linear2(self.dropout(self.activation(self.linear1(tokens))))
        tokens = self.norm3(tokens + self.dropout(hidden))
        mixed, _ = self.self_attn(tokens, tokens, tokens, need_weights=False)
        result: Tensor = self.norm1(tokens + self.dropout(mixed))
        return result


class CrossDecoder(nn.Module):
    """Predicts all patches of an image from some of its encoded tokens, and from all encoded tokens of another image.

    Position codes are added to the tokens of the predicted image only; the order of the other image's tokens does not matter.

    Args:
        encoder: encoder of both images; it defines the grid of patches.
        out_dim: width of a prediction.
        settings: size of the decoder.
    """

    positions: Tensor

    def __init__(self, encoder: FrameTower, out_dim: int, settings: CrossDecoderSettings) -> None:
        super().__init__()
        self.num_heads = settings.heads
        self.embed = nn.Linear(encoder.embed_dim, settings.dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, settings.dim))
        # Official files have these codes, too. The class token has none.
        codes = sincos_positions_2d(encoder.grid.h, encoder.grid.w, settings.dim)
        self.register_buffer("positions", torch.cat([torch.zeros_like(codes[:, :1]), codes], 1))
        self.blocks = nn.ModuleList(CrossBlock(settings) for _ in range(settings.depth))
        self.norm = layer_norm(settings.dim)
        self.head = nn.Linear(settings.dim, out_dim)
        init_blocks(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def compiled_parts(self) -> list[nn.Module]:
        """Modules to compile: the blocks."""
        return list(self.blocks)

    def forward(self, tokens: Tensor, visible: Tensor, other: Tensor) -> Tensor:
        """Predict all patches of an image.

        Args:
            tokens: [B, 1 + Nv, De], encoded class token and visible tokens of the image.
            visible: int64 [B, Nv], the indices of the latter.
            other: [B, 1 + N, De], all encoded tokens of the other image.

        Returns:
            [B, N, out_dim]
        """
        own, memory = self.embed(tokens), self.embed(other)
        count = self.positions.shape[1] - 1
        filled = self.mask_token.to(own.dtype).expand(len(own), count, -1)
        place = visible[..., None].expand(-1, -1, own.shape[2])
        sequence = torch.cat([own[:, :1], filled.scatter(1, place, own[:, 1:])], 1) + self.positions
        for block in self.blocks:
            sequence = block(sequence, memory)
        result: Tensor = self.head(self.norm(sequence[:, 1:]))
        return result
