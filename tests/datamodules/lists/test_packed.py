"""Packed strings behave like lists of strings, use little memory, and are not copied by worker processes."""

import gc
import multiprocessing
import os
import pickle
import re
import tracemalloc
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.lists.files import read_list
from datamodules.lists.manifest import Manifest
from datamodules.lists.packed import PackedLists, PackedStrings
from datamodules.loading.faults import FaultLog
from datamodules.loading.loader import EpochBatches, EpochSampler
from modules.core.batch import Batch, Reading

NAMES = ["a/1.mp4", "", "grün/日本 語.mp4", "latin \udce4.mp4", "😀", "\ud800 alone", "a/1.mp4", "tab\tline\n\x00"]
TEXTS = [["it moves", "es bewegt sich"], [], ["ü \udce4 \ud800"], [""]]


def test_packed_strings_are_the_strings() -> None:
    packed = PackedStrings(iter(NAMES))
    assert len(packed) == len(NAMES)
    assert list(packed) == [packed[row] for row in range(len(NAMES))] == NAMES
    assert [packed[row] for row in range(-len(NAMES), 0)] == NAMES
    assert packed[np.int64(2)] == packed[torch.tensor(2)] == NAMES[2]
    assert "😀" in packed
    assert "😀 " not in packed
    for row in (len(NAMES), -len(NAMES) - 1):
        with pytest.raises(IndexError):
            packed[row]
    with pytest.raises(TypeError):
        packed["a"]


@pytest.mark.parametrize("part", [slice(None), slice(1, -1), slice(None, None, -2), slice(5, 2), slice(3, 99)])
def test_slices(part: slice) -> None:
    assert PackedStrings(NAMES)[part] == NAMES[part]
    assert PackedLists(TEXTS)[part] == TEXTS[part]


def test_rows_and_masks() -> None:
    packed, texts = PackedStrings(NAMES), PackedLists(TEXTS)
    for rows in ([3, 0, 3, -1], [], [2]):
        assert packed[np.array(rows, np.int64)] == [NAMES[row] for row in rows]
        assert texts[np.array(rows, np.int64)] == [TEXTS[row] for row in rows]
    mask = np.arange(len(NAMES)) % 3 == 0
    assert packed[mask] == NAMES[::3]
    with pytest.raises(IndexError):
        packed[np.array([len(NAMES)])]


def test_equal_to_lists_of_the_same_strings_only() -> None:
    packed = PackedStrings(NAMES)
    assert packed == NAMES
    assert packed == NAMES
    assert packed == PackedStrings(packed) == PackedStrings(tuple(NAMES))
    for other in (NAMES[:-1], [*NAMES[:-1], "x"], [*NAMES, ""], []):
        assert packed != other
        assert packed != PackedStrings(other)
    # The same text, cut elsewhere.
    assert PackedStrings(["ab", "c"]) != PackedStrings(["a", "bc"])
    assert PackedLists([["a"], ["b"]]) != PackedLists([["a", "b"], []])
    assert PackedStrings([]) == []
    assert not PackedStrings([])
    assert packed != "".join(NAMES)


def test_packed_lists_are_the_lists() -> None:
    packed = PackedLists(TEXTS)
    assert list(packed) == TEXTS == packed
    assert packed[-2] == TEXTS[-2]
    assert packed == PackedLists(packed)
    with pytest.raises(IndexError):
        packed[len(TEXTS)]


@pytest.mark.parametrize("packed", [PackedStrings(NAMES), PackedStrings([]), PackedLists(TEXTS)])
def test_sent_to_other_processes(packed: PackedStrings | PackedLists) -> None:
    sent = pickle.dumps(packed)
    assert pickle.loads(sent) == packed
    assert len(sent) < packed.nbytes + 1000


@pytest.mark.parametrize("collide", [False, True])
def test_first_rows(collide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if different strings have the same hash."""
    if collide:
        monkeypatch.setattr("datamodules.lists.packed.hash", lambda piece: len(piece) // 8, raising=False)
    names = [f"{number * number % 37}.mp4" for number in range(100)]
    first = PackedStrings(names).first_rows()
    assert first.tolist() == [names.index(name) for name in names]
    assert PackedStrings([]).first_rows().tolist() == []


def test_hashes_of_manifests_are_those_of_earlier_versions() -> None:
    """Hashes are in checkpoints and records; these were written by the version with lists of strings."""
    paths = ["a/1.mp4", "grün/日本 語.mp4", "latin \udce4.mp4", "/videos/b 2.avi", "/other/c.mkv", "", "😀.mp4"]
    labels = np.array([0, 3, -1, 2, 2**31 - 1, 7, 0])
    texts = [[f'it\'s "{row}"', "ü \udce4 \ud800"][: row % 3] for row in range(7)]
    intervals = [[(0.5 * row, 1.25, row)] * (row % 3) for row in range(7)]
    bare = Manifest(Path("/videos"), paths, labels)
    assert bare.sha256() == "5807e4a3c02ccc1d1b015e703dd5419fca573abf7ff7c080d4ed8bb2bbacd6f0"
    spoken = Manifest(Path("/videos"), paths, labels, texts=texts)
    assert spoken.sha256() == "a9b4b6409c53c36de14221ea668109081b935e6ef273afe67f5c8555cd1ff9a8"
    timed = Manifest(Path("/videos"), paths, labels, intervals=intervals)
    assert timed.sha256() == "89c8d5991260c92add2d81d7f89dbdbaf9848634139d81a12997ba52998ad584"


# --- Memory ---


def names_of(rows: int) -> list[str]:
    """Paths of 58 characters."""
    return [f"train/class with a name {row % 400:03d}/{row:012d}_000012_000022.mp4" for row in range(rows)]


def traced(work: Callable[[], object]) -> tuple[int, int]:
    """Bytes of the result of a function, and peak bytes while it was computed."""
    gc.collect()
    tracemalloc.start()
    kept = work()
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del kept
    return held, peak


def test_memory_of_a_list(tmp_path: Path) -> None:
    """Text, offset and label of each row: a list of strings would need 115 bytes more per row."""
    rows = 20_000
    names = names_of(rows)
    (tmp_path / "list").write_text("".join(f"{name} {row % 400}\n" for row, name in enumerate(names)))
    for row in np.linspace(0, rows - 1, 500).astype(int):
        (tmp_path / names[row]).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / names[row]).touch()
    manifest = read_list(tmp_path / "list", tmp_path)
    text = len(names[0])
    assert manifest.paths == names
    assert manifest.paths.nbytes + manifest.labels.nbytes == rows * (text + 16) + 8
    held, peak = traced(lambda: read_list(tmp_path / "list", tmp_path))
    assert held / rows < text + 16 + 5
    assert peak / rows < 200


def test_memory_of_an_epoch() -> None:
    """Batches of keys are created one by one, and files that were read are marked instead of stored by name."""
    rows = 20_000
    batches = EpochBatches(EpochSampler(rows, 1, True), 1000)
    batches.stops = list(range(1000, rows + 1, 1000))
    held, peak = traced(lambda: sum(len(batch) for batch in batches))
    assert peak / rows < 30
    manifest = Manifest(Path("x"), names_of(rows), np.zeros(rows, np.int64))

    def epoch() -> FaultLog:
        log = FaultLog(1.0)
        for keys in batches:
            index = torch.tensor([key.row for key in keys])
            log.record(Batch(index, index, {}), manifest, "train", True)
        return log

    held, _ = traced(epoch)
    assert held / rows < 12


def test_a_file_in_several_rows_is_seen_once() -> None:
    log = FaultLog(0.5)
    manifest = Manifest(Path("x"), ["a", "b", "a", "c"], np.zeros(4, np.int64))
    index = torch.tensor([0, 2, 3])
    batch = Batch(index, index, {}, reading=Reading(faults=[(2, "empty file")], unreplaced=[False] * 3))
    log.record(batch, manifest, "train", True)
    assert (np.count_nonzero(log._seen), log._seen_bad) == (2, {"a": "empty file"})


ROLLUP = Path("/proc/self/smaps_rollup")


def own_bytes() -> int:
    sizes = re.findall(r"^Private_(?:Clean|Dirty): +(\d+) kB", ROLLUP.read_text(), re.MULTILINE)
    return 1024 * sum(int(size) for size in sizes)


def read_at_random(paths: Sequence[str], out: Connection) -> None:
    # Garbage collection would copy all memory of the test run.
    gc.disable()
    rows = np.random.default_rng(0).integers(len(paths), size=len(paths)).tolist()
    before = own_bytes()
    for row in rows:
        paths[row]
    out.send(own_bytes() - before)
    out.close()
    os._exit(0)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_workers_copy_nothing() -> None:
    if not ROLLUP.exists():
        pytest.skip(f"no {ROLLUP}, which tells what memory a process shares; Linux has it since 4.14")
    rows = 100_000
    names = names_of(rows)
    growth = {}
    for kind, paths in (("packed", PackedStrings(names)), ("strings", names)):
        end, out = multiprocessing.Pipe(duplex=False)
        worker = multiprocessing.get_context("fork").Process(target=read_at_random, args=(paths, out))
        worker.start()
        out.close()
        growth[kind] = end.recv()
        worker.join()
    assert growth["packed"] < 1_000_000
    # The copy that is avoided: nearly all of a list of strings.
    assert growth["strings"] > 5_000_000
