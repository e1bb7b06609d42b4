"""Parameter names of RSPNet's official files: both branches with encoder and heads, and the queue."""

from torch import Tensor

from modules.weights.names.cnn.clip_order import from_official as from_clip_order
from modules.weights.names.cnn.clip_order import is_clip_order, is_own_clip_order
from modules.weights.names.cnn.clip_order import to_official as to_clip_order

BRANCHES = {"encoder_q.": ("backbone.", "contrast."), "encoder_k.": ("contrast.key_backbone.", "contrast.key_")}
"""Where the encoder and the heads of each branch are in this project."""
HEADS = {"fc1.": "head.", "fc2.": "speed_head."}
CLASSIFIERS = ("fc.", "linear.", "new_fc.", "classifier.")
RETRAINED = "encoder_q.encoder.base_network."
"""The encoder in the file of SEVERE (official code), which `from_published` reads."""
POOLING_LAYERS = 2
"""Layers before the first linear one in the official heads."""


def is_rspnet(state: dict[str, Tensor]) -> bool:
    """Whether these are weights of RSPNet's official code."""
    encoder = [key for key in state if key.startswith("encoder_q.encoder.")]
    return bool(encoder) and not any(key.startswith(RETRAINED) for key in encoder)


def is_own_rspnet(state: dict[str, Tensor]) -> bool:
    """Whether the 3D ResNet-18 or S3D-G is among these weights, under this project's names (which are the official ones)."""
    return any(key.endswith(("layer1.0.conv1.weight", "sepConv1.excitation.weight")) for key in state)


def from_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename official weights to a method's names. Each official encoder has a classifier with one output that is never trained
    or used; it is left out.

    Args:
        state: `encoder_q.encoder.*`, `encoder_q.fc1.*`, `encoder_q.fc2.*`, the same of `encoder_k`, `queue` [dim, K],
            `queue_ptr` [1]; all except the first are optional.
    """
    renamed: dict[str, Tensor] = {}
    for branch, (encoder, heads) in BRANCHES.items():
        own = _without(f"{branch}encoder.", state)
        own = {key: value for key, value in own.items() if not key.startswith(CLASSIFIERS)}
        if is_clip_order(own):
            own = _without("backbone.", from_clip_order(own))
        renamed |= {encoder + key: value for key, value in own.items()}
        for official, ours in HEADS.items():
            for key, value in _without(branch + official, state).items():
                layer, kind = key.split(".")
                renamed[f"{heads}{ours}{int(layer) - POOLING_LAYERS}.{kind}"] = value
    if "queue" in state:
        renamed["contrast.queue.keys"] = state["queue"].T.contiguous()
        renamed["contrast.queue.pointer"] = state["queue_ptr"].reshape(())
    return renamed


def to_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of `from_official` for the weights of a method, without the unused classifiers."""
    renamed: dict[str, Tensor] = {}
    for branch, (encoder, heads) in BRANCHES.items():
        own = _without(encoder, state)
        if is_own_clip_order(own):
            named = to_clip_order({f"backbone.{key}": value for key, value in own.items()})
            own = _without("base_network.", named)
        renamed |= {f"{branch}encoder.{key}": value for key, value in own.items()}
        for official, ours in HEADS.items():
            for key, value in _without(heads + ours, state).items():
                layer, kind = key.split(".")
                renamed[f"{branch}{official}{int(layer) + POOLING_LAYERS}.{kind}"] = value
    if "contrast.queue.keys" in state:
        renamed["queue"] = state["contrast.queue.keys"].T.contiguous()
        renamed["queue_ptr"] = state["contrast.queue.pointer"].reshape(1)
    return renamed


def _without(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The entries under a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
