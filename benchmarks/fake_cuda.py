"""A training step on fake CUDA tensors: everything that would run on a GPU, without computing anything.

With PyTorch's `FakeTensorMode`, tensors have shapes, types and devices, but no data. A step on such tensors shows
the operations and bytes on the device, and what would cause a host sync: copies to and from the device. Operations that need
the data of a tensor on the host (`.item()`, `.tolist()`) would be a host sync, and are an error here.
"""

import collections
import contextlib
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from modules.core.batch import Batch
from modules.core.device import own_constants
from modules.layers.targets import TowerTarget
from modules.training.method import Method

DEVICE = torch.device("cuda", 0)
ROOT = str(Path(__file__).resolve().parents[1])

VIEWS = {
    *("_reshape_alias", "_unsafe_view", "alias", "as_strided", "detach", "diagonal", "expand", "lift_fresh", "permute"),
    *(
        "real",
        "select",
        "slice",
        "split",
        "split_with_sizes",
        "squeeze",
        "t",
        "transpose",
        "unbind",
        "unfold",
        "unsqueeze",
        "view",
    ),
    *(
        "device",
        "empty",
        "empty_like",
        "empty_strided",
        "is_contiguous",
        "new_empty",
        "size",
        "storage_offset",
        "stride",
        "sym_size",
        "sym_storage_offset",
        "sym_stride",
    ),
}
"""Operations that launch nothing on the device."""
PRODUCTS = {"addmm", "baddbmm", "bmm", "convolution", "mm"}
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal"}
"""Operations that cause a host sync."""


class FakeGenerator(torch.Generator):
    """A generator that looks like one on a GPU."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """The fake device."""
        return DEVICE

    def get_offset(self) -> int:
        """The offset, which only GPU generators have."""
        return 0

    def set_offset(self, offset: int) -> torch.Generator:
        """Do nothing."""
        return self


@dataclass
class Cost:
    """Cost of the forward pass of a step on the device, up to the loss."""

    ops: collections.Counter[str] = field(default_factory=collections.Counter)
    """Operations other than views, by name."""
    places: collections.Counter[str] = field(default_factory=collections.Counter)
    """The same by line of code."""
    traffic: collections.Counter[str] = field(default_factory=collections.Counter)
    """Bytes of their inputs and outputs by line of code: the memory traffic without caches."""
    copies: list[str] = field(default_factory=list)
    """Lines that copy from host to device, or back."""
    waits: list[str] = field(default_factory=list)
    """Lines whose result the host has to read."""
    full_products: collections.Counter[str] = field(default_factory=collections.Counter)
    """Lines with matrix products in float32, and their number."""


def _size(tensor: Tensor) -> int:
    """Bytes of a tensor, repeated elements of expanded tensors are counted once."""
    extents = [size if stride else min(size, 1) for size, stride in zip(tensor.shape, tensor.stride(), strict=True)]
    return math.prod(extents) * tensor.element_size()


def _place() -> str:
    """The innermost current line of this project."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(ROOT) and not name.startswith(f"{ROOT}/benchmarks"):
            return f"{name[len(ROOT) + 1 :]}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


class _Recorder(TorchDispatchMode):
    """Counts operations that reach the device."""

    def __init__(self, cost: Cost) -> None:
        super().__init__()
        self.cost = cost

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("generator") is not None:
            kwargs["generator"] = None
        args = tuple(None if isinstance(one, FakeGenerator) else one for one in args)
        name, cost = func.overloadpacket.__name__, self.cost
        if name not in VIEWS and torch.is_inference_mode_enabled():
            # In inference mode, composite operations are not decomposed before they arrive here.
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        if name in WAITS:
            cost.waits.append(f"{_place()} {name}")
        # PyTorch has no shape function for the GRU cell, so shapes are computed here.
        result = (torch.empty_like(args[2]), None) if name == "_thnn_fused_gru_cell" else func(*args, **kwargs)
        if name in VIEWS:
            return result
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        made = [one for one in tree_leaves(result) if isinstance(one, Tensor)]
        # A number computed by Python is a host tensor without dimensions; it is not copied.
        devices = {one.device.type for one in given if one.ndim or one.device.type != "cpu"} | {one.device.type for one in made}
        if "cuda" not in devices:
            return result
        if "cpu" in devices and name in ("_to_copy", "copy_") and not kwargs.get("non_blocking"):
            cost.copies.append(_place())
        if name == "index" and any(one.dtype in (torch.bool, torch.uint8) for one in given[1:]):
            cost.waits.append(f"{_place()} boolean index")
        place = _place()
        cost.ops[name] += 1
        cost.places[place] += 1
        cost.traffic[place] += sum(map(_size, given)) + sum(map(_size, made))
        if name in PRODUCTS and given[0].dtype == torch.float32:
            cost.full_products[place] += 1
        return result


def _flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> Tensor:
    """The kernel of `scaled_dot_product_attention` on a GPU under autocast; with a mask, PyTorch uses another kernel."""
    query, key, value = (one.to(torch.bfloat16) for one in (query, key, value))
    if attn_mask is None:
        kernel = torch.ops.aten._scaled_dot_product_flash_attention
        return kernel(query, key, value, dropout_p, is_causal, scale=scale)[0]
    shape = (*query.shape[:-1], key.shape[-2])
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    return kernel(query, key, value, attn_mask.to(torch.bfloat16).expand(shape), True, dropout_p, is_causal, scale=scale)[0]


def _is_ours(thing: Any) -> bool:
    """Whether an object is a network, or an instance of a class of this project."""
    ours = type(thing).__module__.partition(".")[0] in ("modules", "benchmarks", "tests")
    return isinstance(thing, nn.Module) or (ours and hasattr(thing, "__dict__") and not isinstance(thing, type))


class _Mover:
    """Moves the tensors of objects to the fake device, in place: parameters, buffers and plain attributes."""

    def __init__(self, mode: FakeTensorMode) -> None:
        self.mode = mode
        self.seen: set[int] = set()
        self.keep: list[Any] = []

    def fake(self, tensor: Tensor) -> Tensor:
        """A tensor without data, on the fake device."""
        if isinstance(tensor, FakeTensor):
            return tensor
        with self.mode:
            moved = self.mode.from_tensor(tensor.detach()).to(DEVICE)
        return nn.Parameter(moved, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else moved

    def move(self, thing: Any) -> Any:
        """The object with moved tensors."""
        if isinstance(thing, Tensor):
            return self.fake(thing)
        if isinstance(thing, dict):
            for key, value in thing.items():
                thing[key] = self.move(value)
        elif isinstance(thing, list):
            thing[:] = [self.move(value) for value in thing]
        elif isinstance(thing, tuple):
            moved = tuple(self.move(value) for value in thing)
            return type(thing)(*moved) if hasattr(thing, "_fields") else moved
        elif _is_ours(thing) and id(thing) not in self.seen:
            self.seen.add(id(thing))
            self.keep.append(thing)
            for key, value in list(vars(thing).items()):
                moved = self.move(value)
                if moved is not value:
                    object.__setattr__(thing, key, moved)
        return thing


@contextlib.contextmanager
def _gpu_there(method: Method) -> Iterator[None]:
    """Let PyTorch and Lightning behave as on a machine with a GPU."""
    kind, real = type(method), torch.Generator
    with (
        mock.patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False),
        mock.patch("torch.cuda.is_bf16_supported", return_value=True),
        mock.patch("torch.nn.functional.scaled_dot_product_attention", _flash_attention),
        mock.patch.object(kind, "device", property(lambda _: DEVICE)),
        mock.patch.object(kind, "global_step", property(lambda _: 0)),
        mock.patch(
            "torch.Generator", side_effect=lambda device="cpu": FakeGenerator() if torch.device(device) == DEVICE else real()
        ),
        mock.patch.object(Tensor, "pin_memory", lambda tensor: tensor),
        torch.backends.cudnn.flags(enabled=False),
    ):
        yield


def step_cost(method: Method, batch: Batch) -> Cost:
    """Cost of a training step under bf16 autocast. The method cannot be used afterwards, because its tensors have no data.

    The step runs twice and the second one is counted, because the first one creates cached constants and tables. Recurrent
    layers are counted step by step, because cuDNN would need a GPU.

    Args:
        method: method to measure.
        batch: batch of real tensors on the CPU.
    """
    prepare = method.preparation()
    if prepare is not None:
        prepare(batch, 0)
    cost = Cost()
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    mover = _Mover(mode)
    target = getattr(method, "target", None)
    if isinstance(target, TowerTarget):
        # In the memory format of a GPU.
        target.tower.bfloat16()
    mover.move(method.train())
    mover.move(batch)
    with mode, own_constants(), _gpu_there(method):
        for counted in (Cost(), cost):
            torch.set_autocast_enabled("cuda", True)
            torch.set_autocast_dtype("cuda", torch.bfloat16)
            try:
                with _Recorder(counted):
                    method.step(batch, FakeGenerator())
            finally:
                torch.set_autocast_enabled("cuda", False)
                torch.clear_autocast_cache()
    return cost
