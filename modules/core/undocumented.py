"""All uses of undocumented parts of Lightning, PyTorch, timm, jsonargparse and TensorBoard.

An update of these packages may remove them, so they are in this file only, and tests/core/test_undocumented.py shows what
broke. All other code uses the public API: callbacks, plugins, hooks, profilers and samplers.
"""

from collections.abc import Iterator
from functools import reduce
from multiprocessing.process import BaseProcess
from operator import or_
from typing import Any, get_args

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from tensorboard.compat.proto.summary_pb2 import Summary
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch._C import _remove_worker_pids
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader

# --- Lightning: progress of a run ---

FETCH, STEP = "[_TrainingEpochLoop].train_dataloader_next", "run_training_batch"
"""Lightning's profiler actions for waiting for a training batch, and for a training step."""


def is_fitting(trainer: Trainer) -> bool:
    """Whether the trainer runs `fit`, including its validation."""
    return trainer.state.fn == TrainerFn.FITTING


def make_train_loader(trainer: Trainer) -> None:
    """Create the training loader now, so that the trainer knows its number of batches; no effect if it already exists."""
    trainer.fit_loop.setup_data()


class FitCounts:
    """Lightning's counters of epochs and batches, which it saves in checkpoints and restores from them.

    Args:
        trainer: trainer of the run.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer, self._fit = trainer, trainer.fit_loop
        self._epochs: Any = self._fit.epoch_progress
        self._batches = self._fit.epoch_loop.batch_progress

    @property
    def epoch(self) -> int:
        """Index of the current epoch, or of the next one between epochs."""
        return int(self._epochs.current.processed)

    @property
    def in_epoch(self) -> int:
        """Number of batches of the current epoch that training has started."""
        return int(self._batches.current.ready)

    @property
    def in_all(self) -> int:
        """Number of batches of all epochs that training has started."""
        return int(self._batches.total.ready)

    @property
    def resumes(self) -> bool:
        """Whether training is about to resume within an epoch of a checkpoint."""
        return bool(self._fit.restarting)

    @property
    def validates_every(self) -> int | float | None:
        """Number of batches between validations; infinite or None if validation is not scheduled by batches."""
        return self._trainer.val_check_batch

    def set_length(self, batches: int | float) -> None:
        """Set the number of batches of an epoch, from the next one on."""
        self._fit.max_batches = batches

    def lengthen(self, batches: int) -> None:
        """Set the number of batches of the current epoch."""
        self._fit.max_batches = batches
        assert self._fit._data_fetcher is not None
        self._fit._data_fetcher.length = batches

    def begin_epoch(self) -> None:
        """Start at the beginning of the epoch, not within it."""
        for part in (self._epochs.current, self._epochs.total):
            _set_all(part, self.epoch)
        self._batches.total.completed = self._batches.total.ready
        for loop in (self._fit.epoch_loop.val_loop, self._fit.epoch_loop, self._fit):
            loop.on_iteration_done()

    def begin_at(self, batch: int) -> None:
        """Continue training after the first `batch` batches of the epoch."""
        _set_all(self._batches.current, batch)
        self._batches.total.completed = self._batches.total.ready
        self._batches.is_last_batch = False
        self._fit.epoch_loop.reset_restart_stage()

    def log_by_steps(self) -> None:
        """Make loggers count optimiser steps. After a checkpoint, Lightning only guesses whether its last step counts."""
        self._fit.epoch_loop._batches_that_stepped = self._trainer.global_step


def _set_all(counts: Any, number: int) -> None:
    counts.ready = counts.started = counts.processed = counts.completed = number


# --- Lightning: its part of a checkpoint ---


def epochs_done(checkpoint: dict[str, Any]) -> int:
    """Epochs that a checkpoint counts as done.

    Args:
        checkpoint: as read from the file, with the state of Lightning's loops.
    """
    return int(checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])


def loader_state(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """State of the first training loader in a checkpoint; empty if there is none."""
    states = checkpoint["loops"]["fit_loop"]["state_dict"].get("combined_loader", [])
    return dict(states[0]) if states else {}


def uncount_epoch(checkpoint: dict[str, Any], epoch: int) -> None:
    """Mark an epoch as unfinished in a checkpoint, in place, if it is the last finished epoch."""
    for counts in checkpoint["loops"]["fit_loop"]["epoch_progress"].values():
        if counts["processed"] == epoch + 1:
            counts["processed"] = counts["completed"] = epoch


# --- Lightning: averages of weights ---


def averages_buffers(callback: WeightAveraging) -> bool:
    """Whether the callback also averages buffers."""
    return bool(callback._use_buffers)


def averaged(callback: WeightAveraging) -> nn.Module:
    """The network with averaged weights, during training."""
    assert callback._average_model is not None, "it is made when training begins"
    network: nn.Module = callback._average_model.module
    return network


# --- Lightning and jsonargparse: the command line ---


def parser_of(cli: LightningCLI, command: str) -> LightningArgumentParser:
    """The parser of one subcommand."""
    return cli._parser(command)


def add_chosen_optimiser(cli: LightningCLI, command: str) -> None:
    """Configure the method with the optimiser of `--optimizer`, if it is set. `LightningCLI` does this as its last step."""
    cli._add_configure_optimizers_method_to_model(command)


def whole_numbers_first(parser: LightningArgumentParser) -> None:
    """Parse 1 as an integer and 1.0 as a fraction in all settings that accept both.

    The parser uses the first type of `Optional[Union[int, float]]` that fits. Their order may vary between processes, because
    typing caches unions: it returns `Optional[Union[float, int]]` if that was created first.
    """
    for action in parser._actions:
        kinds = get_args(getattr(action, "_typehint", None))
        if int in kinds and float in kinds:
            vars(action)["_typehint"] = reduce(or_, sorted(kinds, key=lambda kind: kind is not int))


# --- PyTorch: optimisers and many tensors at once ---


def unscale_outside(optimiser: Optimizer) -> None:
    """Make the trainer unscale float16 gradients before a step, even if the optimiser could do it within the step.

    Otherwise, Lightning refuses to clip gradients for fused optimisers, which support unscaling, even in bfloat16, where
    nothing is scaled.
    """
    optimiser._step_supports_amp_scaling = False  # type: ignore[attr-defined]


def hold_weights(optimiser: Optimizer, held: Tensor) -> None:
    """Make a fused optimiser skip the update of weights and moments if `held` is true, without a host sync.

    Args:
        optimiser: a fused optimiser.
        held: bool [], on the device of the weights; its current value is copied.
    """
    # torch's own gradient scaler does the same.
    optimiser.found_inf = held.float()  # type: ignore[attr-defined]


@torch.no_grad()
def copy_all(targets: list[Tensor], sources: list[Tensor]) -> None:
    """Copy tensors into tensors of the same shapes, in one launch on a GPU."""
    torch._foreach_copy_(targets, sources)


def _own(tensor: Tensor) -> Tensor:
    """This process's shard of a distributed tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def restore_where(wrong: Tensor, now: list[Tensor], before: list[Tensor]) -> None:
    """Restore tensors to earlier values if a flag on the device is true, with a few kernel launches and no host sync.

    The arithmetic is on the bits as integers, because NaN times 0 is not 0.

    Args:
        wrong: bool scalar, whether to restore.
        now: tensors to change in place.
        before: their earlier values, of the same types and shapes.
    """
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    for width, dtype in whole.items():
        pairs = [(one, other) for one, other in zip(now, before, strict=True) if one.element_size() == width]
        if not pairs:
            continue
        present, past = ([_own(one).view(dtype) for one in part] for part in zip(*pairs, strict=True))
        steps = torch._foreach_sub(past, present)
        torch._foreach_mul_(steps, wrong.to(dtype))
        torch._foreach_add_(present, list(steps))


# --- PyTorch: counting operations ---

CPU_ATTENTION = (
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward,
)
"""Kernels of attention on a CPU, forward and backward."""


# --- PyTorch: compilation ---


def allow_graphs(count: int) -> None:
    """Allow torch.compile up to `count` versions of one function; its default limit is 8.

    Args:
        count: number of versions; a higher existing limit is kept.
    """
    import torch._dynamo  # the import takes a second

    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, count)
    limits.accumulated_recompile_limit = max(limits.accumulated_recompile_limit, 4 * count)


# --- PyTorch: processes of a DataLoader ---


def stay_calm(batches: Iterator[Any]) -> None:
    """Raise the error of a dead worker only where the main process waits for a batch.

    By default, PyTorch raises it immediately, for example in the middle of a step. It does not for workers that are removed
    from its list of process ids.

    Args:
        batches: iterator of a DataLoader.
    """
    iterator: Any = batches
    if getattr(iterator, "_worker_pids_set", False):
        _remove_worker_pids(id(iterator))
        iterator._worker_pids_set = False


def workers(loader: DataLoader[Any]) -> list[BaseProcess]:
    """The persistent worker processes of a loader (`persistent_workers`), by index; empty before they are started."""
    iterator: Any = loader._iterator
    return list(iterator._workers) if iterator is not None else []


def end_workers(loader: DataLoader[Any]) -> None:
    """Stop the persistent workers of a loader; the next iteration starts new ones."""
    iterator: Any = loader._iterator
    if iterator is not None:
        iterator._shutdown_workers()
    loader._iterator = None


# --- timm ---


def embedded(vit: VisionTransformer, frames: Tensor, positions: Tensor | None = None) -> Tensor:
    """What `VisionTransformer.forward_features` does before the blocks: [B, 3, H, W] -> tokens [B, n, D].

    Args:
        vit: vision transformer.
        frames: normalised frames.
        positions: position codes to use instead of the network's, for frames of another size.
    """
    patches: Tensor = vit.patch_embed(frames)
    if positions is None:
        tokens: Tensor = vit._pos_embed(patches)
    else:
        prefix = [one.expand(len(patches), -1, -1) for one in (vit.cls_token, vit.reg_token) if one is not None]
        if vit.no_embed_class:
            tokens = torch.cat([*prefix, patches + positions], 1)
        else:
            tokens = torch.cat([*prefix, patches], 1) + positions
    result: Tensor = vit.norm_pre(tokens)
    return result


# --- TensorBoard ---


def write_image(logger: TensorBoardLogger, name: str, step: int, content: bytes, height: int, width: int) -> None:
    """Log an encoded image file, which may be an animated GIF. The documented API only logs still images from pixel arrays."""
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=content)
    logger.experiment._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)
