"""A small but complete run in a separate process, which may be killed."""

import hashlib
import json
import multiprocessing
import os
import signal
import socket
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from callbacks import ModelEMA, OnlineKNN, OnlineLinear
from datamodules import SyntheticSkeleton, VideoFolder
from datamodules.prepare.synthesise import write_video
from datamodules.settings import LoadSettings, ReadSettings
from datamodules.skeleton.clips import SkeletonClipSettings
from datamodules.video.sampling import ClipSettings
from modules.runs.last_checkpoint import LAST, LastCheckpoint
from modules.runs.nonfinite import NonFiniteGuard
from modules.runs.provenance import Provenance
from modules.runs.saving import WholeCheckpointIO
from tests.registry import DOWNSTREAM, METHODS, SIDE, Case, long_videos, video_batch

TRAIN, VAL, BATCH, EPOCHS = 21, 5, 4, 3
STEPS = EPOCHS * (TRAIN // BATCH)


@dataclass
class Run:
    """Settings of one run; settings that differ between starts of the same run are last."""

    method: str
    folder: Path
    videos: Path
    accumulate: int = 1
    repeat: int = 1
    validate_every: int | None = None
    world: int = 1
    signal: int = signal.SIGKILL
    workers: int = 0
    die_at: tuple[int, str] | None = None
    dying_rank: int = 0
    batch: int = BATCH
    """Samples of a batch over all processes."""
    stop_after: int | None = None
    """Number of batches after which this start of the run is requested to end."""


def write_videos(folder: Path) -> Path:
    """Labelled videos for training, one of them broken, and for validation."""
    for split, count in (("train", TRAIN), ("val", VAL)):
        for number in range(count):
            path = folder / split / f"class {number % 2}" / f"{number}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            # 16 frames; three clips of `OrderedClips` need 14.
            write_video(path, video_batch(1, seed=number).stream("video").data[0, 0].repeat(4, 1, 1, 1), fps=8)
    (folder / "train" / "class 1" / "7.mp4").write_bytes(b"no video")
    return folder


def digest(*tensors: Tensor) -> str:
    return hashlib.sha256(b"".join(tensor.detach().contiguous().numpy().tobytes() for tensor in tensors)).hexdigest()[:16]


class Diary(Logger):
    """Every logged value, one line per call, on the disk before the run goes on."""

    def __init__(self, folder: Path, rank: int) -> None:
        super().__init__()
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"diary{rank}.jsonl"

    name = version = "diary"

    @property
    @rank_zero_experiment
    def experiment(self) -> None:
        return None

    def log_hyperparams(self, params: Any) -> None:
        """Not needed."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Exact values: JSON writes enough digits to identify a float."""
        if rank_zero_only.rank == 0:
            self.write("log", step or 0, metrics)

    def write(self, kind: str, step: int, content: Any) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps([kind, step, content]) + "\n")


class Witness(lightning.Callback):
    """Records the content of every batch (rows, pixels, masks, loss, epoch), and the learning rate of every step."""

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, method: lightning.LightningModule, optimiser: torch.optim.Optimizer
    ) -> None:
        trainer.logger.write("rate", trainer.global_step, optimiser.param_groups[-1]["lr"])

    def on_train_batch_end(
        self, trainer: lightning.Trainer, method: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        shown = [value for name, value in sorted(outputs["show"].items()) if isinstance(value, Tensor)]
        content = [
            batch.index.tolist(),
            digest(*(batch.stream(name).data for name, kind in batch.kinds.items() if kind != "text")),
            digest(outputs["loss"], *shown),
            outputs["loss"].item(),
            trainer.current_epoch,
        ]
        trainer.logger.write("batch", trainer.fit_loop.total_batch_idx, content)

    def on_validation_batch_end(
        self, trainer: lightning.Trainer, method: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        trainer.logger.write(f"validation {batch_idx}", trainer.global_step, batch.index.tolist())


class Death(lightning.Callback):
    """Sends a signal to its own process, at a given batch and hook."""

    def __init__(self, number: int, batch: int, moment: str) -> None:
        self.number, self.batch, self.moment = number, batch, moment

    def _maybe(self, moment: str, trainer: lightning.Trainer) -> None:
        if moment == self.moment and trainer.fit_loop.total_batch_idx >= self.batch and not trainer.sanity_checking:
            self.moment = "past"
            os.kill(os.getpid(), self.number)

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: object) -> None:
        self._maybe("batch start", trainer)

    def on_after_backward(self, trainer: lightning.Trainer, *_: object) -> None:
        self._maybe("after backward", trainer)

    def on_before_optimizer_step(self, trainer: lightning.Trainer, *_: object) -> None:
        self._maybe("before the optimiser", trainer)

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: object) -> None:
        self._maybe("batch end", trainer)

    def on_save_checkpoint(self, trainer: lightning.Trainer, *_: object) -> None:
        self._maybe("before writing", trainer)

    def on_validation_batch_end(self, trainer: lightning.Trainer, *_: object) -> None:
        self._maybe("validation", trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, *_: object) -> None:
        self._maybe("epoch end", trainer)


class Stop(lightning.Callback):
    """Requests the end of a run after some batches, in all processes."""

    def __init__(self, after: int) -> None:
        self.left = after

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: object) -> None:
        self.left -= 1
        trainer.should_stop = trainer.should_stop or self.left == 0


class DeadlyIO(WholeCheckpointIO):
    """Dies in the middle of writing a file: some of its bytes are on the disk."""

    def __init__(self, death: Death | None) -> None:
        self.death = death

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        death = self.death
        if death is not None and death.moment == "while writing" and checkpoint["global_step"] >= death.batch:
            whole = torch.save

            def half(content: Any, file: Any) -> None:
                file.write(b"half a checkpoint")
                file.flush()
                os.kill(os.getpid(), death.number)

            torch.save = half
            try:
                super().save_checkpoint(checkpoint, path, storage_options)
            finally:
                torch.save = whole
        super().save_checkpoint(checkpoint, path, storage_options)


MOMENTS = [
    "batch start",
    "after backward",
    "before the optimiser",
    "batch end",
    "before writing",
    "while writing",
    "validation",
    "epoch end",
]


def data_of(run: Run, case: Case) -> lightning.LightningDataModule:
    """The videos of the run, or generated skeletons."""
    batch_size = run.batch // run.world
    if case.skeletons:
        parts = SkeletonClipSettings(case.frames, case.clips)
        return SyntheticSkeleton(parts, batch_size, LoadSettings(run.workers), train_clips=TRAIN, val_clips=VAL)
    if case.sequences:
        return long_videos(batch_size, run.workers, TRAIN, VAL)
    # Methods with several clips per video do not use copies of them.
    clip = ClipSettings(
        frames=case.frames,
        sampler=case.sampler,
        size=SIDE,
        crop=case.crop,
        clips=case.clips,
        repeat=run.repeat if case.clips == 1 else 1,
    )
    return VideoFolder(
        str(run.videos), clip=clip, batch_size=batch_size, reading=ReadSettings(run.workers, max_bad_fraction=1.0)
    )


def train(run: Run, rank: int = 0, port: int = 0) -> None:
    """Start or resume a run like `main.py fit`; one of its processes if there are several."""
    warnings.filterwarnings("ignore")
    # Loader workers are forked, as in a run from the command line: so that they notice the end of their parent.
    multiprocessing.set_start_method("fork", force=True)
    torch.set_num_threads(1)
    if run.world > 1:
        os.environ |= as_torchrun_does(rank, run.world, port)
    lightning.seed_everything(0, verbose=False)
    case = next(case for case in METHODS + DOWNSTREAM if case.name == run.method)
    method = case.build()
    death = Death(run.signal, *run.die_at) if run.die_at is not None and run.dying_rank == rank else None
    stop = [Stop(run.stop_after)] if run.stop_after is not None else []
    saving = [Provenance(), NonFiniteGuard(), ModelEMA(decay=0.7), LastCheckpoint(2)]
    watching = [OnlineLinear(), OnlineKNN(), LearningRateMonitor(), Witness()]
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=run.world,
        strategy="ddp" if run.world > 1 else "auto",
        max_epochs=EPOCHS,
        accumulate_grad_batches=run.accumulate,
        val_check_interval=run.validate_every,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=run.folder,
        logger=Diary(run.folder, rank),
        plugins=[DeadlyIO(death)],
        callbacks=[*saving, *watching, *([death] if death is not None else []), *stop],
    )
    last = run.folder / LAST
    trainer.fit(method, datamodule=data_of(run, case), ckpt_path=last if last.is_file() else None, weights_only=True)


def as_torchrun_does(rank: int, world: int, port: int) -> dict[str, str]:
    """Environment variables of one of several processes."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "GROUP_RANK": 0}
    return {name: str(value) for name, value in numbers.items()} | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
    }


def processes() -> ForkServerContext:
    """Processes that start quickly: they are forked from one with all imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.resume.runs"])
    return context


def start(run: Run, limit: float = 60.0) -> list[int]:
    """Run it in new processes; returns their exit codes, negative for the signal that ended one."""
    return together(train, [(run,)] * run.world, limit)


def together(function: Callable[..., None], arguments: list[tuple], limit: float = 60.0) -> list[int]:
    """Call a function in several new processes, each with its arguments, its rank and a free port; their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = [processes().Process(target=function, args=(*own, rank, port)) for rank, own in enumerate(arguments)]
    for process in group:
        process.start()
    end = time.monotonic() + limit
    for process in group:
        process.join(max(0.0, end - time.monotonic()))
    hanging = [rank for rank, process in enumerate(group) if process.exitcode is None]
    for rank in hanging:
        group[rank].kill()
    assert not hanging, f"processes {hanging} did not end within {limit} s"
    return [process.exitcode or 0 for process in group]
