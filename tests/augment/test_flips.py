"""Clips are mirrored if this does not change their labels, or if a setting requests it."""

import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import datamodules
from main import main
from modules.augment import flips
from modules.augment.clips import ClipAugmentation
from modules.core.errors import SettingError
from modules.downstream.classification import Classification
from modules.downstream.counting import RepetitionCounting
from modules.downstream.detection import ActionDetection
from modules.methods.moco import MoCo
from modules.methods.tubelet_contrast import TubeletContrast
from modules.training.method import Method
from tests.callbacks.runs import make_trainer
from tests.datamodules.sets.trees import put
from tests.datamodules.video_files import write_video
from tests.registry import CONTRAST, METHODS, SGD, SIDE, tiny_cnn

ROOT = Path(__file__).parents[2]
# The data sets in which left and right are classes or words of captions. Dives of Diving48 are defined by take-off,
# somersaults, twists and position; no class of NTU RGB+D has a side.
SIDES = {
    "SSv1",
    "SSv2",
    "Jester",
    "VideoText",
    "MSRVTT",
    "SSv2Text",
    "DiDeMo",
    "SyntheticMotion",
    "SyntheticLongVideos",
    "SyntheticTasks",
    "SyntheticBoxes",
    "UTDMHAD",
}
CONTRASTIVE = {case.name: case for case in METHODS if case.name in ("MoCo", "TubeletContrast")}


def test_data_sets_say_whether_left_and_right_are_classes() -> None:
    modules = {name: getattr(datamodules, name) for name in datamodules.__all__}
    # Here the underlying data decide, not the class.
    for name in ("StreamedVideos", "MixedData", "ListedStreams"):
        del modules[name]
    assert {name for name, module in modules.items() if getattr(module, "flips_change_labels", False)} == SIDES


def settled(asked: float | None, data: Any) -> float:
    """Probability of a `RandomFlip` with these data."""
    flip = flips.RandomFlip("model.flip", asked)
    flip.take_data(data)
    return flip.probability


def test_the_data_decide_and_a_setting_overrides_them(caplog: pytest.LogCaptureFixture) -> None:
    plain = SimpleNamespace(class_names=["run", "kick"])
    sided = SimpleNamespace(class_names=["Swiping Left", "Swiping Right", "Stop Sign"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [settled(flip, plain) for flip in (None, 0.0, 0.3)] == [0.5, 0.0, 0.3]
        assert settled(None, None) == 0.5
        assert settled(None, SimpleNamespace(class_names=None)) == 0.5
        assert [settled(flip, sided) for flip in (None, 0.0)] == [0.0, 0.0]
    (line,) = [record.getMessage() for record in caplog.records]
    assert "so no clip is mirrored unless model.flip is set" in line
    with pytest.warns(UserWarning, match=r"model\.flip is 0\.3, so clips are mirrored although left and right matter"):
        assert settled(0.3, sided) == 0.3


def test_a_folder_of_videos_says_it_by_its_names() -> None:
    for name in ("turn_left", "SwipeLeft", "Turning Hand Clockwise", "right arm swipe to the left"):
        assert flips.flips_change_labels(SimpleNamespace(class_names=["stop", name]))
    assert not flips.flips_change_labels(SimpleNamespace(class_names=["upright", "leftover food", "drinking"]))


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_contrastive_methods_mirror_no_motion_to_the_left(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def flip_some(clip: Tensor, generator: torch.Generator, probability: float = 0.5) -> Tensor:
        asked.append(probability)
        return clip

    kind = MoCo if name == "MoCo" else TubeletContrast
    monkeypatch.setattr(flips, "flip_some", flip_some)
    data = CONTRASTIVE[name].data(2, 2, 2)
    make_trainer(tmp_path, [], 1, limit_val_batches=0).fit(kind(tiny_cnn(), contrast=CONTRAST, optim=SGD), datamodule=data)
    assert asked == [0.0, 0.0]
    # A setting is kept; the default for unknown data is one half, as in the papers.
    for given, expected in (({"flip": 0.3}, 0.3), ({"flip": 0.0}, 0.0), ({}, 0.5)):
        method = kind(tiny_cnn(), contrast=CONTRAST, optim=SGD, **given)
        assert method.flip.probability == expected
        method.take_data(data if given else None)
        assert method.flip.probability == expected


def test_mirroring_with_probability_0_or_1() -> None:
    video = torch.arange(2 * 3 * SIDE * 3).view(1, 2, 3, SIDE, 3).expand(4, -1, -1, -1, -1)
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(flips.flip_some(video, generator, 0.0), video)
    assert torch.equal(flips.flip_some(video, generator, 1.0), video.flip(3))


@pytest.mark.parametrize("kind", [MoCo, TubeletContrast, ActionDetection, RepetitionCounting])
def test_impossible_probabilities_are_refused(kind: type[Method]) -> None:
    for flip in (-0.1, 1.5):
        with pytest.raises(SettingError, match=rf"model\.flip is {flip}; it must be at least 0 and at most 1"):
            kind(tiny_cnn(), flip=flip)  # type: ignore[call-arg]


@pytest.fixture(scope="module")
def something(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of Something-Something v2 with lists of rows."""
    root = tmp_path_factory.mktemp("ssv2")
    video = write_video(root / "one.mp4", frames=10)
    for split in ("train", "val"):
        paths = [f"{split}{number}.mp4" for number in range(4)]
        for path in paths:
            put(video, root / path)
        (root / f"{split}.csv").write_text("".join(f"{path} {number % 2}\n" for number, path in enumerate(paths)))
    return root


@pytest.mark.parametrize(
    ("given", "flip"),
    [([], 0.0), pytest.param(["--model.augmentation.flip=0.5"], 0.5, marks=pytest.mark.slow)],
    ids=["data", "setting"],
)
def test_a_recipe_of_kinetics_with_other_data_by_name(
    given: list[str], flip: float, something: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def flip_some(clip: Tensor, generator: torch.Generator, probability: float = 0.5) -> Tensor:
        asked.append(probability)
        return clip

    monkeypatch.setattr(flips, "flip_some", flip_some)
    words: list[Any] = ["fit", "--config", str(ROOT / "configs/finetune/kinetics400.yaml")]
    words += ["--config", str(ROOT / "configs/debug/tiny_classifier.yaml"), "--data=SSv2", f"--data.root={something}"]
    sizes = ("image_size=32", "num_frames=4", "embed_dim=32", "depth=1", "num_heads=2")
    words += [*(f"--model.backbone.{size}" for size in sizes)]
    main([*words, *given, "--trainer.enable_progress_bar=false", f"--trainer.default_root_dir={tmp_path}"])
    assert asked == [flip] * len(asked)
    assert bool(asked) == bool(flip)
    (path,) = (tmp_path / "results").glob("*.json")
    assert path.name == "ssv2_finetune-000.json"
    result = json.loads(path.read_text())
    assert (result["protocol"], result["data"], result["flip"]) == ("ssv2_finetune", "SSv2", flip)


def test_recipes_leave_flips_to_the_data() -> None:
    """Except for Something-Something, as stated in the paper, and V-JEPA's probes (official code)."""
    texts = {path.name: path.read_text() for path in (ROOT / "configs").rglob("*.yaml") if "flip:" in path.read_text()}
    kept = {name for name, text in texts.items() if "flip: null" not in text}
    probes = {"vjepa_kinetics400.yaml", "vjepa_ssv2.yaml", "vjepa2_ssv2.yaml"}
    assert kept == {"ssv2.yaml", "ssv2_fewshot.yaml"} | probes
    assert all("flip: 0," in texts[name] for name in kept)


def test_classification_keeps_what_is_set_and_asks_every_data_set() -> None:
    sided, plain = SimpleNamespace(flips_change_labels=True), SimpleNamespace()
    method = Classification(tiny_cnn(), 3, augmentation=ClipAugmentation(None))
    for data, expected in ((sided, 0.0), (plain, 0.5), (None, 0.5), (sided, 0.0)):
        method.take_data(data)
        assert method.flip is not None
        assert method.augmentation is not None
        assert (method.flip.probability, method.augmentation.flip) == (expected, expected)
    method = Classification(tiny_cnn(), 3, augmentation=ClipAugmentation(None, flip=0.2))
    with pytest.warns(UserWarning, match=r"model\.augmentation\.flip is 0\.2, so clips are mirrored although"):
        method.take_data(sided)
    assert method.flip is not None
    assert method.flip.probability == 0.2
    # Without augmentation, nothing is mirrored.
    method = Classification(tiny_cnn(), 3)
    method.take_data(plain)
    assert method.flip is None
