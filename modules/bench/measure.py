"""Measuring a run: it is built as by the command line, and trained for some seconds in a temporary folder."""

import gc
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ProgressBar
from lightning.pytorch.plugins.environments import ClusterEnvironment
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from callbacks.collapse import CollapseAlarm
from callbacks.result_file import BestOnTest
from modules.bench.ledger import AUGMENTATION, FORWARD, REST, WAITING, Ledger
from modules.core.batch import Batch, Stream
from modules.core.errors import SettingError
from modules.core.run import ReadsClips, run_of
from modules.runs.cli import CLI
from modules.runs.explain import class_of
from modules.training.devices import peak_tflops
from modules.training.flops import step_flops
from modules.training.method import Method

WARM_UP = 3
"""Warm-up steps that are not measured."""
FOREVER = 10**6
"""Number of epochs; the time limit ends the run."""


@dataclass
class Measured:
    """Measurements of a run on one device."""

    method: str
    data: str
    device: str
    precision: str
    batch_size: int | None
    """None if the data module has no such setting."""
    workers: int | None
    """Worker processes; None if the data module has no such setting."""
    steps: int = 0
    """Number of measured batches."""
    seconds: float = 0.0
    """Duration of these batches."""
    clips: int = 0
    shares: dict[str, float] = field(default_factory=dict)
    """Fractions of the time, by part; without augmentation if it cannot be separated from the forward pass."""
    decode_ms: float | None = None
    """Time of a worker per sample; None if the data module does not report it."""
    stream_ms: dict[str, float] = field(default_factory=dict)
    """Part of it per stream other than the video, by name."""
    memory: int = 0
    """Peak memory in bytes: of the GPU, or of this process at the end of a forward pass; 0 if unknown."""
    memory_of_batch: int = 0
    """Part of it that is kept for the backward pass; 0 on a GPU, where two runs are compared instead."""
    memory_there: int = 0
    """Available bytes, of the device or for this process; 0 if unknown."""
    flops: int | None = None
    """Floating-point operations of a batch; None if not counted."""
    peak_tflops: float | None = None
    """Peak compute of the device, if known."""
    batches_per_epoch: int = 0
    """Speed on one device."""
    checkpoint_bytes: int = 0
    written_bytes: int = 0
    """Logs and pictures of the measured steps."""
    steps_run: int = 0
    settings: Namespace = field(default_factory=Namespace)
    """All settings given by the user."""
    given: list[Callback] = field(default_factory=list)
    """Callbacks of the recipe."""
    left_out: list[str] = field(default_factory=list)
    """Names of callbacks that were left out."""

    @property
    def busy_seconds(self) -> float:
        """Time of a step without waiting for data, including the time between steps."""
        return (1 - self.shares[WAITING]) * self.seconds / self.steps

    @property
    def reading_seconds(self) -> float:
        """Time in which all workers together read a batch; 0 if the main process reads, or if not reported."""
        if self.decode_ms is None or not self.workers or self.batch_size is None:
            return 0.0
        return self.decode_ms / 1000 * self.batch_size / self.workers

    @property
    def step_seconds(self) -> float:
        """Time of a step in a long run, even if prefetched batches have hidden slower workers so far."""
        return max(self.seconds / self.steps, self.reading_seconds)

    @property
    def waiting(self) -> float:
        """Fraction of such a step that waits for data."""
        return 1 - self.busy_seconds / self.step_seconds

    @property
    def clips_per_second(self) -> float:
        """Speed of one device in a long run."""
        return self.clips / self.steps / self.step_seconds


class Watch(Callback):
    """Measures for the given time, then ends the run.

    For two thirds of the time a GPU runs asynchronously, which shows the speed of the run and the time it waits for data;
    then it is synchronised after every action, which shows the time of each.

    Args:
        seconds: duration, including warm-up.
        whole: also count operations, and write a checkpoint to see its size.
    """

    def __init__(self, seconds: float, whole: bool) -> None:
        self.seconds, self.whole = seconds, whole
        self.ledger = Ledger()
        self.seen: dict[str, Any] = {}
        """The fields of `Measured`."""
        self._steps = self._clips = 0
        self._decode: list[float] = []
        self._streams: dict[str, list[float]] = {}
        self._memory = 0
        self._kept = Kept()
        self._start = self._begin = 0.0
        self._measures = False
        self._waiting: float | None = None
        """Waiting share without synchronisation, once known."""
        self._unmark: list[Callable[[], None]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hook the encoders to detect when they receive clips."""
        self._start = time.perf_counter()
        if isinstance(pl_module, Method):
            for name, encoder in pl_module.encoders().items():
                for network in [encoder, *pl_module.copies(name)]:
                    for entry in ("preprocess", "encode_clip"):
                        if hasattr(network, entry):
                            self._mark(network, entry)

    def _mark(self, network: Any, entry: str) -> None:
        own = getattr(network, entry)

        def marked(*args: Any, **settings: Any) -> Any:
            self.ledger.mark()
            return own(*args, **settings)

        setattr(network, entry, marked)
        self._unmark.append(lambda: delattr(network, entry))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        """In the second step, count what is kept for the backward pass."""
        if not self._measures and self._steps == 1 and pl_module.device.type != "cuda":
            self._kept.begin(pl_module)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Any) -> None:
        """Record the memory in use while all activations exist."""
        self._kept.end()
        if self._measures:
            self._memory = max(self._memory, resident_bytes())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count steps; start after the warm-up, and end after the given time."""
        spent = time.perf_counter() - self._start
        self._steps += 1
        gpu = pl_module.device.type == "cuda"
        if not self._measures:
            reading = getattr(run_of(trainer).datamodule, "reading", None)
            # Workers have prefetched batches when the run starts.
            if self._steps >= WARM_UP + 2 * getattr(reading, "num_workers", 0) or spent > self.seconds / 3:
                if gpu:
                    torch.cuda.reset_peak_memory_stats()
                self._measures = True
                self._begin_again()
            return
        views = max(one.data.shape[1] for one in batch.streams.values() if isinstance(one, Stream))
        self._clips += len(batch.index) * views
        self._decode += batch.reading.decode_ms
        for name, own in batch.reading.stream_ms.items():
            self._streams.setdefault(name, []).extend(own)
        if gpu and self._waiting is None and spent >= self.seconds * 2 / 3:
            self._waiting = self._note_speed()
            self.ledger.wait = torch.cuda.synchronize
            self._begin_again()
        elif spent >= self.seconds:
            self._finish(trainer, pl_module, batch)

    def _begin_again(self) -> None:
        self._steps = self._clips = 0
        self.ledger.reset()
        self._begin = time.perf_counter()

    def _note_speed(self) -> float:
        """The fraction of time spent waiting."""
        total = time.perf_counter() - self._begin
        self.seen |= {"steps": self._steps, "clips": self._clips, "seconds": total}
        return self.ledger.seconds[WAITING] / total

    def _finish(self, trainer: Trainer, method: LightningModule, batch: Batch) -> None:
        total = time.perf_counter() - self._begin
        waiting = self._note_speed() if self._waiting is None else self._waiting
        spent = dict(self.ledger.seconds)
        told_apart = self.ledger.marked >= self._steps
        if not told_apart:
            spent[FORWARD] += spent.pop(AUGMENTATION, 0.0)
        busy = {part: seconds for part, seconds in spent.items() if part != WAITING}
        busy[REST] = busy.get(REST, 0.0) + max(0.0, total - sum(spent.values()))
        scale = (1 - waiting) / sum(busy.values())
        shares = {WAITING: waiting} | {part: seconds * scale for part, seconds in busy.items()}
        for undo in self._unmark:
            undo()
        device, precision = method.device, str(trainer.precision)
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        self.seen |= {
            "device": name,
            "precision": precision,
            "shares": shares,
            "decode_ms": sum(self._decode) / len(self._decode) if self._decode else None,
            "stream_ms": {name: sum(own) / len(own) for name, own in self._streams.items() if own},
            "memory": torch.cuda.max_memory_allocated() if device.type == "cuda" else self._memory,
            "memory_of_batch": self._kept.bytes,
            "memory_there": torch.cuda.mem_get_info()[1] if device.type == "cuda" else machine_bytes(),
            "batches_per_epoch": int(trainer.num_training_batches),
            "steps_run": trainer.global_step,
            "written_bytes": folder_bytes(Path(trainer.default_root_dir)),
            "peak_tflops": peak_tflops(name, precision),
        }
        if self.whole:
            self.seen["flops"] = step_flops(method, batch) if isinstance(method, Method) else None
            path = Path(trainer.default_root_dir) / "size.ckpt"
            trainer.save_checkpoint(path)
            self.seen["checkpoint_bytes"] = path.stat().st_size
        # The end of an epoch is not measured.
        trainer.should_stop = True


class Kept:
    """Bytes of the tensors that a forward pass keeps for the backward pass, without parameters.

    The memory of the process is not reliable here: the allocator may keep freed memory.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._sizes: dict[int, int] = {}
        self._parameters: set[int] = set()
        self._hooks: torch.autograd.graph.saved_tensors_hooks | None = None

    def begin(self, module: torch.nn.Module) -> None:
        """A forward pass starts."""
        self._parameters = {value.untyped_storage().data_ptr() for value in module.parameters()}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._note, lambda kept: kept)
        self._hooks.__enter__()

    def _note(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self._sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    def end(self) -> None:
        """The forward pass ended, if one had started."""
        if self._hooks is not None:
            self._hooks.__exit__(None, None, None)
            self._hooks = None
            self.bytes = sum(size for place, size in self._sizes.items() if place not in self._parameters)


def resident_bytes() -> int:
    """Memory of this process; 0 if unknown."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if path.exists() else 0


def machine_bytes() -> int:
    """Memory available to this process; 0 if unknown."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return 0
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else "max"
    return min(there, int(text)) if text.isdigit() else there


def folder_bytes(folder: Path) -> int:
    """Sizes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class BenchCLI(CLI):
    """The command line of `fit` with a measured run: on one device, in another folder, and without the work before and
    after training and between epochs.

    Args:
        words: settings of `fit`.
        watch: callback that measures, and ends the run.
        folder: folder of the run.
    """

    def __init__(self, words: list[str], watch: Watch, folder: Path) -> None:
        self.watch, self.folder = watch, folder
        self.asked = Namespace()
        self.given: list[Callback] = []
        self.left_out: list[str] = []
        super().__init__(["fit", *words])

    def before_instantiate_classes(self) -> None:
        """Change the settings of the run."""
        config = self.config["fit"]
        self.asked = config.clone()
        plugins = config.trainer.plugins or []
        plugins = plugins if isinstance(plugins, list) else [plugins]
        changed = {
            "default_root_dir": str(self.folder),
            "devices": 1,
            "num_nodes": 1,
            "strategy": "auto",
            "plugins": [one for one in plugins if not _is_cluster(one)] or None,
            "max_epochs": FOREVER,
            "min_epochs": None,
            "max_steps": -1,
            "min_steps": None,
            "max_time": None,
            "fast_dev_run": False,
            "barebones": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "limit_val_batches": 0,
            # Loggers of external services would record a run that does not exist.
            "logger": config.trainer.logger is not False,
        }
        for name, value in changed.items():
            config.trainer[name] = value
        config.ckpt_path = None
        super().before_instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Remove callbacks that work outside training steps, and add the watch."""
        settings = self.config_init["fit"].trainer
        given = settings.callbacks or []
        self.given = given if isinstance(given, list) else [given]
        outside = [one for one in self.given if isinstance(one, (*OUTSIDE, ReadsClips))]
        self.left_out = [type(one).__name__ for one in outside]
        settings.callbacks = [*(one for one in self.given if one not in outside), self.watch]
        return super().instantiate_trainer(profiler=self.watch.ledger, **kwargs)

    def before_fit(self) -> None:
        """Print nothing."""

    def after_fit(self) -> None:
        """Print nothing, and test nothing."""


OUTSIDE = (Checkpoint, EarlyStopping, CollapseAlarm, BestOnTest, ProgressBar)
"""Removed callbacks, in addition to those that read their own clips. None of them costs much between training steps."""


def _is_cluster(plugin: Any) -> bool:
    kind = class_of(plugin.class_path) if isinstance(plugin, Namespace) and "class_path" in plugin else type(plugin)
    return isinstance(kind, type) and issubclass(kind, ClusterEnvironment)


@contextmanager
def _undisturbed(warns: bool) -> Iterator[None]:
    """Restores the state of this process that a run changes; its messages are suppressed, its warnings only unless `warns`."""
    names = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
    before = {name: os.environ.get(name) for name in names}
    digits = torch.get_float32_matmul_precision()
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with isolate_rng(), warnings.catch_warnings():
            # The process has another command line than the one passed here.
            warnings.filterwarnings("ignore", ".*LightningCLI's args parameter.*" if warns else "")
            yield
    finally:
        torch.set_float32_matmul_precision(digits)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def measure(words: list[str], seconds: float, whole: bool = False) -> Measured:
    """Train for some seconds and return the measurements. Nothing is left on disk.

    Args:
        words: settings of `fit`, as on the command line.
        seconds: duration of training after the run was built; at least one batch is measured.
        whole: also count operations, and measure the size of a checkpoint.

    Raises:
        SettingError: if the run cannot be built, or ends early.
    """
    with _undisturbed(whole), tempfile.TemporaryDirectory(prefix="bench_") as folder:
        watch = Watch(seconds, whole)
        cli = BenchCLI(words, watch, Path(folder))
        if "shares" not in watch.seen:
            raise SettingError(
                "The run ended before it could be measured; check for a callback or a setting of the trainer that ends it."
            )
        data = cli.datamodule
        result = Measured(
            method=type(cli.model).__name__,
            data=type(data).__name__,
            batch_size=getattr(data, "batch_size", None),
            workers=getattr(getattr(data, "reading", None), "num_workers", None),
            settings=cli.asked,
            given=cli.given,
            left_out=cli.left_out,
            **watch.seen,
        )
        # Workers end when their loader is deleted.
        del cli, data, watch
        gc.collect()
    return result
