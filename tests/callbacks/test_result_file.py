"""Result files contain everything for tables, and mark results that were selected on the test set."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

import datamodules
from callbacks import BestOnTest, ResultFile
from callbacks.result_file import weight_files
from datamodules.cached_features import CachedFeatures
from datamodules.generated.skeleton import SyntheticSkeleton
from datamodules.skeleton.clips import SkeletonClipSettings
from modules.backbones.skeleton.gru import BiGRU
from modules.core.errors import SettingError
from modules.downstream.classification import Classification
from modules.runs.provenance import Provenance
from modules.training.optim import SGDSettings
from tests.callbacks.runs import StopAfter, make_trainer


def data() -> SyntheticSkeleton:
    return SyntheticSkeleton(SkeletonClipSettings(8), 8, train_clips=16, val_clips=9)


def classifier(rate: float = 0.1) -> Classification:
    torch.manual_seed(0)
    return Classification(BiGRU(4, 1), 12, "linear", optim=SGDSettings(rate))


def results(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.name: json.loads(path.read_text()) for path in sorted((folder / "results").glob("*.json"))}


def test_file_says_what_was_measured_and_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    weights = tmp_path / "encoder.pth"
    weights.write_bytes(b"weights")
    config = {"model": {"init_args": {"backbone": {"init_args": {"checkpoint": str(weights)}}}}, "seed_everything": 7}
    module = data()
    trainer = make_trainer(tmp_path, [Provenance(yaml.safe_dump(config)), ResultFile("linear")])
    (found,) = trainer.test(classifier(), datamodule=module, verbose=False)
    trainer.test(classifier(), datamodule=module, verbose=False)
    assert list(results(tmp_path)) == ["syntheticskeleton_linear-000.json", "syntheticskeleton_linear-001.json"]
    result = results(tmp_path)["syntheticskeleton_linear-000.json"]
    assert result["metrics"] == {name: pytest.approx(value) for name, value in found.items()}
    assert {"test/top1", "test/top5", "test/per_class"} <= result["metrics"].keys()
    expected = {
        "protocol": "syntheticskeleton_linear",
        "seed": 7,
        "videos": 9,
        "missed": [],
        "classes": 12,
        "views": 1,
        "config": config,
    }
    assert result.items() >= (expected | {"selected_on_test": False, "data": "SyntheticSkeleton"}).items()
    digest = hashlib.sha256(b"weights").hexdigest()
    assert result["weights"] == {"model.backbone.checkpoint": {"file": str(weights), "sha256": digest}}
    assert result["data_sha256"] == module.manifest_hash
    assert {"torch", "lightning"} <= result["packages"].keys()
    # No partially written file is left.
    assert {path.suffix for path in (tmp_path / "results").iterdir()} == {".json", ".csv"}


def test_files_of_weights_are_found_wherever_they_are_named(tmp_path: Path) -> None:
    path = str(tmp_path / "a.ckpt")
    Path(path).write_bytes(b"")
    settings = {
        "ckpt_path": path,
        "model": {"init_args": {"init_from": path, "target": {"checkpoint": "/nowhere.pt"}, "parts": [{"checkpoint": path}]}},
        "trainer": {"checkpoint": None},
    }
    assert weight_files(settings) == {"ckpt_path": path, "model.init_from": path, "model.parts.0.checkpoint": path}


def test_no_file_in_a_trial_run(tmp_path: Path) -> None:
    make_trainer(tmp_path, [ResultFile("a")], fast_dev_run=1).test(classifier(), datamodule=data(), verbose=False)
    assert not (tmp_path / "results").exists()


def test_best_epoch_says_that_it_was_selected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_up = iter([20.0, 50.0, 30.0])

    def validated(self: Classification) -> None:
        self.log("val/top1", next(made_up))

    monkeypatch.setattr(Classification, "on_validation_epoch_end", validated)
    best = BestOnTest("linear")
    make_trainer(tmp_path, [best], 3, num_sanity_val_steps=0).fit(classifier(), datamodule=data())
    result = results(tmp_path)["syntheticskeleton_linear_best_on_test-000.json"]
    assert result["selected_on_test"] is True
    assert result["metrics"] == {"val/top1": 50.0, "last/val/top1": 30.0}
    assert result["epoch"] == 1
    again = BestOnTest("linear")
    again.load_state_dict(best.state_dict())
    assert again.best == {"value": 50.0, "epoch": 1}


def test_wrong_settings_are_refused(tmp_path: Path) -> None:
    for build in (ResultFile, BestOnTest):
        with pytest.raises(SettingError, match="it is part of a file name"):
            build("a/b")
    trainer = make_trainer(tmp_path, [BestOnTest("a", "val/nothing"), StopAfter(1)], num_sanity_val_steps=0)
    with pytest.raises(SettingError, match=r"val/nothing, which this validation has not logged; choose one of val/"):
        trainer.fit(classifier(), datamodule=data())


@pytest.mark.parametrize("protocol", ["linear", "syntheticskeleton_linear"])
@pytest.mark.parametrize("cached", [False, True], ids=["clips", "features"])
def test_file_is_named_after_the_data_that_were_measured(protocol: str, cached: bool, tmp_path: Path) -> None:
    module = CachedFeatures(data(), str(tmp_path / "features")) if cached else data()
    make_trainer(tmp_path, [ResultFile(protocol)]).test(classifier(), datamodule=module, verbose=False)
    ((name, result),) = results(tmp_path).items()
    assert name == "syntheticskeleton_linear-000.json"
    assert (result["protocol"], result["data"]) == ("syntheticskeleton_linear", "SyntheticSkeleton")
    assert (result["benchmark"], result["flip"]) == (None, 0)


def test_recipes_name_no_data_in_their_protocols() -> None:
    names = {name.lower().rstrip("0123456789") for name in datamodules.__all__}
    found = [
        callback["init_args"]["protocol"]
        for path in (Path(__file__).parents[2] / "configs").rglob("*.yaml")
        for callback in yaml.safe_load(path.read_text()).get("trainer", {}).get("callbacks", [])
        if callback["class_path"] == "ResultFile"
    ]
    assert len(found) > 15
    assert not [protocol for protocol in found if any(name in protocol for name in names)]


def test_folders_of_weights_are_named_too(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(2)}, tmp_path / "model.safetensors")
    settings = {"model": {"init_args": {"backbone": {"init_args": {"checkpoint": str(tmp_path)}}}}}
    assert weight_files(settings) == {"model.backbone.checkpoint": str(tmp_path)}
