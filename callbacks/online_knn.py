"""Nearest-neighbour accuracy of frozen features during pretraining."""

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from callbacks.features import ALL, ValidationProbe, probe_sets
from modules.core.batch import Batch
from modules.core.errors import check_positive
from modules.downstream.metrics.probes import knn_accuracy, say_bank
from modules.training.method import Method


class OnlineKNN(ValidationProbe):
    """Weighted kNN on `embed`, from labelled training samples to the validation set; logged as `knn/acc1` in percent.

    The validation samples are those of the validation pass (`trainer.limit_val_batches`) and are not read twice; training
    samples are read with centre crops. Protocol of DINO: cosine similarity, votes weighted by exp(similarity / temperature).
    `data.probe_samples` is the number of training samples; by default at least 50 per class if available, and at
    most 20,000. The number is printed, since the accuracy increases with it.

    Args:
        k: number of neighbours.
        temperature: smaller values give near neighbours more weight.
        every_n_validations: evaluate after every n-th validation.
    """

    reads_clips = reads_bank = True

    def __init__(self, k: int = 20, temperature: float = 0.07, every_n_validations: int = 1) -> None:
        check_positive("OnlineKNN", k=k, temperature=temperature, every_n_validations=every_n_validations)
        self.k, self.temperature, self.every_n_validations = k, temperature, every_n_validations
        self._validations = 0
        self._warned = self._described = False

    def wants(self, trainer: Trainer, batch: Batch) -> int:
        """All samples, if an evaluation is due and they have one label each."""
        return 0 if (self._validations + 1) % self.every_n_validations or batch.label.ndim != 1 else ALL

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Vote and log."""
        if trainer.sanity_checking or not isinstance(pl_module, Method):
            return
        self._validations += 1
        if self._validations % self.every_n_validations:
            return
        sets = probe_sets(trainer)
        bank, bank_labels, _ = sets.bank(trainer, pl_module)
        queries, labels, _ = sets.validation(trainer, pl_module).labelled()
        if not len(bank) or not len(queries):
            if not self._warned:
                rank_zero_warn("OnlineKNN needs labelled training and validation videos and found none; it logs nothing.")
            self._warned = True
            return
        if not self._described:
            say_bank("OnlineKNN (data.probe_samples)", bank_labels, self.k)
            self._described = True
        accuracy = 100 * knn_accuracy(bank, bank_labels, queries, labels, self.k, self.temperature)
        # All processes have the same gathered features, so averaging does not change the value.
        pl_module.log("knn/acc1", accuracy, prog_bar=True, sync_dist=True)

    def state_dict(self) -> dict[str, int]:
        """Number of validations."""
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Restore the number of validations."""
        self._validations = state_dict["validations"]
