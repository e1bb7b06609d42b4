"""`python main.py prepare shards`: written, left out and refused files, and resuming after a kill."""

import json
from pathlib import Path
from typing import Any

import pytest

import datamodules.prepare.shards
from datamodules import UCFRep, VideoFolder
from datamodules.loading.shards import Shards
from datamodules.prepare.shards import Found, _shard_names, prepare_shards
from datamodules.settings import SubsetSettings
from main import main
from modules.core.errors import SettingError


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modules.core.files._flush", lambda path: None)


@pytest.fixture
def litdata() -> Any:
    return pytest.importorskip("litdata", reason="litdata is not installed: pip install -e '.[streaming]'")


@pytest.fixture
def small(litdata: Any, tree: Path, one_video: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree of videos of which two fill a shard."""
    monkeypatch.setattr(datamodules.prepare.shards, "MEGABYTE", one_video.stat().st_size * 2)
    return tree


def prepare(root: Path, out: Path, *more: str) -> None:
    main(["prepare", "shards", "--data=VideoFolder", f"--data.root={root}", f"--out={out}", "--megabytes=1", *more])


def content(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_every_file_is_in_a_shard_as_it_is(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    (small / "train/class 0/train3.mp4").write_bytes(b"")
    (small / "train/class 1/gone.mp4").symlink_to("nothing")
    (small / "train/class 2/train2.mp4").write_bytes(b"no video, but a file")
    prepare(small, out)
    lists = json.loads((out / "lists.json").read_text())
    assert lists["data"] == "VideoFolder"
    for split, count in (("train", 5), ("val", 3)):
        listed = lists["splits"][split]
        assert listed["class_names"] == ["class 0", "class 1", "class 2"]
        assert listed["labels"] == [int(path.split("/")[1][-1]) for path in listed["paths"]]
        assert len(listed["paths"]) == count
        shards = Shards(str(out / split))
        for item, path in enumerate(listed["paths"]):
            assert shards.read(item) == (small / path).read_bytes()
    assert len([*(out / "train").glob("*.bin")]) == 3
    assert (out / "malformed.tsv").read_text().splitlines() == [
        "path\tsplit\treason",
        "class 0/train3.mp4\ttrain\tempty file",
        "class 1/gone.mp4\ttrain\tfile not found",
    ]
    assert f"8 videos are in 5 shards in {out}. 2 were left out; " in capsys.readouterr().out
    # No temporary files are left.
    assert {path.suffix for path in out.rglob("*") if path.is_file()} == {".bin", ".json", ".tsv"}
    assert len([*out.rglob("*.json")]) == 3


@pytest.mark.parametrize("place", [2, 4])
def test_a_killed_command_goes_on(place: int, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(small, tmp_path / "at once")
    out = tmp_path / "out"
    write, written = datamodules.prepare.shards.write_shard, []

    def dying(folder: Path, contents: list[bytes]) -> Any:
        written.append(folder)
        if len(written) == place:
            folder.mkdir()
            (folder / "chunk-0-0.bin").write_bytes(b"half of it")
            raise KeyboardInterrupt
        return write(folder, contents)

    with monkeypatch.context() as patch:
        patch.setattr(datamodules.prepare.shards, "write_shard", dying)
        with pytest.raises(KeyboardInterrupt):
            prepare(small, out)
    done = {path: path.stat().st_mtime_ns for path in out.rglob("*.bin") if path.parent.name != "new"}
    assert len(done) == place - 1
    assert not (out / "lists.json").exists()
    with pytest.raises(SettingError, match=r"contains no readable lists\.json"):
        main(["fit", "--config=configs/videomae.yaml", "--data=StreamedVideos", f"--data.root={out}", "--trainer.logger=false"])
    prepare(small, out)
    after = {path.name: path.stat().st_mtime_ns for path in out.rglob("*.bin")}
    assert {name: after[name] for name in (path.name for path in done)} == {path.name: time for path, time in done.items()}
    assert content(tmp_path / "at once") == content(out)


def test_done_is_done_and_other_files_are_other_shards(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    prepare(small, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.bin")}
    prepare(small, out)
    assert "has already been prepared from the same files" in capsys.readouterr().out
    (small / "val/class 0/val0.mp4").write_bytes(b"something else")
    with pytest.raises(
        SettingError, match=r"^--out .* was prepared from other files; pass another folder, or --overwrite true\.$"
    ):
        prepare(small, out)
    prepare(small, out, "--overwrite=true")
    assert Shards(str(out / "val")).read(0) == b"something else"
    after = {path: path.stat().st_mtime_ns for path in out.rglob("*.bin")}
    assert {path for path in before if after.get(path) == before[path]} == {*(out / "train").glob("*.bin")}


def test_what_cannot_be_put_into_shards_is_refused(small: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"^--data UCFRep has its own way of reading videos"):
        prepare_shards(UCFRep(str(small)), tmp_path / "out")
    with pytest.raises(SettingError, match=r"^--data\.subset is set"):
        prepare_shards(VideoFolder(str(small), subset=SubsetSettings(0.5)), tmp_path / "out")
    with pytest.raises(SettingError, match=r"^--out .* contains a folder train that does not contain shards"):
        prepare(small, small)
    with pytest.raises(SettingError, match=r"data\.root is .*nowhere, which is not a folder"):
        prepare(small / "nowhere", tmp_path / "out")
    with pytest.raises(SettingError, match="nowhere"):
        prepare(small, tmp_path / "out", f"--data.lists.train={small / 'nowhere'}")
    for path in (small / "val").rglob("*.mp4"):
        path.write_bytes(b"")
    with pytest.raises(SettingError, match="contains no readable video of the split val"):
        prepare(small, tmp_path / "out")


def test_shards_are_cut_by_size_and_named_by_what_is_in_them() -> None:
    files = [Found(row, Path(f"{row}.mp4"), size, 1) for row, size in enumerate([5, 4, 3, 20, 1, 9])]
    shards = _shard_names(files, 10)
    assert [[file.row for file in found] for found in shards.values()] == [[0, 1], [2], [3], [4, 5]]
    assert [name[:6] for name in shards] == ["00000-", "00001-", "00002-", "00003-"]
    other = _shard_names([*files[:5], files[5]._replace(time=2)], 10)
    assert [one == two for one, two in zip(shards, other, strict=True)] == [True, True, True, False]
