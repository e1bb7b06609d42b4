"""The passport of a weight file: what it holds, what made it, and how to feed it; and files that appear whole or not at all."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open

from modules.backbones.architecture import Facts
from modules.backbones.huggingface import class_names_of, norm_pix_loss_of, read_config
from modules.backbones.video_vit import PRESETS
from modules.core.checkpoints import FOLDER_FILES, weight_file
from modules.core.errors import SettingError
from modules.core.saving import replacing

PASSPORT_FORMAT = "lightning-video-ssl weights, version 1"
IN_FOLDER = "passport.json"


def passport_path(out: Path, folder: bool) -> Path:
    """Where the passport of a file or folder is written."""
    return out / IN_FOLDER if folder else out.with_name(f"{out.name}.json")


def passport_of(path: str | Path) -> dict[str, Any] | None:
    """The passport of weights, if they have one of this project.

    Args:
        path: a file, whose passport is in it (.safetensors), beside it as <name>.json, or in its folder as passport.json where
            the file is a folder's weights; or such a folder. Earlier versions wrote <name without suffix>.json, which is read
            too, where no file of another suffix can be meant.
    """
    path = Path(path)
    if path.is_dir():
        return _passport_in(path / IN_FOLDER)
    if (inner := _embedded(path)) is not None:
        return inner
    if path.name in FOLDER_FILES and (inner := _passport_in(path.parent / IN_FOLDER)) is not None:
        return inner
    return _passport_in(passport_path(path, False)) or _earlier(path)


def said_of(path: str | Path, setting: str) -> dict[str, Any]:
    """What a folder of `transformers`, or else a passport, says of weights that their tensors do not tell.

    Args:
        path: file or folder.
        setting: that named it, for error messages.

    Returns:
        Sizes of the network by the names of `Architecture`, num_heads and decoder_heads among them, and norm_pix_loss; those
        that are not known are missing or None.

    Raises:
        SettingError: if the folder's config.json is of a network that ours is not.
    """
    file = weight_file(path, setting)
    config = file.parent / "config.json"
    if file.name in FOLDER_FILES[:2] and config.is_file():
        return read_config(config, setting) | {"norm_pix_loss": norm_pix_loss_of(config, True)}
    passport = passport_of(path) or {}
    return inside(passport, "architecture") | {"norm_pix_loss": passport.get("norm_pix_loss")}


def class_names_beside(path: str | Path, setting: str) -> list[str] | None:
    """Names of the classes by label that a folder of `transformers`, or else a passport, says of weights.

    Args:
        path: file or folder.
        setting: that named it, for error messages.
    """
    file = weight_file(path, setting)
    names = class_names_of(file.parent / "config.json") if file.name in FOLDER_FILES[:2] else None
    return names or (passport_of(path) or {}).get("class_names")


def _earlier(path: Path) -> dict[str, Any] | None:
    """The passport that an earlier version wrote; two files of one name were given one then, and the last took it."""
    passport = _passport_in(path.with_suffix(".json"))
    twin = path.with_suffix(".safetensors")
    # For x.pth.tar it is x.pth.json, which is that of a file x.pth.
    if (
        passport is None
        or path.with_suffix("").is_file()
        or (twin != path and twin.is_file() and _embedded(twin) == passport and not _is_source(path, passport))
    ):
        return None
    return passport


def _is_source(path: Path, passport: dict[str, Any]) -> bool:
    """Whether a passport is of weights that were made of a file, so that it holds for the file as well."""
    source = inside(passport, "source")
    return source.get("file") == path.name and source.get("sha256") == sha256(path)


def _embedded(path: Path) -> dict[str, Any] | None:
    """The passport inside a .safetensors file."""
    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("passport", "null")
    except (OSError, SafetensorError):
        return None
    return _ours(text)


def _passport_in(path: Path) -> dict[str, Any] | None:
    """The passport in a JSON file."""
    try:
        return _ours(path.read_text())
    except (OSError, UnicodeDecodeError):
        return None


def read_passport(path: str | Path) -> dict[str, Any]:
    """What is known of weights that `convert` wrote.

    Args:
        path: .safetensors or .pth file, or folder.

    Returns:
        format; kind (pretraining, classifier, encoder, contrast, video_text, text, clip_tower, timm_tower); method (class
        path); config (YAML text of the run); metrics; source (file, sha256, made_from: the same of the file before);
        architecture (sizes by the names of the backbone's settings); normalisation (mean and std of RGB in 0..1; channels,
        where not RGB); frames; stride; class_names (by label); norm_pix_loss (whether the pixels that the decoder predicts
        were normalised cube by cube). What is not known is null.

    Raises:
        SettingError: if there is none.
    """
    passport = passport_of(path)
    if passport is None:
        raise SettingError(f"{path} has no passport of this project; python main.py convert writes one.")
    return passport


def _ours(text: str) -> dict[str, Any] | None:
    """The passport in a text; None if it is something else."""
    try:
        content = json.loads(text)
    except ValueError:
        return None
    return content if isinstance(content, dict) and content.get("format") == PASSPORT_FORMAT else None


def sha256(path: Path) -> str:
    """Hash of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# --- What a run's config says ---


def config_text(path: Path, run_config: Path | None, record: dict[str, Any]) -> str | None:
    """YAML of the run: as passed, as saved in the checkpoint, or the config.yaml of the folder that holds checkpoints/."""
    if run_config is not None:
        if not run_config.is_file():
            raise SettingError(f"--run_config names {run_config}, which does not exist; pass the config.yaml of a run.")
        return run_config.read_text()
    recorded = record.get("config")
    if recorded and isinstance(recorded, str):
        return recorded
    beside = path.parent.parent / "config.yaml"
    return beside.read_text() if path.suffix == ".ckpt" and beside.is_file() else None


def parse_config(text: str) -> dict[str, Any]:
    """The settings of a run.

    Raises:
        SettingError: if it is no YAML of settings.
    """
    try:
        settings = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingError(f"The run's config is no YAML ({type(error).__name__}); pass another with --run_config.") from error
    if not isinstance(settings, dict):
        raise SettingError("The run's config holds no settings; pass the run's config.yaml with --run_config.")
    return settings


def facts_of_run(settings: dict[str, Any]) -> Facts:
    """What a run's settings say that weights do not."""
    model = inside(settings, "model", "init_args")
    backbone = inside(model, "backbone", "init_args")
    clip = inside(settings, "data", "init_args", "clip")
    found = {name: backbone.get(name) for name in ("num_heads", "image_size", "num_frames", "patch_size", "tubelet_size")}
    if found["num_heads"] is None and backbone.get("size") in PRESETS:
        found["num_heads"] = PRESETS[backbone["size"]].num_heads
    if found["num_frames"] is None:  # a CNN takes any number
        found["num_frames"] = clip.get("frames")
    found |= {"decoder_heads": model.get("decoder_heads"), "stride": clip.get("stride")}
    return {name: value for name, value in found.items() if type(value) is int}


def norm_pix_loss_of_run(settings: dict[str, Any]) -> bool | None:
    """Whether a run normalised the pixels that it predicted cube by cube; None where it predicted something else."""
    target = inside(settings, "model", "init_args").get("target")
    if not isinstance(target, dict) or str(target.get("class_path")).rpartition(".")[2] != "PixelTarget":
        return None
    return bool(inside(target, "init_args").get("normalise", True))


def inside(settings: Any, *names: str) -> dict[str, Any]:
    """What stands under a path of names; empty where there is no such dictionary."""
    for name in names:
        settings = settings.get(name) if isinstance(settings, dict) else None
    return settings if isinstance(settings, dict) else {}


# --- Writing ---


def write_whole(path: Path, save: Callable[[Path], object]) -> None:
    """Write a file that is whole or absent, and that others may read as any file of this user.

    Args:
        path: file to write; its folder is made.
        save: writes to the path that it is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = os.umask(0)
    os.umask(mask)
    with replacing(path) as part:
        save(part)
        # safetensors lets nobody else read its files.
        part.chmod(0o666 & ~mask)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write readable JSON."""
    path.write_text(to_json(content, indent=1) + "\n")


def to_json(content: dict[str, Any], indent: int | None = None) -> str:
    """JSON, with the value of tensors that hold one number."""
    return json.dumps(content, indent=indent, default=float)
