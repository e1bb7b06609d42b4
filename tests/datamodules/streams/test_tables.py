"""Tables of sensors: the samples of a clip, for any clock and order of columns."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.streams.readers import make_reader
from datamodules.streams.settings import SignalSettings
from datamodules.streams.tables import SignalReader
from datamodules.video.decode import DecodeError
from datamodules.video.sampling import Plan
from modules.core.errors import SettingError
from tests.datamodules.streams.files import make_plan_of, settings, write_csv, write_table


def reader(**changes: object) -> SignalReader:
    made = make_reader("signal", settings(signal=SignalSettings(**changes)))  # type: ignore[arg-type]
    assert isinstance(made, SignalReader)
    return made


def at(first: float, last: float, views: int = 1) -> Plan:
    """A plan with these timestamps."""
    return replace(Plan.empty(views, 2), time=np.tile(np.array([[first, last]], np.float32), (views, 1)))


def test_samples_of_a_table_without_times_are_those_of_the_file(tmp_path: Path) -> None:
    table = np.random.default_rng(0).normal(size=(100, 6)).astype(np.float32)
    np.save(tmp_path / "a.npy", table)
    own = reader()
    own.learn(tmp_path / "a.npy")
    stream = own.read(tmp_path / "a.npy", make_plan_of([0, 10, 20, 30], fps=25), 32)
    # From 0 s to 1.2 s, both included, at 50 samples per second.
    assert torch.equal(stream.data[0].T, torch.from_numpy(table[:61]))
    assert stream.length is not None
    assert stream.length.tolist() == [61]
    assert stream.valid is not None
    assert stream.valid.all()
    assert stream.time is not None
    assert stream.time.tolist() == make_plan_of([0, 10, 20, 30], fps=25).time.tolist()


def test_the_first_stream_of_a_sample_gets_the_samples_that_were_chosen(tmp_path: Path) -> None:
    table = np.arange(200, dtype=np.float64)[:, None]
    np.savez(tmp_path / "a.npz", wrist=table, other=table)
    source = tmp_path / "a.npz#wrist"
    own = reader(rate=100)
    info = own.info(source)
    assert (info.num_frames, info.fps, info.width) == (200, 100, 0)
    stream = own.read(source, make_plan_of(range(40, 72), fps=100, picture=(0, 0)), 32)
    assert stream.data[0, 0].tolist() == list(range(40, 72))


@pytest.mark.parametrize(("unit", "factor"), [("s", 1.0), ("ms", 1e3)])
def test_times_are_in_the_unit_that_the_settings_say(unit: str, factor: float, tmp_path: Path) -> None:
    table = write_table(tmp_path / "a.csv", unit=factor)
    stream = reader(unit=unit, steps=5).read(table, at(0.5, 1.5), 32)
    assert torch.allclose(stream.data[0, 0], torch.linspace(0.5, 1.5, 5), atol=1e-5)
    assert stream.length is None
    # Milliseconds read as seconds: the clip is then between two of the first samples.
    if unit == "ms":
        with pytest.raises(DecodeError, match="a gap in time"):
            reader(steps=5).read(table, at(0.5, 1.5), 32)


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    first = write_csv(tmp_path / "a.csv", "time,gx,ax", *[(t / 50, t, -t) for t in range(100)])
    swapped = write_csv(tmp_path / "b.csv", "ax;time;gx;note", *[f"{-t};{t / 50};{t};7" for t in range(100)])
    own = reader()
    own.learn(first)
    assert own.columns == ("gx", "ax")
    a, b = (own.read(path, at(0, 1), 32) for path in (first, swapped))
    assert torch.equal(a.data, b.data)
    picked = reader(columns=["ax"])
    picked.learn(first)
    assert torch.equal(picked.read(swapped, at(0, 1), 32).data, a.data[:, 1:])
    renamed = write_csv(tmp_path / "c.csv", "time,gx,acc", *[(t / 50, t, -t) for t in range(100)])
    with pytest.raises(DecodeError, match=r"no such column \(ax\)"):
        own.read(renamed, at(0, 1), 32)
    # An array does not say which of its columns is which.
    np.save(tmp_path / "d.npy", np.ones((100, 2)))
    with pytest.raises(DecodeError, match="no such column"):
        own.read(tmp_path / "d.npy", at(0, 1), 32)


def test_clock_offset_and_clocks_that_start_anywhere(tmp_path: Path) -> None:
    table = write_table(tmp_path / "a.csv")
    late = reader(offset=0.5, steps=3).read(table, at(1, 1.4), 32)
    assert torch.allclose(late.data[0, 0], torch.tensor([0.5, 0.7, 0.9]), atol=1e-5)
    even = np.arange(100.0)[:, None]
    np.save(tmp_path / "b.npy", even)
    assert reader(offset=0.5).read(tmp_path / "b.npy", at(1, 1.1), 32).data[0, 0].tolist() == [25, 26, 27, 28, 29, 30]
    epoch = write_csv(tmp_path / "c.csv", "timestamp,a", *[(1_700_000_000 + t / 50, t) for t in range(100)])
    with pytest.raises(DecodeError, match="too short"):
        reader(steps=3).read(epoch, at(0, 1), 32)
    assert torch.allclose(
        reader(from_first=True, steps=3).read(epoch, at(0, 1), 32).data[0, 0], torch.tensor([0.0, 25, 50]), atol=1e-3
    )


def test_what_the_file_has_not_is_zero_and_not_valid(tmp_path: Path) -> None:
    table = write_table(tmp_path / "a.csv", seconds=1)
    for options in ({"steps": 21}, {"rate": 50}):
        stream = reader(offset=0.5, **options).read(table, at(0, 2), 32)
        assert stream.valid is not None
        moments = torch.linspace(0, 2, stream.data.shape[-1])
        inside = (moments > 0.485) & (moments < 1.495)
        assert torch.equal(stream.valid[0], inside)
        assert (stream.data[0, 1][~inside] == 0).all()
        assert (stream.data[0, 1][inside] >= 10).all()


def test_views_of_unequal_length_are_filled_up(tmp_path: Path) -> None:
    table = write_table(tmp_path / "a.csv")
    plan = replace(Plan.empty(2, 2), time=np.array([[0, 0.2], [0.5, 1]], np.float32))
    stream = reader().read(table, plan, 32)
    assert stream.data.shape == (2, 3, 26)
    assert stream.length is not None
    assert stream.length.tolist() == [11, 26]
    assert stream.valid is not None
    assert stream.valid.sum(1).tolist() == [11, 26]


def test_a_gap_elsewhere_does_not_matter(tmp_path: Path) -> None:
    rows = [(t / 50 + (3 if t >= 50 else 0), t) for t in range(100)]
    table = write_csv(tmp_path / "a.csv", "t,a", *rows)
    assert reader(steps=3).read(table, at(0.1, 0.5), 32).data[0, 0].tolist() == pytest.approx([5, 15, 25], abs=1e-3)
    with pytest.raises(DecodeError, match="a gap in time"):
        reader(steps=3).read(table, at(0.1, 1.5), 32)


def test_slow_sensors_have_no_gaps(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(9.0)[:, None])
    assert reader(rate=1).read(tmp_path / "a.npy", at(2, 4), 32).data[0, 0].tolist() == [2, 3, 4]


def test_whole_recordings_and_parts_of_them(tmp_path: Path) -> None:
    table = write_table(tmp_path / "a.csv")
    whole = reader(whole=True).read(table, at(0.1, 0.2), 32)
    assert whole.data.shape == (1, 3, 100)
    part = reader(whole=True).read(table, replace(at(0.1, 0.2), span=(0.5, np.inf)), 32)
    assert part.data.shape == (1, 3, 75)
    assert part.time is not None
    assert part.time[0].tolist() == pytest.approx([0.5, 1.98])


def test_nothing_has_the_form_of_something(tmp_path: Path) -> None:
    table = write_table(tmp_path / "a.csv")
    for options in ({"steps": 7}, {"rate": 50}):
        own = reader(**options)
        own.learn(table)
        some, none = own.read(table, at(0, 1, 2), 32), own.nothing(at(0, 1, 2), 32)
        assert none.data.shape[:2] == some.data.shape[:2]
        assert none.valid is not None
        assert not none.valid.any()
        assert (none.length is None) == (some.length is None)


def test_settings_are_refused() -> None:
    for wrong in ({"median": 4}, {"columns": ["a", "a"]}, {"columns": []}, {"window": True, "steps": 3}, {"rate": 0}):
        with pytest.raises(SettingError, match=r"data\.streams\.signal"):
            reader(**wrong)
