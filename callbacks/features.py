"""Frozen features for probes: every validation clip is embedded once for all callbacks, during the validation pass."""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sized
from itertools import islice
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from tqdm import tqdm

from modules.core.batch import Batch
from modules.core.device import evaluating
from modules.core.distributed import gather_once
from modules.core.run import run_of
from modules.training.method import Method

ALL = 2**62
"""Number of samples of a callback that needs all samples."""


def watched(trainer: Trainer, batches: Iterable[Batch], what: str) -> Iterator[Batch]:
    """The same batches, with a labelled progress bar if the run shows one."""
    bar = trainer.progress_bar_callback
    total = len(batches) if isinstance(batches, Sized) else None
    hidden = bar is None or getattr(bar, "is_disabled", False) or not trainer.is_global_zero
    yield from tqdm(batches, desc=what, total=total, leave=False, disable=hidden, dynamic_ncols=True, file=sys.stdout)


def usable(batch: Batch) -> Tensor:
    """Usable samples, bool [B]: labelled, and not a substitute for a broken file."""
    return (batch.label >= 0) & (batch.substituted < 0)


class Features(NamedTuple):
    """Features of samples, on one device."""

    rows: Tensor
    """float32 [N, D]"""
    label: Tensor
    """int64 [N], negative for samples without a label or with several."""
    number: Tensor
    """int64 [N], indices of the samples in their data set."""

    def labelled(self) -> "Features":
        """The features of labelled samples."""
        keep = self.label >= 0
        return Features(*(values[keep] for values in self))


class _Share:
    """The part of a set that this process has read: features of all samples except substitutes for broken files."""

    def __init__(self) -> None:
        self._parts: list[Features] = []
        self.samples = 0
        """Number of added samples, including substitutes."""
        self._joined: Features | None = None

    def add(self, batch: Batch, rows: Tensor) -> None:
        label = batch.label if batch.label.ndim == 1 else torch.full_like(batch.index, -1)
        keep = batch.substituted < 0
        self._parts.append(Features(rows.float()[keep], label[keep], batch.index[keep]))
        self.samples += len(batch.index)

    def join(self, trainer: Trainer, device: torch.device) -> Features:
        """Gather the features of all processes, each sample once, ordered by index. All processes must call this."""
        if self._joined is None:
            none = torch.empty(0, dtype=torch.long, device=device)
            # A process without samples takes part as well, because the others wait for it.
            parts = self._parts or [Features(torch.empty(0, 0, device=device), none, none)]
            rows, label, number = (torch.cat(values) for values in zip(*parts, strict=True))
            rows, facts = gather_once(trainer, rows, torch.stack([label, number], dim=1), number)
            self._joined, self._parts = Features(rows, *facts.unbind(1)), []
        return self._joined


def extract_all(
    trainer: Trainer, method: Method, loader: Iterable[Batch], readouts: list[Callable[[Batch], Tensor]]
) -> list[tuple[Tensor, Tensor]]:
    """Features and labels of all usable samples of a loader, from all processes, each sample once, in one pass.

    Args:
        trainer: trainer, which moves batches and knows the processes.
        method: method; the readouts run in its evaluation mode.
        loader: loader of labelled batches.
        readouts: functions from a batch to float [B, D].

    Returns:
        for each readout, float32 [N, D] and int64 [N] on the method's device; empty if nothing is labelled.
    """
    shares = _read(trainer, method, loader, readouts)
    found = [share.join(trainer, method.device).labelled() for share in shares]
    return [(one.rows, one.label) for one in found]


def _read(trainer: Trainer, method: Method, loader: Iterable[Batch], readouts: list[Callable[[Batch], Tensor]]) -> list[_Share]:
    shares = [_Share() for _ in readouts]
    with evaluating(method), trainer.precision_plugin.forward_context():
        for batch in loader:
            batch = trainer.strategy.batch_to_device(batch)
            if batch.label.ndim != 1:
                break
            for share, readout in zip(shares, readouts, strict=True):
                share.add(batch, readout(batch))
    return shares


class ProbeSets:
    """The two data sets of the probes of a run; loaders and features are shared.

    Features belong to one validation: computed with its weights (which weight averaging may swap back before the
    validation ends), for its clips (limited by `trainer.limit_val_batches`).
    """

    def __init__(self) -> None:
        self._probes: Any = None
        self._unused: Any = None
        self.begin()

    def begin(self) -> None:
        """Forget the features of the last validation."""
        self._validation: defaultdict[str, _Share] = defaultdict(_Share)
        self._batches: defaultdict[str, int] = defaultdict(int)
        self._bank: _Share | None = None

    def probe_loader(self, trainer: Trainer) -> Any:
        """The data module's `probe_dataloader`, created once, so that its workers persist."""
        if self._probes is None:
            self._probes = run_of(trainer).datamodule.probe_dataloader()
        return self._probes

    def validation_loader(self, trainer: Trainer) -> Any:
        """The trainer's loader, or an equivalent one if it has none (yet); an empty list without validation samples."""
        if trainer.val_dataloaders is not None:
            self._unused = None
            return trainer.val_dataloaders
        if self._unused is None:
            self._unused = run_of(trainer).datamodule.val_dataloader()
        return self._unused

    def validation_batches(self, trainer: Trainer) -> Iterator[Batch]:
        """The batches of a validation; all batches if `trainer.limit_val_batches` is 0, i.e. there is no validation."""
        loader, limit = self.validation_loader(trainer), trainer.limit_val_batches
        if isinstance(limit, float):
            limit = int(len(loader) * limit)
        return islice(loader, limit or None)

    def see(
        self, trainer: Trainer, method: Method, batch: Batch, batch_idx: int, samples: int, encoder: str | None = None
    ) -> None:
        """Embed a batch of the current validation, unless this is already done or this process has enough samples.

        Args:
            trainer: trainer of the validation.
            method: provides `embed`.
            batch: batch on the device.
            batch_idx: its index in the validation.
            samples: number of samples needed, the first ones over all processes.
            encoder: which of the method's `encoders`; None for the one that is kept.
        """
        key = encoder or ""
        # Samples alternate between processes, so that together they have the first samples of the set.
        if batch_idx < self._batches[key] or self._validation[key].samples * trainer.world_size >= samples:
            return
        with evaluating(method), trainer.precision_plugin.forward_context():
            self._validation[key].add(batch, method.embed(batch, encoder) if encoder else method.embed(batch))
        self._batches[key] = batch_idx + 1

    def read_bank(self, trainer: Trainer, method: Method) -> None:
        """Embed this process's probe samples, unless this is already done in this validation."""
        if self._bank is None:
            batches = watched(trainer, self.probe_loader(trainer), "Features of training samples")
            (self._bank,) = _read(trainer, method, batches, [method.embed])

    def validation(self, trainer: Trainer, method: Method, encoder: str | None = None) -> Features:
        """Features of the requested validation samples by an encoder as in `see`; all processes must call this."""
        return self._validation[encoder or ""].join(trainer, method.device)

    def bank(self, trainer: Trainer, method: Method) -> Features:
        """Features of the labelled probe samples; all processes must call this."""
        # A process without a validation batch has not read its samples yet.
        self.read_bank(trainer, method)
        assert self._bank is not None
        return self._bank.join(trainer, method.device).labelled()


_sets: WeakKeyDictionary[Trainer, ProbeSets] = WeakKeyDictionary()


def probe_sets(trainer: Trainer) -> ProbeSets:
    """The shared state of the probes of a run."""
    return _sets.setdefault(trainer, ProbeSets())


def let_go(trainer: Trainer) -> None:
    """Drop the shared state of the probes of a run, which also ends the workers of their loaders."""
    _sets.pop(trainer, None)


class ValidationProbe(Callback):
    """A callback that reads features of validation samples. Each batch is embedded once for all such callbacks."""

    reads_bank = False
    """Whether the callback also needs the features of probe samples."""

    def wants(self, trainer: Trainer, batch: Batch) -> int:
        """Number of samples of the current validation, the first ones over all processes, whose features are needed.

        Args:
            trainer: in a validation that is not the sanity check.
            batch: a batch of the validation.
        """
        return ALL

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the collected results."""
        probe_sets(trainer).begin()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Embed the batch, and with the first one the probe samples."""
        if trainer.sanity_checking or dataloader_idx or not isinstance(pl_module, Method):
            return
        samples = self.wants(trainer, batch)
        if not samples:
            return
        if self.reads_bank:
            probe_sets(trainer).read_bank(trainer, pl_module)
        probe_sets(trainer).see(trainer, pl_module, batch, batch_idx, samples)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Release the features, which would take memory during training."""
        probe_sets(trainer).begin()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Release the loaders."""
        let_go(trainer)
