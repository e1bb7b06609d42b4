"""How many floating-point operations a step of training needs, counted without computing anything."""

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
    """Of the two products of attention, forward.

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
    """Of its gradients: two products for each of forward. That kernels make the weights once more is no work of the model."""
    return 2 * attention_flops(query, key, value)


# PyTorch counts the kernels of GPUs alone.
ON_CPU: dict[Any, Callable[..., int]] = dict(zip(CPU_ATTENTION, (attention_flops, attention_backward_flops), strict=True))


class _WithoutData(TorchFunctionMode):
    """Inside, copies of tensors are fake ones: of the same shape, on the CPU, and without data."""

    def __init__(self, fake: FakeTensorMode) -> None:
        super().__init__()
        self.fake = fake

    def empty(self, tensor: Tensor) -> Tensor:
        """A fake tensor in the place of another. All kinds of floating point are float32, in which every operation is known."""
        dtype = torch.float32 if tensor.is_floating_point() and tensor.itemsize < 4 else tensor.dtype
        with self.fake:
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=dtype, device="cpu")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Parameters copy themselves by `clone`.
        if func in (Tensor.clone, Tensor.__deepcopy__):
            return self.empty(args[0])
        return func(*args, **(kwargs or {}))


def step_flops(method: Method, batch: Batch) -> int | None:
    """Floating-point operations of a step of training of one device, forward and backward, without the optimiser's.

    Matrix products, convolutions and attention are counted, a multiplication and an addition as two operations. Frozen networks
    that make targets count, for the method needs them; what is recomputed to save memory does not. Of several processes this is
    what one alone would do: products with the rows of the others, of contrastive losses, are left out.

    The step runs on a copy whose tensors have shapes and no data (`FakeTensorMode`), always as on a CPU: that takes seconds of
    Python (most for recurrent networks) and no memory, and leaves the method and all random states as they were.

    Args:
        method: as it trains.
        batch: of the size that counts, on any device.

    Returns:
        None, with a line in the log, if the step looks into the values of tensors, which are not there.
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
    except Exception as error:  # whatever it is, the run itself can do without the number
        reason = (str(error) or type(error).__name__).splitlines()[0]
        rank_zero_info(
            f"The operations of a step of {type(method).__name__} cannot be counted ({reason}), so neither TFLOP/s nor "
            "utilisation are told."
        )
        return None
    return counter.get_total_flops()
