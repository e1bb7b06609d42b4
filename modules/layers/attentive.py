"""Attentive poolers: a learned query attends to the tokens of an encoder, and becomes the input of a linear classifier.

Besides timm's pooler (`single`), these are the probes of V-JEPA (https://arxiv.org/abs/2404.08471) and V-JEPA 2
(https://arxiv.org/abs/2506.09985). Their outputs and gradients agree with the official code (tests/parity/test_vjepa_probe.py).
LayerNorms have PyTorch's eps of 1e-5, not the 1e-6 of the encoders, and there is none between the pooler and the linear layer.

Cost at the published sizes (ViT-L, width 1024), counted by hand: with 8 clips of 16 frames, one query attends to 8 * 1568 =
12,544 tokens. Their keys and values take 51 MB per view in bfloat16, and training the probe takes 2 % of the encoder's
operations, so the encoder decides time and memory. V-JEPA 2's three self-attention blocks see all tokens of the joined clips:
for 2 clips of 16 frames of 256 px, 4096 tokens, training them takes half as many operations as the frozen encoder.
"""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from timm.layers import AttentionPoolLatent, Mlp
from timm.models.vision_transformer import Block
from torch import Tensor, nn, zeros

from modules.backbones.vit.blocks import layer_norm
from modules.backbones.vit.vjepa_vit import init_jepa, rescale_blocks
from modules.core.errors import SettingError, check_positive, given

Form = Literal["single", "bare", "vjepa", "vjepa2"]
HEAD_CHANNELS = 64
"""Width of a head, if an encoder has no heads."""
PROBE_BLOCKS, PROBE_HEADS = 4, 16
"""Blocks and heads of V-JEPA 2's released probes (official code)."""
MLP_RATIO, STD = 4, 0.02


@dataclass
class AttentiveSettings:
    """Attention of a classifier in mode attentive, and the clips that it sees together.

    Args:
        form: `single` is timm's pooler: one query, then an MLP, all in float32. `vjepa` is V-JEPA's probe: a block of
            cross-attention; further blocks act on its output. `vjepa2` is V-JEPA 2's: self-attention blocks on the tokens, then
            the block of cross-attention. `bare` is the cross-attention of these without norm, residual connection and MLP.
        blocks: number of blocks, the one of cross-attention included; null takes 4 for `vjepa2`, and 1 otherwise.
        heads: attention heads; null takes 16 for `vjepa2`, the encoder's for `vjepa` and `bare` (as published), and one per 64
            channels for `single` or if the encoder has none.
        clips: clips of a video whose tokens are joined along time, so that the attention sees all of them at once; equal to
            data.clip.clips and data.views.segments. In training, the loss is averaged over the views of a video (copies of its
            clips), in tests its views (crops) are merged as usual. As published, there are no positions of clips.

    Raises:
        SettingError: if a number is not positive, or `single` or `bare` has several blocks.
    """

    form: Form = "single"
    blocks: int | None = None
    heads: int | None = None
    clips: int = 1

    def __post_init__(self) -> None:
        check_positive("model.attention", clips=self.clips, **given(blocks=self.blocks, heads=self.heads))
        if self.form in ("single", "bare") and self.blocks not in (None, 1):
            raise SettingError(
                f"model.attention.blocks is {self.blocks}, but form {self.form} has a single block; leave it out, or set "
                "model.attention.form to vjepa or vjepa2."
            )

    def heads_for(self, width: int, encoder_heads: int | None) -> int:
        """Number of heads for tokens of a width.

        Args:
            width: width of the tokens.
            encoder_heads: heads of the encoder; None if it has none.

        Raises:
            SettingError: if they do not divide the width.
        """
        each = width // HEAD_CHANNELS if width % HEAD_CHANNELS == 0 else 1
        usual = {"single": each, "vjepa2": PROBE_HEADS}.get(self.form, encoder_heads or each)
        heads = self.heads or usual
        if width % heads:
            raise SettingError(
                f"Tokens of width {width} cannot be divided among the {heads} heads of the attention; set "
                "model.attention.heads to a number that divides it."
            )
        return heads

    def make(self, width: int, encoder_heads: int | None) -> nn.Module:
        """The pooler: tokens [B, N, D] -> [B, D]. Arguments as in `heads_for`."""
        heads = self.heads_for(width, encoder_heads)
        if self.form == "single":
            return AttentionPoolLatent(width, num_heads=heads, norm_layer=layer_norm)
        return AttentivePooler(width, heads, self.form, self.blocks or (PROBE_BLOCKS if self.form == "vjepa2" else 1))


class CrossAttention(nn.Module):
    """Multi-head attention of queries to tokens, without a projection of the output.

    V-JEPA's official module has a layer `proj` that it does not use; only its files contain it.

    Args:
        width: width of queries and tokens.
        heads: attention heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        """[B, Q, D] and [B, N, D] -> [B, Q, D]"""
        asked = self.q(query).unflatten(2, (self.heads, -1)).transpose(1, 2)
        key, value = self.kv(tokens).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        result: Tensor = F.scaled_dot_product_attention(asked, key, value).transpose(1, 2).flatten(2)
        return result


class CrossAttentionBlock(nn.Module):
    """Cross-attention to normalised tokens, from a query that is not normalised, then an MLP, both with residual connections.

    Args:
        width: see `CrossAttention`.
        heads: see `CrossAttention`.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.xattn = CrossAttention(width, heads)
        self.mlp = Mlp(width, MLP_RATIO * width)

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        """[B, Q, D] and [B, N, D] -> [B, Q, D]"""
        query = query + self.xattn(query, self.norm1(tokens))
        result: Tensor = query + self.mlp(self.norm2(query))
        return result


class AttentivePooler(nn.Module):
    """The poolers of V-JEPA and V-JEPA 2: one learned query and a block of cross-attention, with or without further blocks.

    Initial weights are those of the official code: truncated normal with standard deviation 0.02, zero biases, and the last
    matrices of a block divided by the root of twice its number. V-JEPA counts from the cross-attention. V-JEPA 2 counts from
    the first self-attention, and its cross-attention has the number of the last one (not verified: read in a copy of its code).
    V-JEPA's official code cannot build several blocks, because of an error in this rule; here the intended rule is used.

    Args:
        width: width of the tokens, D.
        heads: attention heads of all blocks.
        form: `bare`, `vjepa` or `vjepa2`, see `AttentiveSettings`.
        blocks: number of blocks, the one of cross-attention included.
    """

    def __init__(self, width: int, heads: int, form: Form, blocks: int = 1) -> None:
        super().__init__()
        self.query = nn.Parameter(zeros(1, 1, width))
        self.cross = CrossAttention(width, heads) if form == "bare" else CrossAttentionBlock(width, heads)
        # Different names, so that weights of one form are not taken for those of the other.
        before, after = (blocks - 1, 0) if form == "vjepa2" else (0, blocks - 1)
        self.token_blocks, self.query_blocks = (
            nn.ModuleList(Block(width, heads, MLP_RATIO, qkv_bias=True, norm_layer=nn.LayerNorm) for _ in range(count))
            for count in (before, after)
        )
        nn.init.trunc_normal_(self.query, std=STD)
        init_jepa(self, self.token_blocks, rescale=True)
        if isinstance(self.cross, CrossAttentionBlock):
            self.cross.mlp.fc2.weight.data.div_((2 * max(1, before)) ** 0.5)
        rescale_blocks(self.query_blocks, first=2)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, D] -> [B, D]"""
        for block in self.token_blocks:
            tokens = block(tokens)
        # Not len(tokens), which would fix the size of the batch in an exported program.
        query = self.cross(self.query.expand(tokens.shape[0], -1, -1), tokens)
        for block in self.query_blocks:
            query = block(query)
        result: Tensor = query[:, 0]
        return result


def join_clips(features: Tensor, clips: int) -> Tensor:
    """Join the tokens of a video's clips along time.

    Args:
        features: [B, V, ...], all views of each video; for several clips, tokens [B, V, n, D], where the views of one clip
            (copies or crops) are next to each other, as in the data.
        clips: number of clips, C.

    Returns:
        [B, V / C, C * n, D]; for one clip, the features themselves.

    Raises:
        SettingError: if the views are not those of so many clips.
    """
    if clips == 1:
        return features
    if features.shape[1] % clips:
        raise SettingError(
            f"model.attention.clips is {clips}, but a video has {features.shape[1]} view(s); set data.clip.clips to {clips}, "
            "and data.views.segments too."
        )
    result: Tensor = features.unflatten(1, (clips, -1)).transpose(1, 2).flatten(2, 3)
    return result
