"""One JSON for each experiment and seed: all that the report needs, and nothing that differs between equal runs."""

import math
from pathlib import Path
from typing import Any

from modules.core.errors import SettingError
from modules.core.files import read_json, write_json, write_whole
from modules.severe.experiments import Experiment, Preset, doubts

FORMAT = "lightning-video-ssl SEVERE result, version 2"
REPEATABLE = (
    "protocol",
    "data",
    "benchmark",
    "data_sha256",
    "flip",
    "seed",
    "trained_steps",
    "classes",
)
"""What is taken over of the result file of the run, where it has it."""


def result_path(out: Path, experiment: Experiment, seed: int) -> Path:
    """Where the JSON of an experiment is."""
    return out / "results" / f"{experiment.name}-seed{seed}.json"


def make_result(run: dict[str, Any], experiment: Experiment, preset: Preset, job: dict[str, Any]) -> dict[str, Any]:
    """Content of the JSON.

    Args:
        run: content of the run's result file (`callbacks.result_file`).
        experiment: what was measured.
        preset: whose recipe was used.
        job: encoder and settings.

    Raises:
        SettingError: if the run did not log the number of the experiment.
    """
    metrics = run.get("metrics", {})
    if experiment.metric not in metrics:
        raise SettingError(
            f"{experiment.name}: the run logged {', '.join(sorted(metrics)) or 'nothing'}, but not {experiment.metric}; its "
            "settings are not those of this experiment."
        )
    if not math.isfinite(metrics[experiment.metric]):
        raise SettingError(f"{experiment.name}: {experiment.metric} is {metrics[experiment.metric]}; look at the run's log.")
    return {
        "format": FORMAT,
        "experiment": experiment.name,
        "preset": preset,
        "metric": experiment.metric,
        "value": metrics[experiment.metric],
        "metrics": metrics,
        **{name: run[name] for name in REPEATABLE if name in run},
        "videos": videos(run),
        "unverified": doubts(experiment, preset),
        "job": job,
    }


def videos(run: dict[str, Any]) -> dict[str, dict[str, int]]:
    """By split, how many videos (key frames in detection) were `used`, and how many `missed` since they could not be read.

    Args:
        run: content of the run's result file.
    """
    tested = {"used": run.get("videos", run.get("key_frames", 0)), "missed": len(run.get("missed", []))}
    return {**(run.get("samples_read") or {}), "test": tested}


def read_result(path: Path, job: dict[str, Any]) -> dict[str, Any] | None:
    """The result of a finished experiment; None if there is none yet.

    Args:
        path: of the JSON.
        job: encoder and settings that it must be of.

    Raises:
        SettingError: if it is of another job.
    """
    content = read_json(path)
    if not content:
        return None
    if (changed := differences(content.get("job"), job)) or content.get("format") != FORMAT:
        raise SettingError(
            f"{path} was made with another {changed or 'version'}; pass another --out, or remove the file to repeat the "
            "experiment."
        )
    return content


def differences(before: Any, now: dict[str, Any]) -> str:
    """Names of the parts of a job that differ; empty if none does."""
    before = before if isinstance(before, dict) else {}
    return ", ".join(sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name)))


def write_result(path: Path, content: dict[str, Any]) -> None:
    """Write it, whole or not at all."""
    write_whole(path, lambda part: write_json(part, content))


def all_results(out: Path, encoder: str | None = None) -> list[dict[str, Any]]:
    """All results in a folder, in the order of their names.

    Args:
        out: the folder.
        encoder: hash of the encoder that they must be of; None takes those of any.

    Raises:
        SettingError: if they are of another encoder or of several, or those of one experiment have different settings.
    """
    found = [
        content for path in sorted((out / "results").glob("*.json")) if (content := read_json(path)).get("format") == FORMAT
    ]
    encoders = {content["job"]["encoder"]["sha256"] for content in found} | ({encoder} if encoder is not None else set())
    if len(encoders) > 1:
        raise SettingError(f"{out}/results holds results of {len(encoders) - 1} other encoder(s); use an --out for each.")
    settings: dict[str, Any] = {}
    for content in found:
        name, own = content["experiment"], (content["preset"], content["job"].get("settings"))
        if settings.setdefault(name, own) != own:
            raise SettingError(
                f"{out}/results holds results of {name} with different settings, whose mean says nothing; remove some of "
                "them, or use another --out."
            )
    return found
