"""Safe reading of weights from all supported file formats."""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from safetensors.torch import load_file
from torch import Tensor

from modules.core.errors import SettingError
from modules.core.loading import reason
from modules.weights.hub import local_path
from modules.weights.torchscript import is_torchscript, read_torchscript

# Files of the official VideoMAE family also contain their command line, the only class other than tensors, numbers, strings
# and plain containers.
ALLOWED_CLASSES: list[Any] = [argparse.Namespace]
# Keys of the weights in files with further content: official pretraining, DeepSpeed, Lightning, timm's EMA, V-JEPA's probe.
WEIGHT_ENTRIES = ("model", "module", "state_dict", "model_ema", "classifier")
# Keys of the networks in files without one of these (V-JEPA), which become the first part of their weights' names.
NETWORK_ENTRIES = ("encoder", "predictor", "target_encoder")
# Key of a list of probes that were trained together (V-JEPA 2).
PROBE_LIST = "classifiers"
# Names of weight files in a folder: those of transformers, and DeepSpeed's without model parallelism.
FOLDER_FILES = ("model.safetensors", "pytorch_model.bin", "mp_rank_00_model_states.pt")
# Prefixes of wrapped networks: those of DataParallel and DDP, and of torch.compile.
DDP_PREFIX, COMPILE_PREFIX = "module.", "_orig_mod."


class Checkpoint(NamedTuple):
    """Content of a weight file."""

    weights: dict[str, Tensor]
    """tensors by name"""
    record: dict[str, Any]
    """the entry "record" of this project's runs (method, metrics, config, backbone, class_names); empty in other files"""
    args: dict[str, Any]
    """the entry "args" of official scripts, their command line; empty in other files"""


def read_weights(path: str | Path, setting: str) -> dict[str, Tensor]:
    """The weights of `read_checkpoint`."""
    return read_checkpoint(path, setting).weights


def weight_file(path: str | Path, setting: str) -> Path:
    """Resolve a path to a weight file: the file itself, or the weights in a folder of `transformers`, `convert` or DeepSpeed.

    Args:
        path: file, folder, or address on the Hugging Face Hub (`modules/weights/hub.py`).
        setting: command-line name of the setting with this path, for error messages.

    Raises:
        SettingError: if there is no such file, or a folder contains no weights.
    """
    path = local_path(path, setting)
    if path.is_dir():
        found = [path / name for name in FOLDER_FILES if (path / name).is_file()]
        if not found:
            raise SettingError(
                f"{setting}: the folder {path} contains none of {', '.join(FOLDER_FILES)}; pass the weight file itself."
            )
        return found[0]
    if not path.is_file():
        raise SettingError(f"{setting} names {path}, which does not exist; pass the path of an existing weight file.")
    return path


def read_checkpoint(path: str | Path, setting: str) -> Checkpoint:
    """Read a dictionary of tensors from .safetensors, .npz, a PyTorch file, a Lightning checkpoint or a TorchScript archive.

    No code in a file can run: pickles are read with `weights_only=True` and `argparse.Namespace` as the only extra class, and
    only tensors are read from TorchScript archives. Prefixes of DDP and torch.compile are removed from the names.

    Args:
        path: file to read, or a folder supported by `weight_file`.
        setting: command-line name of the setting with this path, for error messages.

    Raises:
        SettingError: if the file is missing, unreadable or unsafe, or contains no tensors.
    """
    path = weight_file(path, setting)
    try:
        content = _read(path)
    except Exception as error:
        raise SettingError(
            f"{setting} names {path}, which cannot be read as weights ({reason(path, error)}); "
            "pass a .safetensors, .npz, .ckpt, .pth or .pt file that contains tensors."
        ) from error
    record = content.get("record") if isinstance(content, dict) else None
    args = content.get("args") if isinstance(content, dict) else None
    content = _only_probe(content, setting, path)
    for entry in WEIGHT_ENTRIES:
        if isinstance(content, dict) and isinstance(content.get(entry), dict):
            content = content[entry]
            break
    else:
        if isinstance(content, dict):
            content = _networks(content) or content
    if not isinstance(content, dict):
        raise SettingError(f"{setting} names {path}, which contains no dictionary of weights; pass another file.")
    weights = _unwrapped({key: value for key, value in content.items() if isinstance(value, Tensor)}, path)
    if not weights:
        raise SettingError(f"{setting} names {path}, which contains no tensors; pass another file.")
    command = vars(args) if isinstance(args, argparse.Namespace) else {}
    return Checkpoint(weights, record if isinstance(record, dict) else {}, command)


def _networks(content: dict[str, Any]) -> dict[str, Any]:
    """The weights of several networks, under the names of their entries."""
    networks = {entry: content[entry] for entry in NETWORK_ENTRIES if isinstance(content.get(entry), dict)}
    return {f"{entry}.{name}": value for entry, weights in networks.items() for name, value in weights.items()}


def _only_probe(content: Any, setting: str, path: Path) -> Any:
    """The content of a file, with its list of probes replaced by the only one.

    Raises:
        SettingError: if it contains several.
    """
    probes = content.get(PROBE_LIST) if isinstance(content, dict) else None
    if not isinstance(probes, list):
        return content
    if len(probes) != 1:
        raise SettingError(
            f"{setting} names {path}, which contains {len(probes)} probes; save the weights of one of them in a separate file."
        )
    return probes[0]


def _unwrapped(weights: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Remove the prefixes of wrapping modules from the names, and print them.

    Raises:
        SettingError: if two tensors then have the same name.
    """
    names = {key: _without_prefixes(key) for key in weights}
    if len(set(names.values())) < len(names):
        raise SettingError(
            f"{path} contains the same tensors with and without the prefix {DDP_PREFIX} or {COMPILE_PREFIX}; pass one of them."
        )
    wrapped = [key for key, name in names.items() if key != name]
    found = [prefix for prefix in (DDP_PREFIX, COMPILE_PREFIX) if any(prefix in key for key in wrapped)]
    if found:
        rank_zero_info(f"{path}: {' and '.join(found)} removed from the names of {len(wrapped)} tensors.")
    return {names[key]: value for key, value in weights.items()}


def _without_prefixes(key: str) -> str:
    """A name without prefixes. torch.compile also wraps parts of a network, so its prefix may be in the middle."""
    parts = [part for part in key.split(".") if f"{part}." != COMPILE_PREFIX]
    while f"{parts[0]}." == DDP_PREFIX:
        parts = parts[1:]
    return ".".join(parts)


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays}
    return _read_pickle(path)


def _read_pickle(path: Path) -> Any:
    if is_torchscript(path):
        return read_torchscript(path)
    with torch.serialization.safe_globals(ALLOWED_CLASSES):
        return torch.load(path, map_location="cpu", weights_only=True)
