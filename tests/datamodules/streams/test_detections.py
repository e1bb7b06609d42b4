"""Boxes over time, and objects that are cut out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.streams.dataset import Wanted
from datamodules.streams.detections import TrackReader
from datamodules.streams.pictures import PictureReader, square_around
from datamodules.streams.settings import PictureSettings, TrackSettings
from datamodules.video.crops import Box
from datamodules.video.decode import read_clips
from datamodules.video.sampling import Plan
from datamodules.video.transforms import crop_and_resize
from modules.core.errors import SettingError
from tests.datamodules.streams.files import make_plan_of, write_csv, write_json

HEADER = "frame,x1,y1,x2,y2,score,track,class"


def plan(*frames: int, file: Path | None = None) -> Plan:
    """A plan for a video of 64 x 48 pixels, whose left 48 pixels are shown as 24."""
    return replace(make_plan_of(frames, size=24), boxes=[Box(0, 0, 48, 48)], file=file)


def test_boxes_in_pixels_of_the_clip(tmp_path: Path) -> None:
    boxes = write_csv(
        tmp_path / "a.csv",
        "frame,x1,y1,x2,y2,score",
        (0, 10, 20, 30, 40, 0.5),
        (0, 0, 0, 48, 48, 0.9),
        (1, 40, 0, 60, 48, 0.7),
        (1, 50, 0, 60, 48, 0.8),
    )
    stream = TrackReader(TrackSettings(most=3)).read(boxes, plan(0, 1, 2), 24)
    assert stream.data.shape == (1, 3, 3, 4)
    assert stream.valid is not None
    # Highest score first; boxes are clipped to the crop, and boxes outside are left out.
    assert stream.valid[0].tolist() == [[True, True, False], [False, True, False], [False] * 3]
    assert stream.data[0, 0, :2].tolist() == [[0, 0, 24, 24], [5, 10, 15, 20]]
    assert stream.data[0, 1, 1].tolist() == [20, 0, 24, 24]
    assert not stream.data[~stream.valid].any()


def test_tracks_keep_their_places(tmp_path: Path) -> None:
    rows = [
        (0, 0, 0, 10, 10, 0.9, "cat", "animal"),
        (0, 20, 20, 40, 40, 0.8, "dog", "animal"),
        (1, 20, 20, 40, 40, 0.8, "dog", "animal"),
        (1, 30, 30, 40, 40, 0.3, "dog", "animal"),
        (2, 0, 0, 10, 10, 0.1, "cat", "animal"),
        (2, 20, 20, 40, 40, 0.8, "dog", "animal"),
        (2, 1, 1, 40, 40, 0.9, "car", "thing"),
    ]
    boxes = write_csv(tmp_path / "a.csv", HEADER, *rows)
    stream = TrackReader(TrackSettings(most=2)).read(boxes, plan(0, 1, 2), 24)
    assert stream.valid is not None
    # The dog has the highest total score, then the cat; the car exceeds the limit.
    assert stream.valid[0].tolist() == [[True, True], [True, False], [True, True]]
    assert stream.data[0, :, 0].tolist() == [[10, 10, 20, 20]] * 3
    assert stream.data[0, [0, 2], 1].tolist() == [[0, 0, 5, 5]] * 2
    things = TrackReader(TrackSettings(classes=["thing"])).read(boxes, plan(0, 1, 2), 24)
    assert things.valid is not None
    assert things.valid.sum() == 1


def test_seconds_shares_and_the_rows_of_one_video(tmp_path: Path) -> None:
    rows = [("a", 0.0, 0, 0, 0.5, 0.5), ("x/b.mp4", 0.0, 0.25, 0, 0.5, 1), ("x/b.mp4", 1.0, 0, 0, 0.5, 1)]
    boxes = write_csv(tmp_path / "a.csv", "video,seconds,x1,y1,x2,y2", *rows)
    reader = TrackReader(TrackSettings(most=1, unit="share", reach=0.2))
    shown = plan(0, 5, 13, 21, file=Path("/data/x/b.mp4"))
    stream = reader.read(boxes, shown, 24)
    assert stream.valid is not None
    assert stream.valid[0, :, 0].tolist() == [True, True, False, True]
    assert stream.data[0, :2, 0].tolist() == [[8, 0, 16, 24]] * 2
    named = reader.read(Path(f"{boxes}#a"), shown, 24)
    assert named.data[0, 0, 0].tolist() == [0, 0, 16, 12]


def test_lists_as_coco_has_them(tmp_path: Path) -> None:
    entries = [{"image_id": 1 + number, "bbox": [10, 20, 20, 20], "score": 0.5, "category_id": 3} for number in range(2)]
    boxes = write_json(tmp_path / "a.json", entries)
    stream = TrackReader(TrackSettings(most=1, first_frame=1, classes=["3"])).read(boxes, plan(0, 1), 24)
    assert stream.data[0, :, 0].tolist() == [[5, 10, 15, 20]] * 2


def test_boxes_need_pictures() -> None:
    reader = TrackReader(TrackSettings())
    with pytest.raises(SettingError, match="name video too"):
        Wanted({"track": "track"}, {"track": reader})
    assert Wanted({"video": "video", "track": "track"}, {"track": reader}).leader == "video"


def test_the_object_is_cut_out_of_the_frame_of_the_plan(tmp_path: Path, one_video: Path) -> None:
    rows = [(7, 10, 10, 30, 20, 0.9, "cat", ""), (7, 28, 20, 36, 30, 0.8, "dog", ""), (9, 0, 0, 8, 8, 0.1, "cat", "")]
    boxes = write_csv(tmp_path / "a.csv", HEADER, *rows)
    frame = read_clips(one_video, lambda info, rng: np.array([[7, 9]]), None).frames
    for options, number, box in (
        ({}, 0, Box(10, 5, 20, 20)),
        ({"pick": "central"}, 0, Box(27, 20, 10, 10)),
        ({"track": "dog", "enlarge": 2.0}, 0, Box(22, 15, 20, 20)),
    ):
        reader = PictureReader(PictureSettings(**options), TrackSettings())  # type: ignore[arg-type]
        stream = reader.read(boxes, plan(0, 3, 7, 9, file=one_video), 24)
        assert torch.equal(stream.data[0], crop_and_resize([frame[number]], box, 24)[0])
        assert stream.box is not None
        assert stream.box.tolist() == [[box.x, box.y, box.x + box.width, box.y + box.height]]
        assert stream.valid is not None
        assert stream.valid.tolist() == [True]
    none = PictureReader(PictureSettings(track="bird"), TrackSettings()).read(boxes, plan(0, 7, file=one_video), 24)
    assert none.data.shape == (1, 24, 24, 3)
    assert none.valid is not None
    assert not none.valid.any()
    assert not none.data.any()


def test_squares_stay_in_the_frame() -> None:
    for corners, enlarge, expected in (
        ((0, 0, 10, 4), 1.0, (0, 0, 10, 10)),
        ((60, 40, 64, 48), 2.0, (48, 32, 16, 16)),
        ((0, 0, 64, 48), 3.0, (8, 0, 48, 48)),
    ):
        assert square_around(np.array(corners, float), enlarge, (64, 48)) == Box(*expected)


def test_pictures_of_their_own(tmp_path: Path) -> None:
    texture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(texture).save(tmp_path / "a.png")
    reader = PictureReader(PictureSettings(), TrackSettings())
    info = reader.info(tmp_path / "a.png")
    assert (info.num_frames, info.width, info.height) == (1, 64, 48)
    beside = reader.read(tmp_path / "a.png", plan(0, 1), 48)
    assert torch.equal(beside.data[0], torch.from_numpy(texture[:, 8:56]))
    leading = reader.read(tmp_path / "a.png", plan(0, 0, file=tmp_path / "a.png"), 48)
    assert torch.equal(leading.data[0], torch.from_numpy(texture[:, :48]))
