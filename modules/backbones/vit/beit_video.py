"""BEiT on the frames of a clip, with temporal attention: the video encoder of VindLU.

Network of VindLU (https://arxiv.org/abs/2212.05051, official code): BEiT (https://arxiv.org/abs/2106.08254) encodes each
frame with relative position biases and layer scale. A learned embedding of the frame's position is added to all its tokens.
After each block, every spatial position attends to the same position in all frames (`TemporalAttention`). The output is scaled
by a learned factor that starts at 0, so that a new tower is equal to BEiT on each frame.

The blocks are timm's with LayerNorm eps 1e-12, and the patch embedding is a Linear, with equal results. A layer of the official
temporal module that is never used is left out.
"""

import math
from functools import partial
from typing import Any

import torch
from timm.layers.drop import DropPath
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table
from timm.models.beit import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from modules.backbones.checks import check_video
from modules.backbones.intermediates import Layered, Layers
from modules.backbones.pixels import PixelInput
from modules.backbones.vit.blocks import first_std
from modules.core.errors import SettingError, check_positive, check_range
from modules.core.loading import load_strictly
from modules.core.preprocessing import HALF, Normalisation, say
from modules.core.tokens import Grid, patchify
from modules.weights.files import read_checkpoint
from modules.weights.names.beit import TABLE, from_official
from modules.weights.origin import origin_of
from modules.weights.sizes import Size, choose_sizes

TEMPORAL_HEAD = 64
layer_norm: Any = partial(nn.LayerNorm, eps=1e-12)


class TemporalAttention(nn.Module):
    """Attention of each spatial position over the frames, added with a learned scale.

    Args:
        width: width of the tokens; each head has 64 channels.
        drop_path: stochastic depth rate.
        scale: initial value of the scale.
    """

    def __init__(self, width: int, drop_path: float = 0.0, scale: float = 0.0) -> None:
        super().__init__()
        self.norm = layer_norm(width)
        self.attn = nn.MultiheadAttention(width, max(1, width // TEMPORAL_HEAD), batch_first=True)
        self.scale = nn.Parameter(torch.tensor(scale))
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T, N, D] -> [B, T, N, D]; a single frame is unchanged."""
        b, t, n, d = tokens.shape
        if t == 1:
            return tokens
        rows = self.norm(tokens).transpose(1, 2).reshape(b * n, t, d)
        mixed = self.attn(rows, rows, rows, need_weights=False)[0]
        result: Tensor = tokens + self.scale * self.drop_path(mixed).view(b, n, t, d).transpose(1, 2)
        return result


class BEiTVideo(PixelInput, Layered, nn.Module):
    """BEiT with temporal attention.

    Args:
        size: preset of width, depth and heads: micro 96/4/3, tiny 192/12/3, small 384/12/6, base 768/12/12,
            large 1024/24/16, huge 1280/32/16, giant 1408/40/16.
        image_size: side of the square clips in pixels; must equal data.clip.size.
        num_frames: frames per clip; must equal data.clip.frames.
        patch_size: side of a token in pixels; null uses the preset's: 14 for giant, 16 for all others.
        embed_dim: width; null uses the preset's.
        depth: number of blocks; null uses the preset's.
        num_heads: attention heads; null uses the preset's.
        mlp_ratio: hidden width of the MLP over the token width; null uses the preset's: 48/11 for giant, 4 for all others.
        drop_path: stochastic depth rate of the last block; the rate grows linearly from 0 in the first one.
        layer_scale: initial value of the layer scale.
        temporal_scale: initial value of the scale of temporal attention. With 0 (VindLU), the network initially encodes each
            frame separately, like the image network it is initialised from. From random weights, it then hardly learns motion;
            use 1, which also initialises the frame positions randomly.
        recompute_blocks: trade compute for memory: activations of blocks are recomputed in the backward pass.
        checkpoint: file with weights: a .safetensors or .ckpt of this project, VindLU's .pth, or BEiT's, from its authors, timm
            or transformers. With BEiT's weights, the temporal parts are newly initialised. Positions of clips of another size
            are adapted: see `fit_positions`.
        normalisation: normalisation of the clips; null uses that of the weights, or a mean and standard deviation of 0.5 if the
            file does not record it.

    Raises:
        SettingError: if sizes do not divide, or the checkpoint does not fit.
    """

    usual_normalisation = HALF

    def __init__(
        self,
        size: Size = "base",
        image_size: int = 224,
        num_frames: int = 8,
        patch_size: int | None = None,
        embed_dim: int | None = None,
        depth: int | None = None,
        num_heads: int | None = None,
        mlp_ratio: float | None = None,
        drop_path: float = 0.1,
        layer_scale: float = 0.1,
        temporal_scale: float = 0.0,
        recompute_blocks: bool = False,
        checkpoint: str | None = None,
        normalisation: Normalisation | None = None,
    ) -> None:
        super().__init__()
        check_positive("model.backbone", num_frames=num_frames)
        check_range("model.backbone", 0, 1, drop_path=drop_path)
        instead = {"embed_dim": embed_dim, "depth": depth, "num_heads": num_heads, "patch_size": patch_size}
        chosen = choose_sizes(size, image_size, **instead, mlp_ratio=mlp_ratio)
        self.embed_dim, depth, heads, patch_size, mlp_ratio = chosen
        temporal = max(1, self.embed_dim // TEMPORAL_HEAD)
        if self.embed_dim % temporal:
            raise SettingError(
                f"model.backbone.embed_dim {self.embed_dim} is not a multiple of {temporal}, the number of temporal heads of "
                f"{TEMPORAL_HEAD}; change it."
            )
        self.image_size, self.num_frames, self.recompute_blocks = image_size, num_frames, recompute_blocks
        self.feed(normalisation)
        side = image_size // patch_size
        self.grid = Grid(num_frames, side, side, 1, patch_size)
        self.patch_embed = nn.Linear(3 * self.grid.token_pixels, self.embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.embed_dim))
        self.frame_positions = nn.Parameter(torch.zeros(1, num_frames, 1, self.embed_dim))
        rates = [drop_path * block / max(1, depth - 1) for block in range(depth)]
        block = partial(Block, self.embed_dim, heads, True, mlp_ratio, init_values=layer_scale, norm_layer=layer_norm)
        self.blocks = nn.ModuleList(block(drop_path=rate, window_size=(side, side)) for rate in rates)
        self.temporal = nn.ModuleList(TemporalAttention(self.embed_dim, rate, temporal_scale) for rate in rates)
        self.norm, self.pool_norm = layer_norm(self.embed_dim), layer_norm(self.embed_dim)
        std = first_std(self.embed_dim)
        self.apply(partial(_init, std=std))
        nn.init.trunc_normal_(self.cls_token, std=std)
        if temporal_scale:
            nn.init.trunc_normal_(self.frame_positions, std=std)
        if checkpoint is not None:
            content = read_checkpoint(checkpoint, "model.backbone.checkpoint")
            fresh = ("frame_positions", "temporal.", "norm.", "pool_norm.")
            weights = fit_positions(from_official(content.weights), self, checkpoint)
            load_strictly(self, weights, checkpoint, may_miss=fresh, may_leave=HEADS)
            say(self.adopt(origin_of(checkpoint, content)))

    def encode(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Encode clips.

        Args:
            video: float [B, 3, T, H, W], output of `preprocess`, with T at most `num_frames`.

        Returns:
            tokens [B, T, 1 + N, D] after a LayerNorm, the class token first; and the frames' features [B, T, D], which are the
            LayerNorm of the mean of the other tokens.

        Raises:
            SettingError: if these are not normalised clips, have more frames than `num_frames`, or have another size.
        """
        tokens = self._begin(video)
        for block, temporal in zip(self.blocks, self.temporal, strict=True):
            if self.recompute_blocks and self.training:
                tokens = recompute(_space_time, block, temporal, tokens, use_reentrant=False)
            else:
                tokens = _space_time(block, temporal, tokens)
        return self.norm(tokens), self.pool_norm(tokens[:, :, 1:].mean(dim=2))

    def _begin(self, video: Tensor) -> Tensor:
        """Input of the first block: [B, 3, T, H, W] -> [B, T, 1 + N, D]."""
        check_video(video, self.patch_embed.weight, type(self).__name__)
        b, frames = video.shape[0], video.shape[2]
        if not 1 <= frames <= self.num_frames:
            raise SettingError(
                f"Clips have {frames} frames, but this {type(self).__name__} has positions for {self.num_frames}; pass that "
                "many or fewer, or set model.backbone.num_frames (num_frames of load_backbone)."
            )
        grid = self.grid._replace(t=frames)
        cubes = patchify(video, grid).flatten(2).unflatten(1, (frames, grid.slice_tokens))
        patches = self.patch_embed(cubes)
        first = self.cls_token[:, None].expand(b, frames, -1, -1).to(patches.dtype)
        return torch.cat([first, patches], dim=2) + self.frame_positions[:, :frames]

    def layers(self, clip: Tensor) -> Layers:
        """See `Layered.layers`; the grid is [B, D, T, h, w], without the class tokens."""
        pairs = zip(self.blocks, self.temporal, strict=True)

        def as_grid(tokens: Tensor, norm: bool) -> Tensor:
            patches: Tensor = (self.norm(tokens) if norm else tokens)[:, :, 1:].movedim(3, 1)
            return torch.unflatten(patches, 3, self.grid[1:3])

        def features(tokens: Tensor) -> Tensor:
            patches: Tensor = self.norm(tokens)[:, :, 1:]
            return patches.flatten(1, 2)

        return Layers(self._begin(clip), [partial(_space_time, *pair) for pair in pairs], as_grid, features)

    def forward_features(self, video: Tensor) -> Tensor:
        """Tokens of the patches: [B, 3, T, H, W] -> [B, T * N, D], in the order t, h, w."""
        return self.encode(video)[0][:, :, 1:].flatten(1, 2)

    def forward(self, video: Tensor) -> Tensor:
        """Mean of the frames' features: [B, 3, T, H, W] -> [B, D]."""
        return self.encode(video)[1].mean(dim=1)

    def compiled_parts(self) -> list[nn.Module]:
        """Modules to compile: the blocks and temporal attention."""
        return [*self.blocks, *self.temporal]

    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay, in addition to biases and one-dimensional parameters."""
        tables = {f"blocks.{number}.attn.relative_position_bias_table" for number in range(len(self.blocks))}
        return tables | {"cls_token", "frame_positions"}

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Parameters grouped by layer, for layer-wise learning-rate decay: embedding, each block, norms."""
        return [
            [*self.patch_embed.parameters(), self.cls_token, self.frame_positions],
            *([*one.parameters(), *two.parameters()] for one, two in zip(self.blocks, self.temporal, strict=True)),
            [*self.norm.parameters(), *self.pool_norm.parameters()],
        ]


def _space_time(block: nn.Module, temporal: nn.Module, tokens: Tensor) -> Tensor:
    """A block on each frame, then temporal attention: [B, T, N, D]."""
    result: Tensor = temporal(block(tokens.flatten(0, 1)).view_as(tokens))
    return result


def _init(part: nn.Module, std: float) -> None:
    if isinstance(part, nn.Linear):
        nn.init.trunc_normal_(part.weight, std=std)
        if part.bias is not None:
            nn.init.zeros_(part.bias)


# --- Weights of VindLU and BEiT ---

HEADS = ("head.", "lm_head.", "mask_token")
CLASS_BIASES = 3
"""rows of a table of position biases that belong to the class token"""


def fit_frames(weights: dict[str, Tensor], frames: int) -> dict[str, Tensor]:
    """Cut the frame positions, or append zeros (VindLU, official code).

    Args:
        weights: weights of a `BEiTVideo`; unchanged if they have no frame positions.
        frames: number of frames of the network that loads them.
    """
    if "frame_positions" not in weights:
        return weights
    given = weights["frame_positions"][:, :frames]
    fitted = given.new_zeros(1, frames, *given.shape[2:])
    fitted[:, : given.shape[1]] = given
    return weights | {"frame_positions": fitted}


def _is_square(table: Tensor, length: int) -> bool:
    """Whether a table of position biases belongs to square frames, but has another length than `length`."""
    offsets = len(table) - CLASS_BIASES
    return len(table) != length and table.ndim == 2 and offsets > 0 and math.isqrt(offsets) ** 2 == offsets


def fit_positions(weights: dict[str, Tensor], network: BEiTVideo, source: str) -> dict[str, Tensor]:
    """Adapt positions to a network with another number of frames or another image size, and print what was changed.

    Frame positions are cut, or zeros are appended (VindLU, official code). Relative position biases are resampled over rows and
    columns (on a geometric grid, as in BEiT's official code).

    Args:
        weights: weights of a `BEiTVideo`; unchanged if they have no positions.
        network: network that loads them.
        source: file, for messages.
    """
    fitted, lines = fit_frames(weights, network.num_frames), []
    given = weights["frame_positions"].shape[1] if "frame_positions" in weights else network.num_frames
    if given != network.num_frames:
        done = "the last ones are left out" if given > network.num_frames else "zeros follow"
        lines.append(f"{source} has positions of {given} frames, the network of {network.num_frames}: {done}.")
    tables = {key: value for key, value in network.state_dict().items() if key.endswith(TABLE)}
    other = [key for key, table in tables.items() if key in weights and _is_square(weights[key], len(table))]
    fitted |= {key: resize_rel_pos_bias_table(weights[key], network.grid[1:3], tables[key].shape) for key in other}
    if other:
        side = network.image_size
        lines.append(f"Relative position biases of {source} are resampled over rows and columns to frames of {side} px.")
    say(lines)
    return fitted
