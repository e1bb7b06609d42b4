"""Image towers: timm's vision transformers with weights read strictly from files."""

import math
from typing import Any

import timm
from lightning.pytorch.utilities import rank_zero_info
from timm.layers.activations import QuickGELU
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from modules.core.errors import SettingError
from modules.core.loading import load_strictly
from modules.core.preprocessing import IMAGENET, Normalisation
from modules.weights.files import read_weights
from modules.weights.names.clip import clip_names

TARGET = "model.target"
SETTING = f"{TARGET}.checkpoint"
CLIP_TIMM_NAME = "vit_base_patch16_clip_quickgelu_224.openai"


class PatchTokens(nn.Module):
    """A vision transformer that returns its patch tokens after the final norm, without class and register tokens.

    Args:
        vit: timm vision transformer.
    """

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__()
        self.vit = vit
        self.embed_dim = int(vit.embed_dim)
        self.image_size = int(vit.patch_embed.img_size[0])
        self.patch_size = int(vit.patch_embed.patch_size[0])

    def forward(self, frames: Tensor) -> Tensor:
        """[F, 3, H, W] -> [F, h * w, D]"""
        return self.vit.forward_features(frames)[:, self.vit.num_prefix_tokens :]


def clip_tower(checkpoint: str | None, heads: int | None) -> PatchTokens:
    """CLIP's image tower with QuickGELU; its size is read from the file.

    Args:
        checkpoint: weights under OpenAI's names; None asks timm for ViT-B/16.
        heads: attention heads; None takes one per 64 channels.

    Raises:
        SettingError: if the file is missing or is no CLIP image tower, or nothing can be downloaded.
    """
    if checkpoint is None:
        return _download(CLIP_TIMM_NAME)
    weights = clip_names(read_weights(checkpoint, SETTING))
    if "patch_embed.proj.weight" not in weights or "pos_embed" not in weights:
        raise SettingError(
            f"{SETTING} names {checkpoint}, which contains no CLIP image encoder (no conv1.weight and positional_embedding); "
            "pass OpenAI's ViT-B-16.pt or a dictionary of its visual part."
        )
    width, _, _, patch = weights["patch_embed.proj.weight"].shape
    cells = int(weights["pos_embed"].shape[1] - 1)
    vit = VisionTransformer(
        img_size=patch * round(cells**0.5),
        patch_size=patch,
        num_classes=0,
        embed_dim=width,
        depth=len({key.split(".")[1] for key in weights if key.startswith("blocks.")}),
        num_heads=heads or max(1, width // 64),
        pre_norm=True,
        norm_layer=nn.LayerNorm,
        act_layer=QuickGELU,
    )
    load_strictly(vit, weights, checkpoint)
    _set_norm_eps(vit, 1e-5)
    return PatchTokens(vit)


def timm_tower(name: str, checkpoint: str | None, side: int) -> PatchTokens:
    """A timm vision transformer by name.

    Args:
        name: timm model name.
        checkpoint: weights under timm's names, or DINOv2's published file; None asks timm to download them.
        side: side of its frames in pixels; position codes for other frames are resampled as timm does.

    Raises:
        SettingError: if the name is unknown, the file does not fit, or nothing can be downloaded.
    """
    if checkpoint is None:
        return _download(name, side)
    vit = create_vit(name, side, TARGET)
    load_vit(vit, read_weights(checkpoint, SETTING), checkpoint)
    return PatchTokens(vit)


def known_normalisation(name: str) -> Normalisation:
    """How timm normalises the images of a network; ImageNet's way where it does not say."""
    known = timm.get_pretrained_cfg(name)
    said = {"mean": known.mean, "std": known.std} if known is not None else None
    return Normalisation.of_record(said) or IMAGENET


def timm_normalisation(name: str) -> Normalisation:
    """`known_normalisation`, which is printed where it is not ImageNet's way."""
    normalisation = known_normalisation(name)
    if normalisation != IMAGENET:
        rank_zero_info(f"Frames for {name} are normalised as defined by timm: {normalisation}.")
    return normalisation


def create_vit(
    name: str, side: int, part: str, sizes: dict[str, Any] | None = None, pretrained: bool = False
) -> VisionTransformer:
    """timm's vision transformer of a name, without a classifier.

    Args:
        name: timm model name.
        side: side of its frames in pixels.
        part: setting that `name` belongs to, for error messages.
        sizes: arguments of timm's class in place of those of the name.
        pretrained: download its weights; their position codes are resampled as timm does.

    Raises:
        SettingError: if the name is unknown, or of another kind of network, or the sizes are impossible.
    """
    if not timm.is_model(name):
        raise SettingError(f"{part}.name {name} is not a timm model; timm.list_models('vit_*') lists them.")
    try:
        vit = timm.create_model(name, pretrained=pretrained, num_classes=0, img_size=side, **(sizes or {}))
    except TypeError:
        # Most networks of timm take frames of any size and no such argument.
        vit = None
    except AssertionError as error:
        raise SettingError(f"{part}: {name} cannot have the sizes {sizes} ({error}); change them.") from error
    if not isinstance(vit, VisionTransformer):
        raise SettingError(f"{part}.name {name} is not a plain vision transformer; choose a vit_* model.")
    return vit


def download_vit(name: str, side: int, part: str, sizes: dict[str, Any] | None = None) -> VisionTransformer:
    """`create_vit` with the weights that timm downloads.

    Raises:
        SettingError: as there, or if nothing can be downloaded.
    """
    try:
        vit = create_vit(name, side, part, sizes, pretrained=True)
    except SettingError:
        raise
    except Exception as error:
        raise SettingError(
            f"The weights of {name} could not be downloaded ({type(error).__name__}); pass a file with {part}.checkpoint."
        ) from error
    known = timm.get_pretrained_cfg(name)
    _say_resampled(name, side if known is None else known.input_size[-1], side)
    return vit


def load_vit(vit: VisionTransformer, weights: dict[str, Tensor], source: str) -> None:
    """Load a vision transformer strictly; position codes of other frames are resampled as timm does.

    Args:
        vit: where to load to.
        weights: see `vit_weights`.
        source: file, for what is printed.

    Raises:
        SettingError: if they do not fit.
    """
    # DINO's published files may carry the projection head of pretraining.
    load_strictly(vit, vit_weights(vit, weights, source), source, may_leave=("head.",))


def vit_weights(vit: VisionTransformer, weights: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """Weights under timm's names, with position codes for the frames of a vision transformer.

    Args:
        vit: that takes them.
        weights: under timm's names (DINO's published files have them), or of DINOv2's published file.
        source: file, for what is printed.

    Raises:
        SettingError: if they are of patches of another size, which timm would resample.
    """
    kernel, own = weights.get("patch_embed.proj.weight"), vit.patch_embed.patch_size
    if kernel is not None and kernel.ndim == 4 and tuple(kernel.shape[2:]) != own:
        raise SettingError(
            f"{source} has patches of {' x '.join(map(str, kernel.shape[2:]))} px, but the network {own[0]} x {own[1]}; choose "
            "another name or patch_size."
        )
    try:
        fitted: dict[str, Tensor] = checkpoint_filter_fn(weights, vit)
    except RuntimeError as error:
        raise SettingError(
            f"{source} has position codes {list(weights['pos_embed'].shape)}, which cannot be resampled for this network; "
            "choose another name or file."
        ) from error
    if "pos_embed" in weights:
        _say_resampled(source, own[0] * position_side(weights), vit.patch_embed.img_size[0])
    return fitted


def position_side(weights: dict[str, Tensor]) -> int:
    """Rows and columns of patches that position codes are of: of weights as `vit_weights` takes them."""
    count = weights["pos_embed"].shape[1]
    registers = weights["reg_token"].shape[1] if "reg_token" in weights else 0
    # In some networks neither class token nor registers have a position; in DINOv2's published files, the former alone has.
    counts = (count, count - 1, count - 1 - registers)
    return next((math.isqrt(one) for one in counts if one > 0 and math.isqrt(one) ** 2 == one), 0)


def _say_resampled(source: str, trained: int, side: int) -> None:
    if trained != side:
        rank_zero_info(
            f"Position codes of {source} are resampled over rows and columns from frames of {trained} px to {side} px."
        )


def _download(name: str, side: int = 224) -> PatchTokens:
    return PatchTokens(download_vit(name, side, TARGET))


def _set_norm_eps(module: nn.Module, eps: float) -> None:
    for part in module.modules():
        if isinstance(part, nn.LayerNorm):
            part.eps = eps
