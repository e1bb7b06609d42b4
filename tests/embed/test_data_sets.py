"""Features of data sets: of every kind with an encoder, with labels, captions and evaluation clips."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from datamodules.generated.motion import SyntheticMotion
from datamodules.generated.skeleton import SyntheticSkeleton
from datamodules.sets.feature_sequences import FeatureSequences
from datamodules.sets.utd_mhad import ACTIONS, UTDMHAD
from datamodules.settings import ListSettings, LoadSettings, ReadSettings
from datamodules.skeleton.clips import SkeletonClipSettings
from datamodules.streams.settings import SignalSettings, StreamSettings
from datamodules.video.samplers import Dense, Segments, Spanning
from datamodules.video.sampling import ClipSettings
from modules.backbones.skeleton.gru import BiGRU
from modules.convert.command import convert
from modules.convert.load import Loaded, load_backbone
from modules.core.errors import SettingError
from modules.embed.collection import read_collection
from modules.embed.encode import encode
from modules.embed.reading import Read, Samples
from modules.embed.sampling import known_clip, sampler_of, signal_of
from modules.embed.source import open_data
from tests.datamodules.sets.utd_files import write_official
from tests.embed.helpers import embed, embed_data, rows_of
from tests.registry import FRAMES, SIDE


@pytest.fixture(scope="module")
def skeleton(folder: Path) -> Path:
    """The folder, which also has an encoder of skeletons."""
    torch.manual_seed(0)
    state = {f"backbone.{key}": value.contiguous() for key, value in BiGRU(8, 1).state_dict().items()}
    save_file(state, folder / "gru.raw.safetensors")
    convert(folder / "gru.raw.safetensors", folder / "gru.safetensors")
    return folder


def made_by(network: Any, clips: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        features: torch.Tensor = network(network.preprocess(clips))
    return features


@pytest.mark.parametrize("split", ["train", "val"])
def test_generated_clips_have_the_sizes_of_the_encoder(folder: Path, tmp_path: Path, split: str) -> None:
    words = [
        "--data=SyntheticMotion",
        "--data.train_videos=5",
        "--data.val_videos=4",
        "--data.batch_size=2",
        f"--split={split}",
    ]
    found = embed_data(folder, tmp_path / "features", *words, "--store=float32", "--batch_size=2")
    data = SyntheticMotion(ClipSettings(frames=FRAMES, size=SIDE), 2, train_videos=5, val_videos=4)
    loader: Any = data.train_once() if split == "train" else data.val_dataloader()
    batches = list(loader)
    clips = torch.cat([batch.stream("video").data[:, 0] for batch in batches])
    assert torch.allclose(found["feature"], made_by(load_backbone(folder / "vit.safetensors"), clips), atol=1e-5)
    labels = [data.class_names[label] for batch in batches for label in batch.label.tolist()]
    assert [row["label"] for row in rows_of(tmp_path / "features")] == labels
    assert rows_of(tmp_path / "features")[1]["path"] == f"{split}/000001"
    collection = read_collection(tmp_path / "features")
    assert collection.time is None
    assert collection.root is None
    assert (collection.passport["data"], collection.passport["split"]) == ("SyntheticMotion", split)


def test_skeletons_by_an_encoder_of_skeletons(skeleton: Path, tmp_path: Path) -> None:
    words = ["--data=SyntheticSkeleton", "--data.train_clips=3", "--data.val_clips=4", "--split=val", "--frames=8", "--clips=1"]
    found = embed_data(skeleton, tmp_path / "features", *words, "--store=float32", encoder="gru")
    data = SyntheticSkeleton(SkeletonClipSettings(8), 1, LoadSettings(0), train_clips=3, val_clips=4)
    data.setup("fit")
    batches: list[Any] = list(data.val_dataloader())
    clips = torch.cat([batch.stream("skeleton").data[:, 0] for batch in batches])
    assert torch.allclose(found["feature"], made_by(load_backbone(skeleton / "gru.safetensors"), clips), atol=1e-5)
    assert [row["label"] for row in rows_of(tmp_path / "features")] == [data.class_names[int(one.label)] for one in batches]
    with pytest.raises(SettingError, match="--stride is 2, which --data SyntheticSkeleton does not take; leave it out"):
        embed_data(skeleton, tmp_path / "none", *words, "--stride=2", encoder="gru")
    with pytest.raises(SettingError, match="of skeleton, but --data SyntheticMotion gives video; pass other data"):
        embed_data(skeleton, tmp_path / "none", "--data=SyntheticMotion", encoder="gru")
    with pytest.raises(SettingError, match="is an encoder of skeleton, not of videos"):
        embed(skeleton, tmp_path / "none", encoder="gru")


def test_one_stream_of_recordings_with_several(skeleton: Path, tmp_path: Path) -> None:
    for layout in ("whole", "broken"):
        write_official(tmp_path / layout)
    (tmp_path / "broken/Skeleton/a2_s4_t1_skeleton.mat").write_bytes(b"broken")
    words = ["--data.streams.names=[skeleton]", "--split=test", "--frames=4", "--stride=1", "--store=float32"]
    found, fewer = (
        embed_data(
            skeleton, tmp_path / f"of_{layout}", "--data=UTDMHAD", f"--data.root={tmp_path / layout}", *words, encoder="gru"
        )
        for layout in ("whole", "broken")
    )
    rows = rows_of(tmp_path / "of_whole")
    assert len(rows) == len(found["feature"]) == 4
    assert [row["label"] for row in rows] == [ACTIONS[int(Path(row["path"]).name[1]) - 1] for row in rows]
    assert (found["time"][:, 1] > found["time"][:, 0]).all()
    kept = [place for place, row in enumerate(rows) if "a2_s4" not in row["path"]]
    assert torch.allclose(fewer["feature"], found["feature"][kept], atol=1e-6)
    assert "a2_s4_t1" in (tmp_path / "of_broken.bad.tsv").read_text()


def test_signals_are_prepared_as_in_training(tmp_path: Path) -> None:
    write_official(tmp_path)
    noted = (
        "data: {init_args: {clip: {frames: 3, sampler: {class_path: Segments}}, streams: {signal: {steps: 7, offset: 9.0}}}}"
    )
    loaded = Loaded(torch.nn.Identity(), 7, None, None, {"config": noted, "frames": 7})
    known, signal = known_clip(loaded, None, None, 1), signal_of(loaded)
    assert (known["frames"], known["sampler"], signal) == (3, Segments(), {"steps": 7})
    data = UTDMHAD(str(tmp_path), streams=StreamSettings(["signal"]))
    reader = Samples(open_data(data, "val", "signal", known, signal, 0))
    assert len(reader) == 4
    clips = reader.read(0).clips
    assert clips is not None
    assert clips.shape == (1, 6, 7)
    longer = UTDMHAD(str(tmp_path), streams=StreamSettings(["signal"], signal=SignalSettings(steps=11)))
    clips = Samples(open_data(longer, "val", "signal", known, signal, 0)).read(0).clips
    assert clips is not None
    assert clips.shape == (1, 6, 11), "what the user sets comes first"


def test_a_data_set_of_video_files_is_the_same_as_its_folder(folder: Path, tmp_path: Path) -> None:
    words = ["--data=VideoFolder", f"--data.root={folder / 'motion'}", "--split=val"]
    found = embed_data(folder, tmp_path / "data", *words, "--every=0.5")
    same = embed(folder, tmp_path / "folder", f"--source={folder / 'motion/val'}", "--every=0.5")
    assert found.keys() == same.keys()
    assert all(torch.equal(found[name], same[name]) for name in found)
    assert (tmp_path / "data.csv").read_bytes() == (tmp_path / "folder.csv").read_bytes()
    with pytest.raises(SettingError, match="--split is val, which --data VideoFolder does not have here; pass --split train"):
        embed_data(folder, tmp_path / "none", "--data=VideoFolder", f"--data.root={folder / 'motion/val'}", "--split=val")


def test_parts_of_files_with_captions_and_several_labels(folder: Path, tmp_path: Path) -> None:
    video = next((folder / "motion/val").rglob("*.mp4"))
    (tmp_path / "train.csv").write_text(
        f"path,start,end,label,caption\n{video},,,left;up,it moves\n{video},0,1.2,up,\n{video},1.2,,left,it stops\n"
    )
    words = ["--data=ListedStreams", f"--data.root={tmp_path}", "--data.streams.names=[video]", "--store=float32"]
    found = embed_data(folder, tmp_path / "features", *words)
    rows = rows_of(tmp_path / "features")
    assert list(rows[0]) == ["path", "label", "start", "end", "caption"]
    assert [(row["label"], row["start"], row["end"], row["caption"]) for row in rows] == [
        ("left;up", "", "", "it moves"),
        ("up", "0", "1.2", ""),
        ("left", "1.2", "", "it stops"),
    ]
    # 12 frames of 12 per second, in the middle of the 14 frames of the part; the clip has every third.
    assert found["time"][1].tolist() == pytest.approx([1 / 12, 10 / 12], abs=1e-3)
    assert float(found["time"][2, 0]) >= 1.2 - 1e-3
    windows = embed_data(folder, tmp_path / "windows", *words, "--every=0.6")
    assert windows["length"].tolist() == [4, 2, 3]
    assert windows["time"][2, :3].flatten().tolist() == pytest.approx([1.2, 1.8, 1.8, 2.4, 2.4, 1.2 + 18 / 12], abs=1e-3)
    assert not torch.equal(windows["feature"][1, 0], windows["feature"][2, 0])
    assert torch.equal(windows["feature"][1, 0], windows["feature"][0, 0])
    lists = ListSettings(train=str(tmp_path / "windows.csv"))
    data = FeatureSequences(str(tmp_path), lists, batch_size=1, reading=ReadSettings(num_workers=0), seed=0)
    data.setup("fit")
    batches: list[Any] = list(data.train_once())
    assert [batch.text().first[0] for batch in batches] == ["it moves", "", "it stops"]
    assert batches[0].label.tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize(
    ("noted", "sampler"),
    [
        ("{class_path: datamodules.video.samplers.Segments, init_args: {short: spread}}", Segments("spread")),
        ("{class_path: Spanning, init_args: {stride: 2}}", Spanning(2)),
        ("{class_path: Jittered, init_args: {stride: 5}}", Dense(5)),
        ("{class_path: OrderedClips, init_args: {gap: 5}}", Dense(3)),
        ("{class_path: Segments, init_args: {unknown: 1}}", Dense(3)),
    ],
)
def test_frames_are_chosen_as_in_training(noted: str, sampler: Any) -> None:
    config = f"data: {{init_args: {{clip: {{sampler: {noted}}}}}}}"
    loaded = Loaded(torch.nn.Identity(), 4, None, 3, {"config": config})
    assert sampler_of(loaded, None) == sampler
    assert sampler_of(loaded, 7) == Dense(7)
    assert sampler_of(loaded._replace(stride=None, passport={}), None) is None


def test_clips_by_other_samplers_stay_in_their_windows(folder: Path, tmp_path: Path) -> None:
    words = ["--data=VideoFolder", f"--data.root={folder / 'motion'}", "--split=val", "--data.clip.sampler=Segments"]
    found = embed_data(folder, tmp_path / "features", *words, "--every=1", "--store=float32")
    assert found["length"].tolist() == [3, 3]
    passport = json.loads((tmp_path / "features.json").read_text())
    assert passport["sampling"]["sampler"] == "Segments(short='first_frame')"


class _Sum(torch.nn.Module):
    """Features that identify their clips."""

    kind = "signal"

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def preprocess(self, clip: torch.Tensor) -> torch.Tensor:
        return clip

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        return clip.sum((1, 2))[:, None] * self.weight


def test_signals_of_unequal_length_and_numbers_that_a_file_cannot_hold() -> None:
    reads = [Read(row, torch.full((1, 2, row + 3), 1.0), torch.zeros(1, 2), "", str(row)) for row in (0, 1, 2)]
    steps = encode(_Sum(), [*reads, Read(3, None, torch.zeros(0, 2), "broken")], "pooled", 2, False, "float32")
    assert steps.feature.flatten().tolist() == [6.0, 8.0, 10.0]
    assert steps.faults == {3: "broken"}
    assert steps.about[2] == ("2", "")
    with pytest.raises(SettingError, match="not finite as float16; pass --store float32"):
        encode(_Sum(), [Read(0, torch.full((1, 2, 3), 1e5), torch.zeros(1, 2), "")], "pooled", 2, False, "float16")
