"""What a file with a complete classifier says: its weights under this project's names, its origin, and its classes."""

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from modules.backbones.frame_tower import FIRST, VIT
from modules.core.errors import SettingError
from modules.core.preprocessing import Origin
from modules.weights.files import Checkpoint
from modules.weights.names.videomae import our_names
from modules.weights.origin import origin_of_encoder, published_origin


def own_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a complete classifier under the names of `Classification`, from any file accepted by `init_from`."""
    if {"stem.0.weight", "fc.weight"} <= weights.keys():
        # torchvision's R3D and R(2+1)D, whose classifier is called `fc`.
        names = {key: key.replace("fc.", "head.") if key.startswith("fc.") else f"backbone.{key}" for key in weights}
        return {names[key]: value for key, value in weights.items()}
    if any(key.endswith(f"{VIT}{FIRST}") for key in weights):
        return weights
    return our_names(weights)


def whole_origin(path: str, content: Checkpoint) -> Origin:
    """Origin of a complete classifier, for any file accepted by `init_from`."""
    return published_origin(content.weights, origin_of_encoder(path, content))


def compare_class_names(names: list[str], known: list[str], source: str) -> None:
    """Compare the order of classes in the data and in the weights; an empty list is not compared.

    Args:
        names: class names of the data, by label.
        known: class names stored with the weights.
        source: where the weights come from, for the message.

    Raises:
        SettingError: if a name has different indices in the two, so that the labels have different meanings.
    """
    first = next((place for place, pair in enumerate(zip(names, known, strict=False)) if pair[0] != pair[1]), None)
    if first is None:
        return
    differs = f"{source} calls class {first} {known[first]!r}, but the data calls it {names[first]!r}"
    place = {name: number for number, name in enumerate(known)}
    if any(place.get(name, number) != number for number, name in enumerate(names)):
        raise SettingError(
            f"{differs}, and a class has another index in each; use the same classes in the same order, or start from the "
            "encoder alone with model.backbone.checkpoint."
        )
    rank_zero_warn(f"{differs}: indices are assumed to mean the same classes.")
