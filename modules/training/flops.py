"""Number of floating-point operations of a training step, counted on fake tensors."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from modules.core.batch import Batch
from modules.core.device import own_constants
from modules.core.distributed import alone
from modules.core.randomness import device_generator
from modules.core.undocumented import CPU_ATTENTION
from modules.training.method import Method


def attention_flops(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    """Operations of the two matrix products of attention, forward.

    Args:
        query: shape [B, H, Lq, D].
        key: shape [B, H, Lk, D].
        value: shape [B, H, Lk, Dv].
    """
    batch, heads, queries, width = query
    return 2 * batch * heads * queries * key[-2] * (width + value[-1])


def attention_backward_flops(
    gradient: torch.Size, query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any
) -> int:
    """Operations of the gradients of attention: two products per forward product. Recomputation in kernels is not counted."""
    return 2 * attention_flops(query, key, value)


# PyTorch only counts the GPU kernels.
ON_CPU: dict[Any, Callable[..., int]] = dict(zip(CPU_ATTENTION, (attention_flops, attention_backward_flops), strict=True))


class _WithoutData(TorchFunctionMode):
    """Inside this context, copies of tensors are fake tensors: same shape, on the CPU, without data."""

    def __init__(self, fake: FakeTensorMode) -> None:
        super().__init__()
        self.fake = fake

    def empty(self, tensor: Tensor) -> Tensor:
        """A fake tensor in place of another. All floating-point types become float32, which every operation supports."""
        dtype = torch.float32 if tensor.is_floating_point() and tensor.itemsize < 4 else tensor.dtype
        with self.fake:
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=dtype, device="cpu")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Parameters are copied with `clone`.
        if func in (Tensor.clone, Tensor.__deepcopy__):
            return self.empty(args[0])
        return func(*args, **(kwargs or {}))


def step_flops(method: Method, batch: Batch) -> int | None:
    """Floating-point operations of a training step on one device, forward and backward, without the optimiser.

    Matrix products, convolutions and attention are counted, a multiplication and an addition as two operations. Frozen target
    networks are counted, since the method needs them; recomputation to save memory is not. With several processes, the count is
    that of a single process: products with the rows of other processes, in contrastive losses, are omitted.

    The step runs on a copy whose tensors have shapes but no data (`FakeTensorMode`), on the CPU. This takes seconds of Python
    (longest for recurrent networks) and no memory, and changes neither the method nor any random state.

    Args:
        method: method in training mode.
        batch: batch of the size of interest, on any device.

    Returns:
        None, with a warning, if the step reads values of tensors, which do not exist here.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    without_data = _WithoutData(fake)
    counter = FlopCounterMode(display=False, custom_mapping=ON_CPU)
    try:
        with isolate_rng(), alone(), torch.enable_grad():
            with without_data:
                same = copy.deepcopy(method).train()
            for part in same.modules():
                for name in [name for name in vars(part) if name.startswith("recompute")]:
                    setattr(part, name, False)
            prepare = method.preparation()
            if prepare is not None and batch.prepared is None:
                batch = replace(batch)
                prepare(batch, 0)
            shapes: Batch = apply_to_collection(batch, Tensor, without_data.empty)
            with fake, own_constants(), counter:
                same.step(shapes, device_generator("cpu", 0))["loss"].backward()
    except Exception as error:  # whatever the error is, the run does not need this number
        reason = (str(error) or type(error).__name__).splitlines()[0]
        rank_zero_info(
            f"The operations of a step of {type(method).__name__} cannot be counted ({reason}), so TFLOP/s and utilisation "
            "are not reported."
        )
        return None
    return counter.get_total_flops()
