"""Checks of trainer settings that Lightning would reject late, with an unclear message, or not at all."""

import torch
from jsonargparse import Namespace

from modules.core.errors import SettingError, check_positive, check_range, given


def check_trainer(trainer: Namespace, command: str) -> None:
    """Refuse invalid trainer settings before anything is built.

    Args:
        trainer: parsed settings.
        command: fit, validate, test or predict.

    Raises:
        SettingError: for the first invalid setting.
    """
    check_positive(
        "trainer",
        accumulate_grad_batches=trainer.accumulate_grad_batches,
        num_nodes=trainer.num_nodes,
        **given(check_val_every_n_epoch=trainer.check_val_every_n_epoch),
    )
    check_range(
        "trainer",
        0,
        **given(log_every_n_steps=trainer.log_every_n_steps, gradient_clip_val=trainer.gradient_clip_val),
    )
    if isinstance(trainer.val_check_interval, int | float):
        check_positive("trainer", val_check_interval=trainer.val_check_interval)
    if command == "fit":
        for name in ("max_epochs", "max_steps"):
            if trainer[name] == 0:
                raise SettingError(f"trainer.{name} is 0, so nothing would be trained; raise it, or use validate or test.")
    strategy = trainer.strategy if isinstance(trainer.strategy, Namespace) else Namespace()
    if strategy.get("init_args.save_distributed_checkpoint"):
        raise SettingError(
            "trainer.strategy.init_args.save_distributed_checkpoint is true, but sharded checkpoints (folders) are not "
            "supported; set it to false."
        )
    if strategy.get("init_args.static_graph") and trainer.accumulate_grad_batches > 1:
        # PyTorch's reducer fails an internal assertion if the first backward pass sends no gradients.
        raise SettingError(
            f"trainer.accumulate_grad_batches is {trainer.accumulate_grad_batches}, which DDP does not support with a static "
            "graph; set trainer.strategy.init_args.static_graph to false."
        )
    _check_devices(trainer)


def _check_devices(trainer: Namespace) -> None:
    """Compare the requested devices with the available ones."""
    kind, asked, count = trainer.accelerator, trainer.devices, torch.cuda.device_count()
    if kind in ("gpu", "cuda") and not count and not (kind == "gpu" and torch.backends.mps.is_available()):
        raise SettingError(
            f"trainer.accelerator is {kind}, but PyTorch sees no GPU here; set it to cpu or auto, or "
            "install PyTorch for your GPU and its driver."
        )
    number = int(asked) if str(asked).lstrip("-").isdigit() else None
    if number == 0:
        raise SettingError("trainer.devices is 0; it must be at least 1, or auto.")
    if number is not None and number > count > 0 and kind in ("gpu", "cuda", "auto"):
        raise SettingError(f"trainer.devices is {number}, but this machine has {count} GPU(s); lower it, or set it to auto.")
