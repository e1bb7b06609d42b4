"""Synthetic clips: no single frame reveals the motion, and batches follow their contract."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.generated.motion import SceneSettings, SyntheticMotion
from datamodules.settings import LoadSettings
from datamodules.video.sampling import ClipSettings
from modules.core.batch import Stream
from modules.core.errors import SettingError
from modules.downstream.metrics.probes import frame_difference, knn_accuracy, linear_accuracy, single_frame
from modules.motion.appearance import SHAPES
from modules.scenes.captioned import CaptionSettings, Stage
from modules.scenes.classes import MOTION_CLASSES
from modules.scenes.objects import SyntheticClips, make_clips
from modules.scenes.streams import PLANES, WorldStreams
from modules.scenes.world import WorldSettings
from modules.scenes.world_pictures import make_world

HALF = 1300
CHANCE = 1 / len(MOTION_CLASSES)
BOUND = 3 * (CHANCE * (1 - CHANCE) / HALF) ** 0.5


def state(made: SyntheticClips, t: int) -> Tensor:
    """All information of one frame about motion: position on the torus, size and angle, for a linear classifier."""
    box, angle = made.boxes[:, 0, t] / made.video.shape[3], torch.deg2rad(made.angle[:, t])
    centre = torch.pi * (box[:, :2] + box[:, 2:])
    parts = [centre / 6, centre.sin(), centre.cos(), box[:, 2:] - box[:, :2], made.size[:, t, None] / made.video.shape[3]]
    return torch.cat([*parts, angle.sin()[:, None], angle.cos()[:, None]], dim=1)


def knn(x: Tensor, y: Tensor) -> float:
    """Fitted to the first half of the clips, counted on the second."""
    return knn_accuracy(x[:HALF], y[:HALF], x[HALF:], y[HALF:])


def linear(x: Tensor, y: Tensor) -> float:
    """As above. A few steps are enough: there are many pixels, and a leak would be visible at once."""
    return linear_accuracy(x[:HALF], y[:HALF], x[HALF:], y[HALF:], iterations=25)


def test_no_single_frame_tells_the_motion() -> None:
    """Two probes on the pixels and on the true position, size and angle are at chance in the first, middle, last frame."""
    made = make_clips(2 * HALF, 8, 16, "train", 0)
    # Twelve comparisons with fixed seeds; by chance one of them would be off in one of thirty such sets.
    for t in (0, 4, -1):
        for name, features in (("pixels", single_frame(made.video, t)), ("state", state(made, t))):
            for probe in (knn, linear):
                accuracy = probe(features, made.motion)
                assert abs(accuracy - CHANCE) < BOUND, f"{probe.__name__} on {name} of frame {t}: {accuracy:.3f}"
    # The same probes see motion as soon as they may compare frames.
    assert knn(frame_difference(made.video), made.motion) > 5 * CHANCE
    change = state(made, -1) - state(made, 0)
    assert min(knn(change, made.motion), linear(change, made.motion)) > 4 * CHANCE


def test_small_drifts_give_no_frame_away_either() -> None:
    made = make_clips(2 * HALF, 8, 16, "train", 0, distractors=True)
    for t in (0, 4, -1):
        for accuracy in (
            knn(single_frame(made.video, t), made.motion),
            *(p(state(made, t), made.motion) for p in (knn, linear)),
        ):
            assert abs(accuracy - CHANCE) < BOUND, f"frame {t}: {accuracy:.3f}"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 65, "train_videos": 64}, "data.batch_size"),
        ({"clip": ClipSettings(frames=3, size=16)}, "data.clip.frames"),
        ({"backgrounds": ["black", "images"]}, "data.scene.background_folder"),
        ({"backgrounds": ["noise", "noise"]}, "data.scene.backgrounds"),
        ({"backgrounds": []}, "data.scene.backgrounds"),
        ({"object_size": (0.3, 0.9)}, "data.scene.object_size"),
        ({"object_size": (0.3, 0.31)}, "data.scene.object_size"),
        ({"val_videos": 0}, "data.val_videos"),
        ({"ground": True, "label": "object"}, "data.scene.ground"),
        ({"ground": True, "objects": False}, "data.scene.ground"),
        ({"ground": True, "captions": CaptionSettings()}, "data.scene.ground"),
        ({"ground": True, "streams": WorldStreams(flow=True)}, "data.scene.ground"),
        ({"objects": False, "world": WorldSettings(objects=2)}, "data.scene.objects"),
        ({"captions": CaptionSettings(), "streams": WorldStreams(track=True)}, "data.captions"),
        ({"clip": ClipSettings(frames=64, size=224), "train_videos": 100_000}, "data.train_videos"),
    ],
)
def test_impossible_settings_name_what_to_change(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message.replace(".", r"\.")):
        SyntheticMotion(**in_groups(settings))


def test_a_missing_folder_of_backgrounds_fails_at_setup(tmp_path: Path) -> None:
    data = small(backgrounds=["images"], background_folder=str(tmp_path / "nowhere"))
    with pytest.raises(SettingError, match="nowhere"):
        data.setup()


def in_groups(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of which those of the scene are one object."""
    scene = {field.name: settings[field.name] for field in fields(SceneSettings) if field.name in settings}
    return {name: value for name, value in settings.items() if name not in scene} | {"scene": SceneSettings(**scene)}


def small(clips: int = 1, repeat: int = 1, **settings: Any) -> SyntheticMotion:
    clip = ClipSettings(frames=4, size=16, clips=clips, repeat=repeat)
    sizes = {"batch_size": 8, "train_videos": 30, "val_videos": 13, "probe_samples": 10}
    return SyntheticMotion(clip, **sizes | in_groups(settings))


def test_a_ground_that_moves() -> None:
    data = small(clips=2, ground=True)
    for loader in (data.train_dataloader(), data.probe_dataloader(), data.val_dataloader()):
        batch = next(iter(loader))
        video = batch.stream("video").data
        assert (video[:, :, 1:] != video[:, :, :-1]).flatten(3).any(-1).any(2).all()
        assert (video == video[..., :1]).all()
        assert torch.equal(batch.label, batch.index % len(MOTION_CLASSES))
        assert (batch.extra["object"] == -1).all()


def test_batches_keep_the_contract() -> None:
    data = small(clips=2, repeat=3, backgrounds=["black", "texture"])
    batches = list(data.train_dataloader())
    assert len(batches) == 3
    for batch in batches:
        assert batch.stream("video").data.shape == (8, 6, 4, 16, 16, 3)
        assert batch.stream("video").data.dtype == torch.uint8
        assert batch.kinds == data.streams
        for value in (batch.index, batch.label, batch.extra["object"], batch.extra["background"]):
            assert value.shape == (8,)
            assert value.dtype == torch.int64
        # Copies of one clip lie next to each other and are equal; the two clips differ.
        clips = batch.stream("video").data.unflatten(1, (2, 3))
        assert (clips == clips[:, :, :1]).all()
        assert (clips[:, 0] != clips[:, 1]).flatten(1).any(1).all()
    index = torch.cat([batch.index for batch in batches])
    assert len(index.unique()) == 24
    made = make_clips(30, 4, 16, "train", 0, ["black", "texture"])
    assert torch.equal(torch.cat([batch.label for batch in batches]), made.motion[index])
    assert torch.equal(torch.cat([batch.extra["object"] for batch in batches]), made.object[index])
    assert torch.equal(torch.cat([batch.extra["background"] for batch in batches]), made.background[index])
    assert torch.equal(torch.cat([batch.stream("video").data[:, 0] for batch in batches]), made.video[index])


def test_order_changes_between_epochs_and_evaluation_keeps_it() -> None:
    data = small()
    loader = data.train_dataloader()
    orders = []
    for epoch in (0, 1, 0):
        loader.batches.sampler.set_epoch(epoch)
        orders.append(torch.cat([batch.index for batch in loader]))
    assert torch.equal(orders[0], orders[2])
    assert not torch.equal(orders[0], orders[1])
    # Evaluation serves the incomplete batch too.
    assert torch.cat([batch.index for batch in data.val_dataloader()]).tolist() == list(range(13))
    probe = list(data.probe_dataloader())
    assert torch.cat([batch.index for batch in probe]).tolist() == list(range(10))
    made = make_clips(10, 4, 16, "train", 0)
    assert torch.equal(torch.cat([batch.stream("video").data for batch in probe])[:, 0], made.video)


def test_labels_of_objects() -> None:
    data = small(label="object")
    assert data.class_names == list(SHAPES)
    for batch in data.val_dataloader():
        assert torch.equal(batch.label, batch.extra["object"])
    assert small().class_names == [c.name for c in MOTION_CLASSES]
    assert small().num_classes == 13


def test_bare_backgrounds_for_methods_that_paste() -> None:
    data = small(objects=False, backgrounds=["texture"], clips=2, repeat=2)
    for batch in data.train_dataloader():
        assert (batch.label == -1).all()
        assert (batch.extra["object"] == -1).all()
        # Still in time, and equal in all clips of a video: there is nothing but the background.
        assert (batch.stream("video").data == batch.stream("video").data[:, :1, :1]).all()
        assert batch.stream("video").data.max() < 160
    # Evaluation still uses moving objects on the same backgrounds.
    probe = next(iter(data.probe_dataloader()))
    assert probe.stream("video").data.shape == (8, 1, 4, 16, 16, 3)
    made = make_clips(8, 4, 16, "train", 0, ["texture"])
    assert torch.equal(probe.label, made.motion)
    assert torch.equal(probe.stream("video").data[:, 0], made.video)
    bare = next(iter(data.train_dataloader()))
    covered = make_clips(30, 4, 16, "train", 0, ["texture"]).video[bare.index]
    # Objects hide about a tenth of it.
    assert (bare.stream("video").data[:, 0] == covered).all(-1).float().mean() > 0.7
    assert (next(iter(data.val_dataloader())).label >= 0).all()


EVERY = WorldStreams(**dict.fromkeys(PLANES, True))


@pytest.mark.parametrize("workers", [0, 1])
def test_streams_of_the_generated_world(workers: int) -> None:
    world = WorldSettings(objects=2, contacts=True, identities=4, fps=10)
    reading = LoadSettings(num_workers=workers)
    data = small(clips=2, repeat=2, backgrounds=["texture"], world=world, streams=EVERY, reading=reading)
    assert data.streams == {"video": "video"} | PLANES
    views = [make_world(30, Stage(4, 16, "train", 0, ("texture",)), world, EVERY, view=view) for view in (0, 1)]
    for batch in data.train_dataloader():
        assert batch.kinds == data.streams
        for name in batch.kinds:
            stream = batch.stream(name)
            assert stream.data.shape[:3] == (8, 4, 4)
            assert stream.time is not None
            assert torch.equal(stream.time, torch.tensor([0, 0.3]).expand(8, 4, 2))
            # Copies of one clip lie next to each other.
            for place, view in enumerate((0, 0, 1, 1)):
                expected = views[view].streams[name]
                assert isinstance(expected, Stream)
                assert torch.equal(stream.data[:, place], expected.data[batch.index, 0])
        assert batch.stream("track").valid is not None
        assert torch.equal(batch.extra["identity"], batch.index % 4)
        assert torch.equal(batch.label, views[0].motion[batch.index])
    probe = next(iter(data.probe_dataloader()))
    assert probe.kinds == data.streams
    assert all(probe.stream(name).data.shape[:3] == (8, 1, 4) for name in probe.kinds)
    assert not torch.equal(next(iter(data.val_dataloader())).stream("flow").data, batch.stream("flow").data)


def test_streams_leave_the_video_as_it_is() -> None:
    plain, more = small(), small(streams=WorldStreams(depth=True), label="object")
    before, after = (next(iter(data.val_dataloader())) for data in (plain, more))
    assert torch.equal(before.stream("video").data, after.stream("video").data)
    for name in ("object", "background"):
        assert torch.equal(before.extra[name], after.extra[name])
    assert torch.equal(after.label, before.extra["object"])
    assert before.kinds == {"video": "video"}
    assert "identity" not in after.extra


def test_streams_count_as_memory() -> None:
    clip = ClipSettings(frames=16, size=64)
    SyntheticMotion(clip, train_videos=30_000, val_videos=100)
    with pytest.raises(SettingError, match=r"with flow, .* would take 22 GiB .* or leave some of data.streams out"):
        # 3 bytes of colour, 4 of flow, 2 of depth, and 1 of occlusion and of each mask.
        SyntheticMotion(clip, train_videos=30_000, val_videos=100, streams=EVERY)
