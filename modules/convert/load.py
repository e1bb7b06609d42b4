"""An encoder from any weights that this project reads, built with the sizes that they have."""

from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from modules.backbones.cnn.base import VideoCNN
from modules.backbones.cnn.c3d import C3D
from modules.backbones.cnn.caffenet import CaffeNet
from modules.backbones.cnn.clip_order import ClipOrderResNet
from modules.backbones.cnn.i3d import I3D
from modules.backbones.cnn.resnet import VideoResNet
from modules.backbones.cnn.resnet3d import ResNet3D
from modules.backbones.cnn.s3d import S3D, S3DG
from modules.backbones.cnn.slow_only import SlowOnly
from modules.backbones.depth import Depth
from modules.backbones.frame_tower import FrameTower
from modules.backbones.sequence.transformer import SequenceTransformer
from modules.backbones.signal.cnn import SignalCNN
from modules.backbones.vit.beit_video import BEiTVideo
from modules.backbones.vit.video_vit import VideoViT
from modules.convert.empty_networks import video_transformer
from modules.convert.frame_tower import convert_frame_tower, is_frame_tower
from modules.convert.networks import (
    Converted,
    convert_beit,
    convert_cnn,
    convert_skeleton,
    convert_video,
    convert_video_text,
    is_beit,
    is_cnn,
    is_tower,
)
from modules.convert.skeleton import empty_encoder, is_skeleton
from modules.convert.source import Source, read_source
from modules.convert.streams import (
    convert_depth,
    convert_sequence,
    convert_signal,
    inner_network,
    is_depth,
    is_signal,
    refuse_several,
)
from modules.core.errors import SettingError
from modules.core.preprocessing import say
from modules.core.tokens import Pooling
from modules.weights.names.lvmae import is_sequence
from modules.weights.names.vindlu import is_text, is_video_text
from modules.weights.sizes import mlp_ratio


class Loaded(NamedTuple):
    """An encoder and what is known of the clips that it was trained on."""

    network: nn.Module
    """an `Encoder` in evaluation mode, on the CPU: `network(network.preprocess(clips))` gives features [B, D]"""
    frames: int
    """of a signal, its steps"""
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
        source: whatever `python main.py convert` reads: a checkpoint or .safetensors of ours (encoders of videos, depth,
            skeletons, signals or sequences of features), an official file, a folder of `transformers`.
        num_frames: frames of the clips that it will be given; None takes those of the weights. Position codes are interpolated.
        image_size: side of these clips in pixels, as above.
        pooling: see `VideoViT`.

    Raises:
        SettingError: if the weights cannot be read, hold no encoder of clips or several, or do not fit the network that they
            claim to be.
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
    return build_backbone(read_source(Path(source), None, setting), num_frames, image_size, pooling)


def build_backbone(
    found: Source, num_frames: int | None = None, image_size: int | None = None, pooling: Pooling = "mean"
) -> Loaded:
    """`describe_backbone` of weights that were read already."""
    refuse_several(found)
    network: nn.Module
    if is_depth(found.weights):
        converted = convert_depth(found, found.facts, "backbone", "safetensors")
        network = _depth(converted, found, num_frames, image_size, pooling)
    elif is_signal(found.weights):
        converted = convert_signal(found, "backbone", "safetensors")
        sizes = converted.passport["architecture"]
        network = SignalCNN(**{name: value for name, value in sizes.items() if name != "stream"})
        network.load_state_dict(_own(converted.weights))
    elif is_sequence(found.weights):
        converted = convert_sequence(found, found.facts, "backbone", "safetensors")
        sizes = converted.passport["architecture"]
        network = SequenceTransformer(**{name: value for name, value in sizes.items() if name != "stream"})
        network.load_state_dict(_own(converted.weights))
    elif is_skeleton(found.weights):
        converted = convert_skeleton(found, "backbone", "safetensors")
        network = _skeleton(found, converted)
    elif is_text(found.weights) and not is_video_text(found.weights):
        raise SettingError(f"{found.path} holds no encoder of clips; pass weights of a video or skeleton network.")
    else:
        converted, network = _of_videos(found, num_frames, image_size, pooling, str(found.path))
    known = converted.passport["architecture"]
    frames = num_frames or getattr(network, "num_frames", None) or converted.passport.get("frames") or 16
    size = image_size or getattr(network, "image_size", None) or known.get("image_size") or found.facts.get("image_size")
    return Loaded(network.eval(), int(frames), size, converted.passport.get("stride"), converted.passport)


def _own(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's weights under its own names."""
    return {key.removeprefix("backbone."): value for key, value in weights.items() if key.startswith("backbone.")}


def _of_videos(
    found: Source, num_frames: int | None, image_size: int | None, pooling: Pooling, checkpoint: str | None
) -> tuple[Converted, VideoViT | VideoCNN | BEiTVideo | FrameTower]:
    """A network of videos of the sizes of weights, and what was read of it; with the weights of a checkpoint, if given."""
    if is_video_text(found.weights) or is_beit(found.weights):
        convert = convert_video_text if is_video_text(found.weights) else convert_beit
        converted = convert(found, found.facts, "backbone", "safetensors")
        sizes = converted.passport["architecture"]
        hidden = len(converted.weights["backbone.blocks.0.mlp.fc1.bias"])
        return converted, BEiTVideo(
            image_size=image_size or sizes["image_size"],
            num_frames=num_frames or sizes["num_frames"],
            patch_size=sizes["patch_size"],
            embed_dim=sizes["embed_dim"],
            depth=sizes["depth"],
            num_heads=sizes["num_heads"],
            mlp_ratio=mlp_ratio(hidden, sizes["embed_dim"]),
            checkpoint=checkpoint,
        )
    if is_frame_tower(found.weights) or is_tower(found.weights):
        converted = convert_frame_tower(found, found.facts, "backbone", "safetensors")
        sizes = {name: value for name, value in converted.passport["architecture"].items() if name != "backbone"}
        asked = {"num_frames": num_frames or sizes["num_frames"], "image_size": image_size or sizes["image_size"]}
        return converted, FrameTower(**sizes | asked, pooling=pooling, checkpoint=checkpoint)
    if is_cnn(found.weights):
        converted = convert_cnn(found, found.facts, "backbone", "safetensors")
        return converted, _cnn(converted, checkpoint)
    converted = convert_video(found, found.facts, "backbone")
    architecture = converted.architecture
    assert architecture is not None
    return converted, video_transformer(architecture, num_frames, image_size, pooling, checkpoint)


def _cnn(converted: Converted, checkpoint: str | None) -> VideoCNN:
    sizes = converted.passport["architecture"]
    if sizes["backbone"] == "CaffeNet":
        settings = {name: sizes[name] for name in ("width", "norm", "stem", "encoding", "window") if name in sizes}
        return CaffeNet(**settings, checkpoint=checkpoint)
    if sizes["backbone"] == "I3D":
        return I3D(sizes["width_factor"], checkpoint=checkpoint)
    if sizes["backbone"] == "S3D":
        return S3D(checkpoint=checkpoint)
    if sizes["backbone"] == "S3DG":
        return S3DG(sizes["width_factor"], checkpoint=checkpoint)
    if sizes["backbone"] == "ResNet3D":
        return ResNet3D(sizes["width"], checkpoint=checkpoint)
    if sizes["backbone"] == "C3D":
        return C3D(sizes["width"], checkpoint=checkpoint)
    if sizes["backbone"] == "ClipOrderResNet":
        return ClipOrderResNet(sizes["name"], sizes["width"], checkpoint=checkpoint)
    if sizes["backbone"] == "SlowOnly":
        return SlowOnly(sizes["width"], tuple(sizes["blocks"]), checkpoint=checkpoint)
    return VideoResNet(sizes["name"], sizes["width"], checkpoint=checkpoint)


def _depth(converted: Converted, found: Source, num_frames: int | None, image_size: int | None, pooling: Pooling) -> Depth:
    """An encoder of depth, whose network is fed as in the run that trained it."""
    sizes = converted.passport["architecture"]
    _, network = _of_videos(inner_network(found), num_frames, image_size, pooling, None)
    encoder = Depth(network, sizes["near"], sizes["far"])
    # A fine-tuned transformer pools before it normalises, so its encoder has no final norm.
    missing = encoder.load_state_dict(_own(converted.weights), strict=False).missing_keys
    assert all(name.startswith("network.norm.") for name in missing), missing
    say(encoder.adopt(found.origin))
    return encoder


def _skeleton(found: Source, converted: Converted) -> nn.Module:
    direction = converted.passport["architecture"]["backbone"].get("direction", "forward_twice")
    network, _ = empty_encoder(converted.weights, "backbone.", direction, str(found.path))
    network.load_state_dict(_own(converted.weights))
    return network
