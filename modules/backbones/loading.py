"""Loading of encoders whose weights are published by no other code base, only in files of this project."""

from torch import Tensor, nn

from modules.core.errors import SettingError
from modules.core.loading import LoadReport, load_strictly

ATTRIBUTE = "backbone."


def load_encoder(encoder: nn.Module, weights: dict[str, Tensor], path: str) -> LoadReport:
    """Load the weights of an encoder strictly. All other weights in the file (heads, other encoders) are reported as unused.

    Args:
        encoder: encoder to load the weights into.
        weights: content of a .ckpt or .safetensors file of this project, of a method (with one or more encoders) or of the
            encoder only.
        path: the file, for messages.

    Returns:
        The report that was printed.

    Raises:
        SettingError: if the file contains no such encoder or several, lacks a weight, or has a weight of another shape.
    """
    own, found = encoder.state_dict().keys(), {}
    for prefix in prefixes_of(list(weights)):
        inner = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        if own & inner.keys():
            found[prefix] = inner
    # Another encoder may have parameters of the same names. Prefer the encoders that have all of them.
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
    """Prefixes of encoders in the names of a file: the path of a method's attribute, or an empty one for an encoder alone."""
    inside = (name.partition(ATTRIBUTE) for name in names)
    found = {before + attribute for before, attribute, _ in inside if attribute}
    return sorted(found) or [""]
