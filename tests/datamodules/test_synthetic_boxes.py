"""Generated clips with boxes as a data set: batches for action detection, their evaluation, and the recipe of mini-SEVERE."""

import json
from pathlib import Path

import pytest
import torch

from datamodules import SyntheticBoxes
from datamodules.video.sampling import ClipSettings
from main import main
from modules.core.batch import Batch
from modules.core.errors import SettingError
from modules.downstream.metrics.frame_average_precision import frame_average_precisions
from modules.scenes.tasks.boxes import ACTIONS, OBJECTS

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "configs/severe/mini/detection.yaml"


def small(**settings: int) -> SyntheticBoxes:
    return SyntheticBoxes(**({"batch_size": 4, "train_videos": 8, "val_videos": 24} | settings))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def data() -> SyntheticBoxes:
    made = small()
    made.setup()
    return made


def epoch(data: SyntheticBoxes, number: int) -> list[Batch]:
    loader = data.train_dataloader()
    loader.batches.sampler.set_epoch(number)
    return list(loader)


def test_batches_carry_what_detection_takes(data: SyntheticBoxes) -> None:
    first, second = epoch(data, 0)
    for batch in (first, second):
        regions = batch.regions
        assert regions is not None
        assert batch.stream("video").data.shape == (4, 1, 16, 32, 32, 3)
        assert regions.box[:, 0].tolist() == [clip for clip in range(4) for _ in range(OBJECTS)]
        assert regions.action.shape == (4 * OBJECTS, len(ACTIONS))
        assert torch.equal(regions.number, (batch.index[:, None] * OBJECTS + torch.arange(OBJECTS)).flatten())
        assert torch.equal(regions.action.unflatten(0, (4, OBJECTS)).sum(1), batch.label)
        assert ((regions.box[:, 1:] >= 0) & (regions.box[:, 1:] <= 32)).all()
    assert sorted([*first.index.tolist(), *second.index.tolist()]) == list(range(8))


def test_samples_are_functions_of_seed_epoch_and_number(data: SyntheticBoxes) -> None:
    again = small()
    assert [batch.index.tolist() for batch in epoch(data, 1)] == [batch.index.tolist() for batch in epoch(again, 1)]
    assert [batch.index.tolist() for batch in epoch(data, 1)] != [batch.index.tolist() for batch in epoch(data, 2)]
    for one, other in zip(data.test_dataloader(), again.test_dataloader(), strict=True):
        assert torch.equal(one.stream("video").data, other.stream("video").data)
        assert torch.equal(one.regions.box, other.regions.box)
    fewer = small(val_videos=2)
    (batch,) = fewer.val_dataloader()
    assert torch.equal(batch.regions.box, next(iter(data.val_dataloader())).regions.box[: 2 * OBJECTS])


def test_right_answers_are_worth_100_and_equal_ones_next_to_nothing(data: SyntheticBoxes) -> None:
    found = data.evaluation("test")
    key_frames, scored = found.key_frames, list(found.scored)
    frame = torch.arange(len(key_frames)).repeat_interleave(OBJECTS)
    boxes = torch.from_numpy(key_frames.boxes)
    batches = list(data.test_dataloader())
    told = torch.cat([batch.regions.action for batch in batches])
    # Boxes and actions are numbered as in batches; the boxes of the detector are not the true ones.
    assert torch.equal(torch.cat([batch.regions.number for batch in batches]), torch.arange(len(boxes)))
    assert torch.equal(torch.cat([batch.regions.box[:, 1:] for batch in batches]).double(), boxes * 32)
    detected = boxes[told.any(1)]
    assert not torch.isclose(detected, found.truth.box).all(1).any()
    assert frame_average_precisions(frame, boxes, told, found.truth, scored).tolist() == pytest.approx([1.0] * len(ACTIONS))
    blind = frame_average_precisions(frame, boxes, torch.zeros_like(told), found.truth, scored)
    assert blind.mean() < 0.15
    assert list(found.scored.values()) == list(ACTIONS)


def test_the_order_resumes_within_an_epoch() -> None:
    whole = small()
    loader = iter(whole.train_dataloader())
    next(loader)
    state = whole.state_dict()
    other = small()
    other.load_state_dict(state)
    (rest,) = other.train_dataloader()
    assert rest.index.tolist() == next(loader).index.tolist()


def test_wrong_settings() -> None:
    for settings, message in (
        ({"clip": ClipSettings(frames=2, size=32)}, r"data\.clip\.frames is 2"),
        ({"clip": ClipSettings(frames=16, size=32, clips=2)}, r"leave out data\.clip\.clips"),
        ({"batch_size": 9}, r"data\.batch_size is 9 but data\.train_videos is 8"),
        ({"val_videos": 0}, "val_videos"),
    ):
        with pytest.raises(SettingError, match=message):
            small(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("network", ["vit", "cnn"])
def test_the_recipe_of_mini_severe_runs(network: str, tmp_path: Path) -> None:
    layers = [f"--config={RECIPE}"]
    if network == "cnn":
        layer = tmp_path / "encoder.yaml"
        layer.write_text("model: {init_args: {backbone: {class_path: VideoResNet, init_args: {name: r3d_18, width: 2}}}}\n")
        layers.append(f"--config={layer}")
    words = ["--data.train_videos=8", "--data.val_videos=8", "--data.batch_size=4", "--trainer.max_epochs=1"]
    main(["fit", *layers, *words, f"--trainer.default_root_dir={tmp_path}"])
    (path,) = (tmp_path / "results").glob("*.json")
    result = json.loads(path.read_text())
    assert (result["protocol"], result["trained_steps"]) == ("syntheticboxes_severe_mini", 2)
    assert (result["key_frames"], result["boxes"], result["missed"]) == (8, 8 * OBJECTS, [])
    assert 0 < result["metrics"]["test/map"] <= 100
    assert list(result["average_precision"]) == list(ACTIONS)
