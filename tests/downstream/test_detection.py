"""Action detection: what is seen of a box, its loss, and a run from the official lists to the result file."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import yaml
from torch import Tensor, nn
from torchvision.ops import roi_align

from benchmarks.fake_cuda import step_cost
from main import main
from modules.backbones.cnn.resnet import VideoResNet
from modules.core.batch import Batch, Regions, TrueBoxes
from modules.core.errors import SettingError
from modules.core.preprocessing import Normalisation
from modules.downstream.detection import ActionDetection, flip_with_boxes
from modules.downstream.metrics.frame_average_precision import average_precision, best_overlaps
from tests.datamodules.sets.ava_files import FILM_START, small_ava, write_ava
from tests.registry import FRAMES, SGD, SIDE, tiny_cnn, tiny_vit, video_batch

ROOT = Path(__file__).parents[2]
ACTIONS = 5


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ava(tmp_path_factory.mktemp("ava"))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch_with_boxes(clips: int = 3) -> Batch:
    """Two boxes in the first clip, one in the last."""
    rows = torch.tensor([[0, 2.0, 3, 20, 30], [0, 10, 0, 32, 32], [clips - 1, 4, 4, 9, 30]])
    actions = (torch.rand(3, ACTIONS, generator=generator(1)) < 0.4).float()
    return replace(video_batch(clips), regions=Regions(rows, actions, torch.arange(3)))


@pytest.mark.parametrize("backbone", [tiny_cnn, tiny_vit])
def test_every_parameter_learns_and_only_boxes_are_seen(backbone: Any) -> None:
    method = ActionDetection(backbone(), ACTIONS, flip=0, optim=SGD).eval()
    batch = batch_with_boxes()
    output = method.step(batch, generator())
    logits = method.logits(method.normalise(batch.stream("video").data[:, 0]), batch.regions.box)
    expected = nn.functional.binary_cross_entropy(logits.sigmoid(), batch.regions.action)
    assert output["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    output["loss"].backward()
    assert [name for name, value in method.named_parameters() if value.grad is None or not value.grad.any()] == []
    assert not output["show"]["scores"].requires_grad
    # The clip in the middle has no box: what is in it does not matter, what is in the last one does.
    for clip, changes in ((1, False), (2, True)):
        other = copy.deepcopy(batch)
        other.stream("video").data[clip] = 0
        assert (method.step(other, generator())["loss"] != output["loss"]).item() == changes


def test_frozen_encoder_stays_as_it_is() -> None:
    method = ActionDetection(tiny_cnn(), ACTIONS, frozen=True, optim=SGD).train()
    before = {name: value.clone() for name, value in method.backbone.state_dict().items()}
    method.step(batch_with_boxes(), generator())["loss"].backward()
    assert [name for name, value in method.named_parameters() if value.grad is not None] == ["head.weight", "head.bias"]
    assert all(torch.equal(value, before[name]) for name, value in method.backbone.state_dict().items())
    assert method.dropout.training


def test_a_batch_without_boxes_has_no_loss_and_no_gradient() -> None:
    method = ActionDetection(tiny_cnn(), ACTIONS, optim=SGD)
    batch = batch_with_boxes()
    none = Regions(torch.zeros(0, 5), torch.zeros(0, ACTIONS), torch.zeros(0, dtype=torch.long))
    output = method.step(replace(batch, regions=none), generator())
    output["loss"].backward()
    assert output["loss"] == 0
    # Every parameter takes part, as several processes need.
    assert all(value.grad is not None and not value.grad.any() for value in method.parameters())
    assert method.pictures(output)["key_frame"].shape == (3, 1, 320, 320, 3)


class Columns(VideoResNet):
    """Says how far to the right each place of the map is, in steps of 16 pixels."""

    def forward_features(self, video: Tensor) -> Tensor:
        places = torch.arange(-(-video.shape[-1] // 16)).float()
        return places.expand(len(video), 8, video.shape[2] // 8, -(-video.shape[-2] // 16), -1)


def test_boxes_are_where_the_strides_put_them() -> None:
    method = ActionDetection(Columns("r3d_18", width=1), 8, optim=SGD).eval()
    with torch.no_grad():
        method.head.weight.copy_(torch.eye(8))
        method.head.bias.zero_()
    # A whole test frame: 10 columns of map for 149 pixels.
    boxes = torch.tensor([[0, 16.0, 0, 48, 112], [0, 100, 40, 140, 100]])
    found = method.logits(torch.zeros(1, 3, 8, 112, 149), boxes)
    # The centre of the last of seven columns of the box, half a place to the left because places are centres.
    expected = (boxes[:, 3] - (boxes[:, 3] - boxes[:, 1]) / 14) / 16 - 0.5
    assert torch.allclose(found, expected[:, None].expand(2, 8), atol=0.05)


def test_region_is_mean_over_time_then_the_maximum() -> None:
    method = ActionDetection(tiny_cnn(), ACTIONS, optim=SGD).eval()
    video = torch.randn(2, 3, 8, SIDE, SIDE, generator=generator())
    boxes = torch.tensor([[1, 0.0, 0, 32, 32]])
    maps = method.backbone.forward_features(video).mean(2)  # type: ignore[operator]
    pooled = roi_align(maps, boxes, 7, 1 / 16, aligned=True).flatten(2).max(2).values
    assert torch.allclose(method.logits(video, boxes), method.head(pooled), atol=1e-6)


def test_normalisation_of_the_recipe() -> None:
    """SEVERE's (official code), for all encoders alike."""
    recipe = yaml.safe_load((ROOT / "configs/detection/ava.yaml").read_text())
    settings = recipe["model"]["init_args"]["backbone"]["init_args"]["normalisation"]
    backbone = VideoResNet("r3d_18", width=4, normalisation=Normalisation(**settings))
    method = ActionDetection(backbone, ACTIONS, optim=SGD)
    white = torch.full((1, 1, 2, 2, 3), 255, dtype=torch.uint8)
    assert torch.allclose(method.normalise(white), torch.tensor((1 - 0.45) / 0.225))


def test_flip_takes_the_boxes_along() -> None:
    clip = torch.zeros(2, 1, 8, 10, 3, dtype=torch.uint8)
    clip[:, :, 2:4, 1:5] = 1
    boxes = torch.tensor([[0, 1.0, 2, 5, 4], [1, 1, 2, 5, 4]])
    turned, moved = flip_with_boxes(clip, boxes, generator(), 1.0)
    assert moved.tolist() == [[0, 5, 2, 9, 4], [1, 5, 2, 9, 4]]
    assert turned[0, 0, 2:4, 5:9].all()
    assert turned.sum() == clip.sum()
    same, still = flip_with_boxes(clip, boxes, generator(), 0.0)
    assert torch.equal(same, clip)
    assert torch.equal(still, boxes)


def test_best_overlap_agrees_with_all_pairs() -> None:
    g = generator()
    frame, true_frame = (torch.randint(0, 4, (n,), generator=g) for n in (50, 12))
    box, true = (torch.rand(n, 4, generator=g).sort(1).values[:, [0, 1, 2, 3]] for n in (50, 12))
    number, overlap = best_overlaps(frame, box, true_frame, true)
    for row in range(50):
        best, chosen = -1.0, 0
        for other in range(12):
            if true_frame[other] != frame[row]:
                continue
            low, high = torch.maximum(box[row, :2], true[other, :2]), torch.minimum(box[row, 2:], true[other, 2:])
            shared = (high - low).clamp_min(0).prod().double()
            union = sum((one[2:] - one[:2]).double().prod() for one in (box[row], true[other])) - shared
            if shared / union > best:
                best, chosen = float(shared / union), other
        assert overlap[row].item() == pytest.approx(best, abs=1e-6)
        assert number[row] == chosen


def test_nothing_found_is_zero_and_nothing_to_find_is_nan() -> None:
    none = (torch.zeros(0, dtype=torch.long), torch.zeros(0, 4), torch.zeros(0))
    one = TrueBoxes(torch.tensor([3]), torch.tensor([[0, 0, 1.0, 1]]), torch.tensor([0]))
    assert average_precision(*none, one) == 0
    assert average_precision(*none, one.only(torch.tensor([False]))).isnan()


def trainer(folder: Path, **settings: Any) -> lightning.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False, "logger": False}
    return lightning.Trainer(
        accelerator="cpu", devices=1, default_root_dir=folder, use_distributed_sampler=False, **quiet, **settings
    )


class Oracle(ActionDetection):
    """Knows the answers."""

    now: Batch

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.now = batch
        super().test_step(batch, batch_idx)

    def logits(self, video: Tensor, boxes: Tensor) -> Tensor:
        assert self.now.regions is not None
        return 9 * self.now.regions.action - 5


def test_right_answers_are_worth_100(films: Path, tmp_path: Path) -> None:
    method = Oracle(tiny_cnn(), 80, optim=SGD)
    data = small_ava(films, benchmark="true_boxes")
    (found,) = trainer(tmp_path).test(method, datamodule=data, verbose=False)
    assert found["test/map"] == pytest.approx(100)
    record = method.test_record
    assert (record["key_frames"], record["missed"], record["boxes"]) == (3, [], 4)
    assert list(record["average_precision"].values()) == [None, 100.0, 100.0]


def test_a_key_frame_that_cannot_be_read_is_told_and_does_not_count(films: Path, tmp_path: Path) -> None:
    root = write_ava(tmp_path / "ava")
    (root / "val2.mkv").unlink()
    (root / "val2.mkv").write_bytes(b"broken")
    method = Oracle(tiny_cnn(), 80, optim=SGD)
    (found,) = trainer(tmp_path).test(method, datamodule=small_ava(root, benchmark="true_boxes"), verbose=False)
    assert found["test/map"] == pytest.approx(100)
    assert (method.test_record["key_frames"], method.test_record["missed"]) == (2, [2])


def test_from_the_official_lists_to_the_result_file(films: Path, tmp_path: Path) -> None:
    layers = [f"--config={ROOT / name}" for name in ("configs/detection/ava.yaml", "configs/debug/tiny_classifier.yaml")]
    data = [f"--data.root={films}", f"--data.films.start={FILM_START}", "--data.batch_size=2"]
    small = ["--model.backbone.width=2", "--trainer.enable_progress_bar=false", "--trainer.limit_test_batches=2"]
    small += ["--trainer.num_sanity_val_steps=0", "--trainer.limit_train_batches=1"]
    main(["fit", *layers, *data, *small, f"--trainer.default_root_dir={tmp_path}"])
    checkpoint = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 1
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())
    (result,) = (tmp_path / "results").iterdir()
    content = json.loads(result.read_text())
    assert content["protocol"] == "ava_detection"
    assert 0 <= content["metrics"]["test/map"] <= 100
    assert (content["key_frames"], content["boxes"], content["missed"]) == (2, 3, [])
    assert set(content["average_precision"]) == {"bend/bow (at the waist)", 'crouch \\"low\\"', "jump"}
    assert list(tmp_path.glob("pictures/*_key_frame.png"))


def test_a_video_transformer_from_prepared_films_to_the_result_file(films: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    main(["prepare", "videos", f"--source={films}", f"--out={small}", "--short_side=32", "--workers=0"])
    layers = [f"--config={ROOT / name}" for name in ("configs/severe/vit/ava.yaml", "configs/debug/tiny_classifier.yaml")]
    sizes = ("size=micro", "image_size=32", "num_frames=4", "patch_size=8", "embed_dim=32", "depth=2", "num_heads=2")
    data = [f"--data.root={small}", f"--data.lists.folder={films}", f"--data.films.start={FILM_START}", "--data.batch_size=2"]
    words = [*(f"--model.backbone.{size}" for size in sizes), f"--trainer.default_root_dir={tmp_path}"]
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.num_sanity_val_steps=0"]
    main(["fit", *layers, *words, *data, *quiet])
    (result,) = (tmp_path / "results").glob("*.json")
    content = json.loads(result.read_text())
    assert (content["protocol"], content["trained_steps"]) == ("ava_severe_vit_unverified", 2)
    assert 0 < content["metrics"]["test/map"] <= 100
    # Films are the prepared ones, frames are squares, and a batch has two of them.
    assert [path.name for path in sorted(small.glob("*.mp4"))] == ["Ab.C-1.mp4", "train2.mp4", "val1.mp4", "val2.mp4"]
    assert (content["key_frames"], content["boxes"], content["missed"]) == (2, 3, [])


def test_pictures_show_the_boxes() -> None:
    method = ActionDetection(tiny_cnn(), ACTIONS, flip=0, optim=SGD)
    output = method.step(batch_with_boxes(), generator())
    drawn = method.pictures(output)["key_frame"]
    plain = output["show"]["clip"][:, FRAMES // 2].repeat_interleave(10, 1).repeat_interleave(10, 2)
    changed = (drawn[:, 0] != plain).flatten(1).any(1)
    assert changed.tolist() == [True, False, True]


def test_wrong_settings(films: Path, tmp_path: Path) -> None:
    for settings, message in (({"dropout": 1.0}, "dropout is 1.0"), ({"flip": 2}, "flip is 2")):
        with pytest.raises(SettingError, match=message):
            ActionDetection(tiny_cnn(), ACTIONS, optim=SGD, **settings)  # type: ignore[arg-type]
    method = ActionDetection(tiny_cnn(), ACTIONS + 1, optim=SGD)
    with pytest.raises(SettingError, match=r"model\.num_classes is 6, but the data has 5 actions"):
        method.step(batch_with_boxes(), generator())
    with pytest.raises(SettingError, match="choose --data AVA"):
        method.step(video_batch(), generator())
    with pytest.raises(SettingError, match=r"frames of 32 x 32 pixels; set data\.films\.square to true"):
        ActionDetection(tiny_vit(), ACTIONS, optim=SGD).logits(torch.zeros(1, 3, FRAMES, 32, 42), torch.zeros(1, 5))


def test_a_step_neither_copies_nor_waits() -> None:
    cost = step_cost(ActionDetection(tiny_vit(), ACTIONS, flip=0.5, optim=SGD), batch_with_boxes())
    assert cost.copies == cost.waits == []
