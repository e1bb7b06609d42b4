"""Vision transformers of images, such as those of CLIP and DINO, on the frames of a clip.

The feature of a frame is what timm's network gives without a classifier, as each family publishes it: the class token after
the final norm of CLIP (before its projection), DINO and DINOv2; for networks without a class token, their own pooling. Frames
do not see each other. How frames become one feature of a clip is this project's choice.
"""

from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from modules.backbones.checks import check_video
from modules.backbones.image_towers import create_vit, download_vit, known_normalisation, load_vit
from modules.backbones.intermediates import Layered, Layers
from modules.backbones.loading import prefixes_of
from modules.backbones.pixels import PixelInput
from modules.backbones.vit.positions import resample_frame_positions
from modules.core.errors import SettingError, check_positive, check_range, given
from modules.core.preprocessing import Normalisation, say
from modules.core.tokens import Grid, Pooling, gather_tokens
from modules.core.undocumented import embedded
from modules.weights.files import Checkpoint, read_checkpoint
from modules.weights.names.clip import clip_names
from modules.weights.names.siamese_mae import has_mae_decoder, without_decoder
from modules.weights.origin import origin_of
from modules.weights.passport import check_heads, passport_of
from modules.weights.run_config import inside

DOWNLOAD = "timm"
SETTING = "model.backbone.checkpoint"
VIT = "vit."
"""Where `FrameTower` has its network."""
FIRST = "patch_embed.proj.weight"


class FrameTower(PixelInput, Layered, nn.Module):
    """A vision transformer of timm on each frame of a clip.

    Args:
        name: timm's name of the network: DINO is vit_small_patch16_224.dino or vit_base_patch16_224.dino, DINOv2
            vit_base_patch14_dinov2.lvd142m, with registers vit_base_patch14_reg4_dinov2.lvd142m; OpenAI's CLIP
            vit_base_patch32_clip_quickgelu_224.openai, vit_base_patch16_clip_quickgelu_224.openai or
            vit_large_patch14_clip_quickgelu_224.openai.
        num_frames: frames per clip; must equal data.clip.frames.
        image_size: side of the square clips in pixels; must equal data.clip.size. Position codes of other frames are resampled
            when weights are loaded. Frames of other sizes, also not square, are accepted if the side of a token divides them;
            position codes are then interpolated (`resample_frame_positions`).
        every: the first of so many frames is encoded.
        pooling: of the features of the frames: `mean`, which forgets their order, or all in the order of time (`time`).
        patch_size: side of a token in pixels, in place of that of the name.
        embed_dim: width, in place of that of the name.
        depth: number of blocks, in place of that of the name.
        num_heads: attention heads, in place of those of the name.
        drop_path: stochastic depth rate of the last block; earlier ones grow linearly from 0.
        checkpoint: file with weights: our .safetensors or .ckpt, OpenAI's CLIP, DINO's, DINOv2's or timm's; `timm` downloads
            those of the name, and null leaves random weights.
        normalisation: of the clips; null takes that of the weights, or timm's for the name where the file does not say.

    Raises:
        SettingError: if the name is unknown, sizes do not divide, the checkpoint does not fit, or nothing can be downloaded.
    """

    def __init__(
        self,
        name: str = "vit_base_patch16_224.dino",
        num_frames: int = 16,
        image_size: int = 224,
        every: int = 1,
        pooling: Pooling = "mean",
        patch_size: int | None = None,
        embed_dim: int | None = None,
        depth: int | None = None,
        num_heads: int | None = None,
        drop_path: float = 0.0,
        checkpoint: str | None = DOWNLOAD,
        normalisation: Normalisation | None = None,
    ) -> None:
        super().__init__()
        sizes = given(patch_size=patch_size, embed_dim=embed_dim, depth=depth, num_heads=num_heads)
        check_positive("model.backbone", num_frames=num_frames, image_size=image_size, every=every, **sizes)
        check_range("model.backbone", 0, 1, drop_path=drop_path)
        if num_frames % every:
            raise SettingError(
                f"model.backbone.num_frames {num_frames} is not a multiple of model.backbone.every {every}; change one of them "
                "(and data.clip.frames with it)."
            )
        build = download_vit if checkpoint == DOWNLOAD else create_vit
        self.vit: VisionTransformer = build(name, image_size, "model.backbone", sizes | {"drop_path_rate": drop_path})
        self.vit.patch_embed.strict_img_size = False
        patch = self.vit.patch_embed.patch_size[0]
        if image_size % patch:
            raise SettingError(
                f"model.backbone.image_size {image_size} is not a multiple of {patch}, the side of a token of {name}; change "
                "it (and data.clip.size with it)."
            )
        self.name, self.num_frames, self.image_size, self.pooling = name, num_frames, image_size, pooling
        self.is_untrained = checkpoint is None
        """Whether the weights are random, so that a method may initialise them in its own way."""
        self.has_weights = not self.is_untrained
        self.embed_dim = int(self.vit.embed_dim)
        side = image_size // patch
        self.grid = Grid(num_frames // every, side, side, every, patch)
        self.usual_normalisation = known_normalisation(name)
        self.feed(normalisation)
        if checkpoint is not None and checkpoint != DOWNLOAD:
            content = read_checkpoint(checkpoint, SETTING)
            check_name(checkpoint, content, name)
            load_vit(self.vit, tower_weights(content.weights, checkpoint), checkpoint)
            check_heads(checkpoint, SETTING, self.num_heads)
            say(self.adopt(origin_of(checkpoint, content)))

    @property
    def num_heads(self) -> int:
        """Attention heads of a block."""
        heads: int = self.vit.blocks[0].attn.num_heads  # type: ignore[union-attr, assignment]
        return heads

    @property
    def feature_dim(self) -> int:
        """See `Layered.feature_dim`."""
        return self.embed_dim * (self.grid.t if self.pooling == "time" else 1)

    def facts(self) -> dict[str, Any]:
        """What `adopt` needs again, and what the weights do not tell, for checkpoints."""
        return super().facts() | self.sizes()

    def sizes(self) -> dict[str, Any]:
        """The settings of the network, as the constructor takes them."""
        return {
            "name": self.name,
            "num_frames": self.num_frames,
            "image_size": self.image_size,
            "every": self.grid.tubelet,
            "patch_size": self.grid.patch,
            "embed_dim": self.embed_dim,
            "depth": len(self.vit.blocks),
            "num_heads": self.num_heads,
        }

    # --- Encoding ---

    def clip_grid(self, video: Tensor) -> Grid:
        """Grid of clips [B, 3, T, H, W].

        Raises:
            SettingError: if their sides are not multiples of a token's, or their number of frames is not one of `every`.
        """
        frames, height, width = video.shape[2:]
        every, patch, side = self.grid.tubelet, self.grid.patch, self.image_size
        grid = Grid(frames // every, height // patch, width // patch, every, patch)
        if not grid.tokens or grid.clip_shape != (frames, height, width):
            raise SettingError(
                f"Clips have {frames} frames of {height} x {width} px, but this FrameTower takes a multiple of {every} frames "
                f"of {side} x {side} px, or of other multiples of {patch} px; set data.clip.frames and data.clip.size to these."
            )
        return grid

    def _frames(self, video: Tensor) -> tuple[Tensor, Grid]:
        """The frames that are encoded, clip by clip: [B, 3, T, H, W] -> [B * t, 3, H, W]; and the grid of the clips."""
        check_video(video, self.vit.patch_embed.proj.weight, type(self).__name__)
        grid = self.clip_grid(video)
        return video[:, :, :: grid.tubelet].transpose(1, 2).flatten(0, 1), grid

    def forward_features(self, video: Tensor) -> Tensor:
        """Tokens of the patches after the final norm: [B, 3, T, H, W] -> [B, t * h * w, D], in the order t, h, w.

        Raises:
            SettingError: if these are no normalised clips, or of another size.
        """
        frames, grid = self._frames(video)
        return self._patches(self.vit.norm(self.vit.blocks(self.embed_frames(frames))), grid)

    def embed_frames(self, frames: Tensor) -> Tensor:
        """Input of the first block for normalised frames: [F, 3, H, W] -> [F, n, D], class and register tokens first."""
        size = frames.shape[2] // self.grid.patch, frames.shape[3] // self.grid.patch
        codes = self.vit.pos_embed
        if codes is None or size == self.grid[1:3]:
            return embedded(self.vit, frames)
        prefix = 0 if self.vit.no_embed_class else self.vit.num_prefix_tokens
        return embedded(self.vit, frames, resample_frame_positions(codes, prefix, self.grid[1:3], size))

    def encode_frames(self, frames: Tensor, visible: Tensor | None = None) -> Tensor:
        """Tokens of normalised frames after the final norm, class and register tokens first.

        Args:
            frames: float [F, 3, H, W]
            visible: int64 [F, Nv], patches to encode; None encodes all.

        Returns:
            [F, prefix + Nv or N, D]
        """
        tokens = self.embed_frames(frames)
        if visible is not None:
            prefix = self.vit.num_prefix_tokens
            tokens = torch.cat([tokens[:, :prefix], gather_tokens(tokens[:, prefix:], visible)], 1)
        result: Tensor = self.vit.norm(self.vit.blocks(tokens))
        return result

    def _patches(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Tokens of frames [B * t, n, D] -> those of the patches alone, [B, t * h * w, D]."""
        patches: Tensor = tokens[:, self.vit.num_prefix_tokens :].unflatten(0, (-1, grid.t)).flatten(1, 2)
        return patches

    def layers(self, clip: Tensor) -> Layers:
        """See `Layered.layers`; the grid is [B, D, t, h, w], without class and register tokens."""
        frames, grid = self._frames(clip)
        start = self.embed_frames(frames)

        def as_grid(tokens: Tensor, norm: bool) -> Tensor:
            patches = self._patches(self.vit.norm(tokens) if norm else tokens, grid)
            result: Tensor = patches.transpose(1, 2).unflatten(2, grid[:3])
            return result

        return Layers(start, list(self.vit.blocks), as_grid, lambda tokens: self._patches(self.vit.norm(tokens), grid))

    def forward(self, video: Tensor) -> Tensor:
        """Features of the frames, pooled: [B, 3, T, H, W] -> [B, D], or [B, t * D] with pooling `time`."""
        frames, grid = self._frames(video)
        tokens = self.vit.norm(self.vit.blocks(self.embed_frames(frames)))
        features: Tensor = self.vit.forward_head(tokens).unflatten(0, (-1, grid.t))
        return features.mean(1) if self.pooling == "mean" else features.flatten(1)

    def compiled_parts(self) -> list[nn.Module]:
        """What `compile` compiles: the blocks."""
        return list(self.vit.blocks)

    def no_weight_decay(self) -> set[str]:
        """Parameters that AdamW must not decay, besides biases and one-dimensional ones: class token and position codes."""
        return {f"{VIT}{name}" for name in self.vit.no_weight_decay()}

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Parameters from the input to the output, for layer-wise learning-rate decay: embedding, each block, norms and
        pooling."""
        blocks = [list(block.parameters()) for block in self.vit.blocks]
        embedding = ("cls_token", "reg_token", "pos_embed", "patch_embed.", "norm_pre.")
        named = [(name, value) for name, value in self.vit.named_parameters() if not name.startswith("blocks.")]
        first = [value for name, value in named if name.startswith(embedding)]
        return [first, *blocks, [value for name, value in named if not name.startswith(embedding)]]


# --- Weights ---


def tower_weights(weights: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """The weights of the vision transformer in a file, as `load_vit` takes them.

    Args:
        weights: of ours, alone or in a method; of OpenAI's CLIP; of MAE or CropMAE with its decoder; or as they are.
        source: file, for error messages.

    Raises:
        SettingError: if the file has several towers.
    """
    if has_mae_decoder(weights):
        weights = without_decoder(weights)
    found = [f"{prefix}{VIT}" for prefix in prefixes_of(list(weights)) if f"{prefix}{VIT}{FIRST}" in weights]
    if len(found) > 1:
        raise SettingError(f"{SETTING} names {source}, which has several towers ({', '.join(found)}); pass another file.")
    if found:
        return {key.removeprefix(found[0]): value for key, value in weights.items() if key.startswith(found[0])}
    return clip_names(weights)


def check_name(path: str, content: Checkpoint, name: str) -> None:
    """Compare the name of the network with that of the weights, as networks of other activations have the same tensors.

    Raises:
        SettingError: if it differs.
    """
    places = (inside(content.record, "backbone"), inside(passport_of(path) or {}, "architecture"))
    said = next((place["name"] for place in places if "name" in place), name)
    if said != name:
        raise SettingError(f"{SETTING} names {path}, a {said}, but model.backbone.name is {name}; make them equal.")
