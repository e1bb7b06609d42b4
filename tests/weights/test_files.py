"""Reading weights: all formats, safely, with a report of every difference."""

import argparse
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from modules.core.errors import SettingError
from modules.core.loading import load_strictly, open_run
from modules.runs.saving import WholeCheckpointIO
from modules.weights.files import FOLDER_FILES, read_checkpoint, read_weights

WEIGHTS = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.ones(2)}


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        {"model": WEIGHTS, "optimizer": {"lr": 1}, "epoch": 3, "args": argparse.Namespace(lr=1e-3)},
        {"module": WEIGHTS},
        {"state_dict": WEIGHTS, "pytorch-lightning_version": "2.5.5"},
        {"model": {f"module.{key}": value for key, value in WEIGHTS.items()}},
    ],
    ids=["bare", "official", "deepspeed", "lightning", "ddp"],
)
def test_forms(content: dict, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    read = read_weights(path, "model.checkpoint")
    assert read.keys() == WEIGHTS.keys()
    assert all(torch.equal(read[key], WEIGHTS[key]) for key in WEIGHTS)


@pytest.mark.parametrize(
    ("prefix", "said"),
    [
        ("module.", "module. removed"),
        ("_orig_mod.", "_orig_mod. removed"),
        ("module._orig_mod.", "module. and _orig_mod. removed"),
        ("_orig_mod.module.", "module. and _orig_mod. removed"),
        ("backbone._orig_mod.", "_orig_mod. removed"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_prefixes_of_wrapping_modules(
    prefix: str, said: str, suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """torch.compile's and DDP's, in any order, also of a part of the network; which ones is said."""
    wrapped = {prefix + key: value for key, value in WEIGHTS.items()}
    path = tmp_path / f"weights{suffix}"
    save_file(wrapped, path) if suffix == ".safetensors" else torch.save({"model": wrapped}, path)
    with caplog.at_level("INFO"):
        read = read_weights(path, "model.checkpoint")
    start = "backbone." if prefix.startswith("backbone.") else ""
    assert read.keys() == {start + key for key in WEIGHTS}
    assert f"{said} from the names of 2 tensors" in caplog.text


def test_wrapped_and_bare_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    torch.save({**WEIGHTS, "_orig_mod.weight": torch.zeros(2, 3)}, tmp_path / "weights.pth")
    with pytest.raises(SettingError, match=r"contains the same tensors with and without the prefix"):
        read_weights(tmp_path / "weights.pth", "x")


def test_safetensors(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "weights.safetensors")
    assert torch.equal(read_weights(tmp_path / "weights.safetensors", "x")["weight"], WEIGHTS["weight"])


class Evil:
    """Unpickling this would create a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.target),)


def test_malicious_pickle_does_not_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "weights.pth", tmp_path / "trace"
    torch.save({"model": WEIGHTS, "args": Evil(trace)}, path)
    with pytest.raises(SettingError, match=r"model\.checkpoint"):
        read_weights(path, "model.checkpoint")
    assert not trace.exists()
    path.write_bytes(pickle.dumps(Evil(trace)))
    with pytest.raises(SettingError):
        read_weights(path, "model.checkpoint")
    assert not trace.exists()


@pytest.mark.parametrize("content", [None, b"", b"garbage", "numbers", "list"])
def test_bad_files_are_named(content: object, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save({"epoch": 3} if content == "numbers" else [1, 2], path)
    with pytest.raises(SettingError, match=r"model\.init_from names .*weights\.pth"):
        read_weights(path, "model.init_from")


def cut(content: object) -> bytes:
    """The first half of a saved file."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()[: len(buffer.getvalue()) // 2]


BROKEN = {
    "empty": (b"", "it is empty"),
    "text": (b"hello world, this is no weights\n", "it is a text file"),
    "page": (b"<html><body>404</body></html>", "it is a text file"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "it is a text file"),
    "cut": (cut({"state_dict": {"weight": torch.ones(100, 100)}}), "it is cut short or damaged"),
    "array": (b"\x93NUMPY\x01\x00v\x00{'descr': '<f8'}\n", "it does not contain tensors and plain values"),
    "archive": (b"\x1f\x8b\x08\x00\x00", "it does not contain tensors and plain values"),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("read", [read_weights, open_run, WholeCheckpointIO().load_checkpoint], ids=["weights", "run", "io"])
def test_why_a_file_cannot_be_read(read: Callable[..., object], name: str, tmp_path: Path) -> None:
    """One sentence of ours, never torch's advice to trust the file."""
    content, why = BROKEN[name]
    path = tmp_path / "weights.ckpt"
    path.write_bytes(content)
    with pytest.raises(SettingError, match=why) as caught:
        read(path, *([] if read.__name__ == "load_checkpoint" else ["model.init_from"]))
    message = str(caught.value)
    assert "weights.ckpt" in message
    assert "weights_only" not in message
    assert "\n" not in message


def test_checkpoints_of_runs(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": WEIGHTS, "pytorch-lightning_version": "2.6.0", "record": {"method": "a.B"}}, path)
    assert open_run(path, "x")["record"] == {"method": "a.B"}
    torch.save({"epoch": 3, "loops": {}}, path)
    with pytest.raises(
        SettingError, match=r"--ckpt_path names .*last\.ckpt, which is not a checkpoint of a run: it has no state_dict"
    ):
        open_run(path, "--ckpt_path")
    with pytest.raises(SettingError, match="which is a folder; pass a file"):
        open_run(tmp_path, "--ckpt_path")
    torch.save({"state_dict": WEIGHTS, "args": Evil(tmp_path / "trace")}, path)
    with pytest.raises(SettingError, match="could run code and is not read"):
        open_run(path, "--ckpt_path")


@pytest.mark.parametrize("name", FOLDER_FILES)
def test_folders_are_read(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"model\.init_from: the folder .* contains none of model\.safetensors"):
        read_weights(tmp_path, "model.init_from")
    path = tmp_path / name
    save_file(WEIGHTS, path) if path.suffix == ".safetensors" else torch.save({"module": WEIGHTS}, path)
    assert read_weights(tmp_path, "model.init_from").keys() == WEIGHTS.keys()


def test_differences_are_reported_and_nothing_is_loaded() -> None:
    layer = nn.Linear(3, 2)
    before = layer.weight.clone()
    with pytest.raises(SettingError, match=r"1 matched, 1 missing \(bias\), 1 left over \(scale\), 0 other shape"):
        load_strictly(layer, {"weight": WEIGHTS["weight"], "scale": torch.ones(1)}, "file")
    with pytest.raises(SettingError, match=r"1 other shape \(weight \[1, 3\] for \[2, 3\]\)"):
        load_strictly(layer, {"weight": torch.ones(1, 3), "bias": torch.ones(2)}, "file")
    assert torch.equal(layer.weight, before)


def test_declared_differences_pass() -> None:
    layer = nn.Linear(3, 2)
    report = load_strictly(layer, {"weight": WEIGHTS["weight"], "decoder.x": torch.ones(1)}, "file", ("bias",), ("decoder.",))
    assert report.matched == ["weight"]
    assert report.missing == ["bias"]
    assert report.left_over == ["decoder.x"]
    assert torch.equal(layer.weight, WEIGHTS["weight"])


# --- TorchScript archives ---


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2).half()
        self.register_buffer("count", torch.tensor(3))
        self.sizes = [1, 2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * self.sizes[0] + self.count


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.Sequential(Inner(), nn.LayerNorm(2))
        self.scale = nn.Parameter(torch.randn(4, 2).t())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.parts(x)


class RunsWhenLoaded(nn.Module):
    """Loading this with torch.jit.load writes a file."""

    def __init__(self, trace: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.trace = trace
        self.training = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.weight

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, str, bool]:
        return (self.weight, self.trace, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, str, bool]) -> None:
        self.weight = state[0]
        self.trace = state[1]
        self.training = state[2]
        written = torch.from_file(state[1], shared=True, size=16)
        print(written.sum())


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_torchscript_gives_the_tensors_of_its_modules(tmp_path: Path) -> None:
    module = Nested()
    torch.jit.script(module).save(str(tmp_path / "archive.pt"))
    read = read_weights(tmp_path / "archive.pt", "x")
    expected = module.state_dict()
    assert read.keys() == expected.keys()
    for name, value in expected.items():
        assert read[name].dtype == value.dtype
        assert torch.equal(read[name], value)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_code_in_torchscript_does_not_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "archive.pt", tmp_path / "trace"
    torch.jit.script(RunsWhenLoaded(str(trace))).save(str(path))
    trace.unlink(missing_ok=True)
    with pytest.raises(SettingError, match="no tensor"):
        read_weights(path, "x")
    assert not trace.exists()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/constants.pkl", b"")
        archive.writestr("archive/data.pkl", pickle.dumps(Evil(trace)))
    with pytest.raises(SettingError, match=r"it contains a \w+\.mkdir, which could run code"):
        read_weights(path, "x")
    assert not trace.exists()


def test_refused_classes_are_named(tmp_path: Path) -> None:
    torch.save({"model": WEIGHTS, "args": Evil(tmp_path / "trace")}, tmp_path / "weights.pth")
    with pytest.raises(SettingError, match=r"it contains a \w+\.mkdir, which could run code") as caught:
        read_weights(tmp_path / "weights.pth", "x")
    assert "weights_only" not in str(caught.value)


def test_record_of_a_run(tmp_path: Path) -> None:
    record = {"method": "modules.SMILE", "metrics": {"val/loss": 0.5}, "config": "model: {}"}
    torch.save({"state_dict": WEIGHTS, "record": record}, tmp_path / "last.ckpt")
    assert read_checkpoint(tmp_path / "last.ckpt", "x").record == record
    torch.save({"state_dict": WEIGHTS}, tmp_path / "last.ckpt")
    assert read_checkpoint(tmp_path / "last.ckpt", "x").record == {}
