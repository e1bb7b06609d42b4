"""Label propagation: the algorithm against a plain loop, encoders, data sets, and complete tests."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import av
import lightning
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from scipy.io import savemat
from torch import Tensor

from benchmarks.propagation import plain_propagate
from callbacks.films.propagated import PropagatedVideos
from callbacks.result_file import ResultFile
from datamodules import DAVIS2016Sequences, DAVIS2017Sequences, JHMDBSequences, SyntheticSequences, VIPSequences
from datamodules.sequences import FrameSize, LabelledSequenceData
from main import main
from modules.backbones.cnn.resnet import VideoResNet
from modules.backbones.frame_tower import FrameTower
from modules.backbones.skeleton.gru import BiGRU
from modules.backbones.vit.beit_video import BEiTVideo
from modules.backbones.vit.video_vit import VideoViT
from modules.core.errors import SettingError
from modules.downstream.metrics.segmentation import contour_f, dilated, jaccard, object_scores
from modules.downstream.propagation.maps import MapSettings, frame_maps
from modules.downstream.propagation.propagate import PropagationSettings, Propagator, largest, propagate
from modules.downstream.propagation.task import LabelPropagation
from modules.runs.cli import CLI
from tests.datamodules.sets.test_paired_streams import write_davis

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "configs/propagation").glob("*.yaml"))
REAL = Path(os.environ.get("REAL_DIR", Path(__file__).parents[3] / "shared" / "real"))


def rule(**settings: Any) -> PropagationSettings:
    return PropagationSettings(**({"context": 3, "topk": 5, "radius": 3.0, "tile": 4} | settings))


def tiny_vit(**settings: Any) -> VideoViT:
    torch.manual_seed(0)
    sizes = {"size": "micro", "image_size": 32, "num_frames": 4, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    return VideoViT(**(sizes | settings)).eval()


def noise(count: int, height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


# --- Algorithm ---


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"radius": 2.5, "context": 5, "topk": 9},
        {"radius": 30.0, "tile": 32, "context": 2},
        {"radius": 1.0, "context": 1, "topk": 1},
        {"variant": "dino", "radius": 2, "temperature": 0.1},
        {"variant": "dino", "radius": 30, "temperature": 0.1, "context": 9},
    ],
)
def test_equals_the_plain_loop(settings: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(8, 6, 9, 13, generator=generator)
    first = torch.randn(3, 9, 13, generator=generator).softmax(0)
    expected = plain_propagate(features, first, rule(**settings))
    found = propagate(features, first, rule(**settings))
    assert (found - expected).abs().max() < 1e-5
    assert (found[-1] - found[0]).abs().max() > 0.1
    near = propagate(features, first, rule(**settings, bf16=True))
    assert (near - expected).abs().mean() < 0.05


def test_ties_are_all_kept_by_dino() -> None:
    """All tokens are alike, so all of a window count, not only five."""
    first = torch.rand(2, 6, 7, generator=torch.Generator().manual_seed(0))
    settings = rule(variant="dino", radius=1, topk=2)
    expected = plain_propagate(torch.ones(3, 4, 6, 7), first, settings)
    assert (propagate(torch.ones(3, 4, 6, 7), first, settings) - expected).abs().max() < 1e-5
    assert (expected[1, :, 2, 3] - first[:, 1:4, 2:5].mean((1, 2))).abs().max() < 1e-5


@pytest.mark.parametrize("k", [1, 7])
def test_the_largest_of_long_rows(k: int) -> None:
    rows = torch.randn(5, 64 * 20 + 13, generator=torch.Generator().manual_seed(0))
    rows[0, -3] = 9
    expected, found = rows.topk(k), largest(rows, k)
    assert torch.equal(found.values, expected.values)
    assert torch.equal(found.indices, expected.indices)


@pytest.mark.parametrize("variant", ["videowalk", "dino"])
def test_identical_frames_keep_the_labels(variant: str) -> None:
    generator = torch.Generator().manual_seed(0)
    frame = torch.randn(1, 64, 6, 7, generator=generator)
    first = torch.rand(3, 6, 7, generator=generator).softmax(0)
    # With fewer than topk copies of a token in the context, others would count too.
    settings = rule(variant=variant, context=8, topk=5, temperature=0.01, radius=3)
    found = propagate(frame.expand(12, -1, -1, -1), first, settings)
    assert (found - first).abs().max() < 1e-5


def test_copies_of_the_first_frame_fill_the_context() -> None:
    """With 20 of them before the video, a still video keeps its labels at any temperature: they take all of the best places."""
    frame = torch.randn(1, 8, 4, 5, generator=torch.Generator().manual_seed(0))
    first = torch.eye(20).unflatten(1, (4, 5))
    settings = rule(context=20, topk=7, temperature=0.7)
    assert torch.allclose(propagate(frame.expand(3, -1, -1, -1), first, settings)[1:], first, atol=1e-6)
    # Five places for the first frame and its four copies, two for other tokens.
    mixed = propagate(frame.expand(2, -1, -1, -1), first, rule(context=4, topk=7, temperature=0.7))[1]
    assert ((mixed.flatten(1) > 1e-6).sum(0) > 1).all()


def test_the_context_is_the_first_frame_and_the_last_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    features, first = torch.randn(8, 6, 5, 5, generator=generator), torch.rand(2, 5, 5, generator=generator)
    soft = torch.rand(8, 2, 5, 5, generator=generator)

    def last(changed: int | None) -> Tensor:
        propagator = Propagator(features[0] if changed != 0 else -features[0], first, rule(context=3))
        for number in range(1, 7):
            propagator.remember(features[number], soft[number] if number != changed else 1 - soft[number])
        return propagator.step(features[7])

    plain = last(None)
    assert [bool((last(number) != plain).any()) for number in range(7)] == [True, False, False, False, True, True, True]


def test_the_radius_is_strict_and_not_for_the_first_frame() -> None:
    """A token looks for one like itself, three places to the left."""

    def found(settings: PropagationSettings, in_first: bool) -> float:
        frames = torch.zeros(3, 2, 1, 8)
        frames[:, 0] = 1
        frames[0 if in_first else 1, :, 0, 2] = frames[2, :, 0, 5] = torch.tensor([0.0, 1.0])
        label = torch.zeros(1, 1, 8)
        label[..., 2] = 1
        propagator = Propagator(frames[0], label if in_first else 0 * label, settings)
        propagator.remember(frames[1], 0 * label if in_first else label)
        return float(propagator.step(frames[2])[0, 0, 5])

    videowalk = {"topk": 1, "context": 1, "temperature": 0.01}
    assert found(rule(**videowalk, radius=3.0), in_first=False) == 0
    assert found(rule(**videowalk, radius=3.1), in_first=False) == 1
    assert found(rule(**videowalk, radius=1.0), in_first=True) == 1
    dino = {"variant": "dino", "topk": 1, "temperature": 0.01}
    assert found(rule(**dino, radius=3), in_first=True) == 1
    assert found(rule(**dino, radius=2), in_first=True) < 0.5


@pytest.mark.parametrize("variant", ["videowalk", "dino"])
def test_labels_move_with_what_they_belong_to(variant: str) -> None:
    generator = torch.Generator().manual_seed(0)
    scene = torch.randn(16, 5, 12, generator=generator)
    thing = torch.randn(16, 2, 3, generator=generator)
    frames, masks = scene.repeat(6, 1, 1, 1), torch.zeros(6, 5, 12)
    for number in range(6):
        frames[number, :, 1:3, number : number + 3] = thing
        masks[number, 1:3, number : number + 3] = 1
    soft = propagate(frames, torch.stack([1 - masks[0], masks[0]]), rule(variant=variant, topk=3, temperature=0.05))
    # What the thing hides in the first frame has not been seen there.
    seen = (masks[0] == 0) | (masks == 1)
    assert torch.equal(soft.argmax(1)[seen], masks.long()[seen])


# --- Encoders ---


def maps_of(encoder: Any, frames: Tensor, **settings: Any) -> tuple[Tensor, tuple[float, float]]:
    with torch.no_grad():
        parts = list(frame_maps(encoder, frames, MapSettings(**settings)))
    return torch.cat([part.features for part in parts]), parts[0].stride


def test_a_video_transformer_gives_slices() -> None:
    encoder, frames = tiny_vit(), noise(5, 24, 40)
    maps, stride = maps_of(encoder, frames, together=2, batch=4)
    assert (maps.shape, stride) == ((5, 32, 3, 5), (8, 8))
    doubled = frames[2:4].repeat_interleave(2, 0)[None]
    with torch.no_grad():
        tokens = encoder.forward_features(encoder.preprocess(doubled)).transpose(1, 2).unflatten(2, (2, 3, 5))
    assert torch.allclose(maps[2:4], tokens[0].transpose(0, 1), atol=1e-5)
    alone = maps_of(encoder, frames, batch=2)[0]
    assert torch.allclose(alone, maps_of(encoder, frames, batch=5)[0], atol=1e-5)
    assert not torch.allclose(alone, maps)
    assert not torch.allclose(alone, maps_of(encoder, frames, layer=0)[0])


def test_an_image_tower_takes_any_size() -> None:
    torch.manual_seed(0)
    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}
    encoder = FrameTower("vit_tiny_patch16_224", num_frames=1, image_size=32, **sizes, checkpoint=None).eval()
    frames = noise(2, 32, 32)
    with torch.no_grad():
        own = encoder.forward_features(encoder.preprocess(frames[:, None])).transpose(1, 2).unflatten(2, (4, 4))
    assert torch.allclose(maps_of(encoder, frames)[0], own, atol=1e-5)
    assert maps_of(encoder, noise(2, 21, 50))[0].shape == (2, 32, 3, 7)


def test_a_cnn_gives_maps_by_stage() -> None:
    torch.manual_seed(0)
    encoder = VideoResNet("r3d_18", width=4).eval()
    frames = noise(3, 36, 52)
    patch = encoder.smallest_clip[1]
    for layer, side in ((-1, patch), (0, 2)):
        maps, stride = maps_of(encoder, frames, layer=layer)
        assert stride == (side, side)
        # Places that show nothing but padding are removed.
        assert maps.shape[2:] == (-(-36 // side), -(-52 // side))


def test_encoders_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SettingError, match="BiGRU, which has no map of features"):
        LabelPropagation(BiGRU(hidden=8))
    beit = BEiTVideo("micro", image_size=32, num_frames=2, patch_size=8, embed_dim=32, depth=1, num_heads=2)
    with pytest.raises(SettingError, match=r"takes frames of 32 x 32 pixels, but these have 24 x 32; set data.size.exact"):
        maps_of(beit, noise(2, 24, 32))
    blind = tiny_vit()
    torch.nn.init.zeros_(blind.norm.weight)
    with pytest.raises(SettingError, match="the same everywhere or not finite"):
        maps_of(blind, noise(2, 32, 32))
    with pytest.raises(SettingError, match="has 2 blocks"):
        maps_of(tiny_vit(), noise(2, 32, 32), layer=5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variant": "stc"}, r"model\.rule\.variant is stc"),
        ({"topk": 0}, r"model\.rule\.topk is 0"),
        ({"radius": 0.0}, r"model\.rule\.radius is 0"),
        ({"variant": "dino", "radius": 2.5}, "dino takes a whole number"),
    ],
)
def test_impossible_rules(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        rule(**settings)


@pytest.mark.parametrize("variant", ["videowalk", "dino"])
@pytest.mark.parametrize("size", [(37, 51), (40, 56)])
def test_padding_never_wins(variant: str, size: tuple[int, int]) -> None:
    """A mask of everything stays one up to the last pixel, also where the last token is mostly padding."""
    method = LabelPropagation(tiny_vit(), rule=rule(variant=variant, context=8, radius=3, temperature=0.01)).eval()
    frames = noise(1, *size).expand(4, -1, -1, -1)
    full = torch.ones(30, 45, dtype=torch.uint8)
    with torch.no_grad():
        assert (method.propagate_mask(frames, full) == 1).all()
        corner = torch.zeros(size, dtype=torch.uint8)
        corner[24:, 32:] = 3
        found = method.propagate_mask(frames, corner)
    assert found.unique().tolist() == [0, 3]
    assert (found[1:, 30:, 40:] == 3).all()
    assert torch.equal(found[1], found[3])


# --- Measures ---


def test_dilation_by_a_disk() -> None:
    masks = torch.rand(2, 17, 23, generator=torch.Generator().manual_seed(0)) > 0.98
    rows, columns = torch.meshgrid(torch.arange(17), torch.arange(23), indexing="ij")
    for radius in (1, 2, 4):
        expected = torch.zeros_like(masks)
        for clip, y, x in masks.nonzero().tolist():
            expected[clip] |= (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
        assert torch.equal(dilated(masks, radius), expected)


def test_scores_of_known_masks() -> None:
    truth = torch.zeros(4, 20, 20, dtype=torch.uint8)
    truth[:, 4:12, 4:12] = 2
    truth[:, 14:18, 14:18] = 1
    truth[:, 0, 0] = 255
    moved = torch.where(truth == 2, 2, 0)
    scores = object_scores(moved, truth)
    assert scores.j.tolist() == [[0, 0], [1, 1]]
    assert scores.f.tolist() == [[0, 0], [1, 1]]
    empty = torch.zeros(1, 5, 5, dtype=torch.bool)
    assert float(jaccard(empty, empty)) == float(contour_f(empty, empty)) == 1


# --- Data and complete tests ---


def run(data: Any, folder: Path, **settings: Any) -> tuple[LabelPropagation, dict[str, float]]:
    method = LabelPropagation(tiny_vit(), **({"rule": rule()} | settings))
    callbacks = [ResultFile("propagation"), PropagatedVideos(2, 3)]
    trainer = lightning.Trainer(
        default_root_dir=folder, accelerator="cpu", logger=False, callbacks=callbacks, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    (found,) = trainer.test(method, data, verbose=False)
    return method, dict(found)


def recipe(name: str) -> list[str]:
    """Test with a recipe at small size."""
    layers = (f"configs/propagation/{name}.yaml", "configs/debug/tiny_propagation.yaml")
    return ["test", *(word for layer in layers for word in ("--config", str(ROOT / layer)))]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_builds(path: Path, tmp_path: Path) -> None:
    model = CLI([*recipe(path.stem)[1:], f"--trainer.default_root_dir={tmp_path}"], run=False).model
    assert isinstance(model, LabelPropagation)
    assert model.rule == PropagationSettings(context=5, radius=4, topk=10 if path.stem == "vip" else 7)
    head = path.read_text().split("seed_everything")[0]
    assert "arXiv" in head
    assert f"python main.py test --config configs/propagation/{path.name}" in head
    assert yaml.safe_load(path.read_text())["data"]["class_path"].endswith("Sequences")


def test_a_recipe_without_files(tmp_path: Path) -> None:
    main([*recipe("davis2017"), f"--trainer.default_root_dir={tmp_path}", "--trainer.enable_progress_bar=false"])
    result = json.loads((tmp_path / "results/syntheticsequences_propagation-000.json").read_text())
    metrics = result["metrics"]
    assert metrics["test/j_and_f"] == pytest.approx((metrics["test/j_mean"] + metrics["test/f_mean"]) / 2)
    assert 0 < metrics["test/copied_j_and_f"] < 100
    assert result["missed"] == {}
    assert (result["videos"], result["frames"]) == (3, 36)
    with (tmp_path / "results/syntheticsequences_propagation-000_sequences.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["sequence"] for row in rows] == [f"video_{number:04d}" for number in range(3)]
    # Each video has two objects, so the mean over objects is the mean over videos.
    assert np.mean([float(row["j_mean"]) for row in rows]) == pytest.approx(metrics["test/j_mean"])
    with Image.open(tmp_path / "pictures/0000000_propagated_video_0001.png") as picture:
        assert picture.width > picture.height
    with av.open(str(tmp_path / "videos/propagated_video_0001.mp4")) as film:
        assert sum(1 for _ in film.decode(video=0)) == 12


def test_generated_masks_are_those_of_the_objects() -> None:
    data = SyntheticSequences(2, frames=4, size=32, objects=2, background="black")
    data.setup("test")
    first, second = data.test_dataloader()
    assert (first.index.tolist(), second.index.tolist()) == ([0], [1])
    video, mask = first.stream("video").data, first.extra["mask"]
    assert (video.shape, mask.shape) == ((1, 1, 4, 32, 32, 3), (1, 4, 32, 32))
    assert mask.unique().tolist() == [0, 1, 2]
    assert (video[0, 0][mask[0] > 0] > 0).any(1).all()
    with pytest.raises(SettingError, match=r"only for python main\.py test"):
        data.setup("fit")


def test_davis(tmp_path: Path) -> None:
    write_davis(tmp_path)
    two = DAVIS2017Sequences(str(tmp_path), FrameSize(short=24))
    method, found = run(two, tmp_path / "two")
    assert two.sequence_names == ["blackswan", "camel"]
    assert method.test_record["sequences"].keys() == {"blackswan", "camel"}
    (batch, _) = two.test_dataloader()
    assert batch.stream("video").data.shape == (1, 1, 10, 24, 42, 3)
    assert batch.extra["mask"].shape == (1, 10, 48, 85)
    assert batch.extra["mask"].unique().tolist() == [0, 1, 2]
    assert 0 < found["test/copied_j_and_f"] < 100
    # One object; the list has pictures.
    one = DAVIS2016Sequences(str(tmp_path), max_frames=5, only=["bmx-bumps"])
    found = run(one, tmp_path / "one", rule=rule(variant="dino", radius=3, temperature=0.1))[1]
    assert found["test/j_and_f"] > 10
    assert next(iter(one.test_dataloader())).extra["mask"].unique().tolist() == [0, 1]


def test_broken_files_are_counted_and_named(tmp_path: Path) -> None:
    write_davis(tmp_path)
    (tmp_path / "JPEGImages/480p/camel/00003.jpg").write_bytes(b"nothing")
    method, _ = run(DAVIS2017Sequences(str(tmp_path), FrameSize(short=24)), tmp_path / "run")
    assert method.test_record["missed"] == {"camel": "00003.jpg: UnidentifiedImageError"}
    assert method.test_record["videos"] == 1
    result = json.loads(next((tmp_path / "run/results").glob("*.json")).read_text())
    assert result["missed"] == method.test_record["missed"]
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "Annotations/480p/blackswan/00004.png")
    with pytest.raises(SettingError, match="No video of the test could be read"):
        run(DAVIS2017Sequences(str(tmp_path), FrameSize(short=24)), tmp_path / "again")


def test_what_is_missing_of_davis(tmp_path: Path) -> None:
    def refused(message: str, folder: Path = tmp_path, **settings: Any) -> None:
        with pytest.raises(SettingError, match=message):
            DAVIS2017Sequences(str(folder), **settings).setup("test")

    refused("which is not a folder", tmp_path / "nowhere")
    refused(r"contains no ImageSets/2017/val\.txt")
    write_davis(tmp_path)
    refused("data.only names nobody", only=["nobody"])
    refused(r"The list .* does not exist", listed=str(tmp_path / "list.txt"))
    (tmp_path / "Annotations/480p/camel/00002.png").unlink()
    refused(r"has no mask for 1 of 9 frames, the first is 00002\.jpg")
    for path in (tmp_path / "Annotations/480p/blackswan").iterdir():
        path.unlink()
    (tmp_path / "Annotations/480p/blackswan").rmdir()
    refused(r"Annotations/480p/blackswan does not exist")
    with pytest.raises(SettingError, match=r"only for python main\.py test"):
        DAVIS2017Sequences(str(tmp_path)).setup("fit")
    folder = tmp_path / "run"
    with pytest.raises(SettingError, match=r"does not give; choose --data DAVIS2016Sequences"):
        main([*recipe("davis2017"), "--data=SyntheticMotion", "--data.train_videos=64", f"--trainer.default_root_dir={folder}"])


def test_vip(tmp_path: Path) -> None:
    for name, largest_class in (("videos1", 13), ("videos2", 19), ("videos3", 20)):
        for folder in ("Images", "Annotations/Category_ids"):
            (tmp_path / folder / name).mkdir(parents=True)
        for number in range(1, 5):
            colours, classes = np.zeros((32, 48, 3), np.uint8), np.zeros((32, 48), np.uint8)
            colours[8:24, 4 * number : 4 * number + 20] = 200
            classes[8:24, 4 * number : 4 * number + 20] = largest_class
            Image.fromarray(colours).save(tmp_path / "Images" / name / f"{number}.jpg")
            Image.fromarray(classes).save(tmp_path / "Annotations/Category_ids" / name / f"{number}.png")
    method, found = run(VIPSequences(str(tmp_path), FrameSize(long=32, multiple=8)), tmp_path / "run")
    assert method.test_record["missed"] == {"videos3": "class 20 of 0 to 19"}
    assert 10 < found["test/miou"] <= 100
    listed = tmp_path / "val.txt"
    listed.write_text("datasets/VIP/Images/videos2 datasets/VIP/Annotations/Category_ids/videos2\n")
    data = VIPSequences(str(tmp_path), FrameSize(long=32, multiple=8), str(listed))
    data.setup("test")
    assert data.sequence_names == ["videos2"]
    assert next(iter(data.test_dataloader())).stream("video").data.shape == (1, 1, 4, 16, 32, 3)


def write_jhmdb(root: Path, frames: int = 5, annotated: int = 4) -> None:
    for name in ("jump/one", "jump/two", "walk/three"):
        (root / "Rename_Images" / name).mkdir(parents=True)
        (root / "joint_positions" / name).mkdir(parents=True)
        for number in range(1, frames + 1):
            Image.fromarray(noise(1, 48, 64)[0].numpy()).save(root / "Rename_Images" / name / f"{number:05d}.png")
        still = np.random.default_rng(0).uniform(5, 40, (2, 15, 1)).repeat(annotated, 2)
        savemat(root / "joint_positions" / name / "joint_positions.mat", {"pos_img": still})
    (root / "splits").mkdir()
    (root / "splits/jump_test_split1.txt").write_text("one.avi 2\ntwo.avi 1\n")
    (root / "splits/walk_test_split1.txt").write_text("three.avi 2\n")


def test_jhmdb(tmp_path: Path) -> None:
    write_jhmdb(tmp_path)
    data = JHMDBSequences(str(tmp_path), FrameSize(exact=[64, 64]))
    method, found = run(data, tmp_path / "run", rule=rule(context=6))
    assert data.sequence_names == ["jump/one", "walk/three"]
    assert method.test_record["frames"] == 8
    # Nothing moves.
    assert found["test/copied_pck_0.1"] == 100
    assert 50 < found["test/pck_0.5"] <= 100
    assert found["test/pck_0.1"] <= found["test/pck_0.5"]
    assert (tmp_path / "run/pictures/0000000_propagated_jump_one.png").is_file()
    (tmp_path / "joint_positions/jump/one/joint_positions.mat").write_bytes(b"nothing")
    assert "jump/one" in run(data, tmp_path / "again")[0].test_record["missed"]
    listed = tmp_path / "list.txt"
    listed.write_text("data/joint_positions/jump/two/joint_positions.mat data/Rename_Images/jump/two\n")
    other = JHMDBSequences(str(tmp_path), listed=str(listed))
    other.setup("test")
    assert other.sequence_names == ["jump/two"]
    with pytest.raises(SettingError, match="no official list of split2"):
        JHMDBSequences(str(tmp_path), benchmark="split2").setup("test")


@pytest.mark.parametrize(
    ("size", "stored", "expected"),
    [
        (FrameSize(), (48, 85), (48, 85)),
        (FrameSize(exact=[480, 880]), (480, 854), (480, 880)),
        (FrameSize(short=480, multiple=64), (1080, 1920), (480, 832)),
        (FrameSize(short=480, multiple=64), (1920, 1080), (832, 480)),
        (FrameSize(long=880, multiple=64), (720, 1280), (448, 880)),
        (FrameSize(short=240), (480, 854), (240, 427)),
    ],
)
def test_sizes_of_frames(size: FrameSize, stored: tuple[int, int], expected: tuple[int, int]) -> None:
    assert size.of(*stored) == expected


def test_impossible_sizes() -> None:
    with pytest.raises(SettingError, match="set only one"):
        FrameSize(short=480, exact=[480, 880])
    with pytest.raises(SettingError, match="a height and a width"):
        FrameSize(exact=[480])
    with pytest.raises(SettingError, match="have the other below 64"):
        FrameSize(long=64, multiple=64).of(480, 854)


def real_davis(**settings: Any) -> LabelledSequenceData:
    root = REAL / "davis2016_val"
    if not (root / "ImageSets/2016/val.txt").is_file():
        pytest.skip(f"{root} is missing; set REAL_DIR")
    return DAVIS2016Sequences(str(root), **settings)


def test_the_real_davis(tmp_path: Path) -> None:
    data = real_davis(size=FrameSize(short=48), only=["blackswan", "camel"], max_frames=4)
    method, found = run(data, tmp_path)
    assert method.test_record["missed"] == {}
    assert 20 < found["test/j_mean"] <= 100
