"""Generated repetitions: cycles that are what the frames show, batches as those of UCFRep, and a loader that resumes."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules import SyntheticRepetitions, UCFRep
from datamodules.settings import LoadSettings, ReadSettings
from datamodules.video.samplers import Segments
from datamodules.video.sampling import ClipSettings
from modules.core.batch import Batch
from modules.core.errors import SettingError
from modules.scenes.tasks.repetitions import REPEATED, CycleSettings, make_repetitions
from tests.datamodules.sets.repetitions import write_ucfrep

pytestmark = pytest.mark.usefixtures("one_thread")


def small(workers: int = 0, **settings: Any) -> SyntheticRepetitions:
    values = {"clip": ClipSettings(frames=60, size=16), "batch_size": 4, "train_videos": 14, "val_videos": 5, **settings}
    return SyntheticRepetitions(reading=LoadSettings(workers), **values)


def same(one: Batch, other: Batch) -> bool:
    streams = torch.equal(one.stream("video").data, other.stream("video").data)
    return (
        streams and one.extra.keys() == other.extra.keys() and all(torch.equal(one.extra[k], other.extra[k]) for k in one.extra)
    )


def test_cycles_are_those_of_a_slow_count() -> None:
    cycles = make_repetitions(40, 64, 8, "train", 3, CycleSettings(variation=0.2)).cycles
    assert set(cycles.number.tolist()) == set(range(2, 9))
    for row in range(40):
        length, count = int(cycles.length[row]), int(cycles.number[row])
        phase = cycles.phase[row, :length].numpy()
        borders = [frame for frame in range(length) if abs(phase[frame] - round(phase[frame])) < 1e-9]
        assert cycles.borders[row].tolist() == borders + [-1] * (8 - count)
        assert (borders[0], borders[-1], len(borders)) == (0, length - 1, count + 1)
        each = np.diff(borders)
        assert each.min() >= 0.8 * 6 - 1
        before, after = cycles.previous[row].tolist(), cycles.next[row].tolist()
        for start, end in pairwise(borders):
            assert after[start] == end - start - 1 == before[end - 1]
        # Between borders: the time until the same phase comes again, and since it was there.
        for frame in range(64):
            again = last = -1.0
            if frame < length and phase[frame] + 1 <= count:
                again = np.interp(phase[frame] + 1, phase, range(length)) - frame - 1
            if frame + 1 < length and phase[frame + 1] >= 1:
                last = frame - np.interp(phase[frame + 1] - 1, phase, range(length))
            assert abs(after[frame] - again) <= 0.5 + 1e-6
            assert abs(before[frame] - last) <= 0.5 + 1e-6


def test_frames_show_the_cycles() -> None:
    clips = make_repetitions(9, 64, 16, "val", 0)
    assert clips.motion.tolist() == [0, 1, 2] * 3
    for row in range(9):
        video, cycles = clips.video[row].int(), clips.cycles
        borders = cycles.borders[row, : cycles.number[row] + 1]
        assert (video[borders] - video[0]).abs().max() <= 1
        for start, end in pairwise(borders):
            assert (video[start] - video[(start + end) // 2]).abs().float().mean() > 1
        assert not video[cycles.length[row] :].any()
        assert video[: cycles.length[row]].flatten(1).amax(1).gt(100).all()


def test_videos_are_functions_of_seed_split_and_number() -> None:
    few, many = make_repetitions(2, 60, 16, "train", 0), make_repetitions(5, 60, 16, "train", 0)
    assert torch.equal(few.video, many.video[:2])
    assert all(torch.equal(one, other[:2]) for one, other in zip(few.cycles, many.cycles, strict=True))
    for other in (make_repetitions(2, 60, 16, "train", 1), make_repetitions(2, 60, 16, "val", 0)):
        assert not torch.equal(few.video, other.video)


def test_batches_are_as_those_of_ucfrep(tmp_path: Path) -> None:
    official = UCFRep(str(write_ucfrep(tmp_path)), clip=ClipSettings(frames=20, size=16), batch_size=4, reading=ReadSettings(0))
    official.setup("fit")
    theirs = next(iter(official.train_dataloader()))
    data = small()
    for batch in (*data.train_dataloader(), *data.val_dataloader()):
        video = batch.stream("video")
        assert video.length is not None
        longest = int(video.length.max())
        assert video.data.shape == (len(batch.index), 1, longest, 16, 16, 3)
        assert batch.kinds == data.streams
        assert batch.label.tolist() == (batch.index % len(REPEATED)).tolist()
        assert batch.extra.keys() == theirs.extra.keys()
        for name, value in batch.extra.items():
            assert (value.dtype, value.ndim) == (theirs.extra[name].dtype, theirs.extra[name].ndim), name
        for row, length in enumerate(video.length.tolist()):
            assert not video.data[row, :, length:].any()
            borders = batch.extra["borders"][row]
            assert (borders >= 0).sum() == batch.extra["count"][row] + 1
            assert borders.max() == length - 1
            for name in ("previous", "next"):
                assert batch.extra[name].shape[1] == longest
                assert batch.extra[name][row, length:].eq(-1).all()
    assert torch.cat([batch.index for batch in data.val_dataloader()]).tolist() == list(range(5))
    assert data.tested_in_training() == 0
    assert sorted(torch.cat([batch.index for batch in data.train_once()]).tolist()) == list(range(14))


def test_resumes_where_it_was_stopped() -> None:
    data, whole = small(), small().train_dataloader()
    loader = data.train_dataloader()
    for one in (loader, whole):
        one.batches.sampler.set_epoch(1)  # type: ignore[union-attr]
    expected, seen = list(whole), []
    for batch in loader:
        seen.append(batch)
        if len(seen) == 1:
            break
    fresh = small(workers=1)
    fresh.load_state_dict(data.state_dict())
    again = fresh.train_dataloader()
    again.batches.sampler.set_epoch(1)  # type: ignore[union-attr]
    rest = list(again)
    assert len(rest) == 2
    for one, other in zip(expected, seen + rest, strict=True):
        assert same(one, other)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (lambda: small(batch_size=15), r"data\.batch_size is 15 but data\.train_videos is 14"),
        (lambda: small(clip=ClipSettings(frames=40, size=16)), r"data\.clip\.frames is 40, but 8 cycles of 6 frames need 58"),
        (lambda: small(clip=ClipSettings(frames=60, size=16, clips=2)), r"of data\.clip set only frames and size"),
        (lambda: small(clip=ClipSettings(frames=60, size=16, sampler=Segments())), r"of data\.clip set only frames and size"),
        (lambda: small(seed=-1), r"data\.seed"),
        (lambda: CycleSettings(fewest=1), r"data\.cycles\.fewest"),
        (lambda: CycleSettings(fewest=5, most=4), r"data\.cycles\.most"),
        (lambda: CycleSettings(shortest=3), r"data\.cycles\.shortest"),
        (lambda: CycleSettings(variation=0.6), r"data\.cycles\.variation"),
    ],
)
def test_impossible_settings_name_what_to_change(settings: Any, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        settings()


def test_the_longest_cycles_fit() -> None:
    """Also with as little room as the settings allow."""
    cycles = CycleSettings(most=5, shortest=7, variation=0.3)
    for length in (cycles.frames, 200):
        made = make_repetitions(300, length, 4, "train", 0, cycles).cycles
        assert made.length.max() <= length
        assert made.length.max() > 0.8 * length
