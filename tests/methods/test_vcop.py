"""VCOP: shuffled tuples, places through the encoder together or one by one, what is logged and drawn, refusals, recipes."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from datamodules.generated.long import SyntheticLongVideos
from datamodules.generated.motion import SyntheticMotion
from datamodules.lists.manifest import Manifest
from datamodules.lists.packed import PackedStrings
from datamodules.loading.loader import SampleKey
from datamodules.video.crops import Stretched
from datamodules.video.dataset import VideoClipDataset
from datamodules.video.samplers import Dense, OrderedClips
from datamodules.video.sampling import ClipSettings
from main import main
from modules.backbones.cnn.c3d import C3D
from modules.backbones.cnn.clip_order import ClipOrderResNet
from modules.backbones.depth import Depth
from modules.core.batch import Batch, Stream
from modules.core.errors import SettingError
from modules.layers.tuple_head import PairNorm, TupleHead
from modules.methods.vcop import VCOP
from modules.runs.cli import CLI
from tests.registry import FRAMES, SIDE, tiny_cnn, video_batch

ROOT = Path(__file__).parents[2]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def method(places: int = 3, **settings: Any) -> VCOP:
    torch.manual_seed(0)
    return VCOP(tiny_cnn(), places, 16, **settings)


def test_tuples_are_shuffled_by_the_permutation_of_their_label() -> None:
    """All permutations are equally likely, and the clip at place k is the clip of the original index `order[k]`."""
    vcop = method()
    video = torch.arange(3)[None, :, None].expand(6000, 3, 1)
    clips, label = vcop.shuffle(video, generator())
    assert torch.equal(clips[..., 0], vcop.orders[label])
    counts = label.bincount(minlength=6)
    # Chi-square of 5 degrees of freedom: 20.5 at 0.1 %.
    assert (counts - 1000).square().sum() / 1000 < 20.5
    assert not torch.equal(label, vcop.shuffle(video, generator(1))[1])


@pytest.mark.parametrize("places", [2, 3, 4])
def test_sizes_of_the_head(places: int) -> None:
    """Statement 1."""
    assert method(3).orders[4].tolist() == [2, 0, 1]
    assert VCOP(tiny_cnn(), places).head.fc8.in_features == 512 * places * (places - 1) // 2
    head = method(places).head
    assert head.fc7.in_features == 2 * tiny_cnn().embed_dim
    assert head.fc8.in_features == 16 * places * (places - 1) // 2
    assert head(torch.randn(5, places, tiny_cnn().embed_dim)).shape == (5, math.factorial(places))


def test_pairs_can_have_another_order_and_a_norm() -> None:
    """Against loops; OPN's order of pairs."""
    torch.manual_seed(0)
    pairs = [(0, 1), (1, 2), (2, 3), (0, 2), (1, 3), (0, 3)]
    head = TupleHead(8, 4, 12, pairs, hidden=6, dropout=0, norm=True)
    assert isinstance(head.norm, PairNorm)
    with torch.no_grad():
        head.norm.weight.uniform_(0.5, 2)
        head.norm.bias.normal_()
    features = torch.randn(5, 4, 8)
    each = (
        torch.stack([torch.cat([features[:, i], features[:, j]], 1) @ head.fc7.weight.T for i, j in pairs], 1) + head.fc7.bias
    )
    mean, variance = each.mean((0, 1)), each.var((0, 1), unbiased=False)
    normal = (each - mean) / (variance + 1e-5).sqrt() * head.norm.weight + head.norm.bias
    expected = normal.relu().reshape(5, -1) @ head.fc8.weight.T + head.fc8.bias
    torch.testing.assert_close(head(features), expected)


def test_places_together_equal_one_by_one_in_evaluation_only() -> None:
    """Statement 2."""
    video = video_batch(4, clips=3).stream("video").data
    ready = method().normalise(video.flatten(0, 1)).unflatten(0, (4, 3))
    together, single = method(), method(by_place=True)
    difference = (together.train().encode(ready) - single.train().encode(ready)).abs().max()
    assert difference > 1e-3
    one, other = method().eval().encode(ready), method(by_place=True).eval().encode(ready)
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_crops_differ_between_clips_and_not_within() -> None:
    """Statement 3, of the boxes: one for each clip, of the size of the crop."""
    crop, rng = Stretched(heights=(128,)), np.random.default_rng(0)
    boxes = [crop.boxes(320, 240, 112, 3, 1, rng) for _ in range(100)]
    assert sum(len(set(own)) == 3 for own in boxes) > 90
    # 112 of 171 columns and 112 of 128 rows.
    assert {round(box.width * 171 / 320) for own in boxes for box in own} == {112}
    assert {round(box.height * 128 / 240) for own in boxes for box in own} == {112}
    with pytest.raises(SettingError, match=r"crop\.heights is \[100\]; choose from 112, 128, 144"):
        Stretched(heights=(100,))


def test_frames_of_a_clip_have_one_crop(tmp_path: Path) -> None:
    """Statement 3, of the pixels: a clip of equal frames stays one, and the clips of a tuple differ."""
    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    (tmp_path / "frames").mkdir()
    for number in range(14):
        Image.fromarray(picture).save(tmp_path / "frames" / f"{number:02d}.png")
    clip = ClipSettings(frames=4, size=24, clips=3, sampler=OrderedClips(gap=1), crop=Stretched())
    manifest = Manifest(tmp_path, PackedStrings(["frames"]), np.array([0]), fps=12.0)
    sample = VideoClipDataset(manifest, clip, 0, train=True)[SampleKey(0, 0)]
    clips = np.asarray(sample["video"])
    assert sample["faults"] == []
    assert clips.shape == (3, 4, 24, 24, 3)
    assert (clips == clips[:, :1]).all()
    assert (clips[0] != clips[1]).any()
    assert (clips[1] != clips[2]).any()


def test_recipes_are_those_of_the_official_code(tmp_path: Path) -> None:
    """64 frames of a video, and the same rate in all epochs."""
    where = f"--trainer.default_root_dir={tmp_path}"
    for recipe in ("vcop", "finetune/cnn_vcop_ucf101"):
        config = f"--config={ROOT / 'configs' / recipe}.yaml"
        cli: Any = CLI([config, "--data=SyntheticMotion", where, "--data.train_videos=8", "--data.val_videos=8"], run=False)
        settings = cli.model.optim_settings
        assert [1e-3 * settings.factor(0, 300, 0.0)(epoch) for epoch in (0, 149, 299)] == [1e-3] * 3, recipe
        assert settings.rates(24) == (1e-3, 0.0)
        clip = cli.datamodule.clip
        if recipe == "vcop":
            assert clip.sampler.span(clip.clips, clip.frames) == 64
        else:
            assert clip.sampler == Dense(1)


def test_generated_tuples_are_parts_of_one_motion() -> None:
    clip = ClipSettings(frames=4, size=24, clips=3, sampler=OrderedClips(gap=2))
    data = SyntheticMotion(clip, 4, train_videos=8, val_videos=4)
    data.setup("fit")
    whole = SyntheticMotion(ClipSettings(frames=16, size=24), 4, train_videos=8, val_videos=4)
    whole.setup("fit")
    parts, video = data.dataset("train").video, whole.dataset("train").video[:, 0]
    assert parts.shape == (8, 3, 4, 24, 24, 3)
    for number in range(3):
        assert torch.equal(parts[:, number], video[:, 6 * number : 6 * number + 4])
    assert data.dataset("probe").video.shape[1] == 1


def test_data_without_order_are_refused() -> None:
    vcop = method()
    for sampler in (OrderedClips(), Dense()):
        clip = ClipSettings(frames=4, size=24, clips=3, sampler=sampler)
        data = SyntheticMotion(clip, 4, train_videos=8, val_videos=4)
        if isinstance(sampler, OrderedClips):
            vcop.take_data(data)
            continue
        with pytest.raises(SettingError, match=r"data\.clip\.sampler does not give them in order; set it to OrderedClips"):
            vcop.take_data(data)
    vcop.take_data(SyntheticLongVideos(ClipSettings(frames=4, size=24, clips=3)))
    vcop.take_data(None)
    with pytest.raises(SettingError, match=r"tuple of 3 clips of each video, not 2; set data\.clip\.clips to 3"):
        vcop.step(video_batch(2, clips=2), generator())
    with pytest.raises(SettingError, match=r"model\.places"):
        method(7)


def test_accuracy_is_next_to_chance_and_bars_show_both_orders() -> None:
    vcop = method().eval()
    output = vcop.step(video_batch(8, clips=3), generator())
    show = output["show"]
    right = (show["order"] == show["guess"]).all(1)
    assert float(output["log"]["top1"]) == pytest.approx(float(right.float().mean()))
    assert float(output["log"]["chance"]) == pytest.approx(1 / 6)
    assert 0 < int(right.sum()) < 8 or not right.any()
    pictures = vcop.pictures(output)
    assert set(pictures) == {"place_1", "place_2", "place_3"} == set(vcop.picture_notes())
    clips = show["clip"].unflatten(0, (8, 3))
    for place, (name, video) in enumerate(pictures.items()):
        assert video.shape == (8, FRAMES, SIDE, SIDE, 3), name
        assert torch.equal(video[:, :, 2:-2], clips[:, place, :, 2:-2])
        for row in range(8):
            above, below = video[row, 0, 0], video[row, 0, -1]
            for bar, known in ((above, show["order"]), (below, show["guess"])):
                # The lit part of the bar is the place in the video.
                lit = (bar != bar.mode(0).values).any(1).nonzero()[:, 0]
                middle = int(lit.float().mean() * 3 / SIDE)
                assert middle == int(known[row, place])


def test_depth_is_shuffled_too() -> None:
    depth = Batch(
        torch.arange(2), torch.zeros(2).long(), {"depth": Stream("depth", torch.randint(0, 4000, (2, 3, 4, 32, 32, 1)))}
    )
    vcop = VCOP(Depth(tiny_cnn()), hidden=16)
    output = vcop.step(depth, generator())
    assert output["loss"].isfinite()
    assert vcop.pictures(output)["place_1"].shape == (2, 4, 32, 32, 3)


def test_maps_and_smallest_clips() -> None:
    for network, frames in ((C3D(2), 8), (ClipOrderResNet("r3d", 2), 4), (ClipOrderResNet("r2plus1d", 2), 4)):
        clip = torch.randint(0, 256, (1, 16, 48, 32, 3), dtype=torch.uint8)
        network.eval()
        assert network.forward_features(network.preprocess(clip)).shape == (1, 16, 2, 3, 2)
        with pytest.raises(SettingError, match=rf"set data\.clip\.frames to {frames} or more"):
            network.check_clip(frames - 1, 32, 32)
    for build in (C3D, lambda width: ClipOrderResNet("r3d", width)):
        with pytest.raises(SettingError, match=r"model\.backbone\.width is 0"):
            build(0)


@pytest.mark.slow
def test_layer_for_ordered_clips(tmp_path: Path) -> None:
    """configs/debug/ordered_clips.yaml on the recipe."""
    layers = [f"--config={ROOT / 'configs' / name}" for name in ("vcop.yaml", "debug/ordered_clips.yaml")]
    small = ["--data.train_videos=8", "--data.val_videos=8", "--data.batch_size=4", "--trainer.max_epochs=1"]
    where = [f"--trainer.default_root_dir={tmp_path}", "--trainer.enable_progress_bar=false", "--trainer.log_every_n_steps=1"]
    main(["fit", *layers, *small, *where])
    assert (tmp_path / "pictures/0000001_place_2.png").is_file()
    curves = EventAccumulator(str(tmp_path)).Reload()
    (value,) = (event.value for event in curves.Scalars("val/chance"))
    assert value == pytest.approx(1 / 6)
    assert 0 <= curves.Scalars("val/top1")[-1].value <= 1
