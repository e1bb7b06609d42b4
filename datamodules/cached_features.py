"""Frozen features instead of clips: the backbone runs over the data once, and every later epoch takes seconds."""

import hashlib
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from datamodules.loading.loader import EpochSampler, LoaderMemory, ResumableLoader, SampleKey
from datamodules.loading.single_pass import Batches, SinglePass, fingerprint, once
from modules.core.batch import Batch, Kind, Stream
from modules.core.device import evaluating
from modules.core.distributed import gather_once
from modules.core.errors import SettingError, check_whole, check_writable, given
from modules.core.files import write_whole
from modules.core.preprocessing import Normalisation
from modules.core.run import ReadsClips, TrainingBank, run_of

WANTS_CLIPS = "Probes and pictures need clips, not features; remove such callbacks, or CachedFeatures."


class Features(Dataset[Batch]):
    """Features of all samples of a split, in memory.

    Args:
        passes: outputs of the backbone, one dictionary per pass over the data: `feature` float32 [N, V, D], `label`
            [N, ...], `substituted` int64 [N].
        source: the data set of clips.
    """

    def __init__(self, passes: list[dict[str, Tensor]], source: Dataset) -> None:
        self.passes, self.source = passes, source

    def __len__(self) -> int:
        return len(self.passes[0]["label"])

    def __getitems__(self, keys: list[SampleKey]) -> Batch:
        """A complete batch, from the pass that belongs to the epoch."""
        one = self.passes[keys[0].epoch % len(self.passes)]
        rows = torch.tensor([key.row for key in keys])
        return Batch(rows, one["label"][rows], {"feature": Stream("feature", one["feature"][rows])}, one["substituted"][rows])


def _whole(batch: Batch) -> Batch:
    return batch


class CachedFeatures(SinglePass, LightningDataModule):
    """Features of another data module's clips, computed by the frozen backbone of the model.

    For linear classification and nearest neighbours. Features are extracted when a loader is first requested, by all
    processes, and stored in a folder. File names are hashes of the backbone's weights and settings, of the clip settings and of
    the list of samples: a later run reuses features that are still valid, and recomputes the others. They do not include
    augmentation on the device.

    Args:
        data: data module of the clips.
        folder: where the feature files are stored.
        views: passes over the training set with random clips. Epoch e uses pass e modulo `views`, with the clips of
            epoch e, so that `views` = trainer.max_epochs equals a run without cache. 0 uses the evaluation clips in every
            epoch.
        batch_size: samples per batch and device in training; null takes that of `data`.

    Raises:
        SettingError: if the backbone is not frozen, or a setting is invalid.
    """

    streams: ClassVar[dict[str, Kind]] = {"feature": "feature"}
    """Streams of a batch."""

    def __init__(
        self, data: LightningDataModule, folder: str = "runs/features", views: int = 0, batch_size: int | None = None
    ) -> None:
        super().__init__()
        check_whole("data", 0, views=views)
        check_whole("data", 1, **given(batch_size=batch_size))
        check_writable("data.folder", Path(folder))
        self.data, self.folder, self.views = data, Path(folder), views
        self.batch_size = batch_size or getattr(data, "batch_size", None)
        self._train_loader = LoaderMemory()
        self._weights: str | None = None

    @property
    def clip(self) -> Any:
        """Settings of the clips."""
        return getattr(self.data, "clip", None)

    @property
    def num_classes(self) -> int | None:
        """Classes of the training samples."""
        return getattr(self.data, "num_classes", None)

    @property
    def class_names(self) -> list[str] | None:
        """Class names in the order of labels, if known."""
        return getattr(self.data, "class_names", None)

    @property
    def manifest_hash(self) -> str | None:
        """Hash of the training list, for the record of a run."""
        return getattr(self.data, "manifest_hash", None)

    def prepare_data(self) -> None:
        """Delegates to the wrapped data module."""
        self.data.prepare_data()

    def check(self, stage: str) -> None:
        """Delegates to the wrapped data module, if it has one."""
        if hasattr(self.data, "check"):
            self.data.check(stage)

    def setup(self, stage: str) -> None:
        """Set the wrapped data module up, and check all settings before the backbone runs.

        Raises:
            SettingError: if the model or a callback needs clips, or the training samples do not fill a batch.
        """
        self.data.trainer = self.trainer
        self.data.setup(stage)
        self._weights = None
        assert self.trainer is not None
        self._check_model(self.trainer.lightning_module)
        if any(isinstance(one, ReadsClips) and one.reads_clips for one in run_of(self.trainer).callbacks):
            raise SettingError(WANTS_CLIPS)
        if stage == "fit":
            samples, world = len(self.data.train_dataloader().dataset), self.trainer.world_size
            if samples // world < (self.batch_size or 1):
                raise SettingError(
                    f"data.batch_size {self.batch_size} on {world} device(s) is more than the {samples} training samples; "
                    "lower it."
                )

    def _check_model(self, model: Any) -> None:
        moves = not hasattr(model, "encode") or any(value.requires_grad for value in model.backbone.parameters())
        if moves or not getattr(model, "frozen_batchnorm", True) or getattr(model, "mode", "linear") != "linear":
            raise SettingError(
                "--data CachedFeatures is for models with a frozen backbone: Classification with model.mode linear (and "
                "model.frozen_batchnorm true), or NearestNeighbours; change the model, or use the wrapped data directly."
            )
        if getattr(model, "augmentation", None) is not None or getattr(model, "mixing", None) is not None:
            raise SettingError("Frozen features cannot be augmented; set model.augmentation and model.mixing to null.")

    def train_dataloader(self) -> ResumableLoader:
        """Features in random order; the last, incomplete batch is dropped."""
        loader = self.data.train_dataloader()
        epochs: list[int | None] = [*range(self.views)] or [None]
        passes = [self._read(once(loader, epoch), "train", epoch) for epoch in epochs]
        return self._train_loader.keep(self._loader(passes, loader, shuffle=True), self.manifest_hash)

    def val_dataloader(self) -> ResumableLoader | list[ResumableLoader]:
        """Features in order; empty if there are no clips."""
        loader = self.data.val_dataloader()
        if not isinstance(loader, ResumableLoader):
            return []
        return self._loader([self._read(loader, "val")], loader, shuffle=False)

    def test_dataloader(self) -> ResumableLoader:
        """Features of all views of the test samples, in order."""
        loader = self.data.test_dataloader()
        return self._loader([self._read(loader, "test")], loader, shuffle=False)

    def predict_dataloader(self) -> Batches:
        """Features of all views of the samples that `predict` takes, in order."""
        loader = self.data.predict_dataloader().loader
        return Batches(self._loader([self._read(loader, "predicted")], loader, shuffle=False))

    def probe_dataloader(self) -> ResumableLoader:
        """Refused: probes need clips.

        Raises:
            SettingError: always.
        """
        raise SettingError(WANTS_CLIPS)

    def tested_in_training(self, stage: str = "test") -> int:
        """Number given by the wrapped data module, without extracting features; 0 if it gives none."""
        return self.data.tested_in_training(stage) if isinstance(self.data, TrainingBank) else 0

    def _loader(self, passes: list[dict[str, Tensor]], clips: ResumableLoader, shuffle: bool) -> ResumableLoader:
        dataset, old = Features(passes, clips.dataset), clips.batches.sampler
        sampler = EpochSampler(len(dataset), old.seed, shuffle, old.rank, old.world_size)
        return ResumableLoader(dataset, sampler, self.batch_size or 1, 0, _whole)

    def _read(self, loader: ResumableLoader, split: str, epoch: int | None = None) -> dict[str, Tensor]:
        """Features of a loader's samples: read from the folder if all processes find them, otherwise computed."""
        assert self.trainer is not None
        strategy = self.trainer.strategy
        model: Any = self.trainer.lightning_module
        self._weights = self._weights or hash_network(model.backbone)
        key = f"{type(model).__name__} {self._weights} {fingerprint(loader.dataset)} {epoch} {self.trainer.precision}"
        path = self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"
        if strategy.reduce_boolean_decision(path.is_file(), all=True):
            return load_file(path)
        number = "" if epoch is None else f", pass {epoch + 1} of {self.views}"
        rank_zero_info(f"Extracting features of {split} samples{number}; stored as {path}.")
        found = self._extract(loader)
        if self.trainer.is_global_zero:
            write_whole(path, lambda part: save_file(found, part))
        return found

    def _extract(self, loader: ResumableLoader) -> dict[str, Tensor]:
        assert self.trainer is not None
        model: Any = self.trainer.lightning_module
        rows, facts, labels = [], [], []
        with evaluating(model), self.trainer.precision_plugin.forward_context():
            for batch in loader:
                batch = self.trainer.strategy.batch_to_device(batch)
                rows.append(model.encode(batch).float())
                labels.append(batch.label)
                facts.append(torch.stack([batch.index, batch.substituted], dim=1))
        feature, known, label = torch.cat(rows), torch.cat(facts), torch.cat(labels)
        flat, together = gather_once(self.trainer, feature.flatten(1), known, known[:, 0])
        label = gather_once(self.trainer, label.view(len(label), -1), known, known[:, 0])[0].view(-1, *label.shape[1:])
        found = {"feature": flat.view(-1, *feature.shape[1:]), "label": label, "substituted": together[:, 1]}
        return {name: value.cpu().contiguous() for name, value in found.items()}

    def state_dict(self) -> dict[str, Any]:
        """Position of training within the epoch."""
        return {"loader": self._train_loader.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the position within the epoch."""
        self._train_loader.load_state_dict(state["loader"])


def hash_network(network: nn.Module) -> str:
    """Hash of a network: weights, buffers, and every plain attribute of its modules (some settings do not change weights)."""
    digest = hashlib.sha256()
    for name, part in network.named_modules():
        plain = {
            key: value for key, value in vars(part).items() if isinstance(value, int | float | str | tuple | Normalisation)
        }
        plain.pop("training", None)
        digest.update(f"{name} {type(part).__name__} {sorted(plain.items())}".encode())
    for name, value in network.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
