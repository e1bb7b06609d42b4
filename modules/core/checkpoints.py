"""Reading weights from any file that this project accepts: safely, strictly and with a report."""

import argparse
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_info
from safetensors.torch import load_file
from torch import Tensor, nn

from modules.core.errors import SettingError
from modules.core.torchscript import is_torchscript, read_torchscript

# The only class besides tensors, numbers, texts and plain containers in files of the official VideoMAE family: their
# command line.
ALLOWED_CLASSES: list[Any] = [argparse.Namespace]
# Where the weights lie in files that hold more than weights: official pretraining, DeepSpeed, Lightning, timm's EMA.
WEIGHT_ENTRIES = ("model", "module", "state_dict", "model_ema")


class Checkpoint(NamedTuple):
    """Content of a weight file."""

    weights: dict[str, Tensor]
    """tensors by name"""
    record: dict[str, Any]
    """what our runs save beside them under "record" (method, metrics, config, backbone); empty in other files"""
    args: dict[str, Any]
    """what official scripts save beside them under "args", their command line; empty in other files"""


def read_weights(path: str | Path, setting: str) -> dict[str, Tensor]:
    """The weights of `read_checkpoint`."""
    return read_checkpoint(path, setting).weights


def read_checkpoint(path: str | Path, setting: str) -> Checkpoint:
    """Read a dictionary of tensors from .safetensors, a PyTorch file, a Lightning checkpoint or a TorchScript archive.

    No code in a file can run: pickles are read with `weights_only=True` and `argparse.Namespace` as the only extra class,
    and of TorchScript nothing but tensors is read.

    Args:
        path: file to read.
        setting: command-line name of the setting that named the file, for error messages.

    Raises:
        SettingError: if the file is missing, unreadable, unsafe, or holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise SettingError(f"{setting} names {path}, which does not exist; pass the path of an existing weight file.")
    try:
        if path.suffix == ".safetensors":
            return Checkpoint(load_file(path), {}, {})
        content = _read_pickle(path)
    except Exception as error:
        raise SettingError(
            f"{setting} names {path}, which cannot be read as weights ({type(error).__name__}: {_reason(error)}); "
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
    weights = {key.removeprefix("module."): value for key, value in content.items() if isinstance(value, Tensor)}
    if not weights:
        raise SettingError(f"{setting} names {path}, in which no tensor was found; pass another file.")
    command = vars(args) if isinstance(args, argparse.Namespace) else {}
    return Checkpoint(weights, record if isinstance(record, dict) else {}, command)


def _reason(error: Exception) -> str:
    """One line; of a refused class its name, in place of torch's advice to trust the file."""
    refused = re.search(r"GLOBAL (\S+)", str(error))
    if refused is not None:
        return f"it holds a {refused[1]}, which could run code and is not read"
    return (str(error).splitlines() or ["empty file"])[0]


def _read_pickle(path: Path) -> Any:
    if is_torchscript(path):
        return read_torchscript(path)
    with torch.serialization.safe_globals(ALLOWED_CLASSES):
        return torch.load(path, map_location="cpu", weights_only=True)


@dataclass
class LoadReport:
    """What happened to each key of a load."""

    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    reshaped: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} matched"]
        for name, keys in (("missing", self.missing), ("left over", self.left_over), ("other shape", self.reshaped)):
            shown = ", ".join(keys[:8]) + (", ..." if len(keys) > 8 else "")
            parts.append(f"{len(keys)} {name}" + (f" ({shown})" if keys else ""))
        return ", ".join(parts)


def compare(
    own: dict[str, Tensor],
    weights: dict[str, Tensor],
    source: str | Path,
    network: str,
    may_miss: tuple[str, ...] = (),
    may_leave: tuple[str, ...] = (),
) -> LoadReport:
    """Compare names and shapes, and fail on every difference that was not declared.

    Args:
        own: what the network has.
        weights: what the file has, under the network's names.
        source: file name, for the error.
        network: name of the network, for the error.
        may_miss: prefixes of names that the file may lack.
        may_leave: prefixes of names that the network may lack.

    Raises:
        SettingError: with the report, if anything undeclared is missing, left over, or has another shape.
    """
    report = LoadReport()
    for key, value in weights.items():
        if key not in own:
            report.left_over.append(key)
        elif own[key].shape != value.shape:
            report.reshaped.append(f"{key} {list(value.shape)} for {list(own[key].shape)}")
        else:
            report.matched.append(key)
    report.missing = [key for key in own if key not in weights]
    undeclared = [key for key in report.missing if not key.startswith(may_miss)] + [
        key for key in report.left_over if not key.startswith(may_leave)
    ]
    if undeclared or report.reshaped:
        raise SettingError(f"{source} does not fit this {network}: {report}.")
    return report


def load_strictly(
    module: nn.Module,
    weights: dict[str, Tensor],
    source: str | Path,
    may_miss: tuple[str, ...] = (),
    may_leave: tuple[str, ...] = (),
) -> LoadReport:
    """Load weights, print what matched, and fail on every difference that was not declared.

    Args:
        module: where to load to.
        weights: tensors under the module's own names.
        source: file name, for the report.
        may_miss: prefixes of parameters that may stay as initialised (for example a fresh head).
        may_leave: prefixes of weights that may stay unused (for example a decoder that fine-tuning drops).

    Returns:
        The report that was printed.

    Raises:
        SettingError: with the report, if anything undeclared is missing, left over, or has another shape.
    """
    report = compare(module.state_dict(), weights, source, type(module).__name__, may_miss, may_leave)
    module.load_state_dict({key: weights[key] for key in report.matched}, strict=False)
    rank_zero_info(f"Loaded {source}: {report}.")
    return report
