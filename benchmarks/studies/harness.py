"""Common parts of the learning studies: budget, probes, tables."""

import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from modules.core.randomness import device_generator
from modules.downstream.metrics.probes import frame_difference, knn_accuracy, linear_accuracy, single_frame
from modules.motion.appearance import SHAPES
from modules.scenes.backgrounds import Background
from modules.scenes.classes import MOTION_CLASSES
from modules.scenes.objects import SyntheticClips
from modules.training.optim import AdamWSettings, warmup_cosine

CLASSES = {"motion": len(MOTION_CLASSES), "object": len(SHAPES)}
Readout = Callable[[Tensor], Tensor]
"""uint8 clips [N, T, H, W, 3] -> features [N, d]"""


@dataclass
class Row:
    """A row of a table: scores by column, one entry per seed."""

    name: str
    scores: dict[str, list[float]] = field(default_factory=dict)

    def add(self, scores: Mapping[str, float]) -> None:
        """Append one seed's scores."""
        for column, value in scores.items():
            self.scores.setdefault(column, []).append(value)


@dataclass
class Budget:
    """Common settings of all studies: clips, probes and budget.

    Args:
        frames: frames per clip.
        steps: optimiser steps of every trained row.
        batch: clips (for contrastive methods, videos or recordings) per step.
        lr: peak learning rate.
        pool: training clips, videos or recordings.
        probe_clips: labelled clips for the probes.
        test_clips: clips to test on.
    """

    frames: int = 8
    steps: int = 1000
    batch: int = 64
    lr: float = 1e-3
    pool: int = 8192
    probe_clips: int = 4096
    test_clips: int = 2048


@dataclass
class StudySize(Budget):
    """Common settings of all video studies.

    Args:
        side: side of the frames in pixels.
        family: backgrounds of the probes.
        shifted: backgrounds of the shifted test.
    """

    side: int = 32
    family: Background = "black"
    shifted: Background = "gradient"


def table(rows: list[Row], digits: int = 1) -> str:
    """Markdown table of means and spreads, with the columns of the last row."""
    columns = list(rows[-1].scores)
    lines = ["| row | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for row in rows:
        cells = []
        for column in columns:
            values = row.scores.get(column, [])
            spread = f" ({max(values) - min(values):.1f})" if len(values) > 1 else ""
            cells.append(f"{sum(values) / len(values):.{digits}f}{spread}" if values else "")
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def train(
    parameters: nn.Module,
    loss_of: Callable[[int, torch.Generator], Tensor],
    steps: int,
    lr: float,
    seed: int,
) -> list[float]:
    """The budget of every trained row: AdamW, warm-up over 5 % of the steps, half a cosine.

    Args:
        parameters: module to train.
        loss_of: returns the loss of a step, given its index and generator.
        steps: optimiser steps.
        lr: peak learning rate.
        seed: random seed of the generators.

    Returns:
        Mean loss of each tenth of the steps.
    """
    device = next(parameters.parameters()).device
    optimiser = AdamWSettings().build(parameters.train(), lr, set())
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, warmup_cosine(0.05 * steps, steps, 0.01))
    losses = torch.zeros(steps, device=device)
    for step in range(steps):
        loss = loss_of(step, device_generator(device, seed, step))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        losses[step] = loss.detach()
    return [part.mean().item() for part in losses.tensor_split(min(steps, 10))]


def random_rows(count: int, batch: int, generator: torch.Generator) -> Tensor:
    """Row numbers of a random batch, int64 [batch]."""
    return torch.randint(count, (batch,), generator=generator, device=generator.device)


def probe(readout: Readout, train_clips: SyntheticClips, tests: Mapping[str, SyntheticClips]) -> dict[str, float]:
    """A linear and a kNN probe on motion and, if there are any, on objects, in percent.

    Args:
        readout: readout of the frozen network.
        train_clips: labelled clips that the probes are trained on.
        tests: labelled clips by a suffix of the column name; kNN is measured with the first ones.
    """
    known = readout(train_clips.video)
    new = {name: readout(clips.video) for name, clips in tests.items()}
    first = next(iter(tests))
    scores = {}
    for task in ("motion", "object"):
        labels = getattr(train_clips, task)
        for name, clips in tests.items() if labels.min() >= 0 else ():
            truth = getattr(clips, task)
            scores[f"{task} linear{name}"] = 100 * linear_accuracy(known, labels, new[name], truth)
            if name == first:
                scores[f"{task} kNN{name}"] = 100 * knn_accuracy(known, labels, new[name], truth)
    return scores


def probe_rows(
    rows: Mapping[str, Row], readouts: Mapping[str, Readout], train_clips: SyntheticClips, tests: Mapping[str, SyntheticClips]
) -> None:
    """Probe raw pixels and networks, and add the scores of this seed to their rows.

    Args:
        rows: by key: `frame`, `difference` and those of `readouts`.
        readouts: readouts of the frozen networks.
        train_clips: see `probe`.
        tests: see `probe`.
    """
    middle = train_clips.video.shape[1] // 2
    raw: dict[str, Readout] = {"frame": lambda video: single_frame(video, middle), "difference": frame_difference}
    for key, readout in (raw | dict(readouts)).items():
        rows[key].add(probe(readout, train_clips, tests))


def chance(row: Row, classes: Mapping[str, int] = CLASSES) -> Row:
    """Scores of guessing, for the columns of a row.

    Args:
        row: row whose column names begin with the name of their task.
        classes: number of classes of each task.
    """
    guess = Row("chance")
    for column in row.scores:
        guess.add({column: 100 / classes[column.split()[0]]})
    return guess


class Study:
    """Device, clock and report of a run.

    Args:
        seeds: number of repetitions.
    """

    def __init__(self, seeds: int) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.seeds = seeds
        self._start = time.perf_counter()

    @property
    def minutes(self) -> float:
        """Minutes since the study began."""
        return (time.perf_counter() - self._start) / 60

    def finish(self, tables: Mapping[str, list[Row]], settings: Mapping[str, object], out: Path | None) -> None:
        """Print all tables and write them as JSON.

        Args:
            tables: rows by the name of their table; the first is printed without its name, the others with two digits.
            settings: settings of the run.
            out: JSON file to write.
        """
        for number, (name, rows) in enumerate(tables.items()):
            print(table(rows) if number == 0 else f"\n{name}:\n\n{table(rows, digits=2)}")
        where = torch.cuda.get_device_name() if self.device.type == "cuda" else f"{platform.machine()}, CPU"
        print(f"{self.seeds} seeds, {self.minutes:.0f} min, {where}; spread (largest minus smallest) in brackets")
        if out is not None:
            result = {"size": settings, "seeds": self.seeds, "minutes": self.minutes, "machine": where}
            named = {name: [{"name": row.name, "scores": row.scores} for row in rows] for name, rows in tables.items()}
            out.write_text(json.dumps(result | named, indent=1))
