"""Compiling the parts of a method that benefit: the blocks of its networks, and frozen networks that compute its targets."""

import os
import shutil
from collections.abc import Callable
from typing import Any, Literal, Protocol, runtime_checkable

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from modules.core.errors import SettingError
from modules.core.undocumented import allow_graphs

Compiled = Literal["none", "blocks", "all"]

COMPILERS = ("g++", "clang++", "cl")
"""Host compilers that PyTorch can use; it also needs one of them for a GPU."""
MOST_GRAPHS = 256
"""Limit of compiled versions per function. Blocks share compiled code, but there is one version for each rate of stochastic
depth, mode (training or evaluation) and shape; PyTorch's default limit is 8."""


@runtime_checkable
class Compilable(Protocol):
    """A network, or a target with a frozen network, that lists its parts that can be compiled."""

    def compiled_parts(self) -> list[nn.Module]:
        """Modules that compile without a graph break, and that are called as modules."""
        ...


def compile_parts(module: nn.Module, what: Compiled, backend: str | Callable[..., Any] = "inductor") -> int:
    """Compile parts of a method in place; names in checkpoints stay as they are, and copies are not compiled.

    Blocks are compiled separately, not the complete step, because random generators would split it into dozens of graphs.
    Random numbers are the same as without compilation.

    Args:
        module: method whose networks and targets list their `compiled_parts`.
        what: `blocks` compiles blocks of encoders, decoders and CNNs; `all` adds frozen networks of targets.
        backend: backend of torch.compile.

    Returns:
        Number of compiled parts.
    """
    if what == "none":
        return 0
    allow_graphs(MOST_GRAPHS)
    options = {"fallback_random": True} if backend == "inductor" else None
    parts = [part for owner in module.modules() if isinstance(owner, Compilable) for part in owner.compiled_parts()]
    for part in parts:
        part.compile(fullgraph=True, backend=backend, options=options)
    # Frozen networks are not submodules. Their shapes and weights do not change, so CUDA graphs can be used as well.
    owners = [owner for owner in vars(module).values() if what == "all" and isinstance(owner, Compilable)]
    frozen = [part for owner in owners for part in owner.compiled_parts()]
    for part in frozen:
        part.compile(fullgraph=True, backend=backend, mode="reduce-overhead" if backend == "inductor" else None)
    return len(parts) + len(frozen)


class Compile(Callback):
    """Compiles parts of the method before the run. It implements the command line's setting `compile`.

    It is not a setting of the methods, because it does not affect the result. The first steps take some minutes longer.

    Args:
        what: see `compile_parts`.

    Raises:
        SettingError: if this machine has no compiler, or the method has nothing to compile.
    """

    def __init__(self, what: Compiled = "all") -> None:
        self.what = what

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compile, before parts are sharded and the checkpoint is read."""
        asked = os.environ.get("CXX")
        if self.what != "none" and not any(map(shutil.which, [asked] if asked else COMPILERS)):
            raise SettingError(
                f"compile is {self.what}, which needs a C++ compiler, but {asked or 'none of ' + ', '.join(COMPILERS)} "
                "cannot be found; install one, or set compile to none."
            )
        count = compile_parts(pl_module, self.what)
        if count:
            rank_zero_info(f"Compiling {count} parts of {type(pl_module).__name__}; the first steps take longer.")
        elif self.what != "none":
            raise SettingError(
                f"compile is {self.what}, but {type(pl_module).__name__} has no part that can be compiled; set compile to none."
            )
