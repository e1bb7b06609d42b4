"""Networks without storage (meta device), built with the sizes of given weights, to check the weights."""

import itertools
import math
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from modules.backbones.cnn.base import VideoCNN
from modules.backbones.cnn.c3d import C3D
from modules.backbones.cnn.caffenet import CaffeNet
from modules.backbones.cnn.clip_order import ClipOrderName, ClipOrderResNet
from modules.backbones.cnn.i3d import I3D
from modules.backbones.cnn.resnet import ResNetName, VideoResNet
from modules.backbones.cnn.resnet3d import ResNet3D
from modules.backbones.cnn.s3d import S3D, S3DG
from modules.backbones.cnn.slow_only import SlowOnly
from modules.backbones.text.bert import TextEncoder, TextSettings
from modules.backbones.vit.beit_video import BEiTVideo
from modules.backbones.vit.decoder import DecoderSettings, MaskedDecoder
from modules.backbones.vit.predictor import PredictorSettings, VJEPAPredictor
from modules.backbones.vit.spacetime_vit import SpacetimeDecoder, SpacetimeViT
from modules.backbones.vit.video_vit import VideoViT
from modules.backbones.vit.vjepa_vit import VJEPAViT
from modules.core.tokens import Pooling
from modules.layers.contrast.momentum_contrast import ContrastSettings, MomentumContrast
from modules.layers.contrast.speed_contrast import SpeedContrast
from modules.layers.heads import ProjectionMLP, VideoClassifier
from modules.layers.playback import ClipDecoder, RateHead
from modules.layers.tuple_head import TupleHead
from modules.methods.odd_one_out import OddHead
from modules.methods.opn import SortingHead
from modules.methods.shuffle_and_learn import VerificationHead
from modules.weights.sizes import Architecture, count_blocks, mlp_ratio, shape_of


def empty_network(sizes: Architecture) -> nn.Module:
    """The network without storage, under this project's names.

    Names are `backbone.*`, `decoder.*`, `projection.*`, `prototypes`, `fc_norm.*`, `head.*`, `online.*`, `predictor.*`.
    """
    with torch.device("meta"):
        backbone = video_transformer(sizes)
        if sizes.num_classes is not None and not sizes.pools_class:
            return VideoClassifier(backbone, sizes.num_classes)
        network = nn.ModuleDict({"backbone": backbone})
        if sizes.num_classes is not None:
            network["head"] = nn.Linear(sizes.embed_dim, sizes.num_classes)
        if isinstance(backbone, VJEPAViT) and sizes.decoder_dim is not None and sizes.decoder_depth is not None:
            predictor = PredictorSettings(sizes.decoder_depth, sizes.decoder_dim, sizes.decoder_heads, tokens=sizes.mask_tokens)
            network["online"] = video_transformer(sizes)
            network["predictor"] = VJEPAPredictor(backbone, 1, predictor)
        if sizes.decoder_out is not None and sizes.decoder_depth is not None:
            settings = DecoderSettings(sizes.decoder_depth, sizes.decoder_dim, sizes.decoder_heads)
            if isinstance(backbone, SpacetimeViT):
                network["decoder"] = SpacetimeDecoder(backbone, sizes.decoder_out, settings)
            else:
                network["decoder"] = MaskedDecoder(backbone, sizes.decoder_out, settings)
            if sizes.num_prototypes is not None:
                network.register_parameter("prototypes", nn.Parameter(torch.empty(sizes.num_prototypes, sizes.decoder_out)))
            if sizes.projection_inputs is not None:
                widths = itertools.pairwise((*sizes.projection_inputs, sizes.decoder_out))
                layers = {str(2 * layer): nn.Linear(*pair) for layer, pair in enumerate(widths)}
                network["projection"] = nn.ModuleDict(layers)
    return network


def video_transformer(
    sizes: Architecture,
    num_frames: int | None = None,
    image_size: int | None = None,
    pooling: Pooling = "mean",
    checkpoint: str | None = None,
) -> VideoViT:
    """The encoder of the VideoMAE family, of MAE-ST or of V-JEPA with the sizes of weights.

    Args:
        sizes: sizes of the weights.
        num_frames: frames of its clips; None takes those of the weights.
        image_size: side of its clips in pixels, as above.
        pooling: see `VideoViT`. The encoder of a classifier that takes the class token returns the class token.
        checkpoint: file with its weights.
    """
    shared: dict[str, Any] = {
        "image_size": image_size or sizes.image_size,
        "num_frames": num_frames or sizes.num_frames,
        "patch_size": sizes.patch_size,
        "tubelet_size": sizes.tubelet_size,
        "embed_dim": sizes.embed_dim,
        "depth": sizes.depth,
        "num_heads": sizes.num_heads,
        "mlp_ratio": sizes.mlp_ratio,
        "checkpoint": checkpoint,
    }
    if sizes.learned is not None:
        pools: Any = "class" if sizes.pools_class else pooling
        return SpacetimeViT(**shared, learned=sizes.learned, class_token=sizes.class_token, pooling=pools)
    shared |= {
        "pooling": pooling,
        "pretrained_frames": sizes.pretrained_frames or sizes.num_frames,
        "pretrained_size": sizes.pretrained_size or sizes.image_size,
    }
    if sizes.codes is not None:
        return VJEPAViT(**shared, codes=sizes.codes)
    return VideoViT(**shared, cosine_attention=sizes.cosine_attention)


def empty_tower(weights: dict[str, Tensor], heads: int, source: str) -> VisionTransformer:
    """timm's vision transformer with the sizes of an image tower, without storage and without a head.

    Args:
        weights: weights under timm's names.
        heads: attention heads.
        source: file, for error messages.

    Raises:
        SettingError: if tensors for a size are missing.
    """
    width, _, patch, _ = shape_of(weights, "patch_embed.proj.weight", 4, source)
    _, positions, _ = shape_of(weights, "pos_embed", 3, source)
    registers = weights["reg_token"].shape[1] if "reg_token" in weights else 0
    prefix = int("cls_token" in weights) + registers
    # Towers with registers have positions for the patches only.
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


def empty_contrast(weights: dict[str, Tensor], source: str) -> tuple[nn.Module, dict[str, Any]]:
    """A video CNN with the sizes of the weights, and a classifier, the parts of momentum contrast or CVRL's projection if the
    file has them.

    Args:
        weights: weights under this project's names, `backbone.*` and optionally `head.*`, `contrast.*` or `projection.*`.
        source: file, for error messages.

    Returns:
        The network, and its sizes by the names of settings.

    Raises:
        SettingError: if tensors for a size are missing.
    """
    sizes: dict[str, Any]
    backbone: VideoCNN
    if "backbone.conv5.weight" in weights:
        sizes = {"backbone": "CaffeNet", **caffenet_sizes(weights, source)}
        backbone = CaffeNet(**{name: value for name, value in sizes.items() if name != "backbone"})
    elif "backbone.conv3d_1a_7x7.conv3d.weight" in weights:
        factor = shape_of(weights, "backbone.conv3d_1a_7x7.conv3d.weight", 5, source)[0] / 64
        backbone, sizes = I3D(factor), {"backbone": "I3D", "width_factor": factor}
    elif "backbone.features.0.0.0.weight" in weights:
        backbone, sizes = S3D(), {"backbone": "S3D"}
    elif "backbone.feature.sepConv1.excitation.bias" in weights:
        factor = shape_of(weights, "backbone.feature.sepConv1.excitation.bias", 1, source)[0] / 64
        backbone, sizes = S3DG(factor), {"backbone": "S3DG", "width_factor": factor}
    elif "backbone.layer1.0.conv1.weight" in weights:
        width = shape_of(weights, "backbone.conv1.weight", 5, source)[0]
        backbone, sizes = ResNet3D(width), {"backbone": "ResNet3D", "width": width}
    elif "backbone.block5.conv5b.weight" in weights:
        width = shape_of(weights, "backbone.block1.conv1.weight", 5, source)[0]
        backbone, sizes = C3D(width), {"backbone": "C3D", "width": width}
    elif "backbone.conv5.block1.bn2.weight" in weights:
        kind: ClipOrderName = "r2plus1d" if "backbone.stem.conv1.spatial_conv.weight" in weights else "r3d"
        width = shape_of(weights, "backbone.stem.bn1.weight", 1, source)[0]
        backbone, sizes = ClipOrderResNet(kind, width), {"backbone": "ClipOrderResNet", "name": kind, "width": width}
    elif "backbone.layer1.0.temporal.weight" in weights:
        width = shape_of(weights, "backbone.stem.0.weight", 5, source)[0]
        one, two, three, four = (count_blocks(weights, f"backbone.layer{stage}.") for stage in range(1, 5))
        backbone = SlowOnly(width, (one, two, three, four))
        sizes = {"backbone": "SlowOnly", "width": width, "blocks": [one, two, three, four]}
    else:
        name: ResNetName = "r2plus1d_18" if "backbone.stem.3.weight" in weights else "r3d_18"
        if name == "r2plus1d_18" and "backbone.layer4.0.conv1.0.weight" in weights:
            name = "r2plus1d_18_tclr"
        width = shape_of(weights, "backbone.layer1.0.conv1.1.weight", 1, source)[0]
        backbone, sizes = VideoResNet(name, width), {"backbone": "VideoResNet", "name": name, "width": width}
    network = nn.ModuleDict({"backbone": backbone})
    if "head.weight" in weights:
        classes = shape_of(weights, "head.weight", 2, source)[0]
        network["head"] = nn.Linear(backbone.embed_dim, classes)
        sizes["num_classes"] = classes
    if "head.fc8.weight" in weights:
        hidden, features = shape_of(weights, "head.fc7.weight", 2, source)
        classes, inputs = shape_of(weights, "head.fc8.weight", 2, source)
        # Of n places, n (n - 1) / 2 pairs are compared.
        places = (1 + math.isqrt(1 + 8 * (inputs // hidden))) // 2
        norm = "head.norm.weight" in weights
        network["head"] = TupleHead(features // 2, places, classes, hidden=hidden, norm=norm)
        sizes |= {"places": places, "orders": classes}
    if "contrast.head.0.weight" in weights:
        linear = "contrast.head.2.weight" not in weights
        hidden = 0 if linear else shape_of(weights, "contrast.head.0.weight", 2, source)[0]
        out_dim = shape_of(weights, f"contrast.head.{0 if linear else 2}.weight", 2, source)[0]
        queue_size = shape_of(weights, "contrast.queue.keys", 2, source)[0]
        kind_of_contrast = SpeedContrast if "contrast.speed_head.0.weight" in weights else MomentumContrast
        network["contrast"] = kind_of_contrast(backbone, ContrastSettings(hidden, out_dim, queue_size))
        sizes |= {"hidden": hidden, "out_dim": out_dim, "queue_size": queue_size}
    if "projection.0.weight" in weights:
        last = max(int(key.split(".")[1]) for key in weights if key.startswith("projection."))
        hidden = shape_of(weights, "projection.0.weight", 2, source)[0]
        out_dim = shape_of(weights, f"projection.{last}.weight", 2, source)[0]
        network["projection"] = ProjectionMLP(backbone.embed_dim, hidden, out_dim, last // 3)
        sizes |= {"hidden": hidden, "out_dim": out_dim}
    if "rotation_head.weight" in weights:
        sizes["angles"], features = shape_of(weights, "rotation_head.weight", 2, source)
        network["rotation_head"] = nn.Linear(features, sizes["angles"])
    if "rate_head.fc8.weight" in weights:
        sizes["rates"] = shape_of(weights, "rate_head.fc8.weight", 2, source)[0]
        steps = ("up1.up3d", "up2.up3d", "up3.up3d", "up4_1")
        doublings = sum(shape_of(weights, f"decoder.{step}.weight", 5, source)[2] == 2 for step in steps)
        network["rate_head"] = RateHead(backbone.embed_dim, sizes["rates"])
        network["decoder"] = ClipDecoder(backbone.embed_dim, doublings)
    if any(key.startswith("pretext.") for key in weights):
        network["pretext"] = empty_order_head(weights, source)
        sizes["orders"] = shape_of(weights, "pretext.pairs.fc8.weight" if _sorts(weights) else "pretext.fc8.weight", 2, source)[
            0
        ]
    return network, sizes


def caffenet_sizes(weights: dict[str, Tensor], source: str) -> dict[str, int | str | float]:
    """Settings of `CaffeNet` that weights show. Sums of differences have as many channels as frames, so three of them do not
    tell the encoding."""
    width, inputs, _, side, _ = shape_of(weights, "backbone.conv1.weight", 5, source)
    norm = "scaled" if "backbone.bn3.weight" in weights else "plain" if "backbone.bn3.running_mean" in weights else "none"
    sizes: dict[str, int | str | float] = {"width": width, "norm": norm, "stem": "large" if side == 11 else "small"}
    return sizes | ({"encoding": "stack_of_differences", "window": inputs // 3 + 1} if inputs > 3 else {})


def _sorts(weights: dict[str, Tensor]) -> bool:
    return "pretext.pairs.fc8.weight" in weights


def empty_order_head(weights: dict[str, Tensor], source: str) -> nn.Module:
    """The head of OPN, Shuffle & Learn or Odd-One-Out, with the sizes of the weights.

    Args:
        weights: weights under this project's names, with `pretext.*`.
        source: file, for error messages.
    """
    if _sorts(weights):
        hidden, features = shape_of(weights, "pretext.fc6.0.weight", 2, source)
        return SortingHead(features, hidden)
    if "pretext.fc6.0.weight" in weights:
        hidden, features = shape_of(weights, "pretext.fc6.0.weight", 2, source)
        return VerificationHead(features, hidden)
    hidden, features = shape_of(weights, "pretext.fc6.weight", 2, source)
    count, fused = shape_of(weights, "pretext.fc8.weight", 2, source)[0], shape_of(weights, "pretext.fc7.weight", 2, source)[1]
    return OddHead(features, count, hidden, "sumdiff" if fused == hidden else "concat")


def empty_beit(weights: dict[str, Tensor], image_size: int | None) -> tuple[nn.ModuleDict, dict[str, Any]]:
    """BEiT with temporal attention without storage, with a classifier if there is one, and its sizes.

    Args:
        weights: weights under this project's names, `backbone.*` and optionally `head.*`.
        image_size: side of the clips in pixels; None uses that of the relative positions.
    """
    width, frames = weights["backbone.cls_token"].shape[2], weights["backbone.frame_positions"].shape[1]
    patch = math.isqrt(weights["backbone.patch_embed.weight"].shape[1] // 3)
    ratio = mlp_ratio(len(weights["backbone.blocks.0.mlp.fc1.bias"]), width)
    offsets, heads = weights["backbone.blocks.0.attn.relative_position_bias_table"].shape
    # The table has 2 n - 1 offsets along each of n rows and columns, and three rows for the class token.
    image_size = image_size or (math.isqrt(offsets - 3) + 1) // 2 * patch
    depth = count_blocks(weights, "backbone.blocks.")
    sizes = {"embed_dim": width, "depth": depth, "num_heads": heads, "patch_size": patch, "image_size": image_size}
    sizes["num_frames"] = frames
    with torch.device("meta"):
        network = nn.ModuleDict({"backbone": BEiTVideo("micro", image_size, frames, patch, width, depth, heads, ratio, 0)})
        if "head.weight" in weights:
            sizes["num_classes"] = len(weights["head.weight"])
            network["head"] = nn.Linear(width, sizes["num_classes"])
    return network, sizes


def empty_video_text(weights: dict[str, Tensor], image_size: int | None) -> tuple[nn.Module, dict[str, Any]]:
    """The network of `LocoMotion`'s weights without storage, and its sizes.

    Args:
        weights: weights under this project's names.
        image_size: side of the clips in pixels; None uses that of the relative positions.
    """
    tower, video = empty_beit({key: value for key, value in weights.items() if key.startswith("backbone.")}, image_size)
    width, text_depth = video["embed_dim"], count_blocks(weights, "text.layers.")
    fusion = sum(f"text.layers.{layer}.cross.query.bias" in weights for layer in range(text_depth))
    vocabulary, text_width = weights["text.words.weight"].shape
    positions, text_hidden = len(weights["text.positions"]), len(weights["text.layers.0.up.bias"])
    settings = TextSettings(text_width, text_depth, fusion, 1, mlp_ratio(text_hidden, text_width), positions)
    joint = len(weights["video_projection.bias"])
    with torch.device("meta"):
        parts = {
            "backbone": tower["backbone"],
            "text": TextEncoder(settings, vocabulary, width),
            "video_projection": nn.Linear(width, joint),
            "text_projection": nn.Linear(text_width, joint),
            "match_head": nn.Linear(text_width, 2),
        }
        network = nn.ModuleDict(parts)
        network.register_parameter("temperature", nn.Parameter(torch.zeros(())))
    text = {
        "text_dim": text_width,
        "text_depth": text_depth,
        "fusion_depth": fusion,
        "vocabulary": vocabulary,
        "joint_dim": joint,
    }
    return network, video | text


def empty_text(weights: dict[str, Tensor]) -> tuple[nn.Module, dict[str, Any]]:
    """The text encoder of weights under this project's names, without storage, and its sizes. A BERT has no fusion layers.

    Args:
        weights: weights with `words.weight`, `positions` and `layers.0.up.bias`.
    """
    vocabulary, width = weights["words.weight"].shape
    depth, hidden = count_blocks(weights, "layers."), len(weights["layers.0.up.bias"])
    settings = TextSettings(width, depth, 1, 1, mlp_ratio(hidden, width), len(weights["positions"]))
    with torch.device("meta"):
        network = TextEncoder(settings, vocabulary, width)
    sizes = {"embed_dim": width, "depth": depth, "mlp_dim": hidden, "positions": settings.positions}
    return network, sizes | {"vocabulary": vocabulary}
