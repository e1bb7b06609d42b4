"""Invalid files are refused with one of a few fixed reasons, and never guessed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from datamodules.streams.readers import make_reader
from datamodules.streams.settings import FeatureSettings, SignalSettings, SkeletonSettings, TrackSettings
from datamodules.video.decode import DecodeError
from modules.core.batch import Kind
from tests.datamodules.streams.files import make_plan_of, settings, write_collection, write_csv, write_json, write_table

Maker = Callable[[Path], object]
SETTINGS = settings(
    signal=SignalSettings(),
    feature=FeatureSettings(whole=False),
    skeleton=SkeletonSettings(persons=2, origin=3),
    track=TrackSettings(),
)
GOOD: dict[Kind, tuple[str, Maker]] = {
    "signal": ("good.csv", lambda path: write_table(path)),
    "feature": ("good.safetensors#0", lambda path: write_collection(path.with_name("good.safetensors"))),
    "skeleton": ("good.npy", lambda path: np.save(path, np.ones((60, 20, 3), np.float32))),
    "track": ("good.csv", lambda path: write_csv(path, "frame,x1,y1,x2,y2", (0, 10, 10, 30, 30))),
}


def table(header: str, *rows: object) -> Maker:
    return lambda path: write_csv(path, header, *rows)


def rows(count: int = 100, rate: float = 50) -> list[list[float]]:
    return [[number / rate, 1, 2, 3] for number in range(count)]


def changed(place: tuple[int, int], value: object) -> Maker:
    found: list[list[object]] = [list(row) for row in rows()]
    found[place[0]][place[1]] = value
    return table("time,ax,ay,az", *found)


def tensors(**parts: torch.Tensor) -> Maker:
    return lambda path: save_file(parts, path)


def array(found: object) -> Maker:
    return lambda path: np.save(path, np.asarray(found), allow_pickle=True)


BOX = "video,frame,x1,y1,x2,y2"
# Kind, file, how it is made, and why it must be refused.
BAD: list[tuple[Kind, str, Maker, str]] = [
    ("signal", "missing.csv", lambda path: None, "file not found"),
    ("signal", "empty.csv", lambda path: path.write_text(""), "empty file"),
    ("signal", "folder.csv", lambda path: path.mkdir(), "cannot open"),
    ("signal", "only header.csv", table("time,ax,ay,az"), "too short"),
    ("signal", "no header.csv", table("0,1,2,3", *rows()), "no such column"),
    ("signal", "renamed.csv", table("time,ax,ay,accel_z", *rows()), "no such column"),
    ("signal", "twice.csv", table("time,ax,ax,az", *rows()), "no such column"),
    ("signal", "two times.csv", table("time,t,ax,ay,az", *[[*row[:1], *row] for row in rows()]), "cannot open"),
    ("signal", "text.csv", changed((7, 2), "fast"), "not numbers"),
    ("signal", "empty cell.csv", changed((7, 2), ""), "not numbers"),
    ("signal", "nan.csv", changed((7, 2), "nan"), "not numbers"),
    ("signal", "nan time.csv", changed((7, 0), "nan"), "not numbers"),
    ("signal", "infinite.csv", changed((7, 3), "-inf"), "not numbers"),
    ("signal", "ragged.csv", table("time,ax,ay,az", *rows(5), "1,2"), "not numbers"),
    ("signal", "backwards.csv", changed((7, 0), 0.01), "times not ascending"),
    ("signal", "same time.csv", changed((7, 0), 0.12), "times not ascending"),
    (
        "signal",
        "gap.csv",
        table("time,ax,ay,az", *rows(20), *rows(150)[70:]),
        "a gap in time",
    ),
    ("signal", "rate.csv", table("time,ax,ay,az", *rows(200, rate=100)), "another rate"),
    ("signal", "late.csv", table("time,ax,ay,az", *[[row[0] + 99, *row[1:]] for row in rows()]), "too short"),
    ("signal", "binary.csv", lambda path: path.write_bytes(b"\xff\xfe\x00" * 99), "not numbers"),
    ("signal", "width.npy", array(np.ones((100, 4))), "another width"),
    ("signal", "axes.npy", array(np.ones(100)), "another size"),
    ("signal", "text.npy", array([["a", "b", "c"]]), "not numbers"),
    ("signal", "objects.npy", array(np.array([{1}, None], object)), "cannot open"),
    ("signal", "noise.npz", lambda path: path.write_bytes(b"PK" + b"\1" * 99), "cannot open"),
    ("signal", "several.npz", lambda path: np.savez(path, a=np.ones((9, 3)), b=np.ones((9, 3))), "no such stream"),
    ("signal", "several.npz#c", lambda path: np.savez(path.with_name("several.npz"), a=np.ones((9, 3))), "no such stream"),
    ("feature", "width.npy", array(np.ones((5, 7), np.float32)), "another width"),
    ("feature", "one.npy", array(np.ones(4, np.float32)), "another width"),
    ("feature", "nan.npy", array(np.full((5, 4), np.nan, np.float32)), "not numbers"),
    ("feature", "empty.npy", array(np.ones((0, 4), np.float32)), "too short"),
    ("feature", "no times.npy", array(np.ones((5, 4), np.float32)), "no such column"),
    ("feature", "text.npy", array([["a"] * 4]), "not numbers"),
    ("feature", "noise.safetensors", lambda path: path.write_bytes(b"\1" * 99), "cannot open"),
    ("feature", "other.safetensors", tensors(weight=torch.ones(5, 4)), "no such stream"),
    ("feature", "collection.safetensors", lambda path: write_collection(path), "another size"),
    (
        "feature",
        "collection.safetensors#9",
        lambda path: write_collection(path.with_name("collection.safetensors")),
        "no such stream",
    ),
    ("feature", "times.safetensors", tensors(feature=torch.ones(5, 4), time=torch.ones(4, 2)), "another size"),
    (
        "feature",
        "backwards.safetensors",
        tensors(feature=torch.ones(2, 4), time=torch.tensor([[1.0, 2], [0, 1]])),
        "times not ascending",
    ),
    ("feature", "late.safetensors", tensors(feature=torch.ones(1, 4), time=torch.tensor([[90.0, 91]])), "too short"),
    ("skeleton", "joints.npy", array(np.ones((60, 25, 3))), "another width"),
    ("skeleton", "flat.npy", array(np.ones((60, 20, 2))), "another size"),
    ("skeleton", "crowd.npy", array(np.ones((60, 3, 20, 3))), "another size"),
    ("skeleton", "nan.npy", array(np.full((60, 20, 3), np.nan)), "not numbers"),
    ("skeleton", "empty.npy", array(np.ones((0, 20, 3))), "too short"),
    ("track", "another.csv", table(BOX, "other,0,1,1,9,9"), "no such stream"),
    ("track", "half.csv", table(BOX, "clip,0,1,1,9,9", ",1,1,1,9,9"), "not numbers"),
    ("track", "share.csv", table("frame,x1,y1,x2,y2", (0, 0.1, 0.1, 0.5, 0.5)), "another size"),
    ("track", "large.csv", table("frame,x1,y1,x2,y2", (0, 1000, 500, 1300, 700)), "another size"),
    ("track", "swapped.csv", table("frame,x1,y1,x2,y2", (0, 30, 10, 10, 30)), "not numbers"),
    ("track", "text.csv", table("frame,x1,y1,x2,y2", (0, "left", 10, 10, 30)), "not numbers"),
    ("track", "nan.csv", table("frame,x1,y1,x2,y2", (0, "nan", 10, 10, 30)), "not numbers"),
    ("track", "columns.csv", table("frame,left,top,right,bottom", (0, 1, 1, 9, 9)), "no such column"),
    ("track", "no time.csv", table("x1,y1,x2,y2", (1, 1, 9, 9)), "no such column"),
    ("track", "ragged.csv", table("frame,x1,y1,x2,y2", (0, 1, 1)), "not numbers"),
    ("track", "dict.json", lambda path: write_json(path, {"annotations": []}), "cannot open"),
    ("track", "broken.json", lambda path: path.write_text("[{"), "cannot open"),
    ("track", "no box.json", lambda path: write_json(path, [{"frame": 0}]), "not numbers"),
]


@pytest.mark.parametrize(("kind", "name", "make", "reason"), BAD, ids=[f"{case[0]} {case[1]}" for case in BAD])
def test_bad_files_are_refused_for_a_stable_reason(kind: Kind, name: str, make: Maker, reason: str, tmp_path: Path) -> None:
    reader = make_reader(kind, SETTINGS)
    good, make_good = GOOD[kind]
    make_good(tmp_path / good)
    plan = make_plan_of([0, 10, 20, 30], fps=25)
    plan.file = tmp_path / "clip.mp4"
    if kind != "track":
        reader.learn(tmp_path / good)
    found = reader.read(tmp_path / good, plan, 32)
    assert found.valid is not None
    assert found.valid.any()
    make(tmp_path / name)
    with pytest.raises(DecodeError) as refused:
        reader.read(tmp_path / name, plan, 32)
    assert refused.value.reason == reason, refused.value
    # The reader is unchanged.
    assert torch.equal(reader.read(tmp_path / good, plan, 32).data, found.data)
