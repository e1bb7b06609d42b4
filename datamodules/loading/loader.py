"""The order of samples, and a loader that resumes where it was stopped, or where a worker died.

The order of an epoch is a function of (seed, epoch). A sample's own randomness is a function of (seed, epoch, index), so
nothing depends on the number of workers, and the only state to save is the number of samples returned in all processes.
"""

import gc
import signal
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from multiprocessing.connection import wait
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.loading.device_copy import Copies, SideStream, one_ahead
from datamodules.loading.worker_guard import WorkerGuard
from modules.core.batch import Preparation
from modules.core.errors import SettingError
from modules.core.randomness import worker_rng
from modules.core.undocumented import end_workers, stay_calm, workers

# Maximum worker deaths while the loader waits for one batch: of any kind, and without a responsible file.
MAX_DEATHS = 10
MAX_UNEXPLAINED = 3


class SampleKey(NamedTuple):
    """What determines a sample, besides the seed: the epoch, and the row of the manifest."""

    epoch: int
    row: int
    place: int = 0
    """Samples of the epoch before the sample's batch, over all processes; no sample depends on it (see `Reading.place`)."""


class Part(NamedTuple):
    """The range of one pass over a loader."""

    epoch: int
    start: int
    """First sample, counted in the order of the epoch, over all processes."""
    end: int
    """End of the last sample, counted in the same way."""
    stops: list[int]
    """For each batch, the samples that this process has received when it is returned."""


class EpochSampler(Sampler[SampleKey]):
    """Keys of one epoch for one process.

    Training order is a permutation from (seed, epoch), of which each process takes every `world_size`-th; a remainder is
    left out, so that all processes have equally many. Evaluation covers every sample exactly once, in order; processes
    may differ by one.

    Args:
        length: samples in the data set.
        seed: random seed of the run.
        shuffle: training order; False for evaluation.
        rank: rank of this process.
        world_size: number of processes.
    """

    def __init__(self, length: int, seed: int, shuffle: bool, rank: int = 0, world_size: int = 1) -> None:
        self.length, self.seed, self.shuffle = length, seed, shuffle
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.repeats = False
        """Whether every epoch has the order of the first epoch (trainer.overfit_batches); clips are still cropped at random."""
        self.start = 0
        """Samples of this epoch that were returned before, over all processes."""
        self.end = length // world_size * world_size if shuffle else length
        """End of this epoch, over all processes."""

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        if self.shuffle:
            return self.length // self.world_size
        return len(range(self.rank, self.length, self.world_size))

    def rows(self) -> np.ndarray:
        """Rows that this process reads in this epoch, in order: int64 [n]."""
        order = np.arange(self.length)
        if self.shuffle:
            order = worker_rng(self.seed, 0 if self.repeats else self.epoch).permutation(order)
        return order[self.start : self.end][self.rank :: self.world_size]

    def __iter__(self) -> Iterator[SampleKey]:
        for row in self.rows():
            yield SampleKey(self.epoch, int(row))


class EpochBatches(Sampler[list[SampleKey]]):
    """The keys of one process in batches. `len` is always that of a complete epoch, even after resuming within one.

    Args:
        sampler: sampler of the keys.
        batch_size: keys in a batch.
    """

    def __init__(self, sampler: EpochSampler, batch_size: int) -> None:
        # Lightning sets the epoch of `sampler`.
        self.sampler, self.batch_size = sampler, batch_size
        self.stops: list[int] = []
        """Ends of the batches, counted in keys."""
        self.skip = 0
        """Batches that were returned before."""

    def __len__(self) -> int:
        keys, size = len(self.sampler), self.batch_size
        return keys // size if self.sampler.shuffle else -(-keys // size)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        # Keys are created batch by batch: a million of them take a hundred megabytes, and workers that start later copy them.
        epoch, rows = self.sampler.epoch, self.sampler.rows()
        for first, stop in list(pairwise([0, *self.stops]))[self.skip :]:
            place = self.sampler.start + first * self.sampler.world_size
            yield [SampleKey(epoch, row, place) for row in rows[first:stop].tolist()]


class PreparedBatches(Dataset[Any]):
    """Reads complete batches of a data set, and runs the method's preparation on them.

    Args:
        dataset: dataset of the samples.
        collate: joins samples to a batch.
        prepare: the method's preparation.
        train: False for validation.
    """

    def __init__(self, dataset: Dataset, collate: Callable[[Any], Any], prepare: Preparation, train: bool) -> None:
        self.dataset, self.collate, self.prepare, self.train = dataset, collate, prepare, train

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitems__(self, keys: list[SampleKey]) -> Any:
        """A prepared batch."""
        batch = self.collate(read_samples(self.dataset, keys))
        batch.reading.place = keys[0].place
        self.prepare(batch, keys[0].epoch if self.train else None)
        return batch


def read_samples(dataset: Dataset, keys: list[SampleKey]) -> Any:
    """Samples of some keys: a list, or one batch if the data set creates complete ones."""
    whole = getattr(dataset, "__getitems__", None)
    return whole(keys) if whole is not None else [dataset[key] for key in keys]


def _whole(batch: Any) -> Any:
    return batch


def _prepare_worker(_: int, guard: WorkerGuard) -> None:
    """Limit workers to one core each, and let only the main process handle signals."""
    torch.set_num_threads(1)
    # The initial memory is shared with the main process, until garbage collection writes to every page of it.
    gc.freeze()
    guard.start()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


class ResumableLoader(DataLoader):
    """A DataLoader whose state is the epoch and the number of samples returned in all processes together.

    Lightning saves and restores that state with its own, so a run that is resumed in the middle of an epoch
    continues with the next unseen sample, also with another batch size or number of processes: the rest of the epoch
    is distributed again. `len` is always that of a complete epoch.

    When a worker dies, all are restarted after the last returned batch, and the file that the
    guard identifies is not read any more. All other samples are unchanged.

    Args:
        dataset: returns a sample for a `SampleKey`.
        sampler: sampler of the keys.
        batch_size: samples per batch.
        num_workers: worker processes.
        collate_fn: joins samples to a batch.
        on_batch: called in the main process with each batch, before it is returned.
        guard: tracks what workers read; the data set must report it.
        prefetch_factor: batches that each worker reads ahead.
        prepare: the method's preparation of each batch, run as soon as it is collated.

    Raises:
        SettingError: when workers die repeatedly.
    """

    def __init__(
        self,
        dataset: Dataset,
        sampler: EpochSampler,
        batch_size: int,
        num_workers: int = 0,
        collate_fn: Callable[[Any], Any] | None = None,
        on_batch: Callable[[Any], None] | None = None,
        guard: WorkerGuard | None = None,
        prefetch_factor: int = 2,
        prepare: Preparation | None = None,
    ) -> None:
        self.guard = guard or WorkerGuard(num_workers)
        if prepare is not None:
            assert collate_fn is not None
            dataset, collate_fn = PreparedBatches(dataset, collate_fn, prepare, sampler.shuffle), _whole
        self.batches = EpochBatches(sampler, batch_size)
        super().__init__(
            dataset,
            batch_sampler=self.batches,
            num_workers=num_workers,
            collate_fn=collate_fn,
            pin_memory=torch.cuda.is_available(),
            prefetch_factor=prefetch_factor if num_workers else None,
            persistent_workers=num_workers > 0,
            worker_init_fn=partial(_prepare_worker, guard=self.guard),
        )
        self.on_batch = on_batch
        self.copies: Copies | None = None
        """Copies batches to a device ahead of their step; None leaves them on the host."""
        self._deaths: list[bool] = []
        """Deaths since the last batch, and whether a file was responsible."""
        self.limit: int | None = None
        """Batches after which an epoch of training ends early (trainer.limit_train_batches)."""
        self.sha256: str | None = None
        """Hash of the list of samples, if there is one."""
        self.unfinished = 0
        """The last returned batches, whose gradients are not in the weights yet; the state excludes them."""
        self._read = 0
        """Batches of this pass that came from the data set."""
        self._done = 0
        """Of these, batches that were returned: fewer if the next one is being copied already."""
        self._pass: Part | None = None
        self._resume: dict[str, Any] | None = None

    # A generator: workers start with the first requested batch. Lightning creates the iterator before it sets the
    # sampler's epoch.
    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self._pass, self._resume = self._next_pass(self.batches.sampler.epoch), None
        self._read = self._done = 0
        self._deaths = []
        batches = self._from_workers(self._pass)
        for batch, copy in one_ahead(batches, self.copies) if self.copies else ((one, one) for one in batches):
            self._done += 1
            if self.on_batch is not None:
                self.on_batch(batch)
            yield copy

    def _from_workers(self, part: Part) -> Iterator[Any]:
        """The batches of a pass, even if workers die."""
        rest = None
        while self._read < len(part.stops):
            try:
                if rest is None:
                    rest = self._rest()
                batch = next(rest)
            except SettingError as error:
                _, found, said = str(error).rpartition("SettingError: ")
                # An error raised in a worker starts with its traceback.
                raise (SettingError(said.strip()) if found else error) from error.__cause__
            except (RuntimeError, OSError, EOFError) as error:
                self._bury(error)
                rest = None
                continue
            self._read += 1
            self._deaths = []
            yield batch

    def _next_pass(self, epoch: int) -> Part:
        """A complete epoch, or the rest of it after resuming."""
        sampler, size = self.batches.sampler, self.batches.batch_size
        state, world = self._resume, sampler.world_size
        if state is None or state["epoch"] != epoch or not state["samples"]:
            batches = len(self) if self.limit is None else min(len(self), self.limit)
            own = batches * size if sampler.shuffle else len(sampler)
            return Part(epoch, 0, own * world if sampler.shuffle else sampler.length, _stops(own, size))
        # Processes have equally many samples; rounding up is better than down.
        start, end = state["samples"], state["end"]
        most = (sampler.length - start) // world
        share = min(-(-(end - start) // world), most)
        if share == 1 < size or (size == 2 and share % 2):
            # A sample that is alone in its batch has no others to compare with.
            share += 1 if share < most else -1
        if left_out := max(0, end - start - share * world):
            rank_zero_warn(f"{left_out} sample(s) of epoch {epoch} do not fit into {world} x {size} and are left out.")
        stops = _stops(share, size)
        if len(stops) > 1:
            # The last two batches share the remainder: statistics of a very small one would be poor.
            before = stops[-3] if len(stops) > 2 else 0
            stops[-2] = (before + stops[-1] + 1) // 2
        return Part(epoch, start, start + share * world, stops)

    def _handed_out(self, part: Part) -> int:
        batches = self._done - self.unfinished
        own = part.stops[batches - 1] if batches > 0 else 0
        return min(part.end, part.start + own * self.batches.sampler.world_size)

    def _rest(self) -> Iterator[Any]:
        """The batches that have not been returned yet."""
        assert self._pass is not None
        self.batches.sampler.start, self.batches.sampler.end = self._pass.start, self._pass.end
        self.batches.stops, self.batches.skip = self._pass.stops, self._read
        rest = super().__iter__()
        stay_calm(rest)
        return rest

    def _bury(self, error: Exception) -> None:
        """After an error, discard all workers if any has died; otherwise raise the error again."""
        started = workers(self)
        if started:
            ended = wait([worker.sentinel for worker in started], timeout=1)
            # A process closes its pipes, of which the sentinel is one, before it counts as dead.
            for worker in started:
                if worker.sentinel in ended:
                    worker.join(1)
        deaths = {number: worker.exitcode for number, worker in enumerate(started) if worker.exitcode is not None}
        # The message of torch if a worker dies while workers are being started.
        if not deaths and (started or "DataLoader worker" not in str(error)):
            raise error
        self._deaths.append(self.guard.blame(deaths))
        codes = ", ".join(str(code) for code in deaths.values()) or "unknown"
        if len(self._deaths) > MAX_DEATHS or self._deaths.count(False) > MAX_UNEXPLAINED:
            raise SettingError(
                f"Worker processes that read videos died {len(self._deaths)} times before the next batch was ready, the last "
                f"with exit code {codes} (-9 usually means out of memory); lower data.reading.num_workers, or set it to 0 "
                "to see the error itself."
            ) from error
        if not self._deaths[-1]:
            warnings.warn(f"A worker process died with exit code {codes} and is restarted.", stacklevel=2)
        end_workers(self)

    def send_to(self, device: torch.device) -> None:
        """Copy each batch to a CUDA device while the step before it runs, from the next pass on; for other devices
        nothing changes.
        """
        self.copies = SideStream(device) if device.type == "cuda" else None

    def repeat(self, repeats: bool) -> None:
        """Return the samples of the first epoch in every epoch, in the same order, or (False) new ones in each epoch.

        Raises:
            SettingError: if a state was loaded that is within an epoch of the other kind.
        """
        state = self._resume
        if state is not None and state.get("repeats", False) != repeats and 0 < state["samples"] < state["end"]:
            raise SettingError(
                f"The checkpoint was written within epoch {state['epoch']} of a run {'without' if repeats else 'with'} "
                "trainer.overfit_batches; resume with the same setting."
            )
        self.batches.sampler.repeats = repeats

    def read(self, epoch: int, rows: list[int], place: int = 0) -> Any:
        """One batch of these rows as in that epoch and place, read by this process; does not change the state."""
        keys = [SampleKey(epoch, row, place) for row in rows]
        return self.collate_fn(read_samples(self.dataset, keys))

    def state_dict(self) -> dict[str, Any]:
        """Epoch, samples returned in it and its total, over all processes; and what determines its order.

        This is the loaded state until a batch is requested.
        """
        if self._resume is not None:
            return dict(self._resume)
        part = self._pass or self._next_pass(self.batches.sampler.epoch)
        place = {"epoch": part.epoch, "samples": self._handed_out(part), "end": part.end}
        return place | self._order() | ({"repeats": True} if self.batches.sampler.repeats else {})

    def _order(self) -> dict[str, Any]:
        sampler = self.batches.sampler
        return {"seed": sampler.seed, "length": sampler.length, "sha256": self.sha256}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Make the next iteration over the same epoch start after the samples that were returned.

        Raises:
            SettingError: if the state counts batches, as in older versions, or if the seen
                samples are unknown because the order of the epoch has changed.
        """
        if "samples" not in state:
            raise SettingError(
                "The checkpoint is of an older version, which did not save how many samples were seen; resume with the version "
                "that wrote it, or start a new run from its weights."
            )
        was, now = ({name: order[name] for name in self._order()} for order in (state, self._order()))
        if was != now:
            changed = _changes(was, now)
            if 0 < state["samples"] < state["end"]:
                raise SettingError(
                    f"The checkpoint was written within epoch {state['epoch']}, and the training data have changed "
                    f"since ({changed}), so the unseen samples of that epoch are unknown; restore the data and the "
                    "seed, or start a new run from the checkpoint's weights."
                )
            rank_zero_warn(f"The training data have changed since the checkpoint was written: {changed}.")
        self._resume = dict(state)

    @property
    def epochs_done(self) -> float:
        """Returned epochs plus the fraction of the current one."""
        state = self.state_dict()
        return state["epoch"] + state["samples"] / max(1, state["end"])

    def batches_left(self, epoch: int) -> int | None:
        """Remaining batches of an epoch, if the loaded state is within it."""
        state = self._resume
        if state is None or state["epoch"] != epoch or not 0 < state["samples"] < state["end"]:
            return None
        return len(self._next_pass(epoch).stops)

    @property
    def resumes(self) -> bool:
        """Whether a loaded state has not been used by an iteration yet."""
        return self._resume is not None


class LoaderMemory:
    """Stores the state of the training loader in the state of its data module.

    Lightning restores loaders, but only those created after it reads the checkpoint. A learning-rate schedule that
    asks the trainer for its number of steps creates the loader earlier. Data modules are restored first.
    """

    def __init__(self) -> None:
        self._loader: ResumableLoader | None = None
        self._state: dict[str, Any] = {}

    def keep(self, loader: ResumableLoader, sha256: str | None = None) -> ResumableLoader:
        """Register the loader, and restore the position of the checkpoint.

        Args:
            loader: training loader.
            sha256: hash of its list of samples, if there is one.
        """
        loader.sha256 = sha256
        # The state is used once: the next run with the same data module starts from the beginning.
        if self._loader is not None and not self._loader.resumes:
            self._state = {}
        self._loader = loader
        if self._state:
            loader.load_state_dict(self._state)
        return loader

    def state_dict(self) -> dict[str, Any]:
        """State of the loader, if there is one."""
        return self._loader.state_dict() if self._loader is not None else self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of the loader, or of the next one."""
        self._state = dict(state)
        if self._loader is not None and state:
            self._loader.load_state_dict(state)


def _stops(samples: int, size: int) -> list[int]:
    """Ends of the batches; the last one may be smaller."""
    return [*range(size, samples, size), samples] if samples else []


def _changes(was: dict[str, Any], now: dict[str, Any]) -> str:
    """Text about the differences between two orders of samples."""
    told = []
    if was["length"] != now["length"]:
        told.append(f"{was['length']} samples then, {now['length']} now")
    elif was["sha256"] != now["sha256"]:
        told.append(f"another list of {now['length']} samples")
    if was["seed"] != now["seed"]:
        told.append(f"data.seed {was['seed']} then, {now['seed']} now")
    return ", ".join(told)
