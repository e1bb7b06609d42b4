"""Long generated videos: correct segments, windows and features that are functions of their keys, and resuming."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from datamodules import OrderedClips, SyntheticLongVideos
from datamodules.loading.loader import ResumableLoader
from datamodules.loading.single_pass import fingerprint
from datamodules.settings import LoadSettings
from datamodules.video.sampling import ClipSettings
from main import main
from modules.core.batch import Batch
from modules.core.errors import SettingError
from modules.downstream.metrics.probes import knn_accuracy
from modules.runs.cli import CLI
from modules.scenes.classes import MOTION_CLASSES
from modules.scenes.long import FeatureSettings, LongSettings, LongVideos

pytestmark = pytest.mark.usefixtures("one_thread")
CONFIG = Path(__file__).parents[2] / "configs/data/synthetic_long.yaml"
CLASSES = len(MOTION_CLASSES)
FEATURES = FeatureSettings(step=1.0, width=16)


def small(workers: int = 0, features: FeatureSettings | None = None, **settings: Any) -> SyntheticLongVideos:
    sizes = {"batch_size": 4, "train_videos": 22, "val_videos": 7, "probe_samples": 6}
    values = {"clip": ClipSettings(frames=4, size=16, clips=3), **sizes, **settings}
    return SyntheticLongVideos(reading=LoadSettings(workers), features=features, **values)


def assert_same(one: Batch, other: Batch) -> None:
    assert torch.equal(one.index, other.index)
    assert torch.equal(one.label, other.label)
    assert one.kinds == other.kinds
    for name in one.kinds:
        assert torch.equal(one.stream(name).data, other.stream(name).data)
    assert one.extra.keys() == other.extra.keys()
    for name, value in one.extra.items():
        assert torch.equal(value, other.extra[name]), name


def test_segments_fill_the_video_and_show_its_class() -> None:
    settings = LongSettings((10, 1200), (2, 6), share=0.5)
    videos = LongVideos(torch.arange(300), "train", 0, settings)
    assert videos.duration.min() >= 10
    assert videos.duration.max() < 1200
    assert videos.duration.log().std() > 1
    assert torch.equal(videos.start[:, 1:], videos.end[:, :-1])
    assert torch.equal(videos.end.amax(1), videos.duration)
    last = videos.there.sum(1, keepdim=True) - 1
    length = (videos.end - videos.start).scatter(1, last, 4.0)[videos.there]
    assert (length > 2 - 1e-9).all()
    assert (length < 6).all()
    assert torch.equal(videos.motion >= 0, videos.there)
    own = (videos.motion == videos.label[:, None]) & videos.there
    assert own.any(1).all()
    share = own.sum() / videos.there.sum()
    assert abs(share - (0.5 + 0.5 / CLASSES)) < 0.01
    # A time is in its segment; the end of the video belongs to the last one.
    moments = torch.stack([videos.duration * part for part in (0.0, 0.3, 0.7, 1.0)], 1)
    found = videos.segment_at(moments)
    assert (videos.start.gather(1, found) <= moments).all()
    assert (videos.end.gather(1, found) >= moments).all()
    assert torch.equal(found[:, 3:], last)


def test_a_window_is_the_same_as_in_the_whole_video() -> None:
    videos = LongVideos(torch.arange(3), "train", 0, LongSettings((10, 12), backgrounds=["black", "texture"]))
    moments = torch.arange(40).double().expand(3, 40) / 4
    whole = videos.render(moments, 16)
    alone = LongVideos(torch.tensor([2]), "train", 0, videos.settings)
    assert torch.equal(alone.render(moments[:1, 12:20].view(1, 2, 4), 16).flatten(1, 2)[0], whole[2, 12:20])
    # At a cut there is another object; otherwise pictures change gradually, on one background.
    segment = videos.segment_at(moments)
    change = (whole[:, 1:].float() - whole[:, :-1].float()).abs().mean((2, 3, 4))
    cut = segment[:, 1:] != segment[:, :-1]
    assert change[cut].mean() > 1.5 * change[~cut].mean()


def test_windows_are_spread_and_labelled() -> None:
    videos = LongVideos(torch.arange(50), "train", 0, LongSettings())
    middle, drawn, later = (videos.windows(5, 8, epoch) for epoch in (None, 0, 1))
    for moments in (middle, drawn, later):
        assert moments.shape == (50, 5, 8)
        assert torch.allclose(moments.diff(dim=2), torch.tensor(1 / 8).double())
        assert moments.min() >= 0
        assert (moments[:, -1, -1] <= videos.duration + 1e-9).all()
        assert (moments[..., 0].diff(dim=1) > 0).all()
    assert not torch.equal(drawn, later)
    label = videos.labels(middle)
    for row, moments in enumerate(middle[:5]):
        for number, window in enumerate(moments):
            second = float(window.mean())
            (segment,) = ((videos.start[row] <= second) & (second < videos.end[row])).nonzero()[:, 0]
            assert label[row, number] == videos.motion[row, segment]


def test_no_single_frame_tells_the_segment_but_windows_do() -> None:
    videos = LongVideos(torch.arange(700), "train", 0, LongSettings((10, 10), (2.5, 2.5), share=0))
    # Whole segments: all four of each video.
    moments = videos.start[:, :4, None] + 2.49 * torch.linspace(0, 1, 5).double()
    pictures, label = videos.render(moments, 12).flatten(0, 1), videos.motion[:, :4].flatten()
    half = len(label) // 2
    bound = 3 * (1 / CLASSES / half) ** 0.5

    def knn(x: Tensor) -> float:
        x = x.flatten(1).float()
        return knn_accuracy(x[:half], label[:half], x[half:], label[half:])

    for t in (0, 4):
        assert abs(knn(pictures[:, t]) - 1 / CLASSES) < bound
    assert knn(pictures[:, 1:].float() - pictures[:, :-1].float()) > 2.5 / CLASSES


def test_features_tell_what_segments_show() -> None:
    videos = LongVideos(torch.arange(60), "train", 0, LongSettings((20, 40), smooth=True))
    exact = [videos.features(number, FeatureSettings(noise=0)) for number in range(60)]
    made = [videos.features(number, FeatureSettings(noise=0.3)) for number in range(60)]
    for number, (feature, time, label) in enumerate(made):
        steps = int(videos.duration[number])
        assert feature.shape == (steps, 128)
        assert torch.equal(time, torch.arange(steps) + 0.5)
        assert torch.equal(label, videos.motion[number, videos.segment_at(time.double().expand(60, -1))[number]])
    features, label = torch.cat([one[0] for one in made]), torch.cat([one[2] for one in made])
    noise = features - torch.cat([one[0] for one in exact])
    assert abs(noise.std() - 0.3) < 0.01
    assert 0.6 < torch.cat([one[0] for one in exact]).std() < 1.4
    half = len(label) // 2
    assert knn_accuracy(features[:half], label[:half], features[half:], label[half:]) > 3 / CLASSES
    # The most frequent class of the segments is mostly that of the video.
    counts = torch.stack([one[2].bincount(minlength=CLASSES) for one in made])
    assert (counts.argmax(1) == videos.label).float().mean() > 0.6


def test_batches_of_windows() -> None:
    data = small(clip=ClipSettings(frames=4, size=16, clips=3, repeat=2))
    batches = list(data.train_dataloader())
    assert len(batches) == 5
    for batch in batches:
        video = batch.stream("video")
        assert video.data.shape == (4, 6, 4, 16, 16, 3)
        assert video.data.dtype == torch.uint8
        assert batch.kinds == data.streams
        assert video.time is not None
        assert video.time.shape == (4, 6, 2)
        assert torch.allclose(video.time[..., 1] - video.time[..., 0], torch.tensor(3 / 8))
        assert torch.equal(batch.label, batch.index % CLASSES)
        for value in (video.data, video.time, batch.extra["segment_label"]):
            pairs = value.unflatten(1, (3, 2))
            assert torch.equal(pairs[:, :, 0], pairs[:, :, 1])
            assert not torch.equal(video.data[:, 0], video.data[:, 2])
        bounds, found = batch.extra["segment"], batch.extra["segment_class"]
        assert (bounds[..., 1] > bounds[..., 0])[found >= 0].all()
        assert (found[:, 0] >= 0).all()
    assert torch.cat([batch.index for batch in data.val_dataloader()]).tolist() == list(range(7))
    assert torch.cat([batch.index for batch in data.probe_dataloader()]).tolist() == list(range(6))


def test_batches_of_features() -> None:
    data = small(features=FEATURES)
    for batch in data.val_dataloader():
        feature = batch.stream("feature")
        assert batch.kinds == data.streams == {"feature": "feature"}
        assert feature.length is not None
        steps = int(feature.length.max())
        assert feature.data.shape == (len(batch.index), 1, steps, 16)
        assert feature.data.dtype == torch.float32
        for row, length in enumerate(feature.length.tolist()):
            assert (feature.data[row, 0, length:] == 0).all()
            assert (batch.extra["step_label"][row, length:] == -1).all()
            assert (batch.extra["step_label"][row, :length] >= 0).all()
            assert feature.time is not None
            assert feature.time[row, 0].tolist() == [0, length]


@pytest.mark.parametrize("features", [None, FEATURES])
def test_samples_are_functions_of_seed_epoch_and_index(features: FeatureSettings | None) -> None:
    loader = small(features=features).train_dataloader()
    batch = loader.read(3, [5, 11, 2])
    for row, index in enumerate((5, 11, 2)):
        alone = loader.read(3, [index])
        for name in batch.kinds:
            one, many = alone.stream(name).data[0], batch.stream(name).data[row]
            assert torch.equal(one, many if features is None else many[:, : one.shape[1]])
    later, other = loader.read(4, [5, 11, 2]), small(features=features, seed=1).train_dataloader().read(3, [5, 11, 2])
    (name,) = batch.kinds
    assert not torch.equal(other.stream(name).data[..., :3], batch.stream(name).data[..., :3])
    # Features of an encoder would not change; windows are at other positions in the next epoch.
    assert torch.equal(later.stream(name).data, batch.stream(name).data) is (features is not None)
    assert fingerprint(loader.dataset) == fingerprint(small(features=features).train_dataloader().dataset)


def batches_of(loader: ResumableLoader, epoch: int) -> list[Batch]:
    loader.batches.sampler.set_epoch(epoch)
    return list(loader)


@pytest.mark.parametrize("features", [None, FEATURES])
def test_order_is_that_of_the_epoch_with_any_number_of_workers(features: FeatureSettings | None) -> None:
    loader = small(features=features).train_dataloader()
    first, second, again = (batches_of(loader, epoch) for epoch in (0, 1, 0))
    assert not torch.equal(first[0].index, second[0].index)
    with_workers = batches_of(small(workers=2, features=features).train_dataloader(), 0)
    for one, *others in zip(first, again, with_workers, strict=True):
        for other in others:
            assert_same(one, other)


def test_goes_on_where_it_was_stopped() -> None:
    data = small()
    loader = data.train_dataloader()
    loader.batches.sampler.set_epoch(1)
    whole, seen = batches_of(small().train_dataloader(), 1), []
    for batch in loader:
        seen.append(batch)
        if len(seen) == 2:
            break
    state = data.state_dict()
    fresh = small()
    fresh.load_state_dict(state)
    rest = batches_of(fresh.train_dataloader(), 1)
    assert len(rest) == 3
    for one, other in zip(whole, seen + rest, strict=True):
        assert_same(one, other)


def test_a_single_pass_sees_the_windows_of_evaluation() -> None:
    data = small()
    passed = list(data.train_once())
    assert torch.cat([batch.index for batch in passed]).tolist() == list(range(22))
    assert_same(passed[0], next(iter(data.probe_dataloader())))
    assert data.train_dataloader().dataset.train  # type: ignore[attr-defined]
    assert data.tested_in_training() == 0
    val = next(iter(data.val_dataloader()))
    assert not torch.equal(passed[0].stream("video").data, val.stream("video").data)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (lambda: small(batch_size=23), "data.batch_size"),
        (lambda: small(clip=ClipSettings(frames=100, size=16)), "data.clip.frames"),
        (lambda: small(clip=ClipSettings(frames=4, size=16, clips=2, sampler=OrderedClips())), "data.clip.sampler"),
        (lambda: small(features=FeatureSettings(step=11)), "data.features.step"),
        (lambda: small(seed=-1), "data.seed"),
        (lambda: LongSettings(duration=(20, 10)), "data.long.duration"),
        (lambda: LongSettings(segment=(0, 4)), "data.long.segment"),
        (lambda: LongSettings(share=1.5), "data.long.share"),
        (lambda: LongSettings(backgrounds=["images"]), "data.long.backgrounds"),
        (lambda: LongSettings(fps=0), "data.long.fps"),
        (lambda: FeatureSettings(width=0), "data.features.width"),
        (lambda: FeatureSettings(noise=-1), "data.features.noise"),
    ],
)
def test_impossible_settings_name_what_to_change(settings: Any, name: str) -> None:
    with pytest.raises(SettingError, match=name.replace(".", r"\.")):
        settings()


def test_windows_train_a_video_method(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    layers = ["--config", str(root / "configs/videomae.yaml"), "--config", str(root / "configs/debug/tiny.yaml")]
    data = ["--data=SyntheticLongVideos", "--data.train_videos=4", "--data.val_videos=2", "--data.probe_samples=2"]
    data += ["--data.batch_size=2", "--data.reading.num_workers=0", "--data.clip.frames=4", "--data.clip.size=32"]
    main(["fit", *layers, *data, f"--trainer.default_root_dir={tmp_path}", "--trainer.enable_progress_bar=false"])
    assert (tmp_path / "checkpoints/last.ckpt").is_file()


def test_the_layer_of_features_builds_and_serves_batches(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    layers = [str(root / "configs/videomae.yaml"), str(root / "configs/debug/tiny.yaml"), str(CONFIG)]
    words = [word for layer in layers for word in ("--config", layer)]
    words += ["--data.reading.num_workers=0", "--data.train_videos=4", "--data.batch_size=2", "--data.long.duration=[10,20]"]
    data = CLI([*words, f"--trainer.default_root_dir={tmp_path}"], run=False).datamodule
    assert isinstance(data, SyntheticLongVideos)
    chosen = yaml.safe_load(CONFIG.read_text())["data"]["init_args"]
    assert data.features == FeatureSettings(**chosen["features"])
    assert next(iter(data.train_dataloader())).stream("feature").data.shape[-1] == 128
