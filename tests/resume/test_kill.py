"""Runs that are killed repeatedly end bit-identical to uninterrupted runs."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from modules.runs.last_checkpoint import LAST
from tests.registry import DOWNSTREAM, METHODS, by_name
from tests.resume.bits import differences
from tests.resume.runs import MOMENTS, STEPS, Run, start, write_videos

everywhere = pytest.mark.parametrize("method", by_name(*METHODS, *DOWNSTREAM))


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="session")
def whole(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Uninterrupted runs, each made once."""
    made: dict[tuple, Path] = {}

    def get(run: Run) -> Path:
        key = (run.method, run.accumulate, run.repeat, run.validate_every, run.world)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("whole")
            assert start(replace(run, folder=made[key])) == [0] * run.world
        return made[key]

    return get


def checkpoint(folder: Path) -> dict[str, Any]:
    content = torch.load(folder / LAST, weights_only=True)
    for state in content["callbacks"].values():
        # Runs in different folders; ModelCheckpoint keeps the names of its files.
        for name in [name for name in state if name.endswith("path")]:
            del state[name]
    return content


def diary(folder: Path) -> dict[str, Any]:
    """Logged values and batch contents by step. Repeated records must be equal."""
    told: dict[str, Any] = {}
    lines = [(path.name, line) for path in folder.glob("diary*.jsonl") for line in path.read_text().splitlines()]
    for name, line in lines:
        kind, step, content = json.loads(line)
        key = f"{name} {kind} {step} {sorted(content) if kind == 'log' else ''}"
        assert told.setdefault(key, content) == content, f"{key} was different after the run went on"
    return told


def killed(run: Run, plan: list[tuple[int, str, int]]) -> None:
    """Kill a run at each (batch, hook) of the plan, with the given number of workers, and then let it end."""
    for batch, moment, workers in plan:
        codes = start(replace(run, die_at=(batch, moment), workers=workers))
        # A hook may not occur any more; the run then ends normally.
        assert codes[run.dying_rank] in (0, -run.signal), f"exit codes {codes} after {moment} of batch {batch}"
    assert start(replace(run, workers=plan[-1][2])) == [0] * run.world


def compare(one: Path, other: Path) -> None:
    assert differences(checkpoint(one), checkpoint(other)) == []
    assert diary(one) == diary(other)
    # Data without files has no report of broken ones.
    reports = [[path.read_text() for path in folder.glob("bad_videos.tsv")] for folder in (one, other)]
    assert reports[0] == reports[1]


def random_plan(count: int, seed: int) -> list[tuple[int, str, int]]:
    draw = random.Random(seed)
    batches = sorted(draw.randrange(STEPS) for _ in range(count))
    return [(batch, draw.choice(MOMENTS), draw.choice((0, 2))) for batch in batches]


# Batches per step, copies of each clip, batches between validations (None: one per epoch).
SETTINGS = {"plain": (1, 1, None), "accumulating": (2, 2, None), "validating often": (1, 1, 2)}


@everywhere
@pytest.mark.parametrize("settings", SETTINGS)
def test_killed_runs_end_with_the_same_bits(method: str, settings: str, videos: Path, whole: Any, tmp_path: Path) -> None:
    run = Run(method, tmp_path, videos, *SETTINGS[settings])
    killed(run, random_plan(5, seed=len(settings)))
    compare(whole(run), tmp_path)


@pytest.mark.slow
@everywhere
@pytest.mark.parametrize("seed", range(10, 20))
def test_fifty_kills(method: str, seed: int, videos: Path, whole: Any, tmp_path: Path) -> None:
    run = Run(method, tmp_path, videos, *list(SETTINGS.values())[seed % 3])
    killed(run, random_plan(5, seed))
    compare(whole(run), tmp_path)


@pytest.mark.parametrize("moment", MOMENTS)
def test_every_moment(moment: str, videos: Path, whole: Any, tmp_path: Path) -> None:
    run = Run(METHODS[0].name, tmp_path, videos)
    # The last batch of the first epoch, which is followed by validation.
    killed(run, [(4, moment, 2), (12, moment, 0)])
    compare(whole(run), tmp_path)


@everywhere
def test_two_processes_of_which_one_is_killed(method: str, videos: Path, whole: Any, tmp_path: Path) -> None:
    run = Run(method, tmp_path, videos, world=2)
    killed(replace(run, dying_rank=1), [(3, "after backward", 2)])
    killed(run, [(9, "validation", 0)])
    compare(whole(run), tmp_path)
