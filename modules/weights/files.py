"""Reading weights from any file that this project accepts: safely, strictly and with a report."""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_info
from safetensors.torch import load_file
from torch import Tensor

from modules.core.errors import SettingError
from modules.core.loading import reason
from modules.weights.hub import local_path
from modules.weights.torchscript import is_torchscript, read_torchscript

# The only class besides tensors, numbers, texts and plain containers in files of the official VideoMAE family: their
# command line.
ALLOWED_CLASSES: list[Any] = [argparse.Namespace]
# Where the weights lie in files that hold more than weights: official pretraining, DeepSpeed, Lightning, timm's EMA.
WEIGHT_ENTRIES = ("model", "module", "state_dict", "model_ema")
# What a folder may hold: transformers' names, and the name that DeepSpeed gives to the weights of a run on one model.
FOLDER_FILES = ("model.safetensors", "pytorch_model.bin", "mp_rank_00_model_states.pt")
# Names of modules that wrap a network: DataParallel's and DDP's, and torch.compile's.
DDP_PREFIX, COMPILE_PREFIX = "module.", "_orig_mod."


class Checkpoint(NamedTuple):
    """Content of a weight file."""

    weights: dict[str, Tensor]
    """tensors by name"""
    record: dict[str, Any]
    """what our runs save beside them under "record" (method, metrics, config, backbone, class_names); empty in other files"""
    args: dict[str, Any]
    """what official scripts save beside them under "args", their command line; empty in other files"""


def read_weights(path: str | Path, setting: str) -> dict[str, Tensor]:
    """The weights of `read_checkpoint`."""
    return read_checkpoint(path, setting).weights


def weight_file(path: str | Path, setting: str) -> Path:
    """The file that a path means: itself, or the weights in a folder of `transformers`, of `convert` or of DeepSpeed.

    Args:
        path: file, folder, or address on the Hugging Face Hub (`modules/weights/hub.py`).
        setting: command-line name of the setting that named it, for error messages.

    Raises:
        SettingError: if there is no such file, or a folder holds no weights.
    """
    path = local_path(path, setting)
    if path.is_dir():
        found = [path / name for name in FOLDER_FILES if (path / name).is_file()]
        if not found:
            raise SettingError(
                f"{setting}: the folder {path} holds none of {', '.join(FOLDER_FILES)}; pass the weight file itself."
            )
        return found[0]
    if not path.is_file():
        raise SettingError(f"{setting} names {path}, which does not exist; pass the path of an existing weight file.")
    return path


def read_checkpoint(path: str | Path, setting: str) -> Checkpoint:
    """Read a dictionary of tensors from .safetensors, a PyTorch file, a Lightning checkpoint or a TorchScript archive.

    No code in a file can run: pickles are read with `weights_only=True` and `argparse.Namespace` as the only extra class,
    and of TorchScript nothing but tensors is read. Prefixes that DDP and torch.compile give to names are left out.

    Args:
        path: file to read, or a folder that `weight_file` knows.
        setting: command-line name of the setting that named the file, for error messages.

    Raises:
        SettingError: if the file is missing, unreadable, unsafe, or holds no tensors.
    """
    path = weight_file(path, setting)
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _read_pickle(path)
    except Exception as error:
        raise SettingError(
            f"{setting} names {path}, which cannot be read as weights ({reason(path, error)}); "
            "pass a .safetensors, .ckpt, .pth or .pt file that holds tensors."
        ) from error
    record = content.get("record") if isinstance(content, dict) else None
    args = content.get("args") if isinstance(content, dict) else None
    for entry in WEIGHT_ENTRIES:
        if isinstance(content, dict) and isinstance(content.get(entry), dict):
            content = content[entry]
            break
    if not isinstance(content, dict):
        raise SettingError(f"{setting} names {path}, which holds no dictionary of weights; pass another file.")
    weights = _unwrapped({key: value for key, value in content.items() if isinstance(value, Tensor)}, path)
    if not weights:
        raise SettingError(f"{setting} names {path}, in which no tensor was found; pass another file.")
    command = vars(args) if isinstance(args, argparse.Namespace) else {}
    return Checkpoint(weights, record if isinstance(record, dict) else {}, command)


def _unwrapped(weights: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Names without the prefixes of wrapping modules, which are said.

    Raises:
        SettingError: if two tensors then have one name.
    """
    names = {key: _without_prefixes(key) for key in weights}
    if len(set(names.values())) < len(names):
        raise SettingError(f"{path} holds tensors both with and without the prefix {DDP_PREFIX} or {COMPILE_PREFIX}; pass one.")
    wrapped = [key for key, name in names.items() if key != name]
    found = [prefix for prefix in (DDP_PREFIX, COMPILE_PREFIX) if any(prefix in key for key in wrapped)]
    if found:
        rank_zero_info(f"{path}: {' and '.join(found)} left out of the names of {len(wrapped)} tensors.")
    return {names[key]: value for key, value in weights.items()}


def _without_prefixes(key: str) -> str:
    """torch.compile also wraps parts of a network, so its prefix may stand in the middle."""
    parts = [part for part in key.split(".") if f"{part}." != COMPILE_PREFIX]
    while f"{parts[0]}." == DDP_PREFIX:
        parts = parts[1:]
    return ".".join(parts)


def _read_pickle(path: Path) -> Any:
    if is_torchscript(path):
        return read_torchscript(path)
    with torch.serialization.safe_globals(ALLOWED_CLASSES):
        return torch.load(path, map_location="cpu", weights_only=True)
