"""Several processes equal one process with the joined batch, count every sample once, and end together."""

import multiprocessing
import os
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from timm.layers import DropPath

from modules.core.batch import Batch, Kind, Stream
from modules.core.randomness import device_generator
from modules.runs import last_checkpoint
from modules.runs.last_checkpoint import LAST
from modules.training.method import TRAIN_STREAM, Method
from tests.distributed.joined import JoinedDraws
from tests.registry import METHODS, STEPS, by_name
from tests.resume.bits import differences
from tests.resume.runs import Run, as_torchrun_does, together, train, write_videos

ROOT = Path(__file__).parents[2]
WORLD, VIDEOS, VAL = 2, 4, 5
everywhere = pytest.mark.parametrize("name", by_name(*METHODS))


def build(name: str) -> Method:
    """The method without what depends on the process and not on the sample: stochastic depth, dropout, batch statistics."""
    torch.manual_seed(0)
    method = next(case for case in METHODS if case.name == name).build()
    for part in method.modules():
        if isinstance(part, DropPath):
            part.drop_prob = 0.0
        elif isinstance(part, torch.nn.Dropout):
            part.p = 0.0
        elif isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
            part.eval()
    return method


class Notes(lightning.Callback):
    """Records the first step and the validation of this process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.told: dict[str, Any] = {"validated": [], "val_losses": []}

    def on_before_optimizer_step(self, trainer: lightning.Trainer, method: lightning.LightningModule, *_: Any) -> None:
        self.told["gradients"] = {
            name: value.grad.clone() for name, value in method.named_parameters() if value.grad is not None
        }

    def on_train_batch_end(
        self, trainer: lightning.Trainer, method: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(method, Method)
        stream = batch.stream(method.stream, *method.kinds)
        self.told |= {
            "loss": outputs["loss"].detach(),
            "batch": {"index": batch.index, "label": batch.label, "data": stream.data, "length": stream.length},
        }

    def on_validation_batch_end(
        self, trainer: lightning.Trainer, method: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        generator = device_generator("cpu", 2, 0, batch_idx, trainer.global_rank)
        assert isinstance(method, Method)
        self.told["validated"] += batch.index.tolist()
        self.told["val_losses"].append((len(batch.index), float(method.step(batch, generator)["loss"])))

    def on_train_end(self, trainer: lightning.Trainer, method: lightning.LightningModule) -> None:
        self.told["val_loss"] = float(trainer.callback_metrics["val/loss"])
        torch.save(self.told, self.path)


def one_step(name: str, folder: Path, rank: int, port: int) -> None:
    """A step and a validation of one of two processes."""
    warnings.filterwarnings("ignore")
    multiprocessing.set_start_method("fork", force=True)
    torch.set_num_threads(1)
    os.environ |= as_torchrun_does(rank, WORLD, port)
    lightning.seed_everything(0, verbose=False)
    data = next(case for case in METHODS if case.name == name).data(VIDEOS, 16, VAL)
    lightning.Trainer(
        accelerator="cpu",
        devices=WORLD,
        strategy="ddp",
        max_steps=1,
        limit_train_batches=1,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        callbacks=[Notes(folder / f"rank{rank}.pt")],
    ).fit(build(name), datamodule=data)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Records of both processes, by method; each pair of processes runs once."""
    made: dict[str, list[dict[str, Any]]] = {}

    def get(name: str) -> list[dict[str, Any]]:
        if name not in made:
            folder = tmp_path_factory.mktemp("two")
            assert together(one_step, [(name, folder)] * WORLD) == [0] * WORLD
            made[name] = [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(WORLD)]
        return made[name]

    return get


# LocoMotion's wrong pairs and masked words are each process's own; its contrast is tested in test_locomotion.py.
JOINED = by_name(*(case for case in METHODS if case.name != "LocoMotion"))


# With one thread, float32 sums over all pixels of PRP's clips differ by up to 2e-5 of the largest value.
@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("name", JOINED)
def test_two_processes_equal_one_with_the_joined_batch(name: str, told: Any) -> None:
    one, other = told(name)
    assert not set(one["batch"]["index"].tolist()) & set(other["batch"]["index"].tolist())
    index, label = (torch.cat([one["batch"][key], other["batch"][key]]) for key in ("index", "label"))
    kind: Kind = "skeleton" if name.startswith("Skeleton") else "feature" if name == "LVMAE" else "video"
    length, parts = None, [process["batch"]["data"] for process in (one, other)]
    if kind == "feature":
        # Each process has padded to its own longest sequence.
        length = torch.cat([process["batch"]["length"] for process in (one, other)])
        parts = [torch.nn.functional.pad(part, (0, 0, 0, STEPS - part.shape[2])) for part in parts]
    batch = Batch(index, label, {kind: Stream(kind, torch.cat(parts), length=length)})
    draws = JoinedDraws([device_generator("cpu", TRAIN_STREAM, 0, 0, 0, rank) for rank in range(WORLD)])
    method = build(name)
    prepare = method.preparation()
    if prepare is not None:
        # What loaders prepare depends on the rows alone.
        prepare(batch, 0)
    with draws:
        loss = method.step(batch, draws.joint)["loss"]
    loss.backward()
    assert float(loss.detach()) == pytest.approx((float(one["loss"]) + float(other["loss"])) / 2, rel=1e-5)
    trained = {name: value for name, value in method.named_parameters() if value.requires_grad}
    assert trained.keys() == one["gradients"].keys()
    for parameter, value in trained.items():
        assert value.grad is not None
        largest = float(value.grad.abs().max())
        for process in (one, other):
            assert torch.allclose(process["gradients"][parameter], value.grad, rtol=0, atol=1e-5 * largest + 1e-9), parameter


@everywhere
def test_every_validation_sample_counts_once(name: str, told: Any) -> None:
    notes = told(name)
    assert sorted(row for process in notes for row in process["validated"]) == list(range(VAL))
    parts = [part for process in notes for part in process["val_losses"]]
    mean = sum(size * loss for size, loss in parts) / VAL
    assert [process["val_loss"] for process in notes] == pytest.approx([mean] * WORLD, rel=1e-5), parts


class Broken(lightning.Callback):
    """Raises in the second step."""

    def on_train_batch_start(self, trainer: lightning.Trainer, method: lightning.LightningModule, *_: Any) -> None:
        if trainer.global_step == 1:
            raise RuntimeError("this process is broken")


def two_or_broken(folder: Path, broken: int, rank: int, port: int) -> None:
    """A run of two processes, one of which raises an error; each writes its output to its own file."""
    with (folder / f"said{rank}").open("w") as said:
        os.dup2(said.fileno(), 2)
    if rank == broken:
        # Like a user's own callback.
        whole = lightning.Trainer.__init__

        def with_broken(self: Any, *args: Any, **settings: Any) -> None:
            whole(self, *args, **settings | {"callbacks": [*settings["callbacks"], Broken()]})

        lightning.Trainer.__init__ = with_broken  # type: ignore[method-assign]
    train(Run(METHODS[0].name, folder, folder / "videos", world=WORLD), rank, port)


@pytest.mark.parametrize("broken", range(WORLD))
def test_a_dying_process_ends_the_run_with_its_error(broken: int, tmp_path: Path) -> None:
    write_videos(tmp_path / "videos")
    codes = together(two_or_broken, [(tmp_path, broken)] * WORLD)
    assert all(codes)
    assert "RuntimeError: this process is broken" in (tmp_path / f"said{broken}").read_text()


def with_signals(run: Run, rank: int, port: int) -> None:
    """A run whose processes exchange signals after every second step."""
    last_checkpoint.ASK_EVERY = 2
    train(run, rank, port)


def test_a_signal_to_one_process_stops_all_at_the_same_step(tmp_path: Path) -> None:
    videos = write_videos(tmp_path / "videos")
    run = Run(METHODS[0].name, tmp_path / "part", videos, world=WORLD, signal=signal.SIGTERM)
    stopped = replace(run, die_at=(4, "after backward"), dying_rank=1)
    assert together(with_signals, [(stopped,)] * WORLD) == [1, 1]
    saved = torch.load(run.folder / LAST, weights_only=True)
    assert saved["global_step"] == 6
    whole = replace(run, folder=tmp_path / "whole")
    for one in (run, whole):
        assert together(with_signals, [(one,)] * WORLD) == [0, 0]
    ends = [torch.load(one.folder / LAST, weights_only=True) for one in (run, whole)]
    assert differences(*ends) == []


@pytest.mark.slow
@pytest.mark.parametrize("broken", range(WORLD))
def test_processes_that_lightning_starts_end_together(broken: int, tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        "import os, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from modules.training.method import Method\n"
        "from main import main\n"
        "step = Method.training_step\n"
        "def broken_step(self, batch, batch_idx):\n"
        f"    if self.global_rank == {broken} and batch_idx == 1:\n"
        "        raise RuntimeError('this process is broken')\n"
        "    return step(self, batch, batch_idx)\n"
        "Method.training_step = broken_step\n"
        "main(sys.argv[1:])\n"
    )
    settings = ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.callbacks=[]", "--data.batch_size=4"]
    data = ["--data.train_videos=64", "--data.val_videos=8", "--data.probe_samples=8"]
    config = ["fit", "--config", str(ROOT / "configs/quickstart.yaml"), f"--trainer.default_root_dir={tmp_path / 'run'}"]
    result = subprocess.run(
        [sys.executable, str(script), *config, *settings, *data], capture_output=True, text=True, timeout=180, cwd=ROOT
    )
    assert result.returncode != 0
    assert "this process is broken" in result.stderr
