"""The passport of a weight file: what it holds, what made it, and how to feed it."""

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
    """Where the passport of a file or folder is written."""
    return out / IN_FOLDER if folder else out.with_name(f"{out.name}.json")


def passport_of(path: str | Path) -> dict[str, Any] | None:
    """The passport of weights, if they have one of this project.

    Args:
        path: a file, whose passport is in it (.safetensors), beside it as <name>.json, or in its folder as passport.json where
            the file is a folder's weights; or such a folder. Earlier versions wrote <name without suffix>.json, which is read
            too, where no file of another suffix can be meant.
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


def check_heads(path: str, setting: str, heads: int, decoder_heads: int | None = None) -> None:
    """Compare numbers of heads, which no tensor tells, with what a passport or a folder of `transformers` says.

    Args:
        path: file or folder that weights came from.
        setting: that named it, for error messages.
        heads: of the encoder that took them.
        decoder_heads: of the decoder that took them, if one did.

    Raises:
        SettingError: if a number differs, or a folder's config.json is of a network that ours is not.
    """
    said = said_of(path, setting)
    parts = [("num_heads", "model.backbone.num_heads", heads)]
    if decoder_heads is not None:
        parts.append(("decoder_heads", "model.decoder.heads", decoder_heads))
    for name, own, number in parts:
        if said.get(name) not in (None, number):
            raise SettingError(
                f"{setting} names {path}, which says that it has {said[name]} heads where {own} is {number}; make them equal, "
                "or correct what it says with `convert`."
            )


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
        were normalised cube by cube); license (as stated) and license_note (what is known of the code bases that write such
        files); of networks for other runtimes input and output (name, type, shape). What is not known is null.

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


# --- What a run's config says ---


# --- Writing ---
