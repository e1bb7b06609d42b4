"""The command `map`: its files, its output, and its refusals."""

import base64
import csv
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from modules.core.errors import SettingError
from modules.feature_map.films import SIDE
from tests.datamodules.video_files import decode_all
from tests.feature_map.collections import EVIL, NOISE, draw, page_of, write_features


def numbers(text: str, kind: str) -> list[Any]:
    return np.frombuffer(base64.b64decode(text), kind).tolist()


def strip_of(data: dict[str, Any], point: int) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data["films"][str(point)]["strip"])))


def test_a_map_has_a_picture_a_page_and_a_projector(features: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        draw(f"{features}.safetensors")
    name = features.with_name("all_map")
    with Image.open(f"{name}.png") as picture:
        assert picture.width == 1400
    page, data = page_of(name)
    assert re.search(r"all_map\.html \(\d+\.\d MB", caplog.text)
    assert "1 of 9 films could not be read, the first one: file not found" in caplog.text
    assert "PCA: the two axes hold" in caplog.text
    assert data["facts"][0] in caplog.text
    # Nothing is loaded from a network, and names are escaped.
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", page)
    assert "onerror=alert" in page
    assert "<img" not in page
    assert data["paths"][-1] == EVIL
    assert [one["name"] for one in data["colourings"]] == ["class", "cluster"]
    assert data["count"] == 9
    # Neighbours are exact.
    unit = torch.nn.functional.normalize(NOISE, dim=1)
    wanted = (unit @ unit.T).fill_diagonal_(-2).topk(6)
    assert numbers(data["near"]["number"], "<i4") == wanted.indices.flatten().tolist()
    assert numbers(data["near"]["similarity"], "<f4") == pytest.approx(wanted.values.flatten().tolist(), abs=1e-6)
    assert numbers(data["row"], "<i4") == list(range(9))
    assert sorted(numbers(data["order"], "<i4")) == list(range(9))


def test_films_are_those_of_the_time_of_the_features(features: Path, folder: Path) -> None:
    draw(features)
    _, data = page_of(features.with_name("all_map"))
    film = data["films"]["2"]
    assert film["frames"] == 8
    assert film["seconds"] == pytest.approx(1, abs=0.01)
    strip = np.asarray(strip_of(data, 2).convert("RGB")).astype(float)
    assert strip.shape == (SIDE, 8 * SIDE, 3)
    frames = decode_all(folder / "motion" / data["paths"][2])
    # From frame 6 to frame 18.
    for place, frame in ((0, 6), (7, 18)):
        wanted = np.asarray(Image.fromarray(frames[frame]).resize((SIDE, SIDE), Image.Resampling.BILINEAR)).astype(float)
        others = [np.abs(strip[:, place * SIDE : (place + 1) * SIDE] - wanted).mean()]
        others += [np.abs(strip[:, other * SIDE : (other + 1) * SIDE] - wanted).mean() for other in range(8) if other != place]
        assert others[0] == min(others)
        assert others[0] < 8
    assert data["films"]["8"]["reason"].startswith("file not found")


def test_files_of_the_projector(features: Path, tmp_path: Path) -> None:
    draw(features, f"--out={tmp_path / 'here/map'}")
    here = tmp_path / "here/map.projector"
    config = text_format.Parse((here / "projector_config.pbtxt").read_text(), ProjectorConfig())
    (one,) = config.embeddings
    read = np.loadtxt(here / one.tensor_path, delimiter="\t")
    assert np.allclose(read, NOISE.numpy(), atol=1e-5)
    with (here / one.metadata_path).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert len(rows) == 9
    assert rows[0].keys() == {"path", "class", "cluster", "second"}
    assert rows[0]["second"] == "1.00"
    with Image.open(here / one.sprite.image_path) as sprite:
        side = one.sprite.single_image_dim[0]
        assert sprite.size == (3 * side, 3 * side)
        assert sprite.getpixel((2 * side + 5, 2 * side + 5)) == (128, 128, 128), "the ninth has no film"
    draw(features, f"--out={tmp_path / 'here/map'}", "--films=false")
    assert not (here / "sprite.png").exists()


def test_the_same_features_give_the_same_map(features: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        draw(features, f"--out={tmp_path / name}", "--colour=cluster", "--clusters=3", "--neighbours=2")
    for suffix in (".png", ".html"):
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()
    _, data = page_of(tmp_path / "one")
    assert data["colourings"][0]["name"] == "cluster"
    assert len(data["colourings"][0]["entries"]) == 3
    assert data["near"]["k"] == 2


def test_sequences_are_points_of_steps_or_means(folder: Path, tmp_path: Path) -> None:
    paths = sorted(str(path.relative_to(folder / "motion")) for path in (folder / "motion").rglob("*.mp4"))[:3]
    feature = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1))
    start = torch.arange(4.0).expand(3, 4) * 0.5
    length = torch.tensor([4, 1, 3])
    tensors = {"time": torch.stack([start, start + 0.5], -1), "length": length}
    write_features(tmp_path / "steps", feature, [(path, "") for path in paths], folder / "motion", **tensors)
    draw(tmp_path / "steps", "--colour=time", "--film_limit=2")
    _, data = page_of(tmp_path / "steps_map")
    assert data["title"] == "steps: 8 steps of 3 videos"
    assert numbers(data["row"], "<i4") == [0, 0, 0, 0, 1, 2, 2, 2]
    assert numbers(data["span"], "<f4")[6:12] == [1.5, 2, 0, 0.5, 0, 0.5]
    assert data["colourings"][0]["scale"] == pytest.approx([0.25, 1.75])
    assert set(data["films"]) == {"0", "7"}
    assert "2 of 8 points have a film (--film_limit)." in data["facts"]
    assert not set(numbers(data["near"]["number"], "<i4")[:4]) & {0, 1, 2, 3}, "neighbours are of other videos"
    table = (tmp_path / "steps_map.projector/tensors.tsv").read_text().splitlines()
    assert len(table) == 8
    draw(tmp_path / "steps", "--per=video", "--films=false")
    means = np.loadtxt(tmp_path / "steps_map.projector/tensors.tsv")
    wanted = torch.stack([feature[row, : length[row]].mean(0) for row in range(3)])
    assert np.allclose(means, wanted.numpy(), atol=1e-5)
    _, data = page_of(tmp_path / "steps_map")
    assert numbers(data["span"], "<f4") == [0, 2, 0, 0.5, 0, 1.5]


def test_several_collections_on_one_map(tmp_path: Path, features: Path) -> None:
    rows = [(f"{number}.mp4", "") for number in range(4)]
    one = write_features(tmp_path / "one", NOISE[:4], rows)
    two = write_features(tmp_path / "two", NOISE[4:8], rows, tmp_path)
    other = write_features(tmp_path / "other", NOISE[:4], rows, tmp_path, encoder="b")
    draw(f"[{one},{two}]", "--films=false")
    _, data = page_of(tmp_path / "one_map")
    assert data["paths"][3:5] == ["one/3.mp4", "two/0.mp4"]
    assert data["colourings"][-1]["name"] == "collection"
    assert [entry["points"] for entry in data["colourings"][-1]["entries"]] == [4, 4]
    with pytest.raises(SettingError, match="are of different encoders; draw a map of each"):
        draw(f"[{one},{other}]")


def test_without_the_videos_films_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [(f"{number}.mp4", str(number % 2)) for number in range(8)]
    for root, told in (
        (None, "all.json does not name the folder that paths start from; pass it as --root"),
        (tmp_path / "gone", "gone does not exist; pass the folder that paths start from as --root"),
    ):
        write_features(tmp_path / "all", NOISE[:8], rows, root)
        with caplog.at_level("INFO"):
            draw(tmp_path / "all")
        assert "Films are left out: " in caplog.text
        assert told in caplog.text
        assert "There are no films, because the videos were not found." in page_of(tmp_path / "all_map")[1]["facts"]
        assert page_of(tmp_path / "all_map")[1]["films"] == {}


def test_impossible_settings_are_refused(tmp_path: Path) -> None:
    rows = [(f"{number}.mp4", "") for number in range(4)]
    four = write_features(tmp_path / "four", NOISE[:4], rows)
    one = write_features(tmp_path / "one", NOISE[:1], rows[:1])
    same = write_features(tmp_path / "same", NOISE[:1].expand(4, -1), rows)
    nan = write_features(tmp_path / "nan", NOISE[:4] * torch.nan, rows)
    for name, options, message in (
        (tmp_path / "none", (), r"--features is .*none, but there is no .*none\.safetensors; pass the name"),
        (one, (), "has a single point; a map needs at least two"),
        (same, (), r"all 4 features in .*same are equal, so there is nothing to draw"),
        (nan, (), "or NaN among them"),
        (four, ("--neighbours=4",), "--neighbours is 4, but some points have only 3 others from other videos; pass 3 or"),
        (four, ("--neighbours=0",), "--neighbours is 0; it must be a whole number of at least 1"),
        (four, ("--clusters=5",), "--clusters is 5, but there are 4 points; pass 4 or fewer"),
        (four, ("--clusters=1",), "--clusters is 1; it must be a whole number of at least 2"),
        (four, ("--colour=class",), "--colour is class, but no video has a class; pass cluster"),
        (four, ("--colour=time",), "--colour is time, but the features .*; pass cluster"),
        (four, ("--film_limit=0",), "--film_limit is 0"),
        ("[]", (), "--features names no collection"),
    ):
        with pytest.raises(SettingError, match=message):
            draw(name, *options)
    assert not list(tmp_path.glob("*_map*"))
