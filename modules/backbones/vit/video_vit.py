"""Video vision transformer with tubelet tokens.

Network of VideoMAE (https://arxiv.org/abs/2203.12602, official code): cubes of `tubelet_size` x `patch_size` x `patch_size`
pixels become tokens in the order t, h, w; fixed sin-cos position codes of the flattened token index; pre-norm blocks with
LayerNorm eps 1e-6; no class token. VideoMAE V2 (https://arxiv.org/abs/2303.16727) has the same network at larger sizes, and an
option for cosine attention, which its recipes do not use.

Deviations from the official code, none of which changes an output:

* The blocks are timm's, which have a key bias, unlike the official ones. A key bias adds the same number to all logits of a
  query, so it does not change the softmax and its gradient is zero. q_bias, 0 and v_bias are fused into one bias
  (`from_official`).
* The patch embedding is a Linear over flattened cubes instead of a Conv3d with equal kernel and stride. The results are equal,
  and masked cubes need not be embedded.
* Positions are a buffer on the device, not an attribute that is copied in each step.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from modules.backbones.checks import check_video
from modules.backbones.intermediates import Layered, Layers
from modules.backbones.pixels import PixelInput
from modules.backbones.vit.blocks import drop_path_rates, init_blocks, layer_norm, make_blocks, scale_names
from modules.backbones.vit.positions import position_codes
from modules.core.errors import SettingError, check_positive, check_range
from modules.core.loading import load_strictly
from modules.core.preprocessing import Normalisation, Origin, say
from modules.core.tokens import Grid, Pooling, gather_rounds, gather_tokens, patchify, pool_tokens
from modules.weights.files import read_checkpoint
from modules.weights.names.videomae import encoder_weights
from modules.weights.origin import origin_of_encoder
from modules.weights.passport import check_heads
from modules.weights.sizes import Size, choose_sizes

MOST_GRIDS = 32
"""Maximum number of further grids whose position codes are cached."""


class VideoViT(PixelInput, Layered, nn.Module):
    """Video vision transformer (encoder).

    It accepts clips of any length and size, also not square, that are multiples of the token's. For sizes other than those of
    the settings, position codes are interpolated.

    Args:
        size: preset of width, depth and heads: micro 96/4/3, tiny 192/12/3, small 384/12/6, base 768/12/12,
            large 1024/24/16, huge 1280/32/16, giant 1408/40/16 (VideoMAE V2's ViT-g; 1,011,610,752 parameters).
        image_size: side of the square clips in pixels; must equal data.clip.size.
        num_frames: frames per clip; must equal data.clip.frames.
        patch_size: side of a token in pixels; null uses the preset's: 14 for giant, 16 for all others.
        tubelet_size: frames per token.
        embed_dim: width; null uses the preset's.
        depth: number of blocks; null uses the preset's.
        num_heads: attention heads; null uses the preset's.
        mlp_ratio: hidden width of the MLP over the token width; null uses the preset's: 48/11 for giant, 4 for all others.
        drop_path: stochastic depth rate of the last block; the rate grows linearly from 0 in the first one.
        cosine_attention: attention by the cosine of queries and keys (VideoMAE V2's option).
        recompute_blocks: trade compute for memory: activations of blocks are recomputed in the backward pass.
        pooling: how `forward` pools tokens, for probes and export: `mean` over all tokens, or `time`, the concatenated means
            of the time slices, which preserves temporal order.
        checkpoint: file with encoder weights: a .safetensors or .ckpt of this project, or an official VideoMAE / SMILE .pth; or
            a folder written by `transformers`, `convert` or DeepSpeed.
        normalisation: normalisation of the clips; null uses that of the weights, or ImageNet's if the file does not record it.
        pretrained_frames: frames of the clips that the weights were pretrained on; null uses the value in the file or its
            passport, or that of published networks. If num_frames differs, position codes are interpolated.
        pretrained_size: side of these clips in pixels; null as above.

    Raises:
        SettingError: if sizes do not divide, or the checkpoint does not fit.
    """

    prefix_tokens: int = 0
    """tokens before those of the clip, such as a class token"""
    pools_class: bool = False
    """whether `forward` returns a class token after the final norm, so that a classifier needs no further norm"""

    def __init__(
        self,
        size: Size = "base",
        image_size: int = 224,
        num_frames: int = 16,
        patch_size: int | None = None,
        tubelet_size: int = 2,
        embed_dim: int | None = None,
        depth: int | None = None,
        num_heads: int | None = None,
        mlp_ratio: float | None = None,
        drop_path: float = 0.0,
        cosine_attention: bool = False,
        recompute_blocks: bool = False,
        pooling: Pooling = "mean",
        checkpoint: str | None = None,
        normalisation: Normalisation | None = None,
        pretrained_frames: int | None = None,
        pretrained_size: int | None = None,
    ) -> None:
        super().__init__()
        check_positive("model.backbone", num_frames=num_frames, tubelet_size=tubelet_size)
        check_range("model.backbone", 0, 1, drop_path=drop_path)
        instead = {"embed_dim": embed_dim, "depth": depth, "num_heads": num_heads, "patch_size": patch_size}
        chosen = choose_sizes(size, image_size, **instead, mlp_ratio=mlp_ratio)
        self.embed_dim, depth, self.num_heads, patch_size, self.mlp_ratio = chosen
        if num_frames % tubelet_size:
            raise SettingError(
                f"model.backbone.num_frames {num_frames} is not a multiple of model.backbone.tubelet_size "
                f"{tubelet_size}; change one of them (and data.clip.frames with it)."
            )
        self.image_size, self.num_frames = image_size, num_frames
        side = image_size // patch_size
        self.grid = Grid(num_frames // tubelet_size, side, side, tubelet_size, patch_size)
        self.recompute_blocks, self.pooling = recompute_blocks, pooling
        self.cosine_attention = cosine_attention
        self.feed(normalisation)
        self.asked_clip = (pretrained_frames, pretrained_size)
        self.trained_grid = self.grid_of(pretrained_frames or num_frames, pretrained_size or image_size)

        # PyTorch's default initialisation is the same for this Linear and for the Conv3d of the official code.
        self.patch_embed = nn.Linear(3 * self.grid.token_pixels, self.embed_dim)
        rates = drop_path_rates(drop_path, depth)
        self.blocks = make_blocks(self.embed_dim, self.num_heads, self.mlp_ratio, rates, cosine_attention)
        self.norm = layer_norm(self.embed_dim)
        codes = position_codes(self.grid, self.trained_grid, self.embed_dim)
        self.register_buffer("positions", codes, persistent=False)
        self.positions: Tensor
        self._other_positions: dict[tuple[Grid, torch.device], Tensor] = {}
        """cached position codes of clips of other lengths or sizes, oldest first"""
        init_blocks(self.blocks)
        if checkpoint is not None:
            content = read_checkpoint(checkpoint, "model.backbone.checkpoint")
            load_strictly(
                self,
                encoder_weights(content.weights),
                source=checkpoint,
                # A fine-tuned network pools before it normalises, so its encoder has no final norm.
                may_miss=("norm.",),
            )
            check_heads(checkpoint, "model.backbone.checkpoint", self.num_heads)
            say(self.adopt(origin_of_encoder(checkpoint, content)))

    @property
    def feature_dim(self) -> int:
        """See `Layered.feature_dim`."""
        return self.embed_dim * (self.grid.t if self.pooling == "time" else 1)

    # --- Normalisation and position codes ---

    def grid_of(self, frames: int, size: int) -> Grid:
        """Grid of square clips of another length or size, with the tokens of this network.

        Raises:
            SettingError: if the clips cannot be divided into tokens.
        """
        if frames < self.grid.tubelet or size < self.grid.patch or frames % self.grid.tubelet or size % self.grid.patch:
            raise SettingError(
                f"Clips of {frames} frames of {size} px do not make tokens of {self.grid.tubelet} frames and "
                f"{self.grid.patch} px; set model.backbone.pretrained_frames and pretrained_size to those of the weights."
            )
        side = size // self.grid.patch
        return self.grid._replace(t=frames // self.grid.tubelet, h=side, w=side)

    def adopt(self, origin: Origin) -> list[str]:
        """See `PixelInput.adopt`; the grid of the position codes is adopted too."""
        lines = super().adopt(origin)
        frames, size = (asked or known for asked, known in zip(self.asked_clip, (origin.frames, origin.size), strict=True))
        settings = "model.backbone.pretrained_frames and pretrained_size"
        if frames is None or size is None:
            usual = origin.usual or (self.num_frames, self.image_size)
            frames, size = frames or usual[0], size or usual[1]
            lines.append(
                f"{origin.source} does not record its pretraining clips: {frames} frames of {size} px assumed for its "
                f"position codes; {settings} change it."
            )
        self.trained_grid = self.grid_of(frames, size)
        self.positions = self.codes(self.grid).to(self.positions)
        self._other_positions.clear()
        if self.trained_grid[:3] != self.grid[:3]:
            old, new = (" x ".join(map(str, grid[:3])) for grid in (self.trained_grid, self.grid))
            lines.append(
                f"Position codes are interpolated over time, rows and columns from the {old} tokens of {frames} frames of "
                f"{size} px, on which {origin.source} was pretrained, to {new}; {settings} change it."
            )
        return lines

    def facts(self) -> dict[str, Any]:
        """What `adopt` needs when a checkpoint is loaded, and the network's own clip sizes."""
        return super().facts() | {
            "pretrained_frames": self.trained_grid.t * self.grid.tubelet,
            "pretrained_size": self.trained_grid.h * self.grid.patch,
            "num_frames": self.num_frames,
            "image_size": self.image_size,
        }

    def clip_grid(self, video: Tensor) -> Grid:
        """Grid of clips [B, 3, T, H, W].

        Raises:
            SettingError: if the clips cannot be divided into tokens.
        """
        frames, height, width = video.shape[2:]
        tubelet, patch = self.grid.tubelet, self.grid.patch
        grid = Grid(frames // tubelet, height // patch, width // patch, tubelet, patch)
        if not grid.tokens or grid.clip_shape != (frames, height, width):
            raise SettingError(
                f"Clips of {frames} frames of {height} x {width} px do not make tokens of {tubelet} frames and {patch} px; "
                "set data.clip.frames and data.clip.size to multiples of these."
            )
        return grid

    def codes(self, grid: Grid) -> Tensor:
        """Position codes [1, N, D] of a grid, interpolated from those of the pretraining grid."""
        return position_codes(grid, self.trained_grid, self.embed_dim)

    def positions_of(self, grid: Grid) -> Tensor:
        """Position codes [1, N, D] on the network's device. Those of other grids than the settings' are computed once."""
        if grid == self.grid:
            return self.positions
        key = (grid, self.positions.device)
        if key not in self._other_positions:
            if not self._other_positions:
                sizes = (" x ".join(map(str, one[:3])) for one in (self.trained_grid, grid))
                say(["Position codes are interpolated from {} to {} tokens for clips of other frames or size.".format(*sizes)])
            if len(self._other_positions) >= MOST_GRIDS:
                self._other_positions.pop(next(iter(self._other_positions)))
            # Training must be able to use codes that validation requested first.
            with torch.inference_mode(False):
                codes = self.codes(grid).to(self.positions)
            self._other_positions[key] = codes
        return self._other_positions[key]

    # --- Encoding ---

    def forward_features(self, video: Tensor, visible: Tensor | None = None, norm: bool = True) -> Tensor:
        """Encode clips.

        Args:
            video: float [B, 3, T, H, W], output of `preprocess`.
            visible: int64 [B, Nv], indices of the tokens to encode in the grid of these clips; None encodes all. With several
                masks per clip, [B * M, Nv] in mask-major order: the clips are cut into cubes once, and all rows are encoded in
                one pass.
            norm: apply the final LayerNorm (pretraining does, fine-tuning with mean pooling does not).

        Returns:
            tokens [B (* M), Nv or N, D], in the order of `visible`.

        Raises:
            SettingError: if these are not normalised clips, or they cannot be divided into tokens.
        """
        check_video(video, self.patch_embed.weight, type(self).__name__)
        grid = self.clip_grid(video)
        cubes = patchify(video, grid).flatten(2)
        return self.encode(cubes if visible is None else gather_rounds(cubes, visible), grid, visible, norm)

    def encode_clip(self, clip: Tensor, visible: Tensor) -> Tensor:
        """Equal to `forward_features(preprocess(clip), visible)`, but only visible tokens are normalised.

        Args:
            clip: uint8 [B, T, H, W, 3]
            visible: as in `forward_features`.
        """
        planes = clip.permute(0, 4, 1, 2, 3)
        grid = self.clip_grid(planes)
        cubes = gather_rounds(patchify(planes, grid), visible)
        return self.encode(
            self.normalisation.apply_planes(cubes.flatten(0, 1)).unflatten(0, visible.shape).flatten(2), grid, visible
        )

    def encode(self, cubes: Tensor, grid: Grid, visible: Tensor | None = None, norm: bool = True) -> Tensor:
        """Encode cubes.

        Args:
            cubes: float [B, Nv or N, 3 * P], normalised.
            grid: grid of the clips.
            visible: int64 [B, Nv], indices of these tokens; None if all tokens are given.
            norm: as in `forward_features`.

        Returns:
            tokens [B, Nv or N, D]
        """
        return self.without_prefix(self.transform(self.embed_tokens(cubes, grid, visible), norm))

    def embed_tokens(self, cubes: Tensor, grid: Grid, visible: Tensor | None = None) -> Tensor:
        """Input of the first block: tokens with positions, after `prefix_tokens` others. Arguments as in `encode`."""
        positions = self.positions_of(grid)
        if visible is not None:
            positions = gather_tokens(positions.expand(visible.shape[0], -1, -1), visible)
        tokens: Tensor = self.patch_embed(cubes) + positions
        return tokens

    def transform(self, tokens: Tensor, norm: bool = True, *more: Tensor | None) -> Tensor:
        """All blocks and optionally the final norm: [B, n, D] -> [B, n, D]; `more` are further arguments of each block."""
        for block in self.blocks:
            again = self.recompute_blocks and self.training
            tokens = recompute(block, tokens, *more, use_reentrant=False) if again else block(tokens, *more)
        result: Tensor = self.norm(tokens) if norm else tokens
        return result

    def without_prefix(self, tokens: Tensor) -> Tensor:
        """The tokens of the clip: [B, prefix_tokens + n, D] -> [B, n, D]."""
        return tokens[:, self.prefix_tokens :] if self.prefix_tokens else tokens

    def layers(self, clip: Tensor) -> Layers:
        """See `Layered.layers`; the grid is [B, D, t, h, w]."""
        check_video(clip, self.patch_embed.weight, type(self).__name__)
        grid = self.clip_grid(clip)
        start = self.embed_tokens(patchify(clip, grid).flatten(2), grid)

        def as_grid(tokens: Tensor, norm: bool) -> Tensor:
            tokens = self.without_prefix(self.norm(tokens) if norm else tokens)
            result: Tensor = tokens.transpose(1, 2).unflatten(2, grid[:3])
            return result

        return Layers(start, list(self.blocks), as_grid, lambda tokens: self.without_prefix(self.norm(tokens)))

    def forward(self, video: Tensor) -> Tensor:
        """Pooled tokens after the final norm: [B, 3, T, H, W] -> [B, D], or [B, t * D] with pooling `time`."""
        return pool_tokens(self.forward_features(video), self.clip_grid(video)[:3], self.pooling)

    def compiled_parts(self) -> list[nn.Module]:
        """Modules to compile: the blocks."""
        return list(self.blocks)

    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay, in addition to biases and one-dimensional parameters: scales of cosine attention."""
        return scale_names(self.blocks)

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Parameters grouped by layer, for layer-wise learning-rate decay: embedding, each block, norm."""
        return [
            list(self.patch_embed.parameters()),
            *(list(block.parameters()) for block in self.blocks),
            list(self.norm.parameters()),
        ]


# --- Weights of the official VideoMAE family (VideoMAE, SMILE, SIGMA share these names) ---
