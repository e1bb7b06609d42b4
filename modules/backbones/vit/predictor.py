"""The predictor of V-JEPA and V-JEPA 2: a narrow transformer that predicts features of masked tokens from those of others.

Its parts have the official names. Outputs agree with the official code (tests/parity/test_vjepa.py). V-JEPA 2 sorts the tokens;
here the context comes first, which changes none.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from modules.backbones.vit.blocks import layer_norm
from modules.backbones.vit.vjepa_vit import VJEPAViT, attend_to, init_jepa, make_jepa_blocks, position_table, turn_of
from modules.core.errors import SettingError, check_positive, given
from modules.core.tokens import gather_tokens


@dataclass
class PredictorSettings:
    """Size of the predictor, and what its mask tokens stand for.

    Args:
        depth: number of blocks.
        dim: width.
        heads: attention heads; null uses the encoder's, as in V-JEPA. V-JEPA 2 has 12.
        token_of: `mask`: one mask token per set of masks (V-JEPA); `length`: one per length of clips (V-JEPA 2). As all clips
            of a run are equally long, only the first is then used, and others are not trained.
        tokens: number of mask tokens in the weights; null takes as many as are used.
        recompute_blocks: trade compute for memory: activations of blocks are recomputed in the backward pass.
    """

    depth: int = 12
    dim: int = 384
    heads: int | None = None
    token_of: Literal["mask", "length"] = "mask"
    tokens: int | None = None
    recompute_blocks: bool = False

    def __post_init__(self) -> None:
        check_positive("model.predictor", depth=self.depth, dim=self.dim, **given(heads=self.heads, tokens=self.tokens))


class VJEPAPredictor(nn.Module):
    """Predictor of V-JEPA.

    Args:
        encoder: encoder whose features are predicted; it defines the token grid, the MLP ratio and the kind of positions.
        sets: number of sets of masks.
        settings: size of the predictor.

    Raises:
        SettingError: if the width is not a multiple of the heads, or there are fewer mask tokens than are used.
    """

    def __init__(self, encoder: VJEPAViT, sets: int, settings: PredictorSettings) -> None:
        super().__init__()
        self.recompute_blocks, self.codes, self.grid = settings.recompute_blocks, encoder.code_kind, encoder.grid
        self.embed_dim, self.num_heads = settings.dim, settings.heads or encoder.num_heads
        if self.embed_dim % self.num_heads:
            raise SettingError(
                f"The predictor's width {self.embed_dim} is not a multiple of its {self.num_heads} heads; set "
                "model.predictor.dim or model.predictor.heads."
            )
        self.used = sets if settings.token_of == "mask" else 1
        tokens = settings.tokens or self.used
        if tokens < self.used:
            raise SettingError(
                f"model.predictor.tokens is {tokens}, but {self.used} mask tokens are used; set it to null, or token_of to "
                "length."
            )
        self.predictor_embed = nn.Linear(encoder.embed_dim, self.embed_dim)
        self.mask_tokens = nn.ParameterList(
            nn.Parameter(torch.zeros(1, 1, self.embed_dim), requires_grad=number < self.used) for number in range(tokens)
        )
        rates = [0.0] * settings.depth
        self.predictor_blocks = make_jepa_blocks(self.codes, self.embed_dim, self.num_heads, encoder.mlp_ratio, rates)
        self.predictor_norm = layer_norm(self.embed_dim)
        self.predictor_proj = nn.Linear(self.embed_dim, encoder.embed_dim)
        self.register_buffer("positions", torch.empty(0), persistent=False)
        self.positions: Tensor
        self.follow(encoder)
        init_jepa(self, self.predictor_blocks, encoder.rescales)

    def follow(self, encoder: VJEPAViT) -> None:
        """Update added positions to the grids of the encoder."""
        table = position_table(self.codes, encoder.trained_grid, encoder.grid, self.embed_dim)
        self.positions = table.to(encoder.positions)

    def compiled_parts(self) -> list[nn.Module]:
        """Modules to compile: the blocks."""
        return list(self.predictor_blocks)

    def no_weight_decay(self) -> set[str]:
        """Nothing besides biases and one-dimensional parameters: mask tokens decay (official code)."""
        return set()

    def forward(self, tokens: Tensor, visible: Tensor, masked: Tensor, number: int, valid: Tensor | None = None) -> Tensor:
        """Predict the features of tokens.

        Args:
            tokens: [B, Nv, De], features of the context.
            visible: int64 [B, Nv], indices of the context.
            masked: int64 [B, Nm], indices of the tokens to predict.
            number: index of the set of masks.
            valid: bool [B, Nv + Nm], False for padding, to which no token attends; None if there is none.

        Returns:
            [B, Nm, De] in the order of `masked`; meaningless at padding.
        """
        context, hidden = self.predictor_embed(tokens), self.mask_tokens[number if self.used > 1 else 0]
        hidden = hidden.to(context.dtype).expand(*masked.shape, -1)
        if self.positions.numel():
            positions = self.positions.expand(len(tokens), -1, -1)
            context = context + gather_tokens(positions, visible)
            hidden = hidden + gather_tokens(positions, masked)
        sequence = torch.cat([context, hidden], dim=1)
        index = torch.cat([visible, masked], dim=1)
        turn = turn_of(self.codes, self.grid, index, self.embed_dim // self.num_heads, index.device)
        more = (attend_to(valid),) if turn is None else (attend_to(valid), turn)
        again = self.recompute_blocks and self.training
        for block in self.predictor_blocks:
            sequence = recompute(block, sequence, *more, use_reentrant=False) if again else block(sequence, *more)
        result: Tensor = self.predictor_proj(self.predictor_norm(sequence[:, visible.shape[1] :]))
        return result
