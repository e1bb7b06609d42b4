"""Speed and bottleneck of a run, in one line."""

import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.utilities import rank_zero_info

from modules.core.batch import Batch, Stream
from modules.core.errors import check_positive, given
from modules.core.run import run_of
from modules.core.undocumented import FETCH, STEP
from modules.training.devices import peak_tflops
from modules.training.flops import step_flops
from modules.training.method import Method

# Fractions of a window's time above which a cause is reported.
WAITING, ELSEWHERE = 0.25, 0.25


def utilisation(tflops: float, mfu: float | None) -> str:
    """Text about the compute utilisation of a device.

    Args:
        tflops: 10^12 floating-point operations of the model per second and device.
        mfu: the same as a fraction of the device's peak; None if the peak is unknown.
    """
    share = "" if mfu is None else f", {100 * mfu:.0f} % of the device's peak (MFU)"
    return f"{tflops:.3g} TFLOP/s{share}"


def diagnose(
    clips_per_second: float,
    wait_share: float,
    other_share: float,
    decode_ms: float | None,
    workers: int,
    device: str,
    used: str = "",
    stream_ms: Mapping[str, float] = MappingProxyType({}),
) -> str:
    """One line with the speed, the bottleneck, and what to try.

    Args:
        clips_per_second: sum over all devices.
        wait_share: fraction of the time in which the step waited for a batch.
        other_share: fraction of the time outside steps and waiting (callbacks, validation, checkpoints).
        decode_ms: time of a worker per sample, in milliseconds; None if the data module does not report it.
        workers: data.reading.num_workers.
        device: 'cpu', 'cuda', ...
        used: text of `utilisation`; empty if unknown.
        stream_ms: part of `decode_ms` per stream other than the video, by name.
    """
    used = f", {used}" if used else ""
    line = f"{clips_per_second:.1f} clips/s{used}; {100 * wait_share:.0f} % of the time is spent waiting for data"
    parts = ", ".join(f"{name} {own:.0f} ms" for name, own in stream_ms.items())
    of_it = f" ({parts} of it)" if parts else ""
    decoding = f"; reading a sample takes {decode_ms:.0f} ms of a worker{of_it}" if decode_ms is not None else ""
    if wait_share > WAITING and wait_share >= other_share:
        more = "set data.reading.num_workers above 0" if workers == 0 else f"raise data.reading.num_workers (now {workers})"
        return (
            f"{line}{decoding}. Data limits this run: {more}, prepare videos at 256 px with a key frame every 16 frames, "
            "or use each decoded clip twice with data.clip.repeat 2."
        )
    if other_share > ELSEWHERE:
        return (
            f"{line}, {100 * other_share:.0f} % goes to callbacks, validation and checkpoints. They limit this run: call "
            "them less often (every_n_steps of the callbacks, trainer.val_check_interval)."
        )
    hint = (
        "a GPU, a smaller model.backbone.size, or, for masked methods, a higher mask ratio help"
        if device == "cpu"
        else "trainer.precision bf16-mixed, a larger data.batch_size, or, for masked methods, a higher mask ratio help"
    )
    return f"{line}. The network limits this run: {hint}."


class Stopwatch(Profiler):
    """Reports the duration of each action, and forwards everything to the profiler of the run.

    Args:
        profiler: of the run.
        ended: called with an action and its duration in seconds when it ends.
    """

    def __init__(self, profiler: Profiler, ended: Callable[[str, float], None]) -> None:
        super().__init__()
        self.profiler = profiler
        self._ended = ended
        self._since: dict[str, float] = {}

    def start(self, action_name: str) -> None:
        """Start timing."""
        self.profiler.start(action_name)
        self._since[action_name] = time.perf_counter()

    def stop(self, action_name: str) -> None:
        """Report the duration."""
        self._ended(action_name, time.perf_counter() - self._since[action_name])
        self.profiler.stop(action_name)


class Throughput(Callback):
    """Logs `speed/*`, and prints the bottleneck after the first window and at the end of each epoch.

    Times are measured on the host without a host sync. A busy GPU blocks the host inside the step, so the
    fractions are correct over a window even though those of single steps are not. The first window starts when the first
    batch has arrived, so that probes and the start of the workers do not count.

    `speed/tflops` counts the operations of the model (see `step_flops`), including frozen target networks, but no other work of
    the device; `speed/mfu`, the model-FLOPs utilisation, is the same as a fraction of the device's peak. The operations
    are counted once, at the end of the first window.

    Args:
        every_n_steps: batches per window.
        peak_tflops: peak of one device in the precision of the run, in TFLOP/s; null uses the manufacturer's value,
            and reports no MFU if this is unknown, as on a CPU.
    """

    def __init__(self, every_n_steps: int = 50, peak_tflops: float | None = None) -> None:
        check_positive("Throughput", every_n_steps=every_n_steps, **given(peak_tflops=peak_tflops))
        self.every_n_steps, self.peak_tflops = every_n_steps, peak_tflops
        self.flops: int | None = None
        """Floating-point operations of a batch on one device."""
        self._counted = False
        self._told = self._running = False
        self._reset(time.perf_counter())

    def _reset(self, now: float) -> None:
        self._begin = now
        self._spent = {FETCH: 0.0, STEP: 0.0}
        self._batches = self._clips = 0
        self._decode: list[float] = []
        self._streams: dict[str, list[float]] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen to the trainer's calls of its profiler."""
        # Not with hooks: they run before those of some callbacks and after those of others, so they cannot separate waiting for
        # data from the work of other callbacks.
        self._running = False
        self.teardown(trainer, pl_module, stage)
        run = run_of(trainer)
        run.profiler = Stopwatch(run.profiler, self._ended)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop listening."""
        run = run_of(trainer)
        if isinstance(run.profiler, Stopwatch):
            run.profiler = run.profiler.profiler

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop listening, because Lightning does not call `teardown` then."""
        self.teardown(trainer, pl_module, "")

    def _ended(self, action: str, seconds: float) -> None:
        if action == FETCH and not self._running:
            self._running = True
            self._reset(time.perf_counter())
        elif action in self._spent:
            self._spent[action] += seconds

    def _peak(self, trainer: Trainer) -> float | None:
        device = trainer.strategy.root_device
        if self.peak_tflops is not None or device.type != "cuda":
            return self.peak_tflops
        return peak_tflops(torch.cuda.get_device_name(device), str(trainer.precision))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count clips, and log when the window is full."""
        self._batches += 1
        views = max(one.data.shape[1] for one in batch.streams.values() if isinstance(one, Stream))
        self._clips += len(batch.index) * views * trainer.world_size
        self._decode += batch.reading.decode_ms
        for name, own in batch.reading.stream_ms.items():
            self._streams.setdefault(name, []).extend(own)
        if self._batches >= self.every_n_steps:
            self._close(trainer, pl_module, batch)

    def _close(self, trainer: Trainer, pl_module: LightningModule, batch: Batch) -> None:
        total = max(time.perf_counter() - self._begin, 1e-9)
        speed, wait = self._clips / total, self._spent[FETCH] / total
        other = max(0.0, 1 - wait - self._spent[STEP] / total)
        decode = sum(self._decode) / len(self._decode) if self._decode else None
        pl_module.log_dict(
            {"speed/clips_per_second": speed, "speed/data_wait_share": wait, "speed/other_share": other},
            rank_zero_only=True,
        )
        if decode is not None:
            pl_module.log("speed/decode_ms_per_sample", decode, rank_zero_only=True)
        streams = {name: sum(own) / len(own) for name, own in self._streams.items() if own}
        for name, own_ms in streams.items():
            pl_module.log(f"speed/{name}_ms_per_sample", own_ms, rank_zero_only=True)
        if torch.cuda.is_available():
            pl_module.log("speed/gpu_memory_gib", torch.cuda.max_memory_allocated() / 2**30, rank_zero_only=True)
        if not self._counted and isinstance(pl_module, Method) and trainer.is_global_zero:
            # Not before the first step, because it would be delayed.
            self._counted, self.flops = True, step_flops(pl_module, batch)
        used = ""
        if self.flops is not None:
            tflops, peak = self.flops * self._batches / total / 1e12, self._peak(trainer)
            mfu = tflops / peak if peak is not None else None
            pl_module.log_dict(given(**{"speed/tflops": tflops, "speed/mfu": mfu}), rank_zero_only=True)
            used = utilisation(tflops, mfu)
        reading = getattr(run_of(trainer).datamodule, "reading", None)
        workers = reading.num_workers if reading is not None else 0
        self.line = diagnose(speed, wait, other, decode, workers, trainer.strategy.root_device.type, used, streams)
        if not self._told:
            rank_zero_info(self.line)
            self._told = True
        # The time spent here is not counted.
        self._reset(time.perf_counter())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the last window's line."""
        if self._told and (trainer.current_epoch + 1) % max(1, (trainer.max_epochs or 1) // 5) == 0:
            rank_zero_info(self.line)
