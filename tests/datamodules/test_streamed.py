"""Videos from shards give the batches, reports and resumed runs that the same files give from a folder, bit for bit."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules import StreamedVideos, VideoFolder
from datamodules.base import VideoDataModule
from datamodules.lists.manifest import Manifest
from datamodules.loading import shards
from datamodules.loading.shards import Shards, place_of
from datamodules.prepare.shards import prepare_shards
from datamodules.settings import ListSettings, ReadSettings
from datamodules.video.samplers import Dense
from datamodules.video.sampling import ClipSettings
from modules.core.errors import SettingError
from tests.datamodules.sets.trees import CLIP, assert_equal, batches, fit, ready

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*worker processes in total"),
    pytest.mark.filterwarnings("ignore:You passed in a .val_dataloader."),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:.*use of fork.*may lead to deadlocks"),
]
STORE = "s3://bucket/videos"
CLIPS = ClipSettings(frames=4, sampler=Dense(2), size=32, clips=2, repeat=2)


@pytest.fixture
def litdata() -> Any:
    return pytest.importorskip("litdata", reason="litdata is not installed: pip install -e '.[streaming]'")


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modules.core.files._flush", lambda path: None)


@pytest.fixture
def sharded(litdata: Any, tree: Path, one_video: Path) -> Path:
    """Shards of two videos each of the videos in `tree`, one of which is broken."""
    (tree / "train/class 1/train1.mp4").unlink()
    (tree / "train/class 1/train1.mp4").write_bytes(b"this is no video")
    return prepare(VideoFolder(str(tree)), tree / "sharded", one_video.stat().st_size * 2)


def prepare(data: VideoDataModule, out: Path, shard_bytes: int) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datamodules.prepare.shards.MEGABYTE", shard_bytes)
        prepare_shards(data, out, megabytes=1)
    return out


@pytest.fixture
def store(sharded: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, int]]:
    """The shards in an object store; returns the requests of this process: names and numbers of bytes."""
    from litdata.streaming import downloader

    asked: list[tuple[str, int]] = []

    class Store(downloader.Downloader):
        def path(self, address: str) -> Path:
            assert address.startswith(f"{STORE}/")
            return sharded / address.removeprefix(f"{STORE}/")

        def download_file(self, remote_filepath: str, local_filepath: str) -> None:
            if not Path(local_filepath).exists():
                shutil.copyfile(self.path(remote_filepath), local_filepath)

        def download_fileobj(self, remote_filepath: str, fileobj: Any) -> None:
            fileobj.write(self.path(remote_filepath).read_bytes())

        def download_bytes(self, remote_filepath: str, offset: int, length: int, local_chunkpath: str) -> bytes:
            asked.append((Path(remote_filepath).name, int(length)))
            return self.path(remote_filepath).read_bytes()[offset : offset + length]

    monkeypatch.setenv("LITDATA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("litdata.utilities.dataset_utilities.get_default_cache_dir", lambda: str(tmp_path / "cache"))
    monkeypatch.setitem(downloader._DOWNLOADERS, "s3://", Store)
    return asked


def of_kind(kind: type[VideoDataModule], root: str | Path, workers: int = 0, **settings: Any) -> VideoDataModule:
    return kind(str(root), **({"clip": CLIPS, "batch_size": 2, "reading": ReadSettings(workers), "seed": 1} | settings))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("where", ["folder", "store"])
def test_batches_are_those_of_the_files(
    workers: int, where: str, tree: Path, sharded: Path, store: list[Any], tmp_path: Path
) -> None:
    files = ready(of_kind(VideoFolder, tree))
    streamed = ready(of_kind(StreamedVideos, sharded if where == "folder" else STORE, workers))
    for data, run in ((files, "files"), (streamed, "streamed")):
        assert data.faults is not None
        data.faults.write_to(tmp_path / run)
    assert isinstance(streamed.root, Path)
    assert (streamed.num_classes, streamed.class_names) == (files.num_classes, files.class_names)
    for epoch in (0, 3):
        assert_equal(batches(files, epoch), batches(streamed, epoch))
    for loader in ("val_dataloader", "probe_dataloader"):
        expected = list(getattr(files, loader)())
        assert expected
        assert_equal(expected, list(getattr(streamed, loader)()))
    # The broken video was replaced by the same one, counted once, and reported with its original name.
    reports = [(tmp_path / run / "bad_videos.tsv").read_text().splitlines() for run in ("files", "streamed")]
    assert reports[0][1:] == ["class 1/train1.mp4\ttrain\tcannot open"]
    assert reports[1][1:] == ["train/class 1/train1.mp4\ttrain\tcannot open"]


@pytest.mark.parametrize(("before", "after", "stop_after"), [(2, 2, 1), (0, 2, 4)])
def test_a_run_goes_on_in_the_middle_of_an_epoch(
    before: int, after: int, stop_after: int, tree: Path, sharded: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    whole = fit(of_kind(VideoFolder, tree, before, clip=CLIP), tmp_path / "whole")
    torch.manual_seed(0)
    first = fit(of_kind(StreamedVideos, sharded, before, clip=CLIP), tmp_path / "part", stop_after=stop_after)
    resumed = of_kind(StreamedVideos, sharded, after, clip=CLIP)
    second = fit(resumed, tmp_path / "part", ckpt_path=tmp_path / "part/last.ckpt")
    assert len(first.substituted) == 2 * stop_after
    assert first.substituted + second.substituted == whole.substituted
    weights = [torch.load(tmp_path / run / "last.ckpt", weights_only=True)["state_dict"] for run in ("whole", "part")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(one, other) for one, other in zip(weights[0].values(), weights[1].values(), strict=True))


def test_the_rest_of_an_epoch_has_the_bits_of_the_whole_one(sharded: Path) -> None:
    whole = batches(ready(of_kind(StreamedVideos, sharded)), 2)
    data = ready(of_kind(StreamedVideos, sharded, 2))
    loader = data.train_dataloader()
    loader.batches.sampler.set_epoch(2)
    begun = iter(loader)
    next(begun)
    state = loader.state_dict()
    del begun
    again = ready(of_kind(StreamedVideos, sharded, 1)).train_dataloader()
    again.load_state_dict(state)
    again.batches.sampler.set_epoch(2)
    assert_equal(whole[1:], list(again))


def test_a_store_is_asked_for_the_bytes_of_the_samples_and_nothing_else(
    tree: Path, store: list[tuple[str, int]], tmp_path: Path
) -> None:
    data = ready(of_kind(StreamedVideos, STORE, seed=1))
    store.clear()
    read = {int(row) for batch in batches(data) for row in batch.index}
    sizes = [path.stat().st_size for path in (tree / "train").rglob("*.mp4")]
    assert len(read) == len(sizes) == 6
    # Each sample takes two requests: its offset in the shard (8 bytes), and its bytes with their length (4). One was
    # read once more, as a substitute for the broken one.
    asked = [length - 4 for _, length in store if length != 8]
    assert sorted(asked) == sorted([*sizes, max(sizes)])
    assert len(store) == 2 * len(asked)
    assert {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()} <= {"index.json"}


def test_a_missing_shard_is_found_before_the_first_step(sharded: Path) -> None:
    shard = min((sharded / "val").glob("*.bin"))
    shard.rename(sharded / "elsewhere")
    with pytest.raises(
        SettingError, match=rf"^The shard {shard} is missing or incomplete; copy it again, or run `python main.py .*` again\.$"
    ):
        of_kind(StreamedVideos, sharded).check("fit")
    shard.write_bytes((sharded / "elsewhere").read_bytes()[:-1])
    with pytest.raises(SettingError, match="is missing or incomplete"):
        of_kind(StreamedVideos, sharded).check("fit")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_that_a_store_lacks_ends_the_run_and_counts_no_file_as_broken(
    workers: int, sharded: Path, store: list[Any]
) -> None:
    data = ready(of_kind(StreamedVideos, STORE, workers))
    for shard in (sharded / "train").glob("*.bin"):
        shard.unlink()
    said = rf"^Sample \d of the shards in {STORE}/train cannot be read \(FileNotFoundError: [^\n]*\); check that [^\n]*\.$"
    with pytest.raises(SettingError, match=said):
        batches(data)
    assert data.faults is not None
    assert not data.faults.bad


def test_each_process_opens_the_shards_for_itself(sharded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = Shards(str(sharded / "train"))
    content = split.read(0)
    opened = split._data
    assert split.read(0) == content
    assert split._data is opened
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert split.read(0) == content
    assert split._data is not opened


def test_a_root_that_holds_no_shards(litdata: Any, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"data.root is .*nowhere, which is not a folder"):
        of_kind(StreamedVideos, tmp_path / "nowhere").setup("fit")
    with pytest.raises(SettingError, match=r"^data.root .* contains no readable lists.json \(FileNotFoundError: "):
        of_kind(StreamedVideos, tmp_path).setup("fit")
    (tmp_path / "lists.json").write_text('{"format": 0}')
    with pytest.raises(SettingError, match="is of another version"):
        of_kind(StreamedVideos, tmp_path).setup("fit")


def test_without_the_extra_one_sentence_says_what_to_install(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "litdata", None)
    calls: list[Callable[[], Any]] = [
        lambda: prepare_shards(VideoFolder(str(tree)), tree / "out"),
        lambda: of_kind(StreamedVideos, tree).check("fit"),
    ]
    for call in calls:
        with pytest.raises(SettingError, match=r"cannot be imported \(.*\); run `pip install -e '\.\[streaming\]'`\.$"):
            call()


def test_lists_of_other_data_sets_are_not_taken(tree: Path) -> None:
    with pytest.raises(SettingError, match=r"data\.lists\.train is set, which StreamedVideos does not use"):
        StreamedVideos(str(tree), ListSettings("list"))


def test_addresses_keep_both_slashes() -> None:
    assert place_of(Path("s3://bucket/a b")) == "s3://bucket/a b"
    assert place_of(Path("gs://bucket/")) == "gs://bucket"
    assert place_of(Path("/data/s3:/x")) == "/data/s3:/x"
    assert not shards.is_store("azure://bucket")


class Described(VideoFolder):
    """Videos with several sentences or actions each, where left and right are words."""

    flips_change_labels = True
    kind = "texts"

    def read_official(self, split: str) -> Manifest | None:
        manifest = super().read_official(split)
        if manifest is None:
            return None
        texts = [[f"it moves {row}", "left \udce9"] for row in range(len(manifest))]
        intervals = [[(0.0, 0.5, row % 2), (0.25, 9.0, 2)] for row in range(len(manifest))]
        return Manifest(
            manifest.root,
            manifest.paths,
            manifest.labels,
            manifest.class_names,
            intervals=intervals if self.kind == "intervals" else None,
            texts=texts if self.kind == "texts" else None,  # type: ignore[arg-type]
        )


@pytest.mark.parametrize("kind", ["texts", "intervals"])
def test_sentences_and_actions_come_along(kind: str, litdata: Any, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Described, "kind", kind)
    files = ready(of_kind(Described, tree))
    streamed = ready(of_kind(StreamedVideos, prepare(Described(str(tree)), tree / "sharded", 1)))
    expected, got = batches(files), batches(streamed)
    assert_equal(expected, got)
    assert streamed.flips_change_labels is True
    assert streamed.streams == files.streams
    if kind == "texts":
        assert [batch.streams["text"] for batch in got] == [batch.streams["text"] for batch in expected]
