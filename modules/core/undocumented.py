"""All that is used here of Lightning, PyTorch, jsonargparse and TensorBoard without being part of their documentation.

An update of any of them may take it away, so it is in this file alone, and tests/core/test_undocumented.py says what broke.
Everything else goes through callbacks, plugins, hooks, profilers and samplers, as the code of any user does.
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
from torch import Tensor, nn
from torch._C import _remove_worker_pids
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader

# --- Lightning: how far a run is ---

FETCH, STEP = "[_TrainingEpochLoop].train_dataloader_next", "run_training_batch"
"""What Lightning calls waiting for a batch of training, and a step with it, when it tells its profiler of them."""


def is_fitting(trainer: Trainer) -> bool:
    """Whether the trainer was asked to fit, also while it validates."""
    return trainer.state.fn == TrainerFn.FITTING


def make_train_loader(trainer: Trainer) -> None:
    """Have the loader of training made now, so that the trainer knows its number of batches; nothing if it is there."""
    trainer.fit_loop.setup_data()


class FitCounts:
    """Lightning's own counts of epochs and batches, which it also keeps in checkpoints and takes from them.

    Args:
        trainer: that trains.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer, self._fit = trainer, trainer.fit_loop
        self._epochs: Any = self._fit.epoch_progress
        self._batches = self._fit.epoch_loop.batch_progress

    @property
    def epoch(self) -> int:
        """Number of the present epoch, or of the next one."""
        return int(self._epochs.current.processed)

    @property
    def in_epoch(self) -> int:
        """Batches of the present epoch that training has begun with."""
        return int(self._batches.current.ready)

    @property
    def in_all(self) -> int:
        """The same over all epochs."""
        return int(self._batches.total.ready)

    @property
    def resumes(self) -> bool:
        """Whether training takes itself to begin within an epoch of a checkpoint."""
        return bool(self._fit.restarting)

    @property
    def validates_every(self) -> int | float | None:
        """Batches from one validation to the next; infinitely many or None where batches do not decide."""
        return self._trainer.val_check_batch

    def set_length(self, batches: int | float) -> None:
        """Set the number of batches of an epoch, from the next one on."""
        self._fit.max_batches = batches

    def lengthen(self, batches: int) -> None:
        """Set the number of batches of an epoch that has begun."""
        self._fit.max_batches = batches
        assert self._fit._data_fetcher is not None
        self._fit._data_fetcher.length = batches

    def begin_epoch(self) -> None:
        """Let what was taken for a place within an epoch be its begin."""
        for part in (self._epochs.current, self._epochs.total):
            _set_all(part, self.epoch)
        self._batches.total.completed = self._batches.total.ready
        for loop in (self._fit.epoch_loop.val_loop, self._fit.epoch_loop, self._fit):
            loop.on_iteration_done()

    def begin_at(self, batch: int) -> None:
        """Let training go on behind so many batches of the epoch."""
        _set_all(self._batches.current, batch)
        self._batches.total.completed = self._batches.total.ready
        self._batches.is_last_batch = False
        self._fit.epoch_loop.reset_restart_stage()

    def log_by_steps(self) -> None:
        """Let loggers count what the optimiser counts; after a checkpoint, Lightning guesses whether its last step counts."""
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
    """What the first loader of training put into a checkpoint; nothing if there was none that did."""
    states = checkpoint["loops"]["fit_loop"]["state_dict"].get("combined_loader", [])
    return dict(states[0]) if states else {}


def uncount_epoch(checkpoint: dict[str, Any], epoch: int) -> None:
    """Let that epoch count as unfinished in a checkpoint, which is changed in place, if it is the last that counts as done."""
    for counts in checkpoint["loops"]["fit_loop"]["epoch_progress"].values():
        if counts["processed"] == epoch + 1:
            counts["processed"] = counts["completed"] = epoch


# --- Lightning: averages of weights ---


def averages_buffers(callback: WeightAveraging) -> bool:
    """Whether an average of weights is also one of buffers."""
    return bool(callback._use_buffers)


def averaged(callback: WeightAveraging) -> nn.Module:
    """The network with averaged weights, while a run trains."""
    assert callback._average_model is not None, "it is made when training begins"
    network: nn.Module = callback._average_model.module
    return network


# --- Lightning and jsonargparse: the command line ---


def parser_of(cli: LightningCLI, command: str) -> LightningArgumentParser:
    """The parser of one subcommand."""
    return cli._parser(command)


def add_chosen_optimiser(cli: LightningCLI, command: str) -> None:
    """Give the method the optimiser of `--optimizer`, if there is one; the last thing that `LightningCLI` builds."""
    cli._add_configure_optimizers_method_to_model(command)


def whole_numbers_first(parser: LightningArgumentParser) -> None:
    """Let 1 be a whole number, and 1.0 a share, in all settings that may be either.

    The parser takes the first type of `Optional[Union[int, float]]` that fits. Which one that is depends on the process:
    typing hands out again what was written as `Optional[Union[float, int]]` anywhere before.
    """
    for action in parser._actions:
        kinds = get_args(getattr(action, "_typehint", None))
        if int in kinds and float in kinds:
            vars(action)["_typehint"] = reduce(or_, sorted(kinds, key=lambda kind: kind is not int))


# --- PyTorch: optimisers and many tensors at once ---


def unscale_outside(optimiser: Optimizer) -> None:
    """Let the trainer undo the scaling of float16 before a step, even if the optimiser could do it in the step.

    Lightning refuses to clip gradients for an optimiser that offers to, as fused ones do, even in bfloat16, where nothing
    is scaled.
    """
    optimiser._step_supports_amp_scaling = False  # type: ignore[attr-defined]


def hold_weights(optimiser: Optimizer, held: Tensor) -> None:
    """Let a fused optimiser leave weights and moments alone if `held` is true; nobody waits for the device to know.

    Args:
        optimiser: fused.
        held: bool [], on the device of the weights; a copy of its present value counts.
    """
    # torch's own gradient scaler does the same.
    optimiser.found_inf = held.float()  # type: ignore[attr-defined]


@torch.no_grad()
def copy_all(targets: list[Tensor], sources: list[Tensor]) -> None:
    """Copy tensors into tensors of the same shapes, in one launch on a GPU."""
    torch._foreach_copy_(targets, sources)


def _own(tensor: Tensor) -> Tensor:
    """This process's part of a tensor that processes share."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def restore_where(wrong: Tensor, now: list[Tensor], before: list[Tensor]) -> None:
    """Bring tensors back to earlier values if a flag of the device says so, in a few launches on a GPU, without reading it.

    Bits are added as whole numbers, for NaN times 0 is not 0.

    Args:
        wrong: bool scalar.
        now: tensors to change.
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
    """Let torch.compile make up to so many versions of one function, for which it has a limit of 8 by default.

    Args:
        count: of versions; a higher limit that was set before stays.
    """
    import torch._dynamo  # it takes a second

    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, count)
    limits.accumulated_recompile_limit = max(limits.accumulated_recompile_limit, 4 * count)


# --- PyTorch: processes of a DataLoader ---


def stay_calm(batches: Iterator[Any]) -> None:
    """Let the death of a worker be an error only where the main process waits for a batch.

    PyTorch raises one at once, wherever the main process is just then, say in the middle of a step; not so without its list
    of processes.

    Args:
        batches: iterator of a DataLoader.
    """
    iterator: Any = batches
    if getattr(iterator, "_worker_pids_set", False):
        _remove_worker_pids(id(iterator))
        iterator._worker_pids_set = False


def workers(loader: DataLoader[Any]) -> list[BaseProcess]:
    """The worker processes that a loader keeps (`persistent_workers`), by number; none before they are started."""
    iterator: Any = loader._iterator
    return list(iterator._workers) if iterator is not None else []


def end_workers(loader: DataLoader[Any]) -> None:
    """End the workers that a loader keeps; the next iteration starts others."""
    iterator: Any = loader._iterator
    if iterator is not None:
        iterator._shutdown_workers()
    loader._iterator = None


# --- TensorBoard ---


def write_image(logger: TensorBoardLogger, name: str, step: int, content: bytes, height: int, width: int) -> None:
    """Show a picture file as it is, which may be an animated GIF; the documented way makes still ones of arrays of pixels."""
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=content)
    logger.experiment._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)
