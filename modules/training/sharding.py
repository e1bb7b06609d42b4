"""Weights, gradients and optimiser states sharded over processes (FSDP2), for encoders that do not fit on one device."""

from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from modules.core.errors import SettingError
from modules.training.compilation import Compilable

ENTRIES = ("training_step", "validation_step", "test_step", "embed")
"""Methods that need the unsharded weights outside of blocks; `forward`, which FSDP expects, is not called."""


def shard(module: LightningModule, world_size: int) -> None:
    """Shard a method's parameters: block by block, so that a process gathers one block at a time, and then the rest.

    Args:
        module: method whose networks list their `compiled_parts`.
        world_size: number of processes; all of them call this.

    Raises:
        SettingError: if the method keeps a momentum copy of a network, which would be updated from other shards, or a scalar.
    """
    # FSDP takes no scalars.
    unfit = [name for name, value in module.named_parameters() if not value.requires_grad or not value.ndim]
    if unfit:
        raise SettingError(
            f"trainer.strategy ModelParallelStrategy cannot shard {unfit[0]} of {type(module).__name__}, which is a scalar "
            "or is not trained; use DDPStrategy."
        )
    mesh = init_device_mesh(module.trainer.strategy.root_device.type, (world_size,))
    blocks = [part for owner in module.modules() if isinstance(owner, Compilable) for part in owner.compiled_parts()]
    for part in (*blocks, module):
        fully_shard(part, mesh=mesh)
    for name in ENTRIES:
        register_fsdp_forward_method(module, name)


def total_norm(gradients: list[Tensor]) -> Tensor:
    """Global norm of all gradients, identical in every process that has a shard of them."""
    norm = nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def is_sharded(module: nn.Module) -> bool:
    """Whether its parameters are sharded."""
    return any(isinstance(value, DTensor) for value in module.parameters())
