"""Short runs for the tests of callbacks."""

from pathlib import Path
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.generated.motion import SyntheticMotion
from datamodules.video.sampling import ClipSettings
from modules.core.batch import Batch
from modules.core.output import StepOutput
from modules.core.preprocessing import IMAGENET
from modules.scenes.classes import MOTION_CLASSES
from modules.training.method import Method
from tests.registry import FRAMES, METHODS, OPTIM, SIDE

TRAIN, VAL, BATCH = 24, 13, 8
STEPS = TRAIN // BATCH
CLASSES = len(MOTION_CLASSES)


def data(batch_size: int = BATCH, **settings: Any) -> SyntheticMotion:
    """Three batches of eight training clips, and an odd number of validation clips."""
    return SyntheticMotion(
        ClipSettings(frames=FRAMES, size=SIDE), batch_size, **({"train_videos": TRAIN, "val_videos": VAL} | settings)
    )


class Unlabelled(SyntheticMotion):
    """The same clips without labels."""

    def _make(self, *args: Any, **settings: Any) -> Any:
        pool = super()._make(*args, **settings)
        pool.label = torch.full_like(pool.label, -1)
        return pool


def videomae(seed: int = 0) -> Method:
    """A tiny masked autoencoder with stochastic depth."""
    torch.manual_seed(seed)
    return METHODS[0].build()


class Brightness(nn.Module):
    """A backbone whose tokens are the mean brightness of each frame; its only weight concerns the loss."""

    grid, embed_dim = (FRAMES, 1, 1), 1
    preprocess = staticmethod(IMAGENET.apply)

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward_features(self, video: Tensor) -> Tensor:
        return video.mean((1, 3, 4))[:, :, None]


class Pixels(Method):
    """Features that never change and are hard to classify."""

    def __init__(self) -> None:
        super().__init__(OPTIM)
        self.backbone: Brightness = Brightness()

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        noise = torch.rand(4, generator=generator)
        return {
            "loss": (self.backbone.weight * noise).square().mean(),
            "show": {"clip": batch.stream("video").data.flatten(0, 1)},
        }

    def embed(self, batch: Batch) -> Tensor:
        # Sums of integers are exact for any batch size, so Adam's division does not amplify rounding.
        return self.inputs(batch)[:, 0].long().sum((2, 3, 4)).float()


class Oracle(Pixels):
    """Features that reveal the label."""

    def embed(self, batch: Batch) -> Tensor:
        return F.one_hot(batch.label.clamp(min=0), CLASSES).float()


class StopAfter(lightning.Callback):
    """Ends the run cleanly after some steps, as a time limit would."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: object) -> None:
        trainer.should_stop = trainer.global_step >= self.steps


def make_trainer(folder: Path, callbacks: list[Any], epochs: int = 2, **settings: Any) -> lightning.Trainer:
    """A silent trainer on the CPU."""
    defaults = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "log_every_n_steps": 1}
    return lightning.Trainer(
        max_epochs=epochs,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=callbacks,
        **(defaults | settings),
    )


def fit(
    method: Method, folder: Path, callbacks: list[Any], module: SyntheticMotion | None = None, epochs: int = 2, **settings: Any
) -> lightning.Trainer:
    """Train from scratch."""
    lightning.seed_everything(3)
    trainer = make_trainer(folder, callbacks, epochs, **settings)
    trainer.fit(method, datamodule=module or data())
    return trainer
