"""Reading weights: every form, nothing unsafe, a report for every difference."""

import argparse
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from modules.core.checkpoints import load_strictly, read_weights
from modules.core.errors import SettingError

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
