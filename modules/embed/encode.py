"""Encodes items and writes parts of features, with one process and device or several.

Axis letters: `v` clips of an item, `B` clips of a batch, `S` features of a clip, `D` width.
"""

import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, multiprocessing
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException
from tqdm import tqdm

from datamodules.prepare.parallel import start_worker
from modules.convert.load import describe_backbone
from modules.core.errors import SettingError
from modules.embed.files import Parts, Steps
from modules.embed.reading import Read, Reader, read_all

What = Literal["pooled", "slices", "tokens"]
PART_ITEMS = 32
"""Items per part: the maximum that each process has to read again after the command was killed."""
PATIENCE = 30.0
"""Seconds that a process gets to end its own workers."""


class Work(NamedTuple):
    """Everything that a process needs to make parts."""

    checkpoint: Path
    frames: int | None
    """description of the encoder, for `describe_backbone`"""
    size: int | None
    """side of the clips in pixels"""
    reader: Reader
    parts: Parts
    what: What
    batch_size: int
    bf16: bool
    store: str
    num_workers: int
    unit: str
    """name of an item, for the progress bar"""

    @property
    def num_parts(self) -> int:
        """Number of parts."""
        return -(-len(self.reader) // PART_ITEMS)

    def places(self, part: int) -> range:
        """Indices of the items of a part."""
        return range(part * PART_ITEMS, min(len(self.reader), (part + 1) * PART_ITEMS))


def make_parts(work: Work, numbers: list[int], network: Any, show: bool = True, stop: signal.Signals = signal.SIGINT) -> None:
    """Read, encode and write some parts.

    Args:
        work: the work that the parts belong to.
        numbers: indices of the parts.
        network: encoder, on its device.
        show: show a progress bar in a terminal.
        stop: signal that stops the work between two items.

    Raises:
        KeyboardInterrupt: after that signal.
    """
    places = [place for number in numbers for place in work.places(number)]
    reads = read_all(work.reader, places, work.num_workers)
    items = iter(tqdm(reads, total=len(places), unit=work.unit, disable=None if show else True))
    # Parts are written in a thread, because flushing a file to disk takes time.
    with _noted(stop) as noted, ThreadPoolExecutor(1) as writer:
        before: Future[None] | None = None
        for number in numbers:
            own = _unless(noted, islice(items, len(work.places(number))))
            steps = encode(network, own, work.what, work.batch_size, work.bf16, work.store)
            if before is not None:
                before.result()
            before = writer.submit(work.parts.write, number, steps)
        if before is not None:
            before.result()


@contextmanager
def _noted(number: signal.Signals) -> Iterator[list[int]]:
    """Record a signal instead of ending at once, which may break a transfer from a worker; a second one ends the process."""
    noted: list[int] = []

    def note(number: int, frame: object) -> None:
        noted.append(number)
        if len(noted) > 1:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield noted
        return
    before = signal.signal(number, note)
    try:
        yield noted
    finally:
        signal.signal(number, before)


def _unless(noted: list[int], reads: Iterable[Read]) -> Iterator[Read]:
    """Items, until a signal is recorded."""
    for one in reads:
        if noted:
            raise KeyboardInterrupt
        yield one


def make_parts_on(work: Work, numbers: list[int], devices: list[torch.device]) -> None:
    """Run `make_parts` in one process per device; the processes end with this one.

    Raises:
        SettingError: if one of them raised it, or died.
    """
    shares = [numbers[first :: len(devices)] for first in range(len(devices))]
    # Ctrl-C reaches all processes of a terminal, also while they import; only this process handles it.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        started = multiprocessing.spawn(_process, (work, shares, devices), nprocs=len(devices), join=False)
    finally:
        signal.signal(signal.SIGINT, before)
    assert started is not None
    try:
        while not started.join():
            pass
    except ProcessRaisedException as error:
        _, found, said = str(error).rpartition("SettingError: ")
        if not found:
            raise
        raise SettingError(said.strip()) from None
    except ProcessExitedException as error:
        raise SettingError(
            f"A process on {devices[error.error_index]} died ({error}), perhaps because memory ran out; lower --batch_size or "
            "--num_workers and run the same command again: finished parts are kept."
        ) from error
    finally:
        for process in started.processes:
            process.terminate()
        for process in started.processes:
            process.join(PATIENCE)
            process.kill()


def _process(number: int, work: Work, shares: list[list[int]], devices: list[torch.device]) -> None:
    """One of several processes."""
    start_worker()
    rank_zero_only.rank = number + 1  # type: ignore[attr-defined]  # messages are printed by the main process only
    loaded = describe_backbone(work.checkpoint, work.frames, work.size, setting="--checkpoint")
    make_parts(work, shares[number], loaded.network.to(devices[number]).requires_grad_(False), number == 0, signal.SIGTERM)


def choose_devices(name: str, count: int) -> list[torch.device]:
    """The devices of a name: the first ones of the kind, or the one with the given index.

    Raises:
        SettingError: if there are fewer devices.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.index is not None and count > 1:
            raise SettingError(f"--device is {name}, one device, but --devices is {count}; pass --device {device.type}.")
        if count > 1 and device.type not in ("cpu", "cuda"):
            raise SettingError(f"--devices is {count}, which is for cpu and cuda, but --device is {name}; pass --devices 1.")
        if device.type == "cuda" and count > max(1, torch.cuda.device_count()):
            raise SettingError(f"--devices is {count}, but there are {torch.cuda.device_count()} GPUs; lower it.")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, AttributeError, NotImplementedError) as error:
        raise SettingError(f"--device is {name}, which is not here ({str(error).splitlines()[0]}); pass cpu.") from error
    if count == 1 or device.type == "cpu":
        return [device] * count
    return [torch.device("cuda", number) for number in range(count)]


@torch.inference_mode()
def encode(network: Any, reads: Iterable[Read], what: What, batch_size: int, bf16: bool, store: str) -> Steps:
    """Compute the features of items, in batches that only depend on the items.

    A GPU works on a batch while the next one is read; the host only waits for it at the end.

    Args:
        network: encoder, on its device.
        reads: items read by workers.
        what: see `embed`.
        batch_size: clips per batch.
        bf16: compute in bfloat16.
        store: data type of the result.
    """
    device = next(network.parameters()).device
    features, times, rows = list[Tensor](), list[Tensor](), list[Tensor]()
    faults, about = dict[int, str](), dict[int, tuple[str, str]]()
    waiting: list[tuple[Tensor, Tensor, int]] = []

    def run() -> None:
        """Encode the waiting clips as one batch."""
        clips, time, row = zip(*waiting, strict=True)
        waiting.clear()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            batch = torch.stack([clip.to(device, non_blocking=True) for clip in clips])
            made = steps_of(network, network.preprocess(batch), what).to(getattr(torch, store))
        features.append(made.flatten(0, 1))
        times.append(_times(torch.stack(time), made.shape[1], what))
        rows.append(torch.tensor(row).repeat_interleave(made.shape[1]))

    for one in reads:
        if one.clips is None:
            faults[one.row] = one.reason
            continue
        about[one.row] = (one.label, one.caption)
        for clip, time in zip(one.clips, one.time, strict=True):
            if waiting and clip.shape != waiting[0][0].shape:
                run()
            waiting.append((clip, time, one.row))
            if len(waiting) == batch_size:
                run()
    if waiting:
        run()
    if not features:
        return Steps(torch.zeros(0, 0), torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), faults, about)
    feature = torch.cat(features).cpu()
    if not feature.isfinite().all():
        raise SettingError(f"Features are not finite as {store}; pass --store float32, or weights that are not damaged.")
    return Steps(feature, torch.cat(times), torch.cat(rows), faults, about)


def _times(time: Tensor, count: int, what: What) -> Tensor:
    """Times of all features of clips: float32 [B, 2] -> [B * S, 2]. Slices divide the time of their clip evenly."""
    if what != "slices":
        return time.repeat_interleave(count, 0)
    ends = time[:, :1] + (time[:, 1:] - time[:, :1]) * torch.linspace(0, 1, count + 1)
    return torch.stack([ends[:, :-1], ends[:, 1:]], -1).flatten(0, 1)


def steps_of(network: Any, video: Tensor, what: What) -> Tensor:
    """Features of clips, one or several per clip.

    Args:
        network: encoder.
        video: float [B, 3, T, H, W], from `preprocess`.
        what: pooled features, features of each time slice, or all tokens.

    Returns:
        float32 [B, S, D]

    Raises:
        SettingError: if the network has no time slices.
    """
    if what == "pooled":
        pooled: Tensor = network(video).float()
        return pooled[:, None]
    features: Tensor = network.forward_features(video).float()
    if features.ndim == 5:
        flat = features.permute(0, 2, 3, 4, 1)
        return flat.mean((2, 3)) if what == "slices" else flat.flatten(1, 3)
    if what == "tokens":
        return features
    if not hasattr(network, "grid"):
        raise SettingError(f"--what slices needs an encoder with time slices; a {type(network).__name__} has none.")
    slices = network.grid.t if not hasattr(network, "clip_grid") else network.clip_grid(video).t
    return features.unflatten(1, (slices, -1)).mean(2)
