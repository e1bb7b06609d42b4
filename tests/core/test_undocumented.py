"""Undocumented features of other libraries that the code relies on: they exist and work as expected."""

import ast
import copy
import csv
import importlib
import inspect
import io
import math
import os
import signal
import textwrap
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.profilers import SimpleProfiler
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from timm.models.vision_transformer import VisionTransformer
from torch.utils.data import DataLoader

from modules.core import undocumented
from modules.core.undocumented import FitCounts

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "main.py", *(path for room in ("modules", "datamodules", "callbacks") for path in (ROOT / room).rglob("*.py"))]
# Fields of named tuples, a function of the operating system, and names that are written in pickles of NumPy.
FINE = {"_replace", "_fields", "_exit", "_core", "_reconstruct", "_frombuffer"}
LOOPS = {"fit_loop", "val_check_batch"}
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "max_epochs": 1,
    "limit_train_batches": 6,
    "limit_val_batches": 0,
    "num_sanity_val_steps": 0,
}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in {"_", *FINE}


def named(node: ast.AST) -> Iterator[str]:
    """Names of attributes and imports, also those in strings for `getattr` and similar functions."""
    if isinstance(node, ast.Attribute):
        yield node.attr
    elif isinstance(node, ast.ImportFrom):
        yield from (node.module or "").split(".")
        yield from (one.name for one in node.names)
    elif isinstance(node, ast.Import):
        yield from (part for one in node.names for part in one.name.split("."))
    elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr", "setattr"):
        yield from (one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str))


def defined(tree: ast.AST) -> set[str]:
    """Names that a file defines: functions, classes, variables, attributes of itself."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and getattr(node.value, "id", "") == "self":
            found.add(node.attr)
    return found


def test_one_file_alone_uses_what_is_not_documented() -> None:
    trees = {path: ast.parse(path.read_text()) for path in FILES if path != Path(undocumented.__file__)}
    ours = set().union(*map(defined, trees.values()))
    used = {(path.name, name) for path, tree in trees.items() for node in ast.walk(tree) for name in named(node)}
    foreign = {(path, name) for path, name in used if (is_private(name) and name not in ours) or name in LOOPS}
    assert not foreign


@cache
def names_in(kind: type) -> tuple[set[str], set[str]]:
    """Names that a class defines, and names that it uses; empty without source."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    except (OSError, TypeError):
        return set(), set()
    mentioned = {name for node in ast.walk(tree) for name in named(node)}
    return {*filter(is_private, defined(tree))}, {*filter(is_private, defined(tree) | mentioned)}


def test_no_class_shares_a_private_name_with_the_class_it_extends() -> None:
    found = []
    for path in FILES:
        module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
        for kind in (one for one in vars(module).values() if inspect.isclass(one) and one.__module__ == module.__name__):
            for base in kind.__mro__:
                if base.__module__.split(".")[0] in ("lightning", "torch", "jsonargparse"):
                    shared = names_in(base)[0] & names_in(kind)[1]
                    found += [f"{path.name}: {kind.__name__} has {name} of {base.__name__}" for name in shared]
    assert not found


def test_more_versions_of_a_compiled_function() -> None:
    limits = torch._dynamo.config
    with limits.patch(recompile_limit=8, accumulated_recompile_limit=2000):
        undocumented.allow_graphs(100)
        assert (limits.recompile_limit, limits.accumulated_recompile_limit) == (100, 2000)
        undocumented.allow_graphs(50)
        assert limits.recompile_limit == 100


class Watch(Callback):
    """Records the counters during a run, and changes them if a test requests it."""

    def __init__(self, **change: Any) -> None:
        self.change = change
        self.seen: list[tuple[int, int, int]] = []
        self.resumed = False

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        counts = FitCounts(trainer)
        self.resumed = counts.resumes
        for name, arguments in self.change.items():
            getattr(counts, name)(*arguments)
        assert undocumented.is_fitting(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        counts = FitCounts(trainer)
        self.seen.append((counts.epoch, counts.in_epoch, counts.in_all))


def fit(*callbacks: Callback, ckpt_path: Path | None = None, **settings: Any) -> Trainer:
    trainer = Trainer(callbacks=list(callbacks), **(QUIET | settings))
    trainer.fit(BoringModel(), datamodule=BoringDataModule(), ckpt_path=ckpt_path, weights_only=False)
    return trainer


def test_the_profiler_hears_of_batches_and_steps() -> None:
    durations = fit(profiler=SimpleProfiler()).profiler.recorded_durations  # type: ignore[attr-defined]
    assert len(durations[undocumented.FETCH]) == len(durations[undocumented.STEP]) == 6


def test_counts_of_epochs_and_batches() -> None:
    watch = Watch()
    trainer = fit(watch, max_epochs=2, limit_train_batches=3, limit_val_batches=1, val_check_interval=2)
    assert watch.seen == [(0, 1, 1), (0, 2, 2), (0, 3, 3), (1, 1, 4), (1, 2, 5), (1, 3, 6)]
    assert FitCounts(trainer).validates_every == 2
    assert not watch.resumed
    trainer.validate(BoringModel(), BoringDataModule(), verbose=False)
    assert not undocumented.is_fitting(trainer)


class LastBatches(Callback):
    """Records which batches were the last of their epochs."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.is_last_batch:
            self.seen.append(batch_idx + 1)


def test_an_epoch_has_another_length() -> None:
    last = LastBatches()
    # The first epoch, which has begun; then the second one.
    assert fit(Watch(lengthen=(5,)), last, max_epochs=2).num_training_batches == 5
    assert last.seen == [5]
    assert fit(Watch(set_length=(4,))).global_step == 4


def test_a_run_resumes_elsewhere_in_its_epoch(tmp_path: Path) -> None:
    class Save(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 2:
                trainer.save_checkpoint(tmp_path / "third.ckpt")

    fit(Save())
    for change, batches in (({}, [4, 5, 6]), ({"begin_epoch": ()}, [1, 2, 3, 4, 5, 6]), ({"begin_at": (4,)}, [5, 6])):
        watch = Watch(**change)
        fit(watch, ckpt_path=tmp_path / "third.ckpt")
        assert watch.resumed
        assert [in_epoch for _, in_epoch, _ in watch.seen] == batches


def test_the_loader_is_made_when_it_is_asked_for() -> None:
    class Asks(BoringModel):
        def configure_optimizers(self) -> Any:
            before = self.trainer.num_training_batches
            undocumented.make_train_loader(self.trainer)
            self.told = before, self.trainer.num_training_batches
            return super().configure_optimizers()

    model = Asks()
    Trainer(**QUIET).fit(model, BoringDataModule())
    assert model.told == (float("inf"), 6)


def test_loggers_are_told_the_step(tmp_path: Path) -> None:
    class Later(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            counts: Any = FitCounts(trainer)
            counts._trainer = SimpleNamespace(global_step=batch_idx + 50)
            counts.log_by_steps()

    class Logged(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("batch", float(batch_idx))
            return super().training_step(batch, batch_idx)

    logger = CSVLogger(tmp_path)
    Trainer(callbacks=[Later()], log_every_n_steps=1, **(QUIET | {"logger": logger})).fit(Logged(), BoringDataModule())
    with Path(logger.experiment.metrics_file_path).open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == list(range(50, 56))


def test_part_of_a_checkpoint(tmp_path: Path) -> None:
    class Counting(DataLoader):
        def state_dict(self) -> dict[str, Any]:
            return {"told": 7}

        def load_state_dict(self, state: dict[str, Any]) -> None: ...

    class Data(BoringDataModule):
        def train_dataloader(self) -> DataLoader:
            return Counting(self.random_train)

    for data, state in ((Data(), {"told": 7}), (BoringDataModule(), {})):
        trainer = Trainer(**(QUIET | {"max_epochs": 2}))
        trainer.fit(BoringModel(), data)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
        assert undocumented.loader_state(checkpoint) == state
    assert undocumented.epochs_done(checkpoint) == 2
    undocumented.uncount_epoch(checkpoint, 0)
    assert undocumented.epochs_done(checkpoint) == 2
    undocumented.uncount_epoch(checkpoint, 1)
    assert undocumented.epochs_done(checkpoint) == 1


def test_averages() -> None:
    class Spy(EMAWeightAveraging):
        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *rest: Any, **named: Any) -> None:
            super().on_train_batch_end(trainer, pl_module, *rest, **named)
            self.average, self.trained = copy.deepcopy((undocumented.averaged(self).state_dict(), pl_module.state_dict()))

    spy = Spy(decay=0.5, use_buffers=False)
    fit(spy)
    assert spy.average.keys() == spy.trained.keys()
    assert not torch.equal(spy.average["layer.weight"], spy.trained["layer.weight"])
    assert not undocumented.averages_buffers(spy)
    assert undocumented.averages_buffers(Spy(use_buffers=True))


def test_the_command_line(tmp_path: Path) -> None:
    words = ["fit", "--trainer.fast_dev_run=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    cli = LightningCLI(BoringModel, BoringDataModule, args=[*words, "--optimizer=Adam", "--optimizer.lr=0.25"])
    settings = undocumented.parser_of(cli, "fit").dump(cli.config["fit"])
    assert "fast_dev_run: 1" in settings
    vars(cli.model).pop("configure_optimizers")
    undocumented.add_chosen_optimiser(cli, "fit")
    chosen = cli.model.configure_optimizers()
    assert isinstance(chosen, torch.optim.Adam)
    assert chosen.param_groups[0]["lr"] == 0.25


def test_whole_numbers_and_shares() -> None:
    parser = LightningArgumentParser()
    parser.add_argument("--batches", type=float | int | None)
    assert isinstance(parser.parse_args(["--batches=1"]).batches, float)
    undocumented.whole_numbers_first(parser)
    for word, kind in (("1", int), ("1.0", float), ("null", type(None))):
        assert type(parser.parse_args([f"--batches={word}"]).batches) is kind


def adam() -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    return weight, torch.optim.AdamW([weight], lr=0.5, fused=True)


def test_gradients_of_fused_optimisers_may_be_clipped() -> None:
    weight, optimiser = adam()
    precision = MixedPrecision("bf16-mixed", "cpu")
    with pytest.raises(RuntimeError, match="does not allow for gradient clipping"):
        precision.clip_gradients(optimiser, 0.1)
    undocumented.unscale_outside(optimiser)
    precision.clip_gradients(optimiser, 0.1)
    assert weight.grad is not None
    assert weight.grad.norm() < 0.11


@pytest.mark.parametrize("held", [True, False])
def test_weights_are_held(held: bool) -> None:
    weight, optimiser = adam()
    undocumented.hold_weights(optimiser, torch.tensor(held))
    optimiser.step()
    assert torch.equal(weight, torch.ones(3)) == held


def test_tensors_are_copied() -> None:
    sources = [torch.rand(3), torch.arange(4), torch.nn.Parameter(torch.rand(2, 2))]
    targets = [torch.zeros_like(one) for one in sources]
    undocumented.copy_all(targets, sources)
    assert all(torch.equal(*pair) for pair in zip(targets, sources, strict=True))


@pytest.mark.parametrize("wrong", [True, False])
def test_tensors_are_brought_back(wrong: bool) -> None:
    """Every type of them, and from values that are not finite."""
    before = [torch.randn(3), torch.arange(4), torch.tensor([True, False]), torch.randn(2).bfloat16(), torch.randn(3, 2).T]
    now = [torch.full((3,), math.nan), torch.arange(4) - 7, torch.tensor([False, True]), torch.full((2,), math.inf).bfloat16()]
    now = [*now, torch.nn.Parameter(torch.randn(3, 2).T, requires_grad=False)]
    expected = [one.clone() for one in (before if wrong else now)]
    undocumented.restore_where(torch.tensor(wrong), now, before)
    assert all(torch.equal(one.nan_to_num(), other.nan_to_num()) for one, other in zip(now, expected, strict=True))


def kill(process: Any) -> None:
    """Return when the process has ended, without collecting its exit status."""
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    # Python runs signal handlers between two lines.
    time.sleep(0)


def test_dead_workers_interrupt_nobody() -> None:
    loader = DataLoader(range(8), num_workers=1, persistent_workers=True)  # type: ignore[arg-type]
    assert undocumented.workers(loader) == []
    iter(loader)
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        kill(*undocumented.workers(loader))
    undocumented.end_workers(loader)
    assert undocumented.workers(loader) == []
    undocumented.stay_calm(iter(loader))
    (worker,) = undocumented.workers(loader)
    kill(worker)
    assert worker.exitcode == -signal.SIGKILL
    undocumented.end_workers(loader)
    assert len(list(loader)) == 8


def test_moving_pictures_reach_tensorboard(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (6, 4)).save(stream, "GIF", save_all=True, append_images=[Image.new("RGB", (6, 4), "red")])
    logger = TensorBoardLogger(tmp_path)
    undocumented.write_image(logger, "moves", 3, stream.getvalue(), 4, 6)
    logger.save()
    (image,) = EventAccumulator(logger.log_dir).Reload().Images("moves")
    assert (image.step, image.height, image.width) == (3, 4, 6)
    assert image.encoded_image_string == stream.getvalue()


def test_tokens_before_the_blocks() -> None:
    vit = VisionTransformer(32, 16, num_classes=0, embed_dim=8, depth=1, num_heads=1, reg_tokens=1)
    frames = torch.rand(2, 3, 32, 32)
    tokens = undocumented.embedded(vit, frames)
    assert torch.equal(vit.norm(vit.blocks(tokens)), vit.forward_features(frames))
