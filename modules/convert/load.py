"""An encoder from any weights that this project reads, built with the sizes that they have."""

import math
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from modules.backbones.cnn.i3d import I3D
from modules.backbones.cnn.resnet import VideoResNet
from modules.backbones.vit.beit_video import BEiTVideo
from modules.backbones.vit.video_vit import VideoViT
from modules.convert.command import convert_video, read_source
from modules.convert.networks import Converted, Source, convert_cnn, convert_skeleton, convert_video_text, is_cnn, is_tower
from modules.convert.skeleton import empty_encoder, is_skeleton
from modules.core.errors import SettingError
from modules.core.tokens import Pooling
from modules.weights.names.vindlu import is_text, is_video_text
from modules.weights.sizes import count_blocks, mlp_ratio

FRAME_POSITIONS = "backbone.frame_positions"
"""Tensor that only BEiT with temporal attention has."""


class Loaded(NamedTuple):
    """An encoder and what is known of the clips that it was trained on."""

    network: nn.Module
    """an `Encoder` in evaluation mode, on the CPU: `network(network.preprocess(clips))` gives features [B, D]"""
    frames: int
    size: int | None
    """side of the clips in pixels; None where the weights do not say, or take no pictures"""
    stride: int | None
    """frames of the video from one frame of a clip to the next; None if not recorded"""
    passport: dict[str, Any]
    """what lies with the weights, see `modules.weights.passport`"""


def load_backbone(
    source: str | Path, num_frames: int | None = None, image_size: int | None = None, pooling: Pooling = "mean"
) -> nn.Module:
    """The encoder of a file or folder, with its sizes, preprocessing and position codes, in evaluation mode on the CPU.

    Args:
        source: whatever `python main.py convert` reads: a checkpoint or .safetensors of ours, an official file, a folder of
            `transformers`.
        num_frames: frames of the clips that it will be given; None takes those of the weights. Position codes are interpolated.
        image_size: side of these clips in pixels, as above.
        pooling: see `VideoViT`.

    Raises:
        SettingError: if the weights cannot be read, hold no encoder of clips, or do not fit the network that they claim to be.
    """
    return describe_backbone(source, num_frames, image_size, pooling).network


def describe_backbone(
    source: str | Path,
    num_frames: int | None = None,
    image_size: int | None = None,
    pooling: Pooling = "mean",
    setting: str = "--source",
) -> Loaded:
    """`load_backbone`, with what is known of the clips of its training; errors name the setting of the source."""
    found = read_source(Path(source), None, setting)
    if is_skeleton(found.weights):
        converted = convert_skeleton(found, "backbone", "safetensors")
        network = _skeleton(found, converted)
    elif is_video_text(found.weights) or FRAME_POSITIONS in found.weights:
        return _video_text(found, num_frames, image_size)
    elif is_text(found.weights) or is_tower(found.weights):
        raise SettingError(f"{found.path} holds no encoder of clips; pass weights of a video or skeleton network.")
    elif is_cnn(found.weights):
        converted = convert_cnn(found, found.facts, "backbone", "safetensors")
        network = _cnn(converted, found)
    else:
        converted = convert_video(found, found.facts, "backbone")
        network = _vit(converted, found, num_frames, image_size, pooling)
    known = converted.passport["architecture"]
    frames = num_frames or getattr(network, "num_frames", None) or converted.passport.get("frames") or 16
    size = image_size or getattr(network, "image_size", None) or known.get("image_size") or found.facts.get("image_size")
    return Loaded(network.eval(), int(frames), size, converted.passport.get("stride"), converted.passport)


def _vit(converted: Converted, found: Source, num_frames: int | None, image_size: int | None, pooling: Pooling) -> VideoViT:
    sizes = converted.architecture
    assert sizes is not None
    return VideoViT(
        image_size=image_size or sizes.image_size,
        num_frames=num_frames or sizes.num_frames,
        patch_size=sizes.patch_size,
        tubelet_size=sizes.tubelet_size,
        embed_dim=sizes.embed_dim,
        depth=sizes.depth,
        num_heads=sizes.num_heads,
        mlp_ratio=sizes.mlp_ratio,
        pooling=pooling,
        checkpoint=str(found.path),
        pretrained_frames=sizes.pretrained_frames or sizes.num_frames,
        pretrained_size=sizes.pretrained_size or sizes.image_size,
    )


def _cnn(converted: Converted, found: Source) -> nn.Module:
    sizes = converted.passport["architecture"]
    if sizes["backbone"] == "I3D":
        return I3D(sizes["width_factor"], checkpoint=str(found.path))
    return VideoResNet(sizes["name"], sizes["width"], checkpoint=str(found.path))


def _video_text(found: Source, num_frames: int | None, image_size: int | None) -> Loaded:
    """The encoder of a network of videos and texts, with that network or without."""
    weights, passport = found.weights, found.passport
    if FRAME_POSITIONS not in weights:
        converted = convert_video_text(found, found.facts, "backbone", "safetensors")
        weights, passport = converted.weights, converted.passport
    width = weights["backbone.cls_token"].shape[2]
    hidden = len(weights["backbone.blocks.0.mlp.fc1.bias"])
    network = BEiTVideo(
        image_size=image_size or found.facts.get("image_size", 224),
        num_frames=num_frames or weights[FRAME_POSITIONS].shape[1],
        patch_size=math.isqrt(weights["backbone.patch_embed.weight"].shape[1] // 3),
        embed_dim=width,
        depth=count_blocks(weights, "backbone.blocks."),
        num_heads=weights["backbone.blocks.0.attn.relative_position_bias_table"].shape[1],
        mlp_ratio=mlp_ratio(hidden, width),
        checkpoint=str(found.path),
    )
    return Loaded(network.eval(), network.num_frames, network.image_size, found.facts.get("stride"), passport)


def _skeleton(found: Source, converted: Converted) -> nn.Module:
    direction = converted.passport["architecture"]["backbone"].get("direction", "forward_twice")
    network, _ = empty_encoder(converted.weights, "backbone.", direction, str(found.path))
    own = {key.removeprefix("backbone."): value for key, value in converted.weights.items() if key.startswith("backbone.")}
    network.load_state_dict(own)
    return network
