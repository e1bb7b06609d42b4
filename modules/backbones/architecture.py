"""Sizes of a video or image transformer, read from its weights, and an empty network of these sizes to check them with."""

import itertools
import math

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from modules.backbones.cnn.base import VideoCNN
from modules.backbones.cnn.i3d import I3D
from modules.backbones.cnn.resnet import ResNetName, VideoResNet
from modules.backbones.vit.decoder import MaskedDecoder
from modules.backbones.vit.video_vit import VideoViT
from modules.layers.heads import VideoClassifier
from modules.layers.momentum_contrast import ContrastSettings, MomentumContrast
from modules.weights.sizes import Architecture, count_blocks, mlp_ratio, shape_of


def empty_network(sizes: Architecture) -> nn.Module:
    """The network without storage, under our names.

    These are `backbone.*`, `decoder.*`, `projection.*`, `prototypes`, `fc_norm.*`, `head.*`.
    """
    with torch.device("meta"):
        backbone = VideoViT(
            image_size=sizes.image_size,
            num_frames=sizes.num_frames,
            patch_size=sizes.patch_size,
            tubelet_size=sizes.tubelet_size,
            embed_dim=sizes.embed_dim,
            depth=sizes.depth,
            num_heads=sizes.num_heads,
            mlp_ratio=sizes.mlp_ratio,
        )
        if sizes.num_classes is not None:
            return VideoClassifier(backbone, sizes.num_classes)
        network = nn.ModuleDict({"backbone": backbone})
        if sizes.decoder_out is not None and sizes.decoder_depth is not None:
            network["decoder"] = MaskedDecoder(
                backbone, sizes.decoder_out, sizes.decoder_depth, sizes.decoder_dim, sizes.decoder_heads
            )
            if sizes.num_prototypes is not None:
                network.register_parameter("prototypes", nn.Parameter(torch.empty(sizes.num_prototypes, sizes.decoder_out)))
            if sizes.projection_inputs is not None:
                widths = itertools.pairwise((*sizes.projection_inputs, sizes.decoder_out))
                layers = {str(2 * layer): nn.Linear(*pair) for layer, pair in enumerate(widths)}
                network["projection"] = nn.ModuleDict(layers)
    return network


def empty_tower(weights: dict[str, Tensor], heads: int, source: str) -> VisionTransformer:
    """timm's vision transformer of the sizes of an image tower, without storage and without a head.

    Args:
        weights: under timm's names.
        heads: attention heads.
        source: file, for error messages.

    Raises:
        SettingError: if tensors for a size are missing.
    """
    width, _, patch, _ = shape_of(weights, "patch_embed.proj.weight", 4, source)
    _, positions, _ = shape_of(weights, "pos_embed", 3, source)
    registers = weights["reg_token"].shape[1] if "reg_token" in weights else 0
    prefix = int("cls_token" in weights) + registers
    # Towers with registers give positions to the patches alone.
    bare = math.isqrt(positions) ** 2 == positions
    side = math.isqrt(positions if bare else max(0, positions - prefix))
    with torch.device("meta"):
        return VisionTransformer(
            img_size=side * patch,
            patch_size=patch,
            num_classes=0,
            global_pool="token" if "cls_token" in weights else "avg",
            embed_dim=width,
            depth=count_blocks(weights, "blocks."),
            num_heads=heads,
            mlp_ratio=mlp_ratio(shape_of(weights, "blocks.0.mlp.fc1.weight", 2, source)[0], width),
            qkv_bias="blocks.0.attn.qkv.bias" in weights,
            init_values=1.0 if "blocks.0.ls1.gamma" in weights else None,
            class_token="cls_token" in weights,
            no_embed_class=bare,
            reg_tokens=registers,
            pre_norm="norm_pre.weight" in weights,
            fc_norm="fc_norm.weight" in weights,
        )


def empty_contrast(weights: dict[str, Tensor], source: str) -> tuple[nn.Module, dict[str, int | str | float]]:
    """A video CNN, with what momentum contrast adds to it if the file has that, of the sizes of the weights.

    Args:
        weights: under our names, `backbone.*` and perhaps `contrast.*`.
        source: file, for error messages.

    Returns:
        The network, and its sizes by the names of settings.

    Raises:
        SettingError: if tensors for a size are missing.
    """
    sizes: dict[str, int | str | float]
    backbone: VideoCNN
    if "backbone.conv3d_1a_7x7.conv3d.weight" in weights:
        factor = shape_of(weights, "backbone.conv3d_1a_7x7.conv3d.weight", 5, source)[0] / 64
        backbone, sizes = I3D(factor), {"backbone": "I3D", "width_factor": factor}
    else:
        name: ResNetName = "r2plus1d_18" if "backbone.stem.3.weight" in weights else "r3d_18"
        if name == "r2plus1d_18" and "backbone.layer4.0.conv1.0.weight" in weights:
            name = "r2plus1d_18_tclr"
        width = shape_of(weights, "backbone.layer1.0.conv1.1.weight", 1, source)[0]
        backbone, sizes = VideoResNet(name, width), {"backbone": "VideoResNet", "name": name, "width": width}
    network = nn.ModuleDict({"backbone": backbone})
    if "contrast.head.0.weight" in weights:
        hidden = shape_of(weights, "contrast.head.0.weight", 2, source)[0]
        out_dim = shape_of(weights, "contrast.head.2.weight", 2, source)[0]
        queue_size = shape_of(weights, "contrast.queue.keys", 2, source)[0]
        network["contrast"] = MomentumContrast(backbone, ContrastSettings(hidden, out_dim, queue_size))
        sizes |= {"hidden": hidden, "out_dim": out_dim, "queue_size": queue_size}
    return network, sizes
