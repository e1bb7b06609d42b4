"""Weights of encoders that no other code base publishes: only files of this project hold them."""

from torch import Tensor, nn

from modules.core.errors import SettingError
from modules.core.loading import LoadReport, load_strictly

ATTRIBUTE = "backbone."


def load_encoder(encoder: nn.Module, weights: dict[str, Tensor], path: str) -> LoadReport:
    """Load the weights of an encoder strictly; everything else in the file (heads, other encoders) is reported as unused.

    Args:
        encoder: where to load to.
        weights: of our .ckpt or .safetensors of a method, also of one with several encoders, or of the encoder alone.
        path: the file, for what is printed.

    Returns:
        The report that was printed.

    Raises:
        SettingError: if the file holds no such encoder or several, lacks a weight, or has another shape.
    """
    own, found = encoder.state_dict().keys(), {}
    for prefix in prefixes_of(list(weights)):
        inner = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        if own & inner.keys():
            found[prefix] = inner
    # An encoder may have parts that are named as those of others.
    found = {prefix: inner for prefix, inner in found.items() if own <= inner.keys()} or found
    if len(found) != 1:
        held = f"several ({', '.join(found)})" if found else f"none (its tensors: {', '.join(list(weights)[:3])}, ...)"
        raise SettingError(
            f"model.backbone.checkpoint names {path}, which should contain one {type(encoder).__name__} but has {held}; pass "
            "another file."
        )
    ((prefix, inner),) = found.items()
    rest = {key: value for key, value in weights.items() if not key.startswith(prefix)}
    return load_strictly(encoder, rest | inner, path, may_leave=tuple(rest))


def prefixes_of(names: list[str]) -> list[str]:
    """What stands before the names of an encoder in a file: nothing, or all up to the attribute of a method that holds it."""
    inside = (name.partition(ATTRIBUTE) for name in names)
    found = {before + attribute for before, attribute, _ in inside if attribute}
    return sorted(found) or [""]
