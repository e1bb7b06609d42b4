"""What is known of the network that weights come from: how it was fed, and what its tensors do not tell."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from modules.core.checkpoints import Checkpoint
from modules.core.preprocessing import Normalisation


@dataclass(frozen=True)
class Origin:
    """Facts about the network that weights come from; None where they are not known."""

    source: str
    """file, for what is printed"""
    normalisation: Normalisation | None = None
    """of its clips"""
    frames: int | None = None
    """of the clips whose position codes it knows"""
    size: int | None = None
    """side of these clips in pixels"""
    usual: tuple[int, int] | None = None
    """frames and size of all published networks of its form"""
    bn_eps: float | None = None
    """of its BatchNorm"""


def origin_of(path: str | Path, checkpoint: Checkpoint) -> Origin:
    """Facts from the passport of a file, else from what its run or the official script saved with the weights.

    Args:
        path: file or folder.
        checkpoint: its content.
    """
    # Passports know all networks, and these know where their weights come from: here no circle is left.
    from modules.core.passport import facts_of_run, inside, parse_config, passport_of

    passport = passport_of(path)
    if passport is not None:
        return known_origin(str(path), passport.get("normalisation"), passport.get("architecture"))
    kept = checkpoint.record.get("backbone")
    if isinstance(kept, dict):
        return known_origin(str(path), kept.get("normalisation"), kept)
    config = checkpoint.record.get("config")
    if isinstance(config, str) and config:
        # Checkpoints of earlier versions hold the config alone.
        settings = parse_config(config)
        eps = inside(settings, "model", "init_args", "backbone", "init_args").get("bn_eps")
        return known_origin(str(path), None, facts_of_run(settings) | {"bn_eps": eps})
    if is_transformers(checkpoint.weights):
        return transformers_origin(path)
    command = {"image_size": checkpoint.args.get("input_size"), "num_frames": checkpoint.args.get("num_frames")}
    return known_origin(str(path), None, command)


def is_transformers(weights: dict[str, Tensor]) -> bool:
    """Whether the names are those of a vision transformer of the library `transformers`."""
    return any(key.endswith("embeddings.patch_embeddings.projection.weight") for key in weights)


def transformers_origin(path: str | Path) -> Origin:
    """Facts from the files that `transformers` writes beside the weights of its VideoMAE.

    Args:
        path: folder, or the weights in it.
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    network, pictures = (read_json(folder / name) for name in ("config.json", "preprocessor_config.json"))
    # It leaves out what has its default.
    facts = {"num_frames": 16, "image_size": 224} | network if network.get("model_type") == "videomae" else {}
    normalisation = {"mean": pictures.get("image_mean"), "std": pictures.get("image_std")}
    if pictures.get("do_normalize") is False:
        normalisation = {"mean": [0.0] * 3, "std": [1.0] * 3}
    return known_origin(str(path), normalisation, facts)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is none."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def known_origin(source: str, normalisation: Any, facts: Any) -> Origin:
    """An `Origin` from what JSON, YAML or a pickle says; values of another type are left out.

    Args:
        source: file, for what is printed.
        normalisation: `Normalisation.as_record`.
        facts: `pretrained_frames` and `pretrained_size`, else `num_frames` and `image_size`; `bn_eps`.
    """
    facts = facts if isinstance(facts, dict) else {}
    frames, size = (
        next((facts[name] for name in names if type(facts.get(name)) is int and facts[name] > 0), None)
        for names in (("pretrained_frames", "num_frames"), ("pretrained_size", "image_size"))
    )
    eps = facts.get("bn_eps")
    eps = eps if isinstance(eps, float) else None
    return Origin(source, Normalisation.of_record(normalisation), frames, size, bn_eps=eps)


def settle_normalisation(
    asked: Normalisation | None, origin: Origin, default: Normalisation
) -> tuple[Normalisation, list[str]]:
    """The normalisation of a backbone's clips: the setting, else that of its weights, else the default; and what to print.

    Args:
        asked: the backbone's setting.
        origin: of its weights.
        default: of its kind.
    """
    known, setting = origin.normalisation, "model.backbone.normalisation"
    if asked is not None:
        differs = known is not None and known != asked
        return asked, [f"{setting} is {asked}, though {origin.source} was trained with {known}."] if differs else []
    if known is None:
        return default, [
            f"{origin.source} does not say how its clips were normalised: {default} assumed; {setting} changes it."
        ]
    return known, [f"Clips are normalised as {origin.source} was trained: {known}."] if known != default else []


def say(lines: list[str]) -> None:
    """Print lines, in the first process."""
    for line in lines:
        rank_zero_info(line)
