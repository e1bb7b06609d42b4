"""Skeleton networks for `convert`: names, sizes read from the weights, and an empty network to check the weights.

Supported: official skeleton-contrast files (https://arxiv.org/abs/2108.03656: one or two encoders, their momentum copies,
queues), official encoders with or without a classifier, and files of this project.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from modules.backbones.skeleton.base import SkeletonEncoder
from modules.backbones.skeleton.gcn import AGCN
from modules.backbones.skeleton.gru import BiGRU
from modules.backbones.skeleton.hcn import HCN
from modules.core.errors import SettingError
from modules.core.loading import compare
from modules.layers.contrast.momentum_contrast import ContrastSettings, MomentumContrast
from modules.weights.names.skeleton_contrast import from_official, gru_to_official, to_official
from modules.weights.sizes import count_blocks

Part = Literal["all", "backbone", "partner"]
# For each family of encoders, a tensor that no other has, under this project's names.
OF_GRU, OF_GRAPH, OF_IMAGE = "first.0.weight_hh_l0", "l1.tcn1.conv.weight", "conv1m.0.weight"


def is_skeleton(weights: dict[str, Tensor]) -> bool:
    """Whether these are weights of a skeleton encoder, alone or in a method."""
    names = from_official(weights).keys()
    return any(prefix + first in names for prefix in ("", "backbone.") for first in (OF_GRU, OF_GRAPH, OF_IMAGE))


def our_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename official names to those of `SkeletonContrast`, or of a backbone with a `head`."""
    weights = from_official(weights)
    if any(key.startswith("backbone.") for key in weights):
        return weights
    return {f"head.{key[3:]}" if key.startswith("fc.") else f"backbone.{key}": value for key, value in weights.items()}


def choose(weights: dict[str, Tensor], part: Part, source: str) -> dict[str, Tensor]:
    """The tensors of a part; an encoder is always called `backbone`.

    Raises:
        SettingError: if there is no such encoder.
    """
    if part == "all":
        return weights
    chosen = {key.replace(part, "backbone", 1): value for key, value in weights.items() if key.startswith(f"{part}.")}
    if not chosen:
        raise SettingError(f"--part {part}: {source} contains only one encoder; pass --part backbone.")
    return chosen


def empty_encoder(
    weights: dict[str, Tensor], prefix: str, direction: str, source: str
) -> tuple[SkeletonEncoder, dict[str, Any]]:
    """An encoder with the sizes of the weights under a prefix, and these sizes by the names of its settings.

    Raises:
        SettingError: if a tensor for a size is missing.
    """
    if prefix + OF_GRU in weights:
        hidden = weights[prefix + OF_GRU].shape[1]
        layers = count_blocks(weights, f"{prefix}first.")
        way: Any = direction
        return BiGRU(hidden, layers, way), {"class": "BiGRU", "hidden": hidden, "layers": layers, "direction": direction}
    if prefix + OF_GRAPH in weights:
        width = weights[prefix + OF_GRAPH].shape[0]
        return AGCN(width), {"class": "AGCN", "width": width}
    if prefix + OF_IMAGE in weights and f"{prefix}conv2.weight" in weights:
        width, window = weights[prefix + OF_IMAGE].shape[0], weights[f"{prefix}conv2.weight"].shape[0]
        return HCN(width, window), {"class": "HCN", "width": width, "window": window}
    raise SettingError(f"{source} contains no complete skeleton encoder under {prefix}*; pass another file.")


def empty_network(weights: dict[str, Tensor], direction: str, source: str) -> tuple[nn.Module, dict[str, Any]]:
    """A network with the sizes of the weights, without storage, under this project's names; and its sizes."""
    network = nn.ModuleDict()
    sizes: dict[str, Any] = {}
    with torch.device("meta"):
        for name, contrast in (("backbone", "contrast"), ("partner", "partner_contrast")):
            if not any(key.startswith(f"{name}.") for key in weights):
                continue
            encoder, sizes[name] = empty_encoder(weights, f"{name}.", direction, source)
            network[name] = encoder
            head, last, keys = (weights.get(f"{contrast}.{key}") for key in ("head.0.weight", "head.2.weight", "queue.keys"))
            if head is not None and last is not None:
                settings = ContrastSettings(head.shape[0], last.shape[0], 0 if keys is None else keys.shape[0])
                network[contrast] = MomentumContrast(encoder, settings)
                sizes |= {"out_dim": settings.out_dim, "queue_size": settings.queue_size}
        if "head.weight" in weights:
            sizes["num_classes"] = weights["head.weight"].shape[0]
            network["head"] = nn.Linear(weights["head.weight"].shape[1], sizes["num_classes"])
    return network, sizes


def read_skeleton(
    weights: dict[str, Tensor], part: Part, direction: str, source: str
) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """Weights of a skeleton network under this project's names.

    Args:
        weights: weights under the file's own names.
        part: all parts, or one of the two encoders.
        direction: direction of a BiGRU, which cannot be read from its weights.
        source: file, for error messages.

    Returns:
        The weights, the sizes of the network, and a report of what matched.

    Raises:
        SettingError: if weights are missing, left over or of another shape.
    """
    kept = choose(our_names(weights), part, source)
    network, sizes = empty_network(kept, direction, source)
    hint = " (--part backbone or partner reads only one encoder)" if part == "all" else ""
    report = compare(dict(network.state_dict()), kept, source, f"{sizes['backbone']['class']} network{hint}")
    return kept, sizes, str(report)


def official_file(weights: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Content of a file in the official code's format, from weights under this project's names.

    A bare encoder becomes `encoder_q`; with a head, it becomes a classifier with `fc`.
    """
    if "head.weight" in weights:
        bare = {key.removeprefix("backbone.").replace("head.", "fc.", 1): value for key, value in weights.items()}
        state = gru_to_official(bare)
    else:
        state = to_official(weights)
    return {"state_dict": {f"module.{key}": value for key, value in state.items()}}
