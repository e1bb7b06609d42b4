"""The alarm is raised once if features become the same for all clips, and not otherwise."""

import math
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from callbacks.collapse import CollapseAlarm, feature_std, first_clips, rankme
from datamodules.generated.motion import SyntheticMotion
from datamodules.video.sampling import ClipSettings
from modules.core.batch import Batch
from modules.core.errors import SettingError
from tests.callbacks.runs import Pixels, Unlabelled, data, fit, make_trainer, videomae
from tests.registry import FRAMES, SIDE


def test_rankme_of_known_spectra() -> None:
    rows = torch.linalg.qr(torch.randn(64, 8, generator=torch.Generator().manual_seed(0)))[0]
    assert rankme(rows) == pytest.approx(8, rel=1e-4)
    assert rankme(rows[:, :1] * torch.ones(1, 8)) == pytest.approx(1, rel=1e-4)
    assert rankme(7 * rows) == pytest.approx(8, rel=1e-4)
    shares = torch.tensor([0.5, 0.25, 0.25])
    expected = math.exp(-sum(share * math.log(share) for share in shares.tolist()))
    assert rankme(rows[:, :3] * shares) == pytest.approx(expected, rel=1e-4)
    assert rankme(torch.zeros(4, 4)) == pytest.approx(1, abs=0.01)


def test_std_of_spread_and_of_equal_features() -> None:
    features = torch.randn(20_000, 32, generator=torch.Generator().manual_seed(0))
    assert feature_std(features) == pytest.approx(1, abs=0.01)
    assert feature_std(5 * features) == pytest.approx(1, abs=0.01)
    assert feature_std(features[:1].expand(50, -1)) == pytest.approx(0, abs=1e-5)


class Scripted(Pixels):
    """Features of random directions, which all become the same in the validations of some epochs."""

    def __init__(self, sick: dict[int, float]) -> None:
        super().__init__()
        self.sick = sick

    def embed(self, batch: Batch) -> Tensor:
        healthy = torch.stack([torch.randn(8, generator=torch.Generator().manual_seed(int(row))) for row in batch.index])
        value = self.sick.get(self.current_epoch) if self.trainer.validating else None
        return healthy if value is None else torch.full_like(healthy, value)


def rings(sick: dict[int, float], folder: Path, epochs: int = 3) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(Scripted(sick), folder, [CollapseAlarm()], epochs=epochs)
    return [str(one.message) for one in caught if "collapse at step" in str(one.message)]


def test_silent_while_features_differ(tmp_path: Path) -> None:
    assert rings({}, tmp_path) == []
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*collapse at step.*")
        trainer = fit(videomae(), tmp_path, [CollapseAlarm()])
    assert trainer.callback_metrics["collapse/rankme"] > 1
    assert trainer.callback_metrics["collapse/feature_std"] > 0


def test_rings_once_and_again_after_recovery(tmp_path: Path) -> None:
    (message,) = rings({1: 1.0, 2: 1.0}, tmp_path)
    assert "at step 6: feature_std is 0 and was" in message
    assert len(rings({0: 1.0, 2: 1.0}, tmp_path)) == 2


def test_features_that_are_no_numbers_ring(tmp_path: Path) -> None:
    (message,) = rings({1: math.nan}, tmp_path)
    assert "feature_std is nan" in message


def test_first_epoch_is_compared_with_the_untrained_network(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"collapse at step 3: feature_std is 0 and was .* lower model\.optim\.base_lr"):
        fit(Scripted({0: 1.0}), tmp_path, [CollapseAlarm(stop=True)])


def test_state_survives() -> None:
    alarm, again = CollapseAlarm(), CollapseAlarm()
    alarm._highest, alarm._rang = {"feature_std": 1.0, "rankme": 3.0}, True
    again.load_state_dict(alarm.state_dict())
    assert again.state_dict() == alarm.state_dict()


def test_needs_no_labels_and_changes_no_weight(tmp_path: Path) -> None:
    clip = ClipSettings(frames=FRAMES, size=SIDE)
    with_alarm, without = videomae(), videomae()
    trainer = fit(with_alarm, tmp_path, [CollapseAlarm(samples=5)], Unlabelled(clip, 8, train_videos=24, val_videos=13))
    fit(without, tmp_path, [], data())
    assert "collapse/rankme" in trainer.callback_metrics
    for name, value in without.state_dict().items():
        assert torch.equal(value, with_alarm.state_dict()[name]), name


@pytest.mark.parametrize("empty", [True, False])
def test_runs_without_validation_are_watched_after_every_epoch(empty: bool, tmp_path: Path) -> None:
    class FromSecondEpoch(Scripted):
        def embed(self, batch: Batch) -> Tensor:
            seen.append(len(batch.index))
            return torch.full((len(batch.index), 8), 1.0) if self.current_epoch else super().embed(batch)

    class NoValidation(SyntheticMotion):
        def val_dataloader(self) -> Any:
            return []

    seen: list[int] = []
    clip = ClipSettings(frames=FRAMES, size=SIDE)
    module = NoValidation(clip, 8, train_videos=24, val_videos=13) if empty else data()
    with pytest.warns(UserWarning, match="collapse at step 6"):
        fit(FromSecondEpoch({}), tmp_path, [CollapseAlarm()], module, limit_val_batches=None if empty else 0)
    # Before training and after each of two epochs; training clips if there are no others.
    assert sum(seen) == 3 * (24 if empty else 13)


def test_validation_without_training_compares_with_nothing(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, [CollapseAlarm(stop=True)])
    (metrics,) = trainer.validate(Scripted({0: 1.0}), datamodule=data(), verbose=False)
    assert metrics["collapse/feature_std"] == pytest.approx(0, abs=1e-5)
    with pytest.raises(SettingError, match="feature_std is nan"):
        trainer.validate(Scripted({0: math.nan}), datamodule=data(), verbose=False)


def test_what_is_no_number_is_never_the_highest() -> None:
    alarm = CollapseAlarm()
    for value in (math.nan, 2.0, math.nan, 1.0):
        alarm._keep_highest({"rankme": value})
    assert alarm.state_dict()["highest"] == {"rankme": 2.0}


def test_no_more_clips_are_measured_than_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr("callbacks.collapse.rankme", lambda features: seen.append(len(features)) or 2.0)
    fit(Scripted({}), tmp_path, [CollapseAlarm(samples=11)], epochs=1)
    assert seen == [11, 11]
    source = iter([Batch(torch.arange(4), torch.full((4, 2), 0.5), {}) for _ in range(5)])
    assert [batch.label.tolist() for batch in first_clips(source, 8)] == 2 * [[0] * 4]  # type: ignore[arg-type]
    assert len(list(source)) == 3


class TwoEncoders(Scripted):
    """With a second encoder of clips, whose features all become the same."""

    def encoders(self) -> dict[str, Any]:
        return {"backbone": self.backbone, "partner": self.backbone}

    def embed(self, batch: Batch, encoder: str = "backbone") -> Tensor:
        seen[encoder] = seen.get(encoder, 0) + len(batch.index)
        value = super().embed(batch)
        return torch.ones_like(value) if encoder == "partner" and self.current_epoch and self.trainer.validating else value


seen: dict[str, int] = {}


def test_further_encoders_are_watched_too(tmp_path: Path) -> None:
    seen.clear()
    with pytest.warns(UserWarning, match="collapse at step 6: partner/feature_std is 0 and was"):
        trainer = fit(TwoEncoders({}), tmp_path, [CollapseAlarm(samples=11)], epochs=2)
    assert trainer.callback_metrics["collapse/feature_std"] > 0.1
    assert trainer.callback_metrics["collapse/partner/feature_std"] == pytest.approx(0, abs=1e-5)
    assert trainer.callback_metrics["collapse/partner/rankme"] == pytest.approx(1, abs=1e-3)
    # Not more than the samples that were asked for, up to a complete batch: before training and in each of two epochs.
    assert seen["backbone"] == seen["partner"] <= 3 * 16


# --- Recipes ---

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "configs").glob("*.yaml"))
PIXELS = ("PixelTarget", "InputPixelTarget")
REBUILD = ("CropMAE", "SiamMAE", "PRP")
"""Methods that predict pixels without a setting for the target."""


def has_reconstruction(model: dict[str, Any]) -> bool:
    """Whether a method predicts pixels, so that its features cannot become the same for all clips without a loss that shows it.

    Not with targets that are learned (SIGMA's MLP), nor with contrast in addition, whose features have another reason to
    collapse.
    """
    settings = model["init_args"]
    on_pixels = settings.get("target", {}).get("class_path") in PIXELS and settings.get("mlp") is None
    return (on_pixels or model["class_path"] in REBUILD) and "agreement" not in settings


def callbacks_of(config: dict[str, Any]) -> list[str]:
    return [one["class_path"] for one in config.get("trainer", {}).get("callbacks", [])]


def test_what_has_a_reconstruction() -> None:
    kinds = {path.stem: has_reconstruction(yaml.safe_load(path.read_text())["model"]) for path in RECIPES}
    assert kinds["videomae"]
    assert kinds["smile_no_video"]
    assert kinds["prp"]
    assert not any(kinds[name] for name in ("moco", "vcop", "sigma_mlp", "smile", "locomotion", "crossvideomae"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_without_reconstruction_is_watched(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    assert has_reconstruction(config["model"]) or "CollapseAlarm" in callbacks_of(config)


@pytest.mark.parametrize(
    "layer", sorted((ROOT / "configs").glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_no_layer_removes_the_alarm(layer: Path) -> None:
    """A layer's callbacks replace those of the recipes that its head names."""
    text = layer.read_text()
    named = {ROOT / one for one in re.findall(r"fit --config (configs/\w+\.yaml)", text)}
    watched = [not has_reconstruction(yaml.safe_load(recipe.read_text())["model"]) for recipe in named]
    callbacks = callbacks_of(yaml.safe_load(text))
    assert not callbacks or not any(watched) or "CollapseAlarm" in callbacks
