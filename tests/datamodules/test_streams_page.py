"""The lists in docs/streams.md can be read, with suitable files."""

import csv
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from PIL import Image

from datamodules.listed import ListedStreams
from datamodules.streams.readers import make_reader
from datamodules.streams.settings import StreamSettings
from modules.core.batch import Stream
from modules.core.errors import SettingError
from tests.datamodules.streams.files import write_collection, write_csv, write_table, write_tone

PAGE = (Path(__file__).parents[2] / "docs/streams.md").read_text()
EXAMPLES = re.findall(r"```csv\n(.*?)```(?:\s*```yaml\n(.*?)```)?", PAGE, re.DOTALL)
FRAMES = 40


def write_array(path: Path, column: str, array: np.ndarray) -> None:
    if path.suffix == ".npz":
        np.savez(path, **{column: array})
    else:
        np.save(path, array)


def write_file(root: Path, cell: str, kind: str, video: Path, unit: str) -> None:
    """A file of a kind, as long as the video."""
    name, _, part = cell.partition("#")
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".mp4":
        shutil.copyfile(video, path)
    elif path.suffix == ".wav":
        write_tone(path)
    elif path.suffix == ".png":
        Image.fromarray(np.full((48, 64, 3), 99, np.uint8)).save(path)
    elif path.suffix == ".safetensors":
        write_collection(path)
    elif kind == "signal":
        write_table(path, unit=1e3 if unit == "ms" else 1)
    elif kind in ("track", "picture"):
        rows = [f"clips/{name},{frame},5,5,60,45" for name in "ab" for frame in range(FRAMES)]
        write_csv(path, "video,frame,x1,y1,x2,y2", *rows)
    else:
        forms = {
            "depth": np.full((FRAMES, 48, 64), 900, np.uint16),
            "flow": np.zeros((FRAMES - 1, 48, 64, 2), np.float32),
            "mask": np.ones((FRAMES, 48, 64), np.uint8),
            "skeleton": np.ones((FRAMES, 20, 3), np.float32),
            "feature": np.ones((6, 4), np.float32),
        }
        write_array(path, part or kind, forms[kind])


def is_read(kind: str) -> bool:
    try:
        make_reader(kind, StreamSettings())  # type: ignore[arg-type]
    except SettingError:
        return kind == "video"
    return True


@pytest.mark.parametrize(("text", "options"), EXAMPLES, ids=[text.partition("\n")[0] for text, _ in EXAMPLES])
def test_every_example_is_read(text: str, options: str, tmp_path: Path, one_video: Path) -> None:
    (tmp_path / "train.csv").write_text(text)
    asked = yaml.safe_load(options) or {} if options else {}
    unit = asked.get("streams", {}).get("signal", {}).get("unit", "s")
    rows = list(csv.DictReader(text.splitlines()))
    kinds = {column: column.rpartition(":")[2] for column in rows[0]} | {"path": asked.get("main", "video")}
    for row in rows:
        for column, cell in row.items():
            if cell and column not in ("start", "end", "label", "caption"):
                write_file(tmp_path, cell, kinds[column], one_video, unit)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(ListedStreams, "data")
    common = {"root": str(tmp_path), "clip": {"frames": 4, "size": 32}, "batch_size": 1, "reading": {"num_workers": 0}}
    data = parser.instantiate_classes(parser.parse_object({"data": common | asked})).data
    data.setup("fit")
    for name in [name for name, kind in data.wanted.items() if not is_read(kind)]:
        pytest.skip(f"{name} is not read from files yet")
    seen = 0
    for batch in data.train_dataloader():
        assert batch.reading.faults == []
        assert list(batch.kinds) == [*data.wanted, *(["text"] if "caption" in rows[0] else [])]
        for name in data.wanted:
            stream = batch.stream(name)
            assert isinstance(stream, Stream)
            assert stream.data.shape[:2] == (1, 1)
            assert stream.valid is None or stream.valid.any()
            assert name == "mask" or torch.isfinite(stream.data.float()).all()
        seen += 1
    assert seen == (2 if "window" in asked else len(rows))


def test_there_is_an_example_of_each_kind() -> None:
    columns = {column.rpartition(":")[2] for text, _ in EXAMPLES for column in text.partition("\n")[0].split(",")}
    assert columns >= {
        "audio",
        "depth",
        "flow",
        "mask",
        "skeleton",
        "signal",
        "track",
        "feature",
        "picture",
        "label",
        "caption",
    }
