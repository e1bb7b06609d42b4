"""Common properties of every method in the registry (tests/registry.py)."""

import ast
import copy
import inspect
import re
from dataclasses import replace
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from callbacks import ModelEMA
from modules.convert.command import convert
from modules.core.batch import Batch
from modules.core.errors import SettingError
from modules.core.loading import load_strictly
from modules.downstream.classification import Classification
from modules.methods.moco import MoCo
from modules.methods.videomae import VideoMAE
from modules.training.averaging import check_averaging
from modules.training.method import Method
from modules.weights.files import read_weights
from modules.weights.passport import read_passport
from tests.registry import CONTRAST, FRAMES, METHODS, SIDE, Case, joined, rows_of, tiny_cnn

ROOT = Path(__file__).parents[2]
everywhere = pytest.mark.parametrize("case", METHODS, ids=lambda case: case.name)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(case: Case, seed: int = 0) -> Method:
    torch.manual_seed(seed)
    return case.build()


class Clips(Dataset):
    """Twelve random videos or recordings."""

    def __init__(self, case: Case) -> None:
        self.case = case

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Batch:
        return replace(self.case.batch(1, seed=index), index=torch.tensor([index]), label=torch.tensor([index % 2]))


class Data(lightning.LightningDataModule):
    """Three batches of four samples in fixed order."""

    batch_size = 4

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case = case

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Clips(self.case), 4, collate_fn=joined)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Clips(self.case), 4, collate_fn=joined)


def fit(case: Case, method: Method, folder: Path, epochs: int = 2, **settings: object) -> lightning.Trainer:
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **({"enable_checkpointing": False} | settings),
    )
    trainer.fit(method, datamodule=Data(case))
    return trainer


@everywhere
def test_loss_is_finite_and_every_trained_parameter_receives_gradient(case: Case) -> None:
    method = build(case)
    output = method.step(case.batch(), generator())
    assert output["loss"].isfinite()
    output["loss"].backward()
    trained = [(name, value) for name, value in method.named_parameters() if value.requires_grad]
    without = [name for name, value in trained if value.grad is None or not value.grad.any()]
    assert without == []


@everywhere
def test_outputs_for_callbacks_carry_no_gradient(case: Case) -> None:
    output = build(case).step(case.batch(), generator())
    tensors = [value for value in (*output["show"].values(), *output["log"].values()) if isinstance(value, Tensor)]
    assert tensors
    assert not any(value.requires_grad for value in tensors)
    assert output.keys() == {"loss", "log", "show"}
    shown = output["show"][case.shown]
    assert shown.dtype == (torch.uint8 if case.shown == "clip" else torch.float32)


@everywhere
def test_step_is_a_function_of_weights_batch_and_generator(case: Case) -> None:
    method = build(case).eval()
    batch = case.batch()
    before = copy.deepcopy(batch)
    first = method.step(batch, generator(3))["loss"]
    torch.rand(7)
    assert torch.equal(first, method.step(batch, generator(3))["loss"])
    assert not torch.equal(first, method.step(batch, generator(4))["loss"])
    assert torch.equal(method.inputs(batch), method.inputs(before))
    assert torch.equal(batch.index, before.index)


@everywhere
def test_several_clips_per_video_are_several_samples(case: Case) -> None:
    if case.clips > 1:
        with pytest.raises(SettingError, match=rf"set data\.clip\.clips to {case.clips}"):
            build(case).step(case.batch(2, clips=1), generator())
        return
    method = build(case).eval()
    batch = case.batch(2, clips=3)
    output = method.step(batch, generator())
    shown = output["show"][case.shown]
    assert len(shown) == 6
    assert case.sequences or shown.shape == (6, FRAMES, SIDE, SIDE, 3)
    assert output["loss"].isfinite()


@everywhere
def test_batch_of_one(case: Case) -> None:
    if case.name == "TubeletContrast":
        with pytest.raises(SettingError, match=r"different videos; set data\.batch_size to 2 or more"):
            build(case).step(case.batch(1), generator())
        return
    output = build(case).step(case.batch(1), generator())
    assert output["loss"].isfinite()


@everywhere
def test_embed_is_frozen_and_per_video(case: Case) -> None:
    method = build(case).eval()
    batch = case.batch(3, clips=2)
    features = method.embed(batch)
    assert features.shape[0] == 3
    assert features.ndim == 2
    assert not features.requires_grad
    order = torch.tensor([2, 0, 1])
    turned = method.embed(rows_of(batch, order))
    assert torch.allclose(features[order], turned, atol=1e-5)


@everywhere
def test_pictures_are_uint8_videos(case: Case) -> None:
    method = build(case)
    output = method.step(case.batch(), generator())
    pictures = method.pictures(output)
    assert len(pictures) >= 2
    for name, video in pictures.items():
        assert video.dtype == torch.uint8, name
        # Of sequences, there are no films; a classifier shows all clips.
        shown = 4 * case.clips if isinstance(method, Classification) else 4
        assert video.shape[:2] == (shown, 1 if case.sequences else FRAMES), name
        # Figures and captions have their own size.
        assert case.shown != "clip" or name == "captioned" or video.shape[2:] == (SIDE, SIDE, 3), name


@everywhere
def test_two_runs_are_equal_and_learn(case: Case, tmp_path: Path) -> None:
    weights = []
    for folder in ("a", "b"):
        method = build(case)
        lightning.seed_everything(5)
        fit(case, method, tmp_path / folder)
        weights.append(method.state_dict())
    start = build(case).state_dict()
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name
    moved = [name for name, value in weights[0].items() if not torch.equal(value, start[name])]
    assert len(moved) > 0.8 * len(start)


@everywhere
def test_checkpoint_becomes_one_file_that_starts_the_method(case: Case, tmp_path: Path) -> None:
    method = build(case)
    record = {"method": "a.Method", "config": "seed_everything: 3", "metrics": {"val/loss": 0.5}}
    torch.save({"state_dict": method.state_dict(), "record": record}, tmp_path / "last.ckpt")
    out = tmp_path / "method.safetensors"
    convert(tmp_path / "last.ckpt", out, heads=2, decoder_heads=1, image_size=SIDE, num_frames=FRAMES)
    passport = read_passport(out)
    assert {name: passport[name] for name in record} == record
    again = build(case, seed=9)
    load_strictly(again, read_weights(out, "x"), out)
    for name, value in method.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


@everywhere
def test_an_average_of_the_weights_leaves_state_alone(case: Case, tmp_path: Path) -> None:
    """Queues, pointers and counters are those of the trained network; weights and statistics of BatchNorm are averages."""

    class Current(lightning.Callback):
        """The trained network at the last step, before it is replaced by the average."""

        def on_train_batch_end(self, trainer: lightning.Trainer, module: Method, *_: object) -> None:
            self.state = {name: value.clone() for name, value in module.state_dict().items()}

    method, current = build(case), Current()
    fit(case, method, tmp_path, 1, limit_train_batches=2, limit_val_batches=0, callbacks=[current, ModelEMA(decay=0.5)])
    state = {name: value for name, value in method.state_dict().items() if value.is_floating_point()}
    integers = {name: value for name, value in method.state_dict().items() if not value.is_floating_point()}
    queues = {name: value for name, value in state.items() if name.endswith("queue.keys")}
    assert bool(queues) == hasattr(method, "contrast")
    for name, value in (integers | queues).items():
        assert torch.equal(value, current.state[name]), name
    for name, value in queues.items():
        assert torch.allclose(value.norm(dim=1), torch.ones(len(value)), atol=1e-5), name
    statistics = [name for name in state if name.endswith(("running_mean", "running_var"))]
    trained = [name for name, value in method.named_parameters() if value.requires_grad]
    moved = [name for name in trained + statistics if not torch.equal(state[name], current.state[name])]
    assert len(moved) > 0.8 * len(trained + statistics)


@everywhere
def test_lightnings_average_is_refused_where_it_would_average_state(case: Case, tmp_path: Path) -> None:
    method = build(case)
    check_averaging([ModelEMA(), EMAWeightAveraging(use_buffers=False)], method)
    state = next((name for name in ("contrast.queue.keys", "online.code_number") if name in method.state_dict()), None)
    if state is None:
        check_averaging([EMAWeightAveraging()], method)
        return
    with pytest.raises(SettingError, match=rf"EMAWeightAveraging .* {re.escape(state)} .* use ModelEMA"):
        fit(case, method, tmp_path, callbacks=[EMAWeightAveraging()])


@everywhere
def test_checkpoints_of_another_network_are_refused(case: Case, tmp_path: Path) -> None:
    """With Lightning's own loading functions, in one sentence."""
    method = build(case)
    other = build(next(one for one in METHODS if one.name == ("VideoMAE" if hasattr(method, "contrast") else "MoCo")))
    with pytest.raises(SettingError, match=f"does not fit this {type(method).__name__}: .* Pass --ckpt_path a checkpoint"):
        method.load_state_dict(other.state_dict())
    torch.save({"state_dict": {}, "pytorch-lightning_version": lightning.__version__}, tmp_path / "last.ckpt")
    with pytest.raises(SettingError, match=r"pass backbone=\.\.\..* to load_from_checkpoint"):
        type(method).load_from_checkpoint(tmp_path / "last.ckpt")


def test_load_from_checkpoint_takes_the_arguments_again(tmp_path: Path) -> None:
    case = next(case for case in METHODS if case.name == "MoCo")
    method = build(case)
    torch.save({"state_dict": method.state_dict(), "pytorch-lightning_version": lightning.__version__}, tmp_path / "a.ckpt")
    again = MoCo.load_from_checkpoint(tmp_path / "a.ckpt", backbone=tiny_cnn(), contrast=CONTRAST)
    for name, value in method.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    (tmp_path / "b.ckpt").write_text("no checkpoint")
    with pytest.raises(SettingError, match=r"b\.ckpt, which cannot be read as a checkpoint \(it is a text file\)"):
        MoCo.load_from_checkpoint(tmp_path / "b.ckpt", backbone=tiny_cnn())


def test_settings_in_a_checkpoint_that_no_longer_fit_are_refused(tmp_path: Path) -> None:
    method = build(METHODS[0])
    content = {"state_dict": method.state_dict(), "pytorch-lightning_version": lightning.__version__}
    config = "model: {class_path: modules.VideoMAE, init_args: {depth_of_decoder: 3}}"
    torch.save(content | {"record": {"config": config}}, tmp_path / "a.ckpt")
    with pytest.raises(SettingError, match=r"a\.ckpt was written with settings that can no longer be built \(.*depth_of_dec"):
        VideoMAE.load_from_checkpoint(tmp_path / "a.ckpt")
    config = "model: {class_path: modules.MoCo, init_args: {backbone: {class_path: modules.backbones.VideoResNet}}}"
    torch.save(content | {"record": {"config": config}}, tmp_path / "b.ckpt")
    with pytest.raises(SettingError, match=r"b\.ckpt contains a MoCo, not a VideoMAE"):
        VideoMAE.load_from_checkpoint(tmp_path / "b.ckpt")


@everywhere
def test_frozen_parts_are_neither_trained_nor_saved(case: Case) -> None:
    method = build(case)
    saved = method.state_dict()
    # Momentum copies of the network are training state; frozen teachers are not.
    copies = [part for part in method.modules() if getattr(part, "is_momentum_copy", False)]
    copied = {id(value) for part in copies for value in part.parameters()}
    assert all(value.requires_grad or id(value) in copied for value in method.parameters())
    assert not any("tower" in name or "target" in name for name in saved)


@everywhere
def test_method_file_can_be_read_alone(case: Case) -> None:
    path = Path(inspect.getfile(type(build(case))))
    source = path.read_text()
    assert re.search(r"https://arxiv\.org/abs/\d{4}\.\d{4,5}", ast.get_docstring(ast.parse(source)) or "")
    methods = {entry.stem for entry in path.parent.glob("*.py")} - {"__init__"}
    imported = set(re.findall(r"^from modules\.methods\.(\w+) import", source, re.MULTILINE))
    assert not imported & methods, f"{path.name} imports another method"
    assert (ROOT / "configs" / case.yaml).is_file()


def test_every_method_file_is_registered() -> None:
    files = {entry.stem for entry in (ROOT / "modules/methods").glob("*.py")} - {"__init__"}
    registered = {Path(inspect.getfile(type(build(case)))).stem for case in METHODS}
    assert files == registered
