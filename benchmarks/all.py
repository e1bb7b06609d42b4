"""All benchmarks for comparisons with other projects, in one table, one JSON file and one picture.

    python benchmarks/all.py --videos DIR                # full size, an hour or two on two CPU cores
    python benchmarks/all.py --videos DIR --quick true   # small sizes, in minutes, only to try it

Runs `loader`, `step`, `clip_step`, `cost`, `memory` and `startup` as separate processes; each can also be run alone. Benchmarks
that cannot run, because a peer is not installed or there are no videos, are listed as left out. Run it on a quiet machine.
"""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).parents[1]
Figures = dict[str, float]


def loader_figures(result: dict[str, Any]) -> dict[str, Figures]:
    """Clips per second of one core, divided by those of decord and PIL."""
    return {"times as fast as the peer": {"loader / decord and PIL": result["geometric_mean"]["ratio"]}}


def step_figures(result: dict[str, Any]) -> dict[str, Figures]:
    """Speed relative to the peers, and clips per second of each method."""
    faster = {name: 1 / row["ratio"] for name, row in result["comparisons"].items()}
    return {
        "times as fast as the peer": faster,
        "clips per second": {name: row["clips_per_second"] for name, row in result["methods"].items()},
    }


def clip_step_figures(result: dict[str, Any]) -> dict[str, Figures]:
    """Speed relative to plain PyTorch."""
    return {
        "times as fast as the peer": {f"{name} / plain PyTorch": 1 / row["ratio"] for name, row in result["methods"].items()}
    }


def memory_figures(result: dict[str, Any]) -> dict[str, Figures]:
    """Peak memory of a step, with and without recomputing."""
    rows = result["methods"].items()
    plain = {name: row["plain"]["peak"] for name, row in rows}
    return {
        "memory of a step, MiB": plain,
        "memory, recomputing, MiB": {name: row["recomputing"]["peak"] for name, row in rows},
    }


def startup_figures(result: dict[str, Any]) -> dict[str, Figures]:
    """Time to the first step, divided by that of the imports."""
    return {"times as long as import lightning, timm": {"first step": result["ratio"]}}


@dataclass
class Part:
    """A benchmark.

    Args:
        words: further command-line arguments.
        quick: arguments of the quick form.
        figures: figures of its JSON file for the table and the picture, by heading.
        by_videos: whether it needs video files.
        needs: package that it needs.
    """

    words: list[str]
    quick: list[str]
    figures: Callable[[dict[str, Any]], dict[str, Figures]]
    by_videos: bool = False
    needs: str | None = None


PARTS = {
    "loader": Part([], ["--pairs=3"], loader_figures, by_videos=True, needs="decord"),
    "step": Part([], ["--size=tiny", "--batch=1", "--pairs=2"], step_figures),
    "clip_step": Part([], ["--share=0.0625", "--side=32", "--pairs=1"], clip_step_figures),
    # It prints its counts as a separate table.
    "cost": Part([], ["--size=tiny", "--batch=2"], lambda result: {}),
    "memory": Part([], ["--size=tiny", "--batch=1"], memory_figures),
    "startup": Part([], ["--pairs=2"], startup_figures),
}


def missing_for(name: str, part: Part, videos: Path | None) -> str | None:
    """Why a benchmark cannot run here, or None."""
    if not (ROOT / "benchmarks" / f"{name}.py").is_file():
        return "this version of the project has none"
    if part.needs is not None and importlib.util.find_spec(part.needs) is None:
        return f"{part.needs} is not installed"
    return "it needs --videos" if part.by_videos and videos is None else None


def run(name: str, words: list[str], out: Path) -> bool:
    """Run a benchmark, which writes a JSON file; returns whether it did."""
    out.unlink(missing_ok=True)
    print(f"\n== {name}", flush=True)
    ended = subprocess.run([sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *words, f"--out={out}"], cwd=ROOT)
    return ended.returncode == 0 and out.is_file()


def draw(figures: dict[str, Figures], path: Path) -> None:
    """Bars, longest at full width under each heading, as a PNG file."""
    line, left, bar, right = 22, 280, 420, 90
    rows = sum(len(values) + 2 for values in figures.values())
    picture = Image.new("RGB", (left + bar + right, line * (rows + 1)), "white")
    canvas, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    y = line // 2
    for heading, values in figures.items():
        canvas.text((10, y), heading, fill="black", font=font)
        y += line
        longest = max(values.values(), default=1.0)
        for name, value in values.items():
            canvas.text((26, y), name, fill="black", font=font)
            canvas.rectangle((left, y + 2, left + max(1, round(bar * value / longest)), y + line - 6), fill=(70, 120, 180))
            canvas.text((left + round(bar * value / longest) + 6, y), f"{value:.3g}", fill="black", font=font)
            y += line
        y += line
    picture.save(path)


def main(
    videos: Path | None = None,
    quick: bool = False,
    parts: list[str] | None = None,
    words: dict[str, list[str]] | None = None,
    out: Path = Path("runs/benchmarks"),
) -> None:
    """Run all benchmarks.

    Args:
        videos: folder of videos for the loader.
        quick: small sizes.
        parts: names of the benchmarks; null runs all.
        words: further settings of a benchmark by its name, such as {"step": ["--precision=bf16"]}.
        out: folder to write to: benchmarks.json, benchmarks.png, and the file of each benchmark.
    """
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Figures] = {}
    results: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    failed: list[str] = []
    for name in PARTS if parts is None else parts:
        part, own = PARTS[name], out / f"{name}.json"
        reason = missing_for(name, part, videos)
        if reason is not None:
            left_out[name] = reason
            continue
        given = [f"--videos={videos.absolute()}"] if part.by_videos and videos is not None else []
        if not run(name, [*given, *(part.quick if quick else part.words), *(words or {}).get(name, [])], own):
            failed.append(name)
            continue
        results[name] = json.loads(own.read_text())
        for heading, values in part.figures(results[name]).items():
            figures[heading] = figures.get(heading, {}) | values
    figures = {heading: values for heading, values in figures.items() if values}
    print()
    for heading, values in figures.items():
        print(heading)
        for row, value in values.items():
            print(f"    {row:40} {value:>10.3g}")
    for name, reason in left_out.items():
        print(f"left out: {name}, because {reason}")
    about = {"figures": figures, "left_out": left_out, "failed": failed}
    (out / "benchmarks.json").write_text(json.dumps(about | {"results": results}, indent=1))
    draw(figures, out / "benchmarks.png")
    print(f"{out}/benchmarks.json and benchmarks.png")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}; see above.")


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
