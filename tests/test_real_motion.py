"""The benchmark `real_motion` on a few made-up clips."""

from pathlib import Path

import pytest
import torch

from benchmarks.real import run
from benchmarks.real.data import LENGTH, STORED, Draw, cut, shown
from benchmarks.real.methods import SPECS, Spec
from benchmarks.real.recipes import Masked
from benchmarks.real.store import trial_store
from modules.core.errors import SettingError


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Decoded clips of three actions, and a search of two trials. There are no test subjects, so that the search cannot read
    them."""
    depth = torch.randint(1500, 3500, (12, LENGTH, STORED, STORED, 1), generator=torch.Generator().manual_seed(0))
    label = torch.arange(12) % 3
    clips = {"train": depth[:6], "train_label": label[:6], "test": depth[6:], "test_label": label[6:]}
    torch.save({name: value.to(torch.uint16) if value.ndim > 1 else value for name, value in clips.items()}, tmp_path / "c.pt")
    (tmp_path / "c.pt").rename(tmp_path / "xsub_settings.pt")
    trials = {"first": Masked(steps=2), "second": Masked(steps=2, rate=2e-3)}
    monkeypatch.setitem(SPECS, "videomae", Spec("VideoMAE", dict(trials)))
    return tmp_path


def test_search_writes_resumes_and_notices_other_settings(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = work / "results"
    assert run.search(["videomae"], work, results, 0) == []
    rows = trial_store(results).rows()
    assert [(row["trial"], row["seed"], row["steps"]) for row in rows] == [("first", "1000", "2"), ("second", "1000", "2")]
    assert '"rate": 0.002' in rows[1]["settings"]
    assert "rate" not in rows[0]["settings"]
    text = (results / "trials.csv").read_text()
    monkeypatch.setattr(run, "run_trial", None)
    assert run.pending_trials(["videomae"], work, results) == []
    # What a killed search lacks is all that is left.
    lines = text.splitlines()
    (results / "trials.csv").write_text("\n".join(lines[:2]) + "\n")
    assert [job.trial for job in run.pending_trials(["videomae"], work, results)] == ["second"]
    monkeypatch.setitem(SPECS, "videomae", Spec("VideoMAE", {"first": Masked(steps=3)}))
    with pytest.raises(SettingError, match="other settings"):
        run.pending_trials(["videomae"], work, results)


def test_the_best_trial_has_the_best_mean_of_both_probes(work: Path) -> None:
    store = trial_store(work)
    scores = {"first": (50.0, 20.0), "second": (30.0, 45.0)}
    row = dict.fromkeys(store.columns, "") | {"settings": "{}", "seed": 1000, "seconds": 1.0}
    store.add(
        row | {"method": "videomae", "trial": name, "linear": linear, "attentive": attentive}
        for name, (linear, attentive) in scores.items()
    )
    assert run.best_trial("videomae", work) == "second"
    (work / "trials.csv").unlink()
    with pytest.raises(SettingError, match="lacks first, second"):
        run.best_trial("videomae", work)


def test_clips_are_frames_in_order_of_one_window() -> None:
    video = torch.arange(LENGTH, dtype=torch.uint8)[None, :, None, None].expand(8, LENGTH, STORED, STORED)
    for span in (16, 20, 32):
        for scale in (1.0, 0.6):
            clip = cut(video, Draw(span, scale), torch.Generator().manual_seed(0))
            assert clip.shape == (8, 16, 48, 48)
            time = clip[..., 0, 0].long()
            assert bool((time.diff(dim=1) >= 0).all())
            assert int((time[:, -1] - time[:, 0]).max()) < span
    assert shown(video)[0, :, 0, 0].tolist() == list(range(0, 32, 2))
