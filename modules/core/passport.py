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
from modules.backbones.video_vit import PRESETS
from modules.core.errors import SettingError
from modules.core.saving import replacing

PASSPORT_FORMAT = "lightning-video-ssl weights, version 1"


def passport_path(out: Path, folder: bool) -> Path:
    """Where the passport of a file or folder lies."""
    return out / "passport.json" if folder else out.with_suffix(".json")


def embedded_passport(path: Path) -> dict[str, Any] | None:
    """The passport inside a .safetensors file, if it has one."""
    if path.suffix != ".safetensors":
        return None
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get("passport", "null")
    return _ours(text)


def passport_of(path: str | Path) -> dict[str, Any] | None:
    """The passport of weights, if they have one of this project: in a .safetensors, beside a file, or in a folder."""
    path = Path(path)
    try:
        return (
            embedded_passport(path) if path.suffix == ".safetensors" else _ours(passport_path(path, path.is_dir()).read_text())
        )
    except (OSError, SafetensorError):
        return None


def read_passport(path: str | Path) -> dict[str, Any]:
    """What is known of weights that `convert` wrote.

    Args:
        path: .safetensors or .pth file, or folder.

    Returns:
        format; kind (pretraining, classifier, encoder, clip_tower, timm_tower); method (class path); config (YAML text of the
        run); metrics; source (file, sha256, made_from: the same of the file before); architecture (sizes by the names of
        VideoViT's settings); normalisation (mean and std of RGB in 0..1; channels, where not RGB); frames; stride. What is not
        known is null.

    Raises:
        SettingError: if there is none.
    """
    path = Path(path)
    try:
        passport = embedded_passport(path) or _ours(passport_path(path, path.is_dir()).read_text())
    except (OSError, SafetensorError) as error:
        raise SettingError(f"{path} has no passport ({type(error).__name__}); python main.py convert writes one.") from error
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
    found |= {"decoder_heads": model.get("decoder_heads"), "stride": clip.get("stride")}
    return {name: value for name, value in found.items() if type(value) is int}


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
