"""Rotary positions over time, rows and columns (V-JEPA 2, https://arxiv.org/abs/2506.09985, official code).

A third of each head's channels is rotated by the token's slice, a third by its row, and a third by its column; the remaining
channels are not rotated. A third has 2 * ((head width // 3) // 2) channels, which are rotated in neighbouring pairs.

In the released form, the angles of a third are tiled (f0 .. fk, f0 .. fk), so that both channels of a pair are turned by
different angles. Attention then depends on absolute positions: shifting all tokens changes it. Released weights were trained
this way. In the corrected form, both channels of a pair have the same angle, and attention depends on differences of positions
only.

Angles are computed in float32; the official code computes frequencies in the precision of the tokens.
"""

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from modules.backbones.vit.blocks import layer_norm
from modules.core.tokens import Grid


def rotated_channels(head_width: int) -> int:
    """Channels of a head that are rotated by each axis."""
    return 2 * (head_width // 3 // 2)


def places_of(grid: Grid, index: Tensor) -> Tensor:
    """Slice, row and column of tokens: int64 [..., N] -> int64 [..., N, 3]."""
    return torch.stack([index // grid.slice_tokens, index % grid.slice_tokens // grid.w, index % grid.w], dim=-1)


def rotation(places: Tensor, head_width: int, tiled: bool) -> Tensor:
    """Cosines and sines of the angles of rotary positions.

    Args:
        places: int64 [B, N, 3], slice, row and column of each token.
        head_width: channels of a head.
        tiled: the released form; false gives the corrected one.

    Returns:
        float32 [2, B, 1, N, R]: cosines and sines of the first R channels of every head; the others are not rotated.
    """
    channels = rotated_channels(head_width)
    pairs = torch.arange(channels // 2, dtype=torch.float32, device=places.device)
    angles = places.float()[..., None] * torch.pow(10000.0, -2 * pairs / channels)
    angles = torch.cat([angles, angles], dim=-1) if tiled else angles.repeat_interleave(2, dim=-1)
    flat = angles.flatten(2)[:, None]
    return torch.stack([flat.cos(), flat.sin()])


def rotate(heads: Tensor, turn: Tensor) -> Tensor:
    """Rotate the first channels of queries or keys.

    Args:
        heads: [B, heads, N, head width]
        turn: output of `rotation`.
    """
    cosine, sine = turn.to(heads.dtype)
    first, rest = heads.split([cosine.shape[-1], heads.shape[-1] - cosine.shape[-1]], dim=-1)
    even, odd = first.unflatten(-1, (-1, 2)).unbind(-1)
    crossed = torch.stack([-odd, even], dim=-1).flatten(-2)
    return torch.cat([first * cosine + crossed * sine, rest], dim=-1)


class RotaryAttention(nn.Module):
    """Attention whose queries and keys are rotated.

    Args:
        width: width of the tokens.
        heads: attention heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, attn_mask: Tensor | None, turn: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]; `attn_mask` bool [B, 1, 1, N], False for padding; `turn` is the output of `rotation`."""
        query, key, value = self.qkv(tokens).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(rotate(query, turn), rotate(key, turn), value, attn_mask)
        result: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return result


class RotaryBlock(Block):
    """A pre-norm block with `RotaryAttention`.

    Args:
        width: width of the tokens.
        heads: attention heads.
        mlp_ratio: hidden width of the MLP over the width of the tokens.
        drop_path: stochastic depth rate.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, drop_path: float = 0.0) -> None:
        super().__init__(width, heads, mlp_ratio, qkv_bias=True, drop_path=drop_path, norm_layer=layer_norm)
        self.attn = RotaryAttention(width, heads)

    def forward(  # type: ignore[override]  # the blocks of a network that passes angles
        self, tokens: Tensor, attn_mask: Tensor | None, turn: Tensor
    ) -> Tensor:
        """[B, N, D] -> [B, N, D]; other arguments as in `RotaryAttention`."""
        tokens = tokens + self.drop_path1(self.attn(self.norm1(tokens), attn_mask, turn))
        result: Tensor = tokens + self.drop_path2(self.mlp(self.norm2(tokens)))
        return result
