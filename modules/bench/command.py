"""`python main.py bench --config ...`: measures a run for a minute, names the bottleneck, and tries settings that may help."""

import argparse
import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from statistics import median
from typing import NoReturn

import torch

from modules.bench.advice import Proposal, proposals
from modules.bench.measure import Measured, measure
from modules.bench.outlook import look_ahead
from modules.bench.report import Tried, as_json, render, render_tried
from modules.core.errors import SettingError, check_positive, check_writable

DESCRIPTION = """Measures a run for a minute: its speed, where the time goes, the bottleneck, and the time, memory and disk
space of the complete run. Accepts all settings of fit (main.py fit --help); leaves nothing on disk. Only one device is
measured, also for a run on several."""
ROUNDS = 3
"""How often each setting is tried, in turns, because the speed of a machine changes over time."""
TRY_SHARE = 0.1
"""Fraction of `--seconds` for each try."""
GAIN = 1.03
"""Speed-up above which a setting counts as faster."""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence."""

    def error(self, message: str) -> NoReturn:
        raise SettingError(f"bench: {message}; python main.py bench --help lists its settings.")


def parse(words: list[str], epilog: str = "") -> tuple[argparse.Namespace, list[str]]:
    """Options of the command, and the settings of the run. The help ends with `epilog`.

    Raises:
        SettingError: if an option has an invalid value.
    """
    parser = _Parser(prog="main.py bench", description=DESCRIPTION, epilog=epilog, allow_abbrev=False)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to train for the measurement (default: 60)")
    parser.add_argument(
        "--try",
        dest="tries",
        choices=("true", "false"),
        default="false",
        help="try settings that may help, a few seconds each, and name the fastest (default: false)",
    )
    parser.add_argument("--out", help="file for all numbers as JSON")
    options, rest = parser.parse_known_args(words)
    check_positive("--", seconds=options.seconds)
    if options.out is not None:
        check_writable("--out", Path(options.out).parent)
        if Path(options.out).is_dir():
            raise SettingError(f"--out {options.out} is a folder; pass a file.")
    if not rest:
        raise SettingError("bench needs the settings of a run; add those of fit, such as --config FILE.")
    return options, rest


def bench(words: list[str], epilog: str = "") -> None:
    """Measure, and print the report.

    Args:
        words: the command line after the word bench.
        epilog: text at the end of its help.

    Raises:
        SettingError: if the run cannot be built or measured.
    """
    options, settings = parse(words, epilog)
    print(f"Training for {options.seconds:g} s to measure; nothing is kept.", flush=True)
    measured = measure(settings, options.seconds, whole=True)
    outlook = look_ahead(measured, _other_batch(settings, measured, options.seconds))
    advice = proposals(measured, outlook.largest_batch)
    print(render(measured, outlook, advice), flush=True)
    tried: list[Tried] = []
    if options.tries == "true":
        tried = try_all(settings, advice, options.seconds)
        print(render_tried(tried), flush=True)
    elif any(one.settings for one in advice):
        print("\nbench --try true tries these settings and names the fastest.", flush=True)
    if options.out is not None:
        Path(options.out).parent.mkdir(parents=True, exist_ok=True)
        Path(options.out).write_text(json.dumps(as_json(settings, measured, outlook, advice, tried), indent=1) + "\n")


def _other_batch(settings: list[str], measured: Measured, seconds: float) -> Measured | None:
    """The run with half the batch size, to find the GPU memory per sample."""
    if measured.device == "cpu" or measured.batch_size is None or measured.batch_size < 2:
        return None
    return measure([*settings, f"--data.batch_size={measured.batch_size // 2}"], TRY_SHARE * seconds)


def try_all(settings: list[str], advice: list[Proposal], seconds: float) -> list[Tried]:
    """Try changes one by one, then combine those that helped.

    Args:
        settings: settings of the run.
        advice: changes that may help.
        seconds: seconds of the whole measurement.

    Returns:
        The unchanged run and everything that was tried, the fastest first.
    """
    candidates = [one for one in advice if one.settings]
    tried = in_turns(settings, candidates, TRY_SHARE * seconds)
    helped = _one_of_each([one for one in tried if one.settings and one.ratio > GAIN])
    if len(helped) > 1:
        both = Proposal(
            "together",
            list(chain.from_iterable(one.settings for one in helped)),
            any(one.changes_learning for one in helped),
        )
        again = in_turns(settings, [both], TRY_SHARE * seconds)
        tried += [one for one in again if one.settings]
    return sorted(tried, key=lambda one: (-one.ratio, len(one.settings)))


def _one_of_each(tried: Sequence[Tried]) -> list[Tried]:
    """The fastest of the changes of each setting."""
    best: dict[str, Tried] = {}
    for one in sorted(tried, key=lambda one: -one.ratio):
        best.setdefault(one.settings[0].partition("=")[0], one)
    return list(best.values())


def in_turns(settings: list[str], candidates: list[Proposal], seconds: float) -> list[Tried]:
    """Measure the unchanged run, and the run with each of the changes, in turns, several times.

    Args:
        settings: settings of the run.
        candidates: settings to add.
        seconds: seconds of each try.

    Returns:
        One result each, the unchanged run first. Changes that cannot be run are left out.
    """
    everything = [Proposal("as it is"), *candidates]
    speeds: list[list[float]] = [[] for _ in everything]
    for number in range(ROUNDS):
        for candidate, own in zip(everything, speeds, strict=True):
            if number and not own:
                continue
            print(f"Trying, round {number + 1} of {ROUNDS}: {' '.join(candidate.settings) or 'as it is'}", flush=True)
            try:
                own.append(measure([*settings, *candidate.settings], seconds).clips_per_second)
            except (SettingError, torch.OutOfMemoryError) as error:
                if not candidate.settings:
                    raise
                print(f"  not possible: {str(error).splitlines()[0]}", flush=True)
    now = speeds[0]
    return [
        Tried(one.settings, median(own), median(a / b for a, b in zip(own, now, strict=True)), one.changes_learning)
        for one, own in zip(everything, speeds, strict=True)
        if len(own) == len(now)
    ]
