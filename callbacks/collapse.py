"""Collapse detection: an alarm when the features of all clips become the same."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from callbacks.features import ValidationProbe, extract_all, probe_sets, watched
from modules.core.batch import Batch
from modules.core.errors import SettingError, check_positive
from modules.training.method import Method


def feature_std(features: Tensor) -> Tensor:
    """Standard deviation of L2-normalised features: 0 if all are equal, 1 if they are isotropic (SimSiam, 2011.10566, 4.1).

    Args:
        features: float [N, D]

    Returns:
        Mean over dimensions of the standard deviation, times sqrt(D); a scalar.
    """
    return F.normalize(features.float(), dim=1).std(0, correction=0).mean() * features.shape[1] ** 0.5


def rankme(features: Tensor) -> Tensor:
    """Effective rank: exponential of the entropy of the normalised singular values (RankMe, 2210.02885, equation 4).

    Args:
        features: float [N, D]

    Returns:
        Scalar from 1 (all on a line) to min(N, D).
    """
    values = torch.linalg.svdvals(features.float())
    shares = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny) + 1e-7
    return (-shares * shares.log()).sum().exp()


def measure(features: Tensor) -> dict[str, float]:
    """Both metrics of features [N, D]; NaN if any feature is not finite."""
    if not features.isfinite().all():
        return {"feature_std": math.nan, "rankme": math.nan}
    return {"feature_std": float(feature_std(features)), "rankme": float(rankme(features))}


def first_clips(loader: Iterable[Batch], count: int) -> Iterator[Batch]:
    """The smallest number of batches with `count` videos, all with label 0, so that none is skipped because it has no label."""
    for batch in loader:
        yield replace(batch, label=torch.zeros_like(batch.index))
        count -= len(batch.index)
        if count <= 0:
            return


def further_encoders(method: Method) -> list[str]:
    """Names of a method's encoders of clips other than the one that is kept."""
    return list(method.encoders())[1:]


class CollapseAlarm(ValidationProbe):
    """Logs `collapse/feature_std` and `collapse/rankme` of validation clips, and warns once if they fall.

    Of a method with further encoders of clips, those of each are logged as well, such as `collapse/partner/rankme`.

    Both are compared with earlier values of the same network, including those before training: features of a healthy network
    may share a large mean, so there is no absolute threshold. The alarm is raised when either falls below `max_fall` of the
    highest value so far, or when features are not finite; it is reset when both have recovered.

    Args:
        max_fall: a value below this fraction of the highest value so far counts as collapsed.
        samples: number of validation clips, over all processes: the first clips of each validation, which are only read
            separately before the first step; training clips if there is no validation set. A run without validation reads them
            after every epoch.
        stop: end the run instead of warning.
    """

    def __init__(self, max_fall: float = 0.1, samples: int = 2048, stop: bool = False) -> None:
        check_positive("CollapseAlarm", samples=samples)
        self.max_fall, self.samples, self.stop = max_fall, samples, stop
        self._highest: dict[str, float] = {}
        self._rang = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate the untrained network: collapse may happen within the first epoch."""
        if isinstance(pl_module, Method) and not self._highest:
            self._keep_highest(self._measure(self._read(trainer, pl_module)))

    def wants(self, trainer: Trainer, batch: Batch) -> int:
        """The first samples, labelled or not."""
        return self.samples

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Embed the batch, also with further encoders."""
        super().on_validation_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        if not trainer.sanity_checking and not dataloader_idx and isinstance(pl_module, Method):
            for encoder in further_encoders(pl_module):
                probe_sets(trainer).see(trainer, pl_module, batch, batch_idx, self.samples, encoder)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and compare.

        Raises:
            SettingError: on collapse, with `stop`.
        """
        if not trainer.sanity_checking and isinstance(pl_module, Method):
            sets, encoders = probe_sets(trainer), [None, *further_encoders(pl_module)]
            rows = [sets.validation(trainer, pl_module, encoder).rows for encoder in encoders]
            self._compare(trainer, pl_module, self._named(pl_module, rows))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same for runs without validation."""
        if isinstance(pl_module, Method) and not (trainer.enable_validation and _has_validation(trainer)):
            self._compare(trainer, pl_module, self._read(trainer, pl_module))

    def _named(self, method: Method, rows: list[Tensor]) -> dict[str, Tensor]:
        """Features of the method's encoders by the beginning of their logged names, no more than were asked for."""
        starts = ["", *(f"{encoder}/" for encoder in further_encoders(method))]
        return {start: own[: self.samples] for start, own in zip(starts, rows, strict=True)}

    def _measure(self, features: dict[str, Tensor]) -> dict[str, float]:
        return {f"{start}{name}": value for start, rows in features.items() for name, value in measure(rows).items()}

    def _compare(self, trainer: Trainer, method: Method, features: dict[str, Tensor]) -> None:
        values = self._measure(features)
        method.log_dict({f"collapse/{name}": value for name, value in values.items()}, sync_dist=True)
        # There are no earlier values outside of training.
        fallen = [
            f"{name} is {value:.3g} and was {self._highest.get(name, 0.0):.3g}"
            for name, value in values.items()
            if not value >= self.max_fall * self._highest.get(name, 0.0)
        ]
        self._keep_highest(values)
        if fallen and not self._rang:
            message = (
                f"The features of validation clips collapse at step {trainer.global_step}: {' and '.join(fallen)}. They no "
                "longer distinguish clips; check the loss, and lower model.optim.base_lr."
            )
            if self.stop:
                raise SettingError(message)
            rank_zero_warn(message)
        self._rang = bool(fallen)

    def _keep_highest(self, values: dict[str, float]) -> None:
        # The order matters: `max` returns its first argument if the second is NaN.
        self._highest = {name: max(self._highest.get(name, 0.0), value) for name, value in values.items()}

    def _read(self, trainer: Trainer, method: Method) -> dict[str, Tensor]:
        """Features outside of a validation: float32 [N, D], each clip once, in a fixed order, equal in all processes; see
        `_named`."""
        sets = probe_sets(trainer)
        batches = sets.validation_batches(trainer) if _has_validation(trainer) else sets.probe_loader(trainer)
        # Samples alternate between processes, so that together they have the first clips of the set.
        clips = first_clips(batches, -(-self.samples // trainer.world_size))
        clips = watched(trainer, clips, "CollapseAlarm: features")
        readouts: list[Callable[[Batch], Tensor]] = [
            method.embed,
            *(partial(method.embed, encoder=encoder) for encoder in further_encoders(method)),
        ]
        return self._named(method, [rows for rows, _ in extract_all(trainer, method, clips, readouts)])

    def state_dict(self) -> dict[str, object]:
        """The highest values, and whether the alarm was raised."""
        return {"highest": dict(self._highest), "rang": self._rang}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Restore the highest values, and whether the alarm was raised."""
        self._highest, self._rang = dict(state_dict["highest"]), bool(state_dict["rang"])  # type: ignore[call-overload]


def _has_validation(trainer: Trainer) -> bool:
    # Not the length of the loader: all processes must read the same set, also one without samples of a small set.
    loader = probe_sets(trainer).validation_loader(trainer)
    return not isinstance(loader, list) or bool(loader)
