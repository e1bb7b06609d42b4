"""The report on disk: it is read again, one per process, and works with any file name."""

from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.lists.manifest import Manifest
from datamodules.loading.faults import FaultLog, read_report
from modules.core.batch import Batch, Reading
from modules.core.errors import SettingError

NAMES = ["a b/ü.mp4", "tab\tin.mp4", 'quote".mp4', "line\nend.mp4", "latin \udce4.mp4", "good.mp4"]


def manifest(paths: list[str]) -> Manifest:
    return Manifest(Path("x"), paths, np.zeros(len(paths), np.int64))


def record(log: FaultLog, paths: list[str], rows: list[int], faults: list[tuple[int, str]], counts: bool = True) -> None:
    batch = Batch(torch.tensor(rows), torch.zeros(len(rows)), {}, reading=Reading(faults=faults))
    log.record(batch, manifest(paths), "train", counts)


def test_a_report_is_read_again_and_names_each_file_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = FaultLog(1.0)
    first.write_to(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with caplog.at_level("INFO"):
        record(first, NAMES, [0, 1, 2], [(row, "empty file") for row in (4, 2, 0, 1, 3)])
    # Printed in a form that any terminal can show.
    (said,) = [one for one in caplog.messages if "could not be read" in one]
    assert said.encode().startswith(b"latin \\udce4.mp4 could not be read (empty file).")
    text = (tmp_path / "bad_videos.tsv").read_bytes()
    second = FaultLog(1.0)
    second.write_to(tmp_path)
    record(second, NAMES, [3], [(3, "cannot open")])
    assert (tmp_path / "bad_videos.tsv").read_bytes() == text
    record(second, NAMES, [5], [(5, "cannot open")])
    bad = read_report(tmp_path / "bad_videos.tsv")
    assert {file.path: reason for file, reason in bad.items()} == dict.fromkeys(NAMES, "empty file") | {
        "good.mp4": "cannot open"
    }
    # The text does not depend on the order of files.
    third = FaultLog(1.0)
    third.write_to(tmp_path / "other")
    record(third, NAMES, [5], [(row, "cannot open" if row == 5 else "empty file") for row in (5, 3, 1, 0, 4, 2)])
    assert (tmp_path / "other/bad_videos.tsv").read_bytes() == (tmp_path / "bad_videos.tsv").read_bytes()


def test_what_was_recorded_before_the_folder_was_known_is_written(tmp_path: Path) -> None:
    log = FaultLog(1.0)
    record(log, NAMES, [0], [(0, "empty file")])
    log.write_to(tmp_path)
    assert [file.path for file in read_report(tmp_path / "bad_videos.tsv")] == [NAMES[0]]


def test_reports_of_earlier_versions(tmp_path: Path) -> None:
    (tmp_path / "bad_videos.tsv").write_text("row\tpath\treason\n7\ta.mp4\tempty file\n8\n")
    assert read_report(tmp_path / "bad_videos.tsv") == {("a.mp4", "train"): "empty file"}


def test_files_that_crashed_any_process_are_known_to_all(tmp_path: Path) -> None:
    logs = [FaultLog(1.0) for _ in range(2)]
    for rank, log in enumerate(logs):
        log.write_to(tmp_path, rank)
        record(log, NAMES, [5], [(rank, "decoder crashed"), (3, "timed out")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad_videos.rank1.tsv", "bad_videos.tsv"]
    assert logs[0].broken("train") == {*NAMES[:2], NAMES[3]}
    assert not logs[0].broken("val")
    later = FaultLog(1.0)
    later.write_to(tmp_path)
    assert later.crashes(manifest(NAMES), "train") == {0, 1}
    assert later.crashes(manifest(NAMES), "val") == set()
    assert [file.path for file in later.bad] == sorted([NAMES[0], NAMES[3]])


def test_the_share_is_of_different_training_files_read_by_this_process(tmp_path: Path) -> None:
    paths = [f"{number}.mp4" for number in range(300)]
    before = FaultLog(1.0)
    before.write_to(tmp_path)
    record(before, paths, [299], [(row, "empty file") for row in range(200, 299)])
    log = FaultLog(0.05)
    log.write_to(tmp_path)
    # Files of earlier processes and of other splits do not count; a file counts once.
    record(log, paths, list(range(100)), [(row, "empty file") for row in range(6)], counts=False)
    for _ in range(3):
        record(log, paths, list(range(100)), [(row, "empty file") for row in range(5)])
    with pytest.raises(SettingError, match=r"6 of the 101 training videos .* 0\.05 allows.*All are listed in .*tsv"):
        record(log, paths, [100], [(100, "cannot open")])


def test_all_that_is_wrong_with_a_sample_is_named(tmp_path: Path) -> None:
    log = FaultLog(1.0)
    log.write_to(tmp_path)
    record(log, ["a.mp4"], [0], [(0, "depth: no such stream"), (0, "audio: too short"), (0, "audio: too short")])
    assert list(read_report(tmp_path / "bad_videos.tsv").values()) == ["depth: no such stream; audio: too short"]
