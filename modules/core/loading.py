"""Strict loading of weights with a report, and reading of checkpoints of runs."""

import pickle
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from modules.core.errors import SettingError


def open_run(path: str | Path, setting: str) -> dict[str, Any]:
    """The content of a run's checkpoint. Tensors are memory-mapped where possible, so only metadata is read.

    Args:
        path: checkpoint file.
        setting: setting that specified it, for error messages.

    Raises:
        SettingError: if it cannot be read, or is not a checkpoint of a run.
    """
    path = Path(path)
    advice = "pass a file of a run's folder checkpoints"
    if path.is_dir():
        raise SettingError(f"{setting} names {path}, which is a folder; {advice}.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:
        raise SettingError(
            f"{setting} names {path}, which cannot be read as a checkpoint ({reason(path, error)}); {advice}."
        ) from error
    needed = ("state_dict", "pytorch-lightning_version")
    lacking = [name for name in needed if not isinstance(content, dict) or name not in content]
    if lacking:
        raise SettingError(f"{setting} names {path}, which is not a checkpoint of a run: it has no {lacking[0]}; {advice}.")
    run: dict[str, Any] = content
    return run


def reason(path: str | Path, error: Exception) -> str:
    """The reason why a file could not be read, without torch's advice to trust the file."""
    refused = re.search(r"GLOBAL (\S+)", str(error))
    if refused is not None:
        return f"it contains a {refused[1]}, which could run code and is not read"
    try:
        with Path(path).open("rb") as file:
            start = file.read(256)
    except OSError as unreadable:
        return unreadable.strerror or type(unreadable).__name__
    if not start:
        return "it is empty"
    if start.isascii() and b"\0" not in start:
        return "it is a text file"
    is_cut = start.startswith(b"PK") and not zipfile.is_zipfile(path)
    if is_cut or "unexpected EOF" in str(error) or Path(path).suffix == ".safetensors":
        return "it is cut short or damaged"
    if "weights_only" in str(error) or isinstance(error, pickle.UnpicklingError | LookupError | ValueError):
        return "it does not contain tensors and plain values as torch.save writes them"
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


@dataclass
class LoadReport:
    """The keys that matched, and those that did not, when weights were loaded."""

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
        own: state dict of the network.
        weights: tensors of the file, under the network's names.
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
        module: module to load the weights into.
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
