"""Supervised networks on depth, joints and a worn sensor of UTD-MHAD (Chen, Jafari, Kehtarnavaz, ICIP 2015), each alone and all
at once, against a ridge classifier on raw values of the same stream.

Subjects 1, 3, 5, 7 are for training, and 2, 4, 6, 8 for the test. The networks are the recipes `configs/utd_mhad/*.yaml`, run
unchanged by `python main.py fit`; their settings and numbers of epochs were chosen on the training subjects only (1, 3, 5
against 7), and the last epoch is reported.

The ridge classifiers use 8 frames (depth as 20 x 20 means) or 64 samples spread over the recording, in order, or the one in the
middle. Their penalty is the best one on subject 7 for a classifier trained on the other training subjects.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, one_hot

from benchmarks.studies.harness import Row, Study
from datamodules.sets.utd_mhad import ACTIONS, UTDMHAD
from datamodules.settings import ReadSettings
from datamodules.streams.settings import SignalSettings, StreamSettings
from datamodules.video.samplers import Segments
from datamodules.video.sampling import ClipSettings
from main import main

RECIPES = {"depth": "depth", "skeleton": "skeleton", "signal": "imu"}
"""Recipe of each stream."""
PENALTIES = tuple(10.0**power for power in range(-4, 3))
SIDE, GREY = 128, 20
FAR = 3600.0
"""Depth in millimetres that becomes 0."""


@dataclass
class Size:
    """Settings of the measurement.

    Args:
        streams: streams, each with its own network.
        fused: also train on all streams at once.
        steps: samples of the sensor for its ridge classifier.
        frames: frames for the other ridge classifiers.
        more: options for the runs, such as [--trainer.max_epochs=1].
    """

    streams: list[str] = field(default_factory=lambda: list(RECIPES))
    fused: bool = True
    steps: int = 64
    frames: int = 8
    more: list[str] = field(default_factory=list)


@dataclass
class Split:
    """Raw values of one stream, [N, ...], and labels."""

    values: Tensor
    label: Tensor


def raw(root: Path, stream: str, benchmark: str, size: Size) -> tuple[Split, Split]:
    """All training and validation recordings, time on axis 1."""
    clip = ClipSettings(frames=size.frames, size=SIDE, sampler=Segments())
    streams = StreamSettings([stream], signal=SignalSettings(steps=size.steps))
    data = UTDMHAD(str(root), clip=clip, batch_size=4, reading=ReadSettings(0), benchmark=benchmark, seed=0, streams=streams)
    data.setup("fit")
    validation = data.val_dataloader()
    assert not isinstance(validation, list)
    found = []
    for loader in (data.train_once(), validation):
        batches = list(loader)
        values = torch.cat([in_time(stream, batch.stream(stream).data[:, 0]) for batch in batches])
        found.append(Split(values, torch.cat([batch.label for batch in batches])))
    return found[0], found[1]


def in_time(stream: str, clips: Tensor) -> Tensor:
    """Raw values of single clips, time on axis 1: float [B, T, ...]."""
    if stream == "depth":
        far = clips[..., 0].float()
        grey = torch.where(far > 0, 1 - far / FAR, 0)
        return adaptive_avg_pool2d(grey, GREY).flatten(2)
    return clips[..., 0].movedim(2, 1).flatten(2) if stream == "skeleton" else clips.movedim(2, 1)


def ridge(train: Split, test: Split, penalty: float, standardise: bool) -> float:
    """Accuracy in percent of a linear map onto the classes, least squares with a penalty in units of the mean square."""
    mean, deviation = train.values.mean(0), train.values.std(0).clamp_min(1e-6) if standardise else torch.tensor(1.0)
    known, new = (((split.values - mean) / deviation).flatten(1).double() for split in (train, test))
    target = one_hot(train.label, len(ACTIONS)).double()
    kernel = known @ known.T
    weight = kernel + penalty * kernel.diagonal().mean() * torch.eye(len(known)).double()
    scores = new @ known.T @ torch.linalg.solve(weight, target - target.mean(0)) + target.mean(0)
    return 100 * (scores.argmax(1) == test.label).double().mean().item()


def ridge_scores(root: Path, stream: str, size: Size) -> dict[str, float]:
    """Accuracy with all frames in order, and with the middle one only."""
    # Pixels have one unit, and their variance shows where something moves; joints and sensors have several units.
    standardise = stream != "depth"
    chosen, measured = raw(root, stream, "xsub_settings", size), raw(root, stream, "xsub", size)

    def score(cut: Callable[[Tensor], Tensor]) -> float:
        def accuracy(pair: tuple[Split, Split], penalty: float) -> float:
            known, new = (Split(cut(split.values), split.label) for split in pair)
            return ridge(known, new, penalty, standardise)

        best = max(PENALTIES, key=lambda penalty: accuracy(chosen, penalty))
        return accuracy(measured, best)

    middle = (size.steps if stream == "signal" else size.frames) // 2
    return {"order": score(lambda values: values), "one": score(lambda values: values[:, middle])}


def fit(root: Path, recipe: str, seed: int, more: list[str]) -> dict[str, float]:
    """Result of a recipe: the metrics of its last epoch on the test subjects."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(__file__).parents[2] / f"configs/utd_mhad/{recipe}.yaml"
        words = ["fit", "--config", str(config), f"--data.root={root}", f"--seed_everything={seed}"]
        main([*words, f"--trainer.default_root_dir={folder}", "--trainer.enable_progress_bar=false", *more])
        (path,) = (Path(folder) / "results").glob("*.json")
        metrics: dict[str, float] = json.loads(path.read_text())["metrics"]
        return metrics


def utd_mhad(root: str = "data/utd_mhad", size: Size = Size(), seeds: int = 3, out: Path | None = None) -> None:  # noqa: B008
    """Networks on depth, joints and a sensor against ridge classifiers.

    Args:
        root: folder of UTD-MHAD.
        size: settings of the measurement.
        seeds: number of repetitions of each network; weights, batches and clips change with the seed.
        out: JSON file to write.
    """
    study, folder = Study(seeds), Path(root)
    names = {"chance": "chance", "one": "ridge, the middle alone", "order": "ridge, all in order", "alone": "network"}
    rows = {key: Row(name) for key, name in (names | {"fused": "networks trained together, mean of logits"}).items()}
    for stream in size.streams:
        found = ridge_scores(folder, stream, size)
        for key in ("order", "one"):
            rows[key].add({stream: found[key]})
        rows["chance"].add({stream: 100 / len(ACTIONS)})
        print(f"{stream}: ridge {found['one']:.1f} and {found['order']:.1f} after {study.minutes:.1f} min", flush=True)
    for seed in range(seeds):
        for stream in size.streams:
            score = fit(folder, RECIPES[stream], seed, size.more)["test/top1"]
            rows["alone"].add({stream: score})
            print(f"seed {seed}: {stream}: {score:.1f} after {study.minutes:.1f} min", flush=True)
        if size.fused:
            metrics = fit(folder, "fusion", seed, size.more)
            scores = {stream: metrics[f"test/{stream}_top1"] for stream in RECIPES} | {"all": metrics["test/top1"]}
            rows["fused"].add(scores)
            print(f"seed {seed}: all {scores['all']:.1f} after {study.minutes:.1f} min", flush=True)
    shown = [row for row in rows.values() if row.scores]
    study.finish({"rows": shown}, asdict(size), out)
