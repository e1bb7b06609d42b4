"""The decoder of LV-MAE: from encoded visible steps of a sequence to the features of others."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from modules.backbones.sequence.transformer import SequenceTransformer, key_mask, step_positions
from modules.backbones.vit.blocks import init_blocks, layer_norm, make_blocks
from modules.backbones.vit.decoder import DecoderSettings
from modules.core.errors import SettingError
from modules.core.tokens import gather_tokens


class SequenceDecoder(nn.Module):
    """Transformer on complete sequences: encoded steps where they are visible, a mask token elsewhere (MAE).

    It has its own sin-cos positions, and the encoder's class token comes first.

    Args:
        encoder: encoder whose tokens are decoded; it defines the longest sequence and the width of the features.
        settings: size of the decoder.

    Raises:
        SettingError: if the width is odd.
    """

    def __init__(self, encoder: SequenceTransformer, settings: DecoderSettings) -> None:
        super().__init__()
        self.embed_dim, self.num_heads = settings.sizes(encoder)
        if self.embed_dim % 2:
            raise SettingError(f"model.decoder.dim is {self.embed_dim}; positions need an even width.")
        self.recompute_blocks = settings.recompute_blocks
        self.embed = nn.Linear(encoder.embed_dim, self.embed_dim)
        self.mask_token = nn.Parameter(nn.init.normal_(torch.empty(1, 1, self.embed_dim), std=0.02))
        self.blocks = make_blocks(self.embed_dim, self.num_heads, encoder.mlp_ratio, [0.0] * settings.depth, False)
        self.norm = layer_norm(self.embed_dim)
        self.head = nn.Linear(self.embed_dim, encoder.input_dim)
        self.register_buffer("positions", step_positions(encoder.max_steps, self.embed_dim), persistent=False)
        self.positions: Tensor
        init_blocks(self)

    def compiled_parts(self) -> list[nn.Module]:
        """Modules to compile: the blocks."""
        return list(self.blocks)

    def forward(self, tokens: Tensor, visible: Tensor, seen: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
        """Predict the features of some steps.

        Args:
            tokens: [B, 1 + Nv, De], encoded class token and visible steps.
            visible: int64 [B, Nv], indices of the visible steps.
            seen: bool [B, Nv], which of them are no padding.
            targets: int64 [B, Nt], indices of the steps to predict.
            valid: bool [B, S], which steps of the sequences are no padding.

        Returns:
            [B, Nt, F] in the order of the targets.
        """
        tokens = self.embed(tokens)
        steps = valid.shape[1]
        # Padding among the visible steps goes behind the sequence, which is cut off.
        place = visible.masked_fill(~seen, steps)
        empty = self.mask_token.to(tokens.dtype).expand(len(tokens), steps + 1, -1)
        filled = empty.scatter(1, place[..., None].expand(-1, -1, self.embed_dim), tokens[:, 1:])[:, :steps]
        sequence = torch.cat([tokens[:, :1], filled], 1) + self.positions[:, : 1 + steps]
        again, keys = self.recompute_blocks and self.training, key_mask(valid)
        for block in self.blocks:
            sequence = recompute(block, sequence, keys, use_reentrant=False) if again else block(sequence, attn_mask=keys)
        wanted = gather_tokens(sequence[:, 1:], targets)
        result: Tensor = self.head(self.norm(wanted))
        return result
