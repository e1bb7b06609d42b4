"""Data modules on small trees of files, and short runs with them."""

import shutil
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from datamodules import VideoFolder
from datamodules.base import VideoDataModule
from datamodules.settings import ReadSettings
from datamodules.video.samplers import Dense
from datamodules.video.sampling import ClipSettings
from modules.core.batch import Batch

CLIP = ClipSettings(frames=4, sampler=Dense(2), size=32)


def put(video: Path, where: Path) -> None:
    where.parent.mkdir(parents=True, exist_ok=True)
    # A copy: some tests damage what they are given.
    shutil.copyfile(video, where)


def ready(data: VideoDataModule) -> VideoDataModule:
    data.setup("fit")
    return data


def folder(root: Path, workers: int = 0, **settings: Any) -> VideoDataModule:
    return ready(
        VideoFolder(str(root), **({"clip": CLIP, "batch_size": 3, "reading": ReadSettings(workers), "seed": 1} | settings))
    )


def batches(data: VideoDataModule, epoch: int = 0) -> list[dict[str, Any]]:
    loader = data.train_dataloader()
    loader.batches.sampler.set_epoch(epoch)
    return list(loader)


def assert_equal(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        for name in ("index", "label", "substituted"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        for name in ("data", "time"):
            assert torch.equal(*(getattr(batch.stream("video"), name) for batch in (one, other))), name


class Listener(lightning.LightningModule):
    """Keeps its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.substituted: list[tuple[int, int]] = []
        self.stop_after: int | None = None

    def on_train_batch_end(self, *_: object) -> None:
        self.trainer.should_stop = self.trainer.fit_loop.total_batch_idx + 1 == self.stop_after

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        self.substituted += list(zip(batch.index.tolist(), batch.substituted.tolist(), strict=True))
        return self.layer(batch.index.float()[:, None]).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # Like schedules: the loader is created before Lightning restores loaders.
        assert self.trainer.estimated_stepping_batches > 0
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def fit(
    data: VideoDataModule, run: Path, epochs: int = 2, ckpt_path: Path | None = None, stop_after: int | None = None
) -> Listener:
    module = Listener()
    module.stop_after = stop_after
    checkpoint = ModelCheckpoint(run, save_last=True, every_n_train_steps=1)
    lightning.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, default_root_dir=run, callbacks=[checkpoint],
    ).fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)  # fmt: skip
    return module
