"""Names and layouts of CVRL's TensorFlow weights (https://arxiv.org/abs/2008.03800, official code): backbone and projection.

Exported arrays have the keys of TensorFlow's object checkpoints, with or without the suffix `/.ATTRIBUTES/VARIABLE_VALUE`, such
as `backbone/layer_with_weights-2/_temporal_conv/kernel` and `model/layer_with_weights-1/kernel`; or the names of the variables
of a model that was built first in its process, such as `bottleneck_block3d/conv3d_1/kernel:0` and `dense/kernel:0`. Kernels of
convolutions are [t, h, w, in, out] there and [out, in, t, h, w] here; those of linear layers are [in, out] and [out, in].
"""

import re

from torch import Tensor

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
FIRST = "backbone/layer_with_weights-0/kernel"
"""The first array of the network: that of the stem's convolution."""
FIRST_VARIABLE = "conv3d/kernel:0"
"""The same as the name of a variable."""
BLOCK = {
    "_shortcut_conv": "shortcut.0",
    "_norm0": "shortcut.1",
    "_temporal_conv": "temporal",
    "_norm1": "norm1",
    "_spatial_conv": "spatial",
    "_norm2": "norm2",
    "_expand_conv": "expand",
    "_norm3": "norm3",
}
NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
COUNTER = "num_batches_tracked"
"""Counters of BatchNorm, which TensorFlow does not have."""


def is_tensorflow(state: dict[str, Tensor]) -> bool:
    """Whether these are CVRL's TensorFlow arrays."""
    return any(name in state for name in (FIRST, FIRST + SUFFIX, FIRST_VARIABLE))


def from_tensorflow(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """CVRL's TensorFlow arrays under a method's names, `backbone.*` and `projection.*`, in PyTorch's layout.

    Names that are not in CVRL's pretraining network are kept, so that loading reports them. Only the first block of a stage has
    a convolution in its shortcut, which tells where the stages start.

    Args:
        state: arrays of the model, without those of the optimiser; see `is_tensorflow`.
    """
    state = {_object_key(key.removesuffix(SUFFIX)): value for key, value in state.items()}
    firsts = (re.match(r"backbone/layer_with_weights-(\d+)/_shortcut_conv/kernel", key) for key in state)
    starts = sorted(int(match[1]) for match in firsts if match is not None)
    has_projection = "model/layer_with_weights-2/gamma" in state
    renamed = {}
    for key, value in state.items():
        ours = _our_name(key, starts, has_projection)
        renamed[ours or key] = _to_pytorch(value) if ours is not None and key.endswith("/kernel") else value
    return renamed


def to_tensorflow(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of `from_tensorflow`: object-checkpoint keys without suffix, in TensorFlow's layout.

    Args:
        state: `backbone.*` and, optionally, `projection.*` of CVRL with a `SlowOnly`; other names raise a KeyError.
    """
    counts = [
        1 + max(int(key.split(".")[2]) for key in state if key.startswith(f"backbone.layer{stage}.")) for stage in range(1, 5)
    ]
    renamed = {}
    for key, value in state.items():
        if not key.endswith(COUNTER):
            named = _their_name(key, counts)
            renamed[named] = _to_tensorflow(value) if named.endswith("/kernel") else value
    return renamed


def _object_key(name: str) -> str:
    """The key in an object checkpoint for the name of a variable; other names are unchanged."""
    match = re.fullmatch(r"(?:bottleneck_block3d(?:_(\d+))?/)?(conv3d|batch_normalization|dense)(?:_(\d+))?/(\w+):0", name)
    if match is None:
        return name
    block, kind, place, own = match[1], match[2], int(match[3] or 0), match[4]
    if name.startswith("bottleneck"):
        layer = (
            ("_shortcut_conv", "_temporal_conv", "_spatial_conv", "_expand_conv")[place]
            if kind == "conv3d"
            else f"_norm{place}"
        )
        return f"backbone/layer_with_weights-{int(block or 0) + 2}/{layer}/{own}"
    if kind == "dense":
        return f"model/layer_with_weights-{1 + 2 * place}/{own}"
    if kind == "batch_normalization" and place:
        return f"model/layer_with_weights-{2 * place}/{own}"
    return f"backbone/layer_with_weights-{int(kind == 'batch_normalization')}/{own}"


def _our_name(key: str, starts: list[int], has_projection: bool) -> str | None:
    """Our name for an official key; None if it is not one, as for a classifier, which is there instead of a projection."""
    match = re.fullmatch(r"(backbone|model)/layer_with_weights-(\d+)/(?:(_\w+)/)?(\w+)", key)
    if match is None:
        return None
    part, number, layer, name = match[1], int(match[2]), match[3], match[4]
    own = NORM.get(name, {"kernel": "weight", "bias": "bias"}.get(name))
    if own is None:
        return None
    if part == "model":
        # Layer 0 is the backbone; then linear layers and BatchNorm alternate, with a ReLU after each BatchNorm.
        place, is_norm = divmod(number - 1, 2)
        return f"projection.{3 * place + is_norm}.{own}" if number and layer is None and has_projection else None
    if number < 2:
        return f"backbone.stem.{number}.{own}" if layer is None else None
    stage = sum(start <= number for start in starts)
    if not stage or layer not in BLOCK:
        return None
    return f"backbone.layer{stage}.{number - starts[stage - 1]}.{BLOCK[layer]}.{own}"


def _their_name(key: str, counts: list[int]) -> str:
    """The official key for one of our names."""
    part, *middle, own = key.split(".")
    if part == "projection":
        place, is_norm = divmod(int(middle[0]), 3)
        layer = f"model/layer_with_weights-{1 + 2 * place + is_norm}"
        return f"{layer}/{_variable(own, bool(is_norm))}"
    if middle[0] == "stem":
        return f"backbone/layer_with_weights-{middle[1]}/{_variable(own, middle[1] == '1')}"
    stage, block = int(middle[0].removeprefix("layer")), int(middle[1])
    names = {ours: theirs for theirs, ours in BLOCK.items()}
    layer = names[".".join(middle[2:])]
    number = 2 + sum(counts[: stage - 1]) + block
    return f"backbone/layer_with_weights-{number}/{layer}/{_variable(own, 'norm' in layer)}"


def _variable(own: str, is_norm: bool) -> str:
    if is_norm:
        return {ours: theirs for theirs, ours in NORM.items()}[own]
    return {"weight": "kernel", "bias": "bias"}[own]


def _to_pytorch(kernel: Tensor) -> Tensor:
    return kernel.permute(4, 3, 0, 1, 2).contiguous() if kernel.ndim == 5 else kernel.T.contiguous()


def _to_tensorflow(weight: Tensor) -> Tensor:
    return weight.permute(2, 3, 4, 1, 0).contiguous() if weight.ndim == 5 else weight.T.contiguous()
