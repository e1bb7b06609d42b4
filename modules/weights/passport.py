"""The passport of a weight file: its content, its origin, and the input that it expects."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from modules.core.errors import SettingError
from modules.core.files import sha256
from modules.weights.files import FOLDER_FILES, weight_file
from modules.weights.hub import local_path
from modules.weights.huggingface_config import class_names_of, norm_pix_loss_of, read_config
from modules.weights.run_config import inside

PASSPORT_FORMAT = "lightning-video-ssl weights, version 1"
IN_FOLDER = "passport.json"


def passport_path(out: Path, folder: bool) -> Path:
    """Path of the passport of a file or folder."""
    return out / IN_FOLDER if folder else out.with_name(f"{out.name}.json")


def passport_of(path: str | Path) -> dict[str, Any] | None:
    """The passport of weights, or None if they have none of this project.

    Args:
        path: a file or folder. The passport of a file is inside it (.safetensors) or next to it as <name>.json; that of a
            folder's weights is passport.json in the folder. Earlier versions wrote <name without suffix>.json, which is also
            read if it cannot belong to a file with another suffix.
    """
    path = local_path(path)
    if path.is_dir():
        return _passport_in(path / IN_FOLDER)
    if (inner := _embedded(path)) is not None:
        return inner
    if path.name in FOLDER_FILES and (inner := _passport_in(path.parent / IN_FOLDER)) is not None:
        return inner
    return _passport_in(passport_path(path, False)) or _earlier(path)


def said_of(path: str | Path, setting: str) -> dict[str, Any]:
    """Facts about weights that their tensors do not contain, from the config of a `transformers` folder, or from a passport.

    Args:
        path: file or folder.
        setting: setting with this path, for error messages.

    Returns:
        Sizes of the network by the names of `Architecture`, including num_heads and decoder_heads, and norm_pix_loss. Unknown
        ones are missing or None.

    Raises:
        SettingError: if the folder's config.json is of a network that is not supported.
    """
    file = weight_file(path, setting)
    config = file.parent / "config.json"
    if file.name in FOLDER_FILES[:2] and config.is_file():
        return read_config(config, setting) | {"norm_pix_loss": norm_pix_loss_of(config, True)}
    passport = passport_of(path) or {}
    return inside(passport, "architecture") | {"norm_pix_loss": passport.get("norm_pix_loss")}


def check_heads(path: str, setting: str, heads: int, decoder_heads: int | None = None) -> None:
    """Compare numbers of heads, which cannot be read from tensors, with a passport or the config of a `transformers` folder.

    Args:
        path: file or folder that weights were loaded from.
        setting: setting with this path, for error messages.
        heads: number of heads of the encoder.
        decoder_heads: number of heads of the decoder, if weights were loaded into one.

    Raises:
        SettingError: if a number differs, or the folder's config.json is of a network that is not supported.
    """
    said = said_of(path, setting)
    parts = [("num_heads", "model.backbone.num_heads", heads)]
    if decoder_heads is not None:
        parts.append(("decoder_heads", "model.decoder.heads", decoder_heads))
    for name, own, number in parts:
        if said.get(name) not in (None, number):
            raise SettingError(
                f"{setting} names {path}, whose metadata has {name} {said[name]}, but {own} is {number}; make them equal, or "
                "correct the metadata with `convert`."
            )


def class_names_beside(path: str | Path, setting: str) -> list[str] | None:
    """Class names by label, from the config of a `transformers` folder, or from a passport.

    Args:
        path: file or folder.
        setting: setting with this path, for error messages.
    """
    file = weight_file(path, setting)
    names = class_names_of(file.parent / "config.json") if file.name in FOLDER_FILES[:2] else None
    return names or (passport_of(path) or {}).get("class_names")


def _earlier(path: Path) -> dict[str, Any] | None:
    """The passport that an earlier version wrote. Files that differed only in the suffix then shared one passport, which
    belonged to the file that was written last."""
    passport = _passport_in(path.with_suffix(".json"))
    twin = path.with_suffix(".safetensors")
    # For x.pth.tar, the name is x.pth.json, which may belong to a file x.pth.
    if (
        passport is None
        or path.with_suffix("").is_file()
        or (twin != path and twin.is_file() and _embedded(twin) == passport and not _is_source(path, passport))
    ):
        return None
    return passport


def _is_source(path: Path, passport: dict[str, Any]) -> bool:
    """Whether the weights of a passport were converted from this file, so that the passport also applies to the file."""
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
    """Metadata of weights that `convert` wrote.

    Args:
        path: .safetensors or .pth file, or folder.

    Returns:
        format; kind (pretraining, classifier, encoder, contrast, order, playback, rotation, video_text, text, clip_tower,
        timm_tower); method (class path); config (YAML text of the run); metrics; source (file, sha256, made_from: the same of
        the previous file); architecture (sizes by the names of the backbone's settings); normalisation (mean and std of RGB in
        0..1; channels if not RGB); frames; stride; class_names (by label); norm_pix_loss (whether the pixels that the decoder
        predicts were normalised per cube); license (as stated) and license_note (about the code bases that write such files);
        for networks for other runtimes also input and output (name, type, shape). Unknown values are null.

    Raises:
        SettingError: if there is no passport.
    """
    passport = passport_of(path)
    if passport is None:
        raise SettingError(f"{path} has no passport of this project; python main.py convert writes one.")
    return passport


def _ours(text: str) -> dict[str, Any] | None:
    """The passport in a JSON text; None for other texts."""
    try:
        content = json.loads(text)
    except ValueError:
        return None
    return content if isinstance(content, dict) and content.get("format") == PASSPORT_FORMAT else None


# --- What a run's config says ---


# --- Writing ---
