"""Reading the tensors of a TorchScript archive (the format of OpenAI's CLIP) without running the code in it.

`torch.jit.load` runs the archive's own `__setstate__` methods, which can write files. An archive is a zip file with a pickle
of nested modules and the raw storages of their tensors. Here, the pickle can only create these.
"""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}


class Part:
    """A module of the archive, of any class."""

    def __setstate__(self, state: Any) -> None:
        """Keep the attributes."""
        self.state = state


class PartUnpickler(pickle.Unpickler):
    """Builds parts, tensors and plain values; refuses everything else.

    Args:
        archive: zip file.
        root: folder of the pickle inside it, with a slash at the end.
    """

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(archive.open(root + "data.pkl"))
        self.archive, self.root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        """The replacement for a global name."""
        if module.split(".")[0] == "__torch__":
            return Part
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, size, stride, *_: storage.as_strided(size, stride, offset).clone()
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch.jit._pickle":  # typed lists and dictionaries: (content, type)
            return lambda content, *_: content
        raise pickle.UnpicklingError(f"GLOBAL {module}.{name} is not allowed")

    def persistent_load(self, pid: Any) -> Tensor:
        """The storage with the id ("storage", type, number, ...), as a flat tensor."""
        _, dtype, number = pid[:3]
        return torch.frombuffer(bytearray(self.archive.read(f"{self.root}data/{number}")), dtype=dtype)


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive; files of `torch.save` are also zip files, but contain no constants."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Tensors by the names that they would have in a state dict, including tensors that are plain attributes.

    Args:
        path: archive.

    Raises:
        Exception: of various types, if the file is broken or contains anything that is not allowed.
    """
    with zipfile.ZipFile(path) as archive:
        pickled = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        return dict(_tensors(PartUnpickler(archive, pickled.removesuffix("data.pkl")).load(), ""))


def _tensors(part: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    state = part.state if isinstance(part, Part) else {}
    for name, value in state.items() if isinstance(state, dict) else ():
        if isinstance(value, Tensor):
            yield prefix + name, value
        else:
            yield from _tensors(value, f"{prefix}{name}.")
