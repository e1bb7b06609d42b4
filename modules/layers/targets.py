"""Prediction targets of masked methods: pixels, or features of a frozen encoder of images or videos.

A target is a callable on the encoder's normalised clips, without trained parameters. Frozen encoders are not submodules of the
method, so they are not in the optimiser, DDP or checkpoints.
"""

from abc import ABC, abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from modules.backbones.cnn.base import VideoCNN
from modules.backbones.frame_tower import FrameTower
from modules.backbones.image_towers import clip_tower, timm_normalisation, timm_tower
from modules.backbones.vit.beit_video import BEiTVideo
from modules.backbones.vit.video_vit import VideoViT
from modules.core.errors import SettingError, check_positive, given
from modules.core.preprocessing import IMAGENET, Normalisation
from modules.core.tokens import Grid, gather_rounds, patchify, unpatchify


class Target(ABC):
    """Base class of prediction targets, one vector per token."""

    @abstractmethod
    def dim(self, grid: Grid) -> int:
        """Width of a token's target."""

    def check(self, backbone: VideoViT, setting: str = "model.target") -> None:  # noqa: B027  (most fit any encoder)
        """Check before the first step that this target fits the encoder's token grid.

        Args:
            backbone: encoder.
            setting: command-line path of this target.
        """

    @abstractmethod
    def __call__(self, video: Tensor, grid: Grid, normalisation: Normalisation = IMAGENET) -> Tensor:
        """Targets of all tokens, without gradient.

        Args:
            video: float [B, 3, T, H, W], normalised.
            grid: token grid.
            normalisation: normalisation of the video, that of the encoder.

        Returns:
            float32 [B, N, D]
        """

    def of_tokens(self, clip: Tensor, places: Tensor, grid: Grid, normalisation: Normalisation = IMAGENET) -> Tensor:
        """Targets of some tokens of unnormalised clips, without gradient.

        Args:
            clip: uint8 [B, T, H, W, 3]
            places: int64 [R * B, Nt], token indices; with several masks per clip, in mask-major order.
            grid: token grid.
            normalisation: normalisation of the encoder.

        Returns:
            float32 [R * B, Nt, D]
        """
        return gather_rounds(self(normalisation.apply(clip), grid, normalisation), places)


class PixelTarget(Target):
    """The pixels of each cube, as in VideoMAE (official code).

    Pixels are in [0, 1]. With `normalise`, each cube and channel is standardised by its own mean and
    sqrt(unbiased variance) + 1e-6. Values are in the order time, row, column, channel, with the channel as the last axis.

    Args:
        normalise: normalise each cube by its own statistics (the paper's default).
    """

    def __init__(self, normalise: bool = True) -> None:
        self.normalise = normalise

    def dim(self, grid: Grid) -> int:
        """Three values per pixel of a cube."""
        return 3 * grid.token_pixels

    @torch.no_grad()
    def __call__(self, video: Tensor, grid: Grid, normalisation: Normalisation = IMAGENET) -> Tensor:
        """See `Target.__call__`."""
        return self._values(patchify(normalisation.restore(video.float()), grid), 1)

    @torch.no_grad()
    def of_tokens(self, clip: Tensor, places: Tensor, grid: Grid, normalisation: Normalisation = IMAGENET) -> Tensor:
        """See `Target.of_tokens`. Cubes are gathered as uint8, which needs a quarter of the memory of float32."""
        return self._values(gather_rounds(patchify(clip.permute(0, 4, 1, 2, 3), grid), places).float(), 255)

    def _values(self, cubes: Tensor, scale: float) -> Tensor:
        """Target values [B, N, 3P] of cubes [B, N, 3, P] from 0 to `scale`."""
        if self.normalise:
            mean, std = self.statistics(cubes, scale)
            cubes = (cubes - mean) / std
        elif scale != 1:
            cubes = cubes / scale
        return cubes.transpose(2, 3).flatten(2)

    @staticmethod
    def statistics(cubes: Tensor, scale: float = 1) -> tuple[Tensor, Tensor]:
        """Mean and sqrt(unbiased variance) + 1e-6 * scale of each cube and channel: [B, N, 3, P] -> two [B, N, 3, 1]."""
        variance, mean = torch.var_mean(cubes, dim=-1, keepdim=True)
        return mean, variance.sqrt() + 1e-6 * scale

    @torch.no_grad()
    def to_pixels(self, values: Tensor, video: Tensor, grid: Grid, normalisation: Normalisation = IMAGENET) -> Tensor:
        """Convert predictions of all tokens to pixels, for pictures.

        Args:
            values: [B, N, 3P], predicted target values.
            video: float [B, 3, T, H, W], the normalised clip, whose cube statistics are used.
            grid: token grid.
            normalisation: normalisation of the video.

        Returns:
            [B, N, 3, P] in [0, 1]
        """
        cubes = values.float().unflatten(2, (grid.token_pixels, 3)).transpose(2, 3)
        if self.normalise:
            mean, std = self.statistics(patchify(normalisation.restore(video.float()), grid))
            cubes = cubes * std + mean
        result: Tensor = cubes.clamp(0, 1)
        return result


class InputPixelTarget(PixelTarget):
    """The pixels of each cube as the encoder gets them, normalised, as in MAE-ST (official code).

    Values are in the order time, row, column, channel. With fewer target frames than the clip has, they are spread from its
    first to its last frame, at positions floor(i * (T - 1) / (frames - 1)), and a token's target has fewer of them.

    Args:
        normalise: standardise each cube by its mean and sqrt(unbiased variance + 1e-6) over all its pixels and channels
            (MAE-ST's option; `PixelTarget` does it per channel).
        frames: target frames per clip; null takes all.
    """

    def __init__(self, normalise: bool = False, frames: int | None = None) -> None:
        super().__init__(normalise)
        check_positive("model.target", **given(frames=frames))
        self.frames = frames

    def check(self, backbone: VideoViT, setting: str = "model.target") -> None:
        """Check that the target frames can be divided among the slices of tokens."""
        grid = backbone.grid
        frames = grid.t * grid.tubelet
        if self.frames is not None and (self.frames % grid.t or self.frames > frames):
            raise SettingError(
                f"{setting}.frames is {self.frames}, but the {frames} frames of a clip are in {grid.t} slices of tokens; "
                f"set it to a multiple of {grid.t} up to {frames}, or to null."
            )

    def target_grid(self, grid: Grid) -> Grid:
        """Grid of the target frames."""
        return grid if self.frames is None else grid._replace(tubelet=self.frames // grid.t)

    def dim(self, grid: Grid) -> int:
        """Three values per target pixel of a cube."""
        return 3 * self.target_grid(grid).token_pixels

    def choose(self, video: Tensor) -> Tensor:
        """The target frames of clips: [B, C, T, H, W] -> [B, C, frames, H, W]."""
        if self.frames is None or self.frames == video.shape[2]:
            return video
        last = max(1, self.frames - 1)
        # A list of indices would be copied to the device.
        return torch.stack([video[:, :, number * (video.shape[2] - 1) // last] for number in range(self.frames)], dim=2)

    @torch.no_grad()
    def __call__(self, video: Tensor, grid: Grid, normalisation: Normalisation = IMAGENET) -> Tensor:
        """See `Target.__call__`."""
        return self._standardised(patchify(self.choose(video.float()), self.target_grid(grid)))

    @torch.no_grad()
    def of_tokens(self, clip: Tensor, places: Tensor, grid: Grid, normalisation: Normalisation = IMAGENET) -> Tensor:
        """See `Target.of_tokens`. Cubes are gathered as uint8, which needs a quarter of the memory of float32."""
        planes = self.choose(clip.permute(0, 4, 1, 2, 3))
        cubes = gather_rounds(patchify(planes, self.target_grid(grid)), places)
        return self._standardised(normalisation.apply_planes(cubes.flatten(0, 1)).unflatten(0, places.shape))

    def _standardised(self, cubes: Tensor) -> Tensor:
        """Target values [B, N, 3P] of normalised cubes [B, N, 3, P]."""
        values = cubes.transpose(2, 3).flatten(2)
        if not self.normalise:
            return values
        variance, mean = torch.var_mean(values, dim=-1, keepdim=True)
        return (values - mean) / (variance + 1e-6).sqrt()

    @torch.no_grad()
    def to_pixels(self, values: Tensor, video: Tensor, grid: Grid, normalisation: Normalisation = IMAGENET) -> Tensor:
        """See `PixelTarget.to_pixels`; frames that are not predicted repeat those before them."""
        own = self.target_grid(grid)
        values = values.float()
        if self.normalise:
            cubes = patchify(self.choose(video.float()), own).flatten(2)
            variance, mean = torch.var_mean(cubes, dim=-1, keepdim=True)
            values = values * (variance + 1e-6).sqrt() + mean
        pixels = normalisation.restore(unpatchify(values.unflatten(2, (own.token_pixels, 3)).transpose(2, 3), own))
        return patchify(pixels.repeat_interleave(grid.tubelet // own.tubelet, 2), grid).clamp(0, 1)


def constant_loss(target: Tensor, counts: Tensor | None = None) -> Tensor:
    """Mean squared error of the best constant prediction: the targets' variance around their mean.

    Args:
        target: float [B, Nm, D]
        counts: float [B, Nm], 1 for tokens that are part of the loss; None for all.
    """
    if counts is None:
        return target.float().var(dim=(0, 1), correction=0).mean()
    share = (counts / counts.sum().clamp_min(1))[..., None]
    mean = (share * target.float()).sum(dim=(0, 1))
    return (share * (target.float() - mean).square()).sum(dim=(0, 1)).mean()


def normalise_over_tokens(features: Tensor) -> Tensor:
    """Normalise each clip's features per channel over its tokens (SMILE, official code).

    Subtracts the mean over the token axis and divides by sqrt(unbiased variance) + 1e-6. Unlike a per-token LayerNorm, this
    removes the component that all tokens of a clip have in common.

    Args:
        features: [B, N, D]
    """
    features = features.float()
    variance, mean = torch.var_mean(features, dim=1, keepdim=True)
    return (features - mean) / (variance.sqrt() + 1e-6)


def resize_patches(patches: Tensor, side: int, size: tuple[int, int]) -> Tensor:
    """Resize a square feature map (bilinear, corners not aligned).

    Args:
        patches: [F, side * side, D]
        side: rows and columns of the map.
        size: rows and columns of the output.

    Returns:
        float32 [F, rows * columns, D]
    """
    maps = patches.float().transpose(1, 2).unflatten(2, (side, side))
    return F.interpolate(maps, size, mode="bilinear", align_corners=False).flatten(2).transpose(1, 2)


class TowerTarget(Target):
    """Patch features of a frozen image tower on the first frame of each tubelet.

    If the tower has another patch size than the encoder, its feature map is resized to the encoder's grid (bilinear, corners
    not aligned: SIGMA, official code for DINOv2).

    Args:
        tower: module that maps frames [F, 3, H, W] to patch tokens [F, h * w, D] without class token.
        dim: D.
        side: side of the tower's input frames, in pixels.
        patch: side of its patches, in pixels.
        normalise: normalise per channel over the tokens of a clip (`normalise_over_tokens`).
        precision: number format of the tower and its weights on a GPU; the official code uses float32.
        normalisation: normalisation of the tower's input frames.
    """

    def __init__(
        self,
        tower: nn.Module,
        dim: int,
        side: int,
        patch: int,
        normalise: bool = True,
        precision: Literal["bf16", "32"] = "bf16",
        normalisation: Normalisation = IMAGENET,
    ) -> None:
        self.normalisation = normalisation
        self.tower = tower.eval().requires_grad_(False)
        self.width, self.side, self.patch = dim, side, patch
        self.normalise, self.precision = normalise, precision

    def dim(self, grid: Grid) -> int:
        """Width of the tower."""
        return self.width

    def check(self, backbone: VideoViT, setting: str = "model.target") -> None:
        """Check that the tower's input has the size of the encoder's frames."""
        if backbone.image_size != self.side:
            raise SettingError(
                f"The image encoder of {setting} takes frames of {self.side} px, the backbone {backbone.image_size} px; set "
                "model.backbone.image_size (and data.clip.size) to the former, or choose another image encoder."
            )

    def compiled_parts(self) -> list[nn.Module]:
        """Modules to compile: the tower."""
        return [self.tower]

    def frames(self, video: Tensor, grid: Grid) -> Tensor:
        """First frame of each tubelet, clip-major: [B, 3, T, H, W] -> [B * t, 3, H, W]."""
        return video[:, :, :: grid.tubelet].transpose(1, 2).flatten(0, 1)

    def features(self, video: Tensor, grid: Grid, normalisation: Normalisation = IMAGENET) -> Tensor:
        """Features before normalisation: [B, N, D]. See `Target.__call__`."""
        frames = self.frames(video, grid)
        if normalisation != self.normalisation:
            pixels = normalisation.restore(frames[:, :, None].float())
            frames = self.normalisation.apply(255 * pixels.permute(0, 2, 3, 4, 1))[:, :, 0]
        return self._patches(frames, grid)

    def _patches(self, frames: Tensor, grid: Grid) -> Tensor:
        """Normalised frames [B * t, 3, H, W] -> features on the encoder's grid, [B, N, D]."""
        low = self.precision == "bf16" and frames.device.type == "cuda"
        parameter, dtype = next(self.tower.parameters()), torch.bfloat16 if low else torch.float32
        if (parameter.device, parameter.dtype) != (frames.device, dtype):
            # Converted once, not in each step.
            self.tower.to(frames.device, dtype)
        with torch.inference_mode(), torch.autocast(frames.device.type, enabled=False):
            patches = self.tower(frames.to(dtype))
        if self.patch != grid.patch:
            patches = resize_patches(patches, self.side // self.patch, (grid.h, grid.w))
        result: Tensor = patches.unflatten(0, (-1, grid.t)).flatten(1, 2)
        return result

    @torch.no_grad()
    def __call__(self, video: Tensor, grid: Grid, normalisation: Normalisation = IMAGENET) -> Tensor:
        """See `Target.__call__`."""
        return self._values(self.features(video, grid, normalisation))

    @torch.no_grad()
    def of_tokens(self, clip: Tensor, places: Tensor, grid: Grid, normalisation: Normalisation = IMAGENET) -> Tensor:
        """See `Target.of_tokens`. Only the tower's input frames are normalised, with the tower's normalisation."""
        frames = self.normalisation.apply(clip[:, :: grid.tubelet]).transpose(1, 2).flatten(0, 1)
        return gather_rounds(self._values(self._patches(frames, grid)), places)

    def _values(self, features: Tensor) -> Tensor:
        """Target values of features [B, N, D], as tensors outside inference mode."""
        return normalise_over_tokens(features) if self.normalise else features.float() + 0.0


class ClipTarget(TowerTarget):
    """Patch tokens of OpenAI's CLIP image encoder after its last LayerNorm, the target of SMILE (official code).

    There is no class token and no projection. Frames have ImageNet's normalisation, as in the official code; CLIP's own mean
    and standard deviation are not used.

    Args:
        checkpoint: CLIP weights under OpenAI's names: the published .pt, or a flat dictionary of its image encoder. None
            downloads ViT-B/16 through timm.
        normalise: normalise per channel over the tokens of a clip.
        heads: attention heads of the image encoder; None uses one per 64 channels, as in all published CLIP models.
        precision: number format on a GPU; the official code uses float32.
    """

    def __init__(
        self,
        checkpoint: str | None = None,
        normalise: bool = True,
        heads: int | None = None,
        precision: Literal["bf16", "32"] = "bf16",
    ) -> None:
        tower = clip_tower(checkpoint, heads)
        super().__init__(tower, tower.embed_dim, tower.image_size, tower.patch_size, normalise, precision)


class TimmTarget(TowerTarget):
    """Patch tokens of any timm vision transformer after its final norm, without class or register tokens.

    Frames have the normalisation in timm's config of the model: ImageNet's for DINO and DINOv2, others for many other towers.

    Args:
        name: timm model name; DINO is vit_small_patch16_224.dino or vit_base_patch16_224.dino, DINOv2 with registers is
            vit_small_patch14_reg4_dinov2.lvd142m or vit_base_patch14_reg4_dinov2.lvd142m.
        checkpoint: weights under timm's names (DINO's published files use them), or DINOv2's published file; None downloads
            them through timm.
        normalise: normalise per channel over the tokens of a clip.
        precision: number format on a GPU.
        side: side of its frames in pixels; must equal data.clip.size. Position codes are resampled to it (DINOv2 was trained on
            518 px; SIGMA uses 224).
    """

    def __init__(
        self,
        name: str = "vit_base_patch16_224.dino",
        checkpoint: str | None = None,
        normalise: bool = True,
        precision: Literal["bf16", "32"] = "bf16",
        side: int = 224,
    ) -> None:
        tower = timm_tower(name, checkpoint, side)
        size = tower.embed_dim, tower.image_size, tower.patch_size
        super().__init__(tower, *size, normalise, precision, timm_normalisation(name))


class EncoderTarget(Target):
    """Features of a frozen encoder of this project, of videos or of their frames, after its last block and final norm.

    The encoder gets the same clips with its own normalisation, and must accept their size. If its grid is another one than that
    of the tokens to predict, it is resampled in time and space (trilinear, corners not aligned).

    Args:
        encoder: the encoder, with its `checkpoint`.
        normalise: normalise per channel over the tokens of a clip (`normalise_over_tokens`).
        precision: number format on a GPU.
    """

    def __init__(
        self,
        encoder: VideoViT | VideoCNN | BEiTVideo | FrameTower,
        normalise: bool = True,
        precision: Literal["bf16", "32"] = "bf16",
    ) -> None:
        self.encoder = encoder.eval().requires_grad_(False)
        self.normalise, self.precision = normalise, precision

    def dim(self, grid: Grid) -> int:
        """Width of the encoder."""
        return self.encoder.embed_dim

    def check(self, backbone: VideoViT, setting: str = "model.target") -> None:
        """Check that the encoder accepts the clips; warn if it has no weights."""
        if isinstance(self.encoder, VideoViT | FrameTower):
            shape = (1, 3, backbone.num_frames, backbone.image_size, backbone.image_size)
            self.encoder.clip_grid(torch.empty(shape, device="meta"))
        if not self.encoder.has_weights:
            rank_zero_warn(
                f"The {type(self.encoder).__name__} of {setting} has random weights; set {setting}.encoder.checkpoint to a "
                "file."
            )

    def compiled_parts(self) -> list[nn.Module]:
        """Modules to compile: those of the encoder."""
        return self.encoder.compiled_parts()

    @torch.no_grad()
    def __call__(self, video: Tensor, grid: Grid, normalisation: Normalisation = IMAGENET) -> Tensor:
        """See `Target.__call__`."""
        return self._values(255 * normalisation.restore(video.float()).permute(0, 2, 3, 4, 1), grid)

    @torch.no_grad()
    def of_tokens(self, clip: Tensor, places: Tensor, grid: Grid, normalisation: Normalisation = IMAGENET) -> Tensor:
        """See `Target.of_tokens`."""
        return gather_rounds(self._values(clip, grid), places)

    def _values(self, clip: Tensor, grid: Grid) -> Tensor:
        """Target values [B, N, D] of clips [B, T, H, W, 3] from 0 to 255, as tensors outside inference mode."""
        if next(self.encoder.parameters()).device != clip.device:
            self.encoder.to(clip.device)
        low = self.precision == "bf16" and clip.device.type == "cuda"
        with torch.inference_mode(), torch.autocast(clip.device.type, torch.bfloat16, enabled=low):
            video = self.encoder.preprocess(clip)
            maps = self.encoder.forward_intermediates(video, 1, norm=True, intermediates_only=True)[0].float()
            if maps.shape[2:] != grid[:3]:
                maps = F.interpolate(maps, grid[:3], mode="trilinear", align_corners=False)
            features = maps.flatten(2).transpose(1, 2)
        return normalise_over_tokens(features) if self.normalise else features + 0.0
