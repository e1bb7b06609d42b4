"""Collapse detection: an alarm when the features of all clips become the same."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from callbacks.features import ValidationProbe, extract, probe_sets, watched
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


class CollapseAlarm(ValidationProbe):
    """Logs `collapse/feature_std` and `collapse/rankme` of validation clips, and warns once if they fall.

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
            self._keep_highest(measure(self._read(trainer, pl_module)))

    def wants(self, trainer: Trainer, batch: Batch) -> int:
        """The first samples, labelled or not."""
        return self.samples

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and compare.

        Raises:
            SettingError: on collapse, with `stop`.
        """
        if not trainer.sanity_checking and isinstance(pl_module, Method):
            features = probe_sets(trainer).validation(trainer, pl_module).rows[: self.samples]
            self._compare(trainer, pl_module, features)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same for runs without validation."""
        if isinstance(pl_module, Method) and not (trainer.enable_validation and _has_validation(trainer)):
            self._compare(trainer, pl_module, self._read(trainer, pl_module))

    def _compare(self, trainer: Trainer, method: Method, features: Tensor) -> None:
        values = measure(features)
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

    def _read(self, trainer: Trainer, method: Method) -> Tensor:
        """Features outside of a validation: float32 [N, D], each clip once, in a fixed order, equal in all processes."""
        sets = probe_sets(trainer)
        batches = sets.validation_batches(trainer) if _has_validation(trainer) else sets.probe_loader(trainer)
        # Samples alternate between processes, so that together they have the first clips of the set.
        clips = first_clips(batches, -(-self.samples // trainer.world_size))
        clips = watched(trainer, clips, "CollapseAlarm: features")
        return extract(trainer, method, clips, method.embed)[0][: self.samples]

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
