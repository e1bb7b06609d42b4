"""Shared parts of video and text transformers: blocks, LayerNorm, stochastic depth, and weight initialisation."""

import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn


def first_std(width: int) -> float:
    """Standard deviation of the initial weights of BERT and BEiT: 0.02 as published, and more for widths below 768, the
    smallest published one. Narrower networks initialised with 0.02 hardly learn."""
    result: float = 0.02 * max(1.0, 768 / width) ** 0.5
    return result


def init_blocks(module: nn.Module, joint_qkv: bool = True) -> None:
    """Xavier-uniform weights and zero biases for every Linear, 1 and 0 for LayerNorm (VideoMAE, official code).

    Args:
        module: module with linear layers.
        joint_qkv: the joint qkv matrix counts as one matrix of shape [3D, D]; false counts it as three matrices, which are
            then larger (MAE-ST, official code, where they are separate).
    """
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):
            separate = name.endswith("qkv") and not joint_qkv
            for matrix in part.weight.data.chunk(3 if separate else 1):
                nn.init.xavier_uniform_(matrix)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


# timm's annotation requires a class, but any callable that builds a layer works.
layer_norm: Any = partial(nn.LayerNorm, eps=1e-6)


def drop_path_rates(highest: float, depth: int) -> list[float]:
    """Linear from 0 in the first block to `highest` in the last."""
    return [highest * block / max(1, depth - 1) for block in range(depth)]


LARGEST_SCALE = 4.6052
"""Maximum of the logarithm of cosine attention's scale, a factor of 100 (VideoMAE V2, official code)."""


class CosineAttention(nn.Module):
    """Attention by the cosine of queries and keys, with a learned scale per head (VideoMAE V2, official code).

    Like the official one, it has no key bias: that third of the joint bias is not used and gets no gradient. It would matter
    here, unlike in ordinary attention.

    Args:
        width: width of the tokens.
        heads: attention heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10)))
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, attn_mask: None = None, is_causal: bool = False) -> Tensor:
        """[B, N, D] -> [B, N, D]; the other arguments are those of timm's blocks and are not used."""
        query_bias, _, value_bias = self.qkv.bias.chunk(3)
        bias = torch.cat([query_bias, torch.zeros_like(query_bias), value_bias])
        joint = F.linear(tokens, self.qkv.weight, bias)
        query, key, value = joint.unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query = F.normalize(query, dim=-1) * self.scale.clamp(max=LARGEST_SCALE).exp()
        key = F.normalize(key, dim=-1)
        mixed = F.scaled_dot_product_attention(query.type_as(value), key.type_as(value), value, scale=1.0)
        result: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return result


def make_blocks(width: int, heads: int, mlp_ratio: float, rates: Iterable[float], cosine_attention: bool) -> nn.ModuleList:
    """Pre-norm blocks with LayerNorm eps 1e-6, one per stochastic depth rate.

    Args:
        width: width of the tokens.
        heads: attention heads.
        mlp_ratio: hidden width of the MLP over the width of the tokens.
        rates: stochastic depth rates.
        cosine_attention: see `CosineAttention`.
    """
    blocks = [Block(width, heads, mlp_ratio, qkv_bias=True, drop_path=rate, norm_layer=layer_norm) for rate in rates]
    if cosine_attention:
        for block in blocks:
            block.attn = CosineAttention(width, heads)
    return nn.ModuleList(blocks)


def scale_names(blocks: nn.ModuleList) -> set[str]:
    """Names of the scales of cosine attention, which have no weight decay; empty for ordinary attention."""
    return {f"blocks.{name}" for name, _ in blocks.named_parameters() if name.endswith("attn.scale")}
