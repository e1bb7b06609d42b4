"""Video vision transformer of V-JEPA (https://arxiv.org/abs/2404.08471) and V-JEPA 2 (https://arxiv.org/abs/2506.09985).

It is `VideoViT` with other positions: fixed sin-cos codes that are factorised over time, rows and columns (V-JEPA), or rotary
positions in every block (V-JEPA 2, `rotary.py`). There is no class token. Its rows of tokens may be padded: `valid` marks the
tokens that others attend to.

Outputs agree with the official code (tests/parity/test_vjepa.py). Differences that change none:

* the patch embedding is a Linear instead of a Conv3d, and positions are a buffer instead of a parameter without gradient;
* angles of rotary positions are computed once per pass, in float32, instead of in every block in the precision of the tokens.
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from modules.backbones.checks import check_video
from modules.backbones.intermediates import Layers
from modules.backbones.pixels import PixelInput
from modules.backbones.vit.blocks import drop_path_rates, make_blocks
from modules.backbones.vit.positions import resize_positions, sincos_positions_3d
from modules.backbones.vit.rotary import RotaryBlock, places_of, rotated_channels, rotation
from modules.backbones.vit.video_vit import VideoViT
from modules.core.errors import SettingError
from modules.core.loading import load_strictly
from modules.core.preprocessing import Normalisation, Origin, say
from modules.core.tokens import Grid, Pooling
from modules.weights.files import Checkpoint, read_checkpoint
from modules.weights.names.vjepa import CODE_NUMBER, KINDS, Codes, encoder_weights, is_vjepa, table_of
from modules.weights.origin import origin_of
from modules.weights.passport import check_heads
from modules.weights.sizes import Size

ROTARY: tuple[Codes, ...] = ("rotary", "tiled_rotary")


def position_table(kind: Codes, trained: Grid, grid: Grid, dim: int) -> Tensor:
    """Added positions float32 [1, N, dim], interpolated from those of the pretraining grid; empty for rotary ones."""
    if kind in ROTARY:
        return torch.empty(0)
    return resize_positions(sincos_positions_3d(trained, dim, uniform=kind == "sincos"), trained, grid)


def read_table(table: Tensor) -> tuple[Codes, tuple[int, int]] | tuple[None, None]:
    """The kind of a table of positions [1, N, D] of square clips, and its slices and side; None if it is of no known kind."""
    tokens, width = table.shape[1:]
    for t in range(1, tokens + 1):
        side = math.isqrt(tokens // t)
        for kind in ("sincos", "sincos_half"):
            grid = Grid(t, side, side, 1, 1)
            if grid.tokens == tokens:
                own = sincos_positions_3d(grid, width, uniform=kind == "sincos")
                if own.shape == table.shape and torch.allclose(own, table.float(), atol=1e-5):
                    return kind, (t, side)
    return None, None


def turn_of(kind: Codes, grid: Grid, index: Tensor | None, head_width: int, device: torch.device) -> Tensor | None:
    """Angles of rotary positions of tokens int64 [B, N], or of all tokens of the grid; None for added positions."""
    if kind not in ROTARY:
        return None
    if index is None:
        index = torch.arange(grid.tokens, device=device)[None]
    return rotation(places_of(grid, index), head_width, tiled=kind == "tiled_rotary")


def make_jepa_blocks(kind: Codes, width: int, heads: int, mlp_ratio: float, rates: Iterable[float]) -> nn.ModuleList:
    """Blocks for a kind of positions, one per stochastic depth rate.

    Raises:
        SettingError: if heads are too narrow for rotary positions.
    """
    if kind not in ROTARY:
        return make_blocks(width, heads, mlp_ratio, rates, cosine_attention=False)
    if not rotated_channels(width // heads):
        raise SettingError(
            f"Heads of {width // heads} channels are too narrow for rotary positions, which need 6 or more; set fewer heads "
            f"for a width of {width} (model.backbone.num_heads, model.predictor.heads)."
        )
    return nn.ModuleList(RotaryBlock(width, heads, mlp_ratio, rate) for rate in rates)


def attend_to(valid: Tensor | None) -> Tensor | None:
    """Mask of attention bool [B, 1, 1, N] for rows of which only some tokens are valid, bool [B, N]."""
    return None if valid is None else valid[:, None, None]


def init_jepa(module: nn.Module, blocks: nn.ModuleList, rescale: bool) -> None:
    """Initial weights of V-JEPA (official code): truncated normal with standard deviation 0.02, zero biases.

    Args:
        module: module with linear layers.
        blocks: its blocks.
        rescale: divide the last matrices of attention and MLP of block i by sqrt(2 * i), counted from 1. V-JEPA 2 does.
            V-JEPA does too, and then initialises all linear layers again, which undoes it.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            nn.init.zeros_(part.bias)
    if rescale:
        rescale_blocks(blocks)


def rescale_blocks(blocks: nn.ModuleList, first: int = 1) -> None:
    """Divide the last matrices of attention and MLP of each block by the root of twice its number, counted from `first`."""
    for number, block in enumerate(blocks, first):
        attention: Any = block.attn
        mlp: Any = block.mlp
        for matrix in (attention.proj.weight, mlp.fc2.weight):
            matrix.data.div_((2 * number) ** 0.5)


def check_codes(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Compare the positions of a network with those that weights were trained with, before these are loaded.

    Raises:
        SettingError: if they are of another kind.
    """
    number, own = state_dict.get(f"{prefix}{CODE_NUMBER}"), module.code_kind
    if number is not None and KINDS[int(number)] != own:
        raise SettingError(
            f"The weights were trained with positions of the kind {KINDS[int(number)]}, but model.backbone.codes is {own}; set "
            f"it to {KINDS[int(number)]}."
        )


class VJEPAViT(VideoViT):
    """Video vision transformer of V-JEPA and V-JEPA 2 (encoder).

    It accepts clips of any length and size, like `VideoViT`. Sin-cos codes are interpolated to them; rotary positions need
    no interpolation.

    Args:
        size: see `VideoViT`. V-JEPA has large and huge; V-JEPA 2 large, huge, and giant with 22 heads and patches of 16.
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
        codes: kind of positions: `sincos` (V-JEPA) or `sincos_half`, where time has half of the channels; `tiled_rotary`
            (V-JEPA 2 as released) or `rotary`, where both channels of a pair have the same angle (see `rotary.py`).
        rescale_init: divide the last matrices of block i by sqrt(2 * i) at the start; null does so for rotary positions
            only, as published.
        pooling: see `VideoViT`.
        checkpoint: file with encoder weights: ours, or an official .pt of V-JEPA or V-JEPA 2, of which the target encoder is
            used.
        normalisation: see `VideoViT`.
        pretrained_frames: see `VideoViT`.
        pretrained_size: see `VideoViT`.

    Raises:
        SettingError: if sizes do not divide, or the checkpoint does not fit.
    """

    def __init__(
        self,
        size: Size = "large",
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
        codes: Codes = "sincos",
        rescale_init: bool | None = None,
        pooling: Pooling = "mean",
        checkpoint: str | None = None,
        normalisation: Normalisation | None = None,
        pretrained_frames: int | None = None,
        pretrained_size: int | None = None,
    ) -> None:
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
            pooling=pooling,
            normalisation=normalisation,
            pretrained_frames=pretrained_frames,
            pretrained_size=pretrained_size,
        )
        self.code_kind = codes
        # In the weights, so that they are not used with other positions.
        self.register_buffer(CODE_NUMBER, torch.tensor(KINDS.index(codes)))
        self.register_load_state_dict_pre_hook(check_codes)  # type: ignore[no-untyped-call]
        self.rescales = codes in ROTARY if rescale_init is None else rescale_init
        rates = drop_path_rates(drop_path, len(self.blocks))
        self.blocks = make_jepa_blocks(codes, self.embed_dim, self.num_heads, self.mlp_ratio, rates)
        self.positions = self.codes(self.grid)
        init_jepa(self, self.blocks, self.rescales)
        if checkpoint is not None:
            content = read_checkpoint(checkpoint, "model.backbone.checkpoint")
            origin = self.origin(checkpoint, content)
            # Official files do not name their positions. A network that was fine-tuned with averaged tokens has no final norm.
            may_miss = ("norm.", CODE_NUMBER) if is_vjepa(content.weights) else ("norm.",)
            load_strictly(self, encoder_weights(content.weights), checkpoint, may_miss)
            check_heads(checkpoint, "model.backbone.checkpoint", self.num_heads)
            say(self.adopt(origin))

    def origin(self, path: str, content: Checkpoint) -> Origin:
        """Facts about a file of V-JEPA; the size of its clips follows from its table of positions, if it has one.

        Args:
            path: the file.
            content: its content.

        Raises:
            SettingError: if its positions are of another kind than the network's.
        """
        origin = origin_of(path, content)
        if not is_vjepa(content.weights):
            return origin
        table = table_of(content.weights)
        kind, grid = (None, None) if table is None else read_table(table)
        right = kind or ("tiled_rotary" if table is None else "sincos")
        if (table is None) != (self.code_kind in ROTARY) or (kind is not None and kind != self.code_kind):
            has = "no table of positions" if table is None else "a table of positions"
            raise SettingError(f"{path} has {has}, but model.backbone.codes is {self.code_kind}; set it to {right}.")
        if grid is None:
            return origin
        return replace(origin, frames=grid[0] * self.grid.tubelet, size=grid[1] * self.grid.patch)

    def adopt(self, origin: Origin) -> list[str]:
        """See `VideoViT.adopt`. Rotary positions need no sizes of earlier clips."""
        return PixelInput.adopt(self, origin) if self.code_kind in ROTARY else super().adopt(origin)

    def codes(self, grid: Grid) -> Tensor:
        """See `VideoViT.codes`; empty for rotary positions."""
        return position_table(self.code_kind, self.trained_grid, grid, self.embed_dim)

    def turn(self, grid: Grid, visible: Tensor | None) -> Tensor | None:
        """Angles of rotary positions; None for added positions."""
        head_width = self.embed_dim // self.num_heads
        return turn_of(self.code_kind, grid, visible, head_width, self.patch_embed.weight.device)

    def embed_tokens(self, cubes: Tensor, grid: Grid, visible: Tensor | None = None) -> Tensor:
        """See `VideoViT.embed_tokens`; rotary positions are not added."""
        if self.code_kind not in ROTARY:
            return super().embed_tokens(cubes, grid, visible)
        tokens: Tensor = self.patch_embed(cubes)
        return tokens

    def encode(
        self, cubes: Tensor, grid: Grid, visible: Tensor | None = None, norm: bool = True, valid: Tensor | None = None
    ) -> Tensor:
        """See `VideoViT.encode`.

        Args:
            cubes: see `VideoViT.encode`.
            grid: see `VideoViT.encode`.
            visible: see `VideoViT.encode`.
            norm: see `VideoViT.encode`.
            valid: bool [B, Nv], False for padding, to which no token attends; None if there is none.
        """
        tokens = self.embed_tokens(cubes, grid, visible)
        turn = self.turn(grid, visible)
        more = (attend_to(valid),) if turn is None else (attend_to(valid), turn)
        return self.transform(tokens, norm, *more)

    def layers(self, clip: Tensor) -> Layers:
        """See `Layered.layers`; the grid is [B, D, t, h, w]."""
        layers = super().layers(clip)
        check_video(clip, self.patch_embed.weight, type(self).__name__)
        turn = self.turn(self.clip_grid(clip), None)
        if turn is None:
            return layers
        return layers._replace(blocks=[partial(block, attn_mask=None, turn=turn) for block in self.blocks])
