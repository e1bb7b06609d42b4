"""A linear probe trained online on the frozen features of the method."""

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from callbacks.features import ALL, ValidationProbe, probe_sets, usable
from modules.core.batch import Batch
from modules.core.device import evaluating, full_float32
from modules.core.distributed import gather_once
from modules.core.errors import check_positive
from modules.core.run import run_of
from modules.training.method import Method


class OnlineLinear(ValidationProbe):
    """Linear probe on `embed`, trained on the method's training batches; logs `linear/acc1` in percent.

    Features are standardised by running statistics (BatchNorm without affine part). With DDP all processes see the
    gathered features, so their probes stay equal. The method's weights, modes and random numbers are not changed.

    Args:
        lr: learning rate of the probe (AdamW).
        every_n_steps: train on every n-th training batch; each costs a forward pass.
    """

    def __init__(self, lr: float = 1e-3, every_n_steps: int = 1) -> None:
        check_positive("OnlineLinear", lr=lr, every_n_steps=every_n_steps)
        self.lr, self.every_n_steps = lr, every_n_steps
        self.probe: nn.Sequential | None = None
        self.optimiser: torch.optim.Optimizer | None = None
        self._restored: dict[str, Any] | None = None

    def _build(self, features: Tensor, classes: int) -> tuple[nn.Sequential, torch.optim.Optimizer]:
        head = nn.Linear(features.shape[1], classes)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        probe = nn.Sequential(nn.BatchNorm1d(features.shape[1], affine=False), head).to(features.device)
        optimiser = torch.optim.AdamW(probe.parameters(), lr=self.lr)
        if self._restored is not None:
            probe.load_state_dict(self._restored["probe"])
            optimiser.load_state_dict(self._restored["optimiser"])
            self._restored = None
        self.probe, self.optimiser = probe, optimiser
        return probe, optimiser

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """One training step of the probe."""
        classes = getattr(run_of(trainer).datamodule, "num_classes", None)
        if not isinstance(pl_module, Method) or not classes or batch_idx % self.every_n_steps:
            return
        if batch.label.ndim != 1:
            return
        with evaluating(pl_module), trainer.precision_plugin.forward_context():
            features = pl_module.embed(batch).float()
        keep = usable(batch)
        features, labels = gather_once(trainer, features[keep], batch.label[keep], batch.index[keep])
        if len(features) < 2:
            return
        # Creating a layer draws its initial weights, which are overwritten; the global random state must not change.
        with torch.random.fork_rng(devices=[]), torch.enable_grad(), full_float32(features.device):
            probe, optimiser = (
                self._build(features, classes) if self.probe is None or self.optimiser is None else (self.probe, self.optimiser)
            )
            loss = F.cross_entropy(probe.train()(features), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        pl_module.log("linear/loss", loss.detach(), rank_zero_only=True)

    def wants(self, trainer: Trainer, batch: Batch) -> int:
        """All samples, once the probe exists."""
        return 0 if self.probe is None else ALL

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Accuracy on the validation set, each sample once."""
        if trainer.sanity_checking or self.probe is None or not isinstance(pl_module, Method):
            return
        features, labels, _ = probe_sets(trainer).validation(trainer, pl_module).labelled()
        if not len(features):
            return
        head = self.probe[1]
        metric = MulticlassAccuracy(int(head.out_features), average="micro", sync_on_compute=False)  # type: ignore[arg-type]
        with torch.no_grad(), full_float32(features.device):
            scores = self.probe.eval()(features)
        accuracy = metric.to(features.device)(scores, labels)
        pl_module.log("linear/acc1", 100 * accuracy, prog_bar=True, sync_dist=True)

    def state_dict(self) -> dict[str, Any]:
        """Probe and optimiser."""
        if self.probe is None or self.optimiser is None:
            return self._restored or {}
        return {"probe": self.probe.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The state is kept until the size of the features is known."""
        self.probe = self.optimiser = None
        self._restored = state_dict or None
