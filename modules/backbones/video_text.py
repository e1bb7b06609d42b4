"""A video tower, a text encoder and what joins them: whole networks in files, VindLU's and ours; and a text encoder alone."""

from typing import Any

import torch
from torch import Tensor, nn

from modules.backbones.text.bert import TextEncoder, TextSettings
from modules.backbones.vit.beit_video import BEiTVideo
from modules.weights.sizes import count_blocks, mlp_ratio


def empty_video_text(weights: dict[str, Tensor], image_size: int) -> tuple[nn.Module, dict[str, Any]]:
    """The network of `LocoMotion`'s weights, without memory, and its sizes.

    Args:
        weights: under our names.
        image_size: side of the clips in pixels.
    """
    width, frames = weights["backbone.cls_token"].shape[2], weights["backbone.frame_positions"].shape[1]
    patch = round((weights["backbone.patch_embed.weight"].shape[1] / 3) ** 0.5)
    hidden = len(weights["backbone.blocks.0.mlp.fc1.bias"])
    heads = weights["backbone.blocks.0.attn.relative_position_bias_table"].shape[1]
    depth, text_depth = count_blocks(weights, "backbone.blocks."), count_blocks(weights, "text.layers.")
    fusion = sum(f"text.layers.{layer}.cross.query.bias" in weights for layer in range(text_depth))
    vocabulary, text_width = weights["text.words.weight"].shape
    positions, text_hidden = len(weights["text.positions"]), len(weights["text.layers.0.up.bias"])
    settings = TextSettings(text_width, text_depth, fusion, 1, mlp_ratio(text_hidden, text_width), positions)
    joint = len(weights["video_projection.bias"])
    with torch.device("meta"):
        parts = {
            "backbone": BEiTVideo("micro", image_size, frames, patch, width, depth, heads, mlp_ratio(hidden, width), 0),
            "text": TextEncoder(settings, vocabulary, width),
            "video_projection": nn.Linear(width, joint),
            "text_projection": nn.Linear(text_width, joint),
            "match_head": nn.Linear(text_width, 2),
        }
        network = nn.ModuleDict(parts)
        network.register_parameter("temperature", nn.Parameter(torch.zeros(())))
    sizes = {"embed_dim": width, "depth": depth, "num_heads": heads, "patch_size": patch, "image_size": image_size}
    text = {
        "text_dim": text_width,
        "text_depth": text_depth,
        "fusion_depth": fusion,
        "vocabulary": vocabulary,
        "joint_dim": joint,
    }
    return network, sizes | {"num_frames": frames} | text


def empty_text(weights: dict[str, Tensor]) -> tuple[nn.Module, dict[str, Any]]:
    """The text encoder of weights under our names, without memory, and its sizes; a BERT has no fusion.

    Args:
        weights: with `words.weight`, `positions` and `layers.0.up.bias`.
    """
    vocabulary, width = weights["words.weight"].shape
    depth, hidden = count_blocks(weights, "layers."), len(weights["layers.0.up.bias"])
    settings = TextSettings(width, depth, 1, 1, mlp_ratio(hidden, width), len(weights["positions"]))
    with torch.device("meta"):
        network = TextEncoder(settings, vocabulary, width)
    sizes = {"embed_dim": width, "depth": depth, "mlp_dim": hidden, "positions": settings.positions}
    return network, sizes | {"vocabulary": vocabulary}
