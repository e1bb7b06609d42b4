"""How much faster counting of all videos, points and scales at once is than the official walk, one state after the other.

    python benchmarks/counting.py                     # 32 videos of up to 300 frames, and a tiny ViT on generated ones
    python benchmarks/counting.py --clips 0           # without the ViT

Both ways ask the same network the same questions. `walk` asks one that knows nothing and costs next to nothing, so that the
counting itself is timed; `ViT` asks an encoder, whose clips take most of the time on a CPU. Counts must be equal. The ways are
timed in turns. Run it on a quiet machine.
"""

import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from jsonargparse import auto_cli
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from modules.backbones.vit.video_vit import VideoViT
from modules.downstream.counting import RepetitionCounting
from modules.downstream.cycles import ANCHORS, SAME, Answer, count_cycles
from modules.scenes.tasks.repetitions import make_repetitions

Count = Callable[[], list[float]]


def guessing(states: Tensor) -> tuple[Tensor, Tensor]:
    """A network without sense, whose answers depend on nothing but the state."""
    number = torch.arange(2 * len(ANCHORS), dtype=torch.float64).view(2, -1) + 1
    mixed = (states @ torch.tensor([1.3, 2.7, 0.9], dtype=torch.float64))[..., None, None]
    return 0.5 + 0.5 * torch.sin(mixed * number), 0.7 * torch.cos(1.1 * mixed + number)


def count_slowly(answer: Answer, frames: int) -> float:
    """The official procedure for one video, one state after the other, with whole numbers where these are kept there.

    Args:
        answer: the network.
        frames: of the video.
    """

    def ask(left: float, middle: float, right: float) -> tuple[list[list[float]], list[list[float]]]:
        score, box = (value[0, 0] for value in answer(torch.tensor([[[left, middle, right]]], dtype=torch.float64)))
        return score.tolist(), [[min(max(value, -0.5), 0.5) for value in row] for row in box.tolist()]

    size, best = 0, -1.0
    for k in range(30):
        tried = frames * 0.03 * (0.35 / 0.03) ** (k / 29)
        score, box = ask(frames / 2 - tried, frames / 2, frames / 2 + tried + 1)
        found = tried * math.exp(box[0][SAME])
        if score[0][SAME] > best and 4 <= found < frames / 2:
            size, best = int(found), score[0][SAME]
    for _ in range(4):
        _, box = ask(frames / 2 - size, frames / 2, frames / 2 + size + 1)
        found = size * math.exp(box[0][SAME])
        size = round(0.5 * size + 0.5 * found) if 4 <= found < frames / 2 else size

    points = [int(frames / 33 * (place + 0.5)) for place in range(32)]
    # Ends of the two cycles at each point: what the points before and after it say of them.
    told = [{"before": (p - size, p + size + 1), "after": (p - size, p + size + 1)} for p in points]
    for level, updates in ((1, 4), (2, 2), (3, 1), (4, 1)):
        reach = 16 // 2**level
        last = [dict(entry) for entry in told]
        for number in range(2**level):
            place = reach * (2 * number + 1)
            middle = points[place]
            old = [round((last[place]["before"][side] + last[place]["after"][side]) / 2) for side in (0, 1)]
            new = old
            for update in range(updates):
                old = [round(0.5 * a + 0.5 * b) for a, b in zip(new, old, strict=True)] if update else old
                score, box = ask(old[0], middle, old[1])
                lengths = []
                for side, length in enumerate((middle - old[0] + 1, old[1] - middle)):
                    pick = score[side].index(max(score[side]))
                    lengths.append(min(max(4, length * ANCHORS[pick] * math.exp(box[side][pick])), frames / 2))
                new = [int(middle - lengths[0] + 1), int(middle + lengths[1])]
                new = old if middle - new[0] + 1 < 4 or new[1] - middle < 4 else new
            merged = [0.5 * a + 0.5 * b for a, b in zip(new, old, strict=True)]
            for other in range(place - reach, place + reach):
                value = (int(points[other] + merged[0] - middle), int(points[other] + merged[1] - middle))
                is_left = other < place
                told[other]["after" if is_left else "before"] = value
                outermost = number == (0 if is_left else 2**level - 1)
                if level != 3 or outermost:
                    told[other]["before" if is_left else "after"] = value
    rates = []
    for middle, entry in zip(points, told, strict=True):
        left, right = (round((entry["before"][side] + entry["after"][side]) / 2) for side in (0, 1))
        if left - (middle - left + 1) >= 0 and right + right - middle < frames:
            rates.append((1 / (middle - left + 1), 1 / (right - middle)))
    if not rates:
        return frames / (size + 1)
    return frames * (0.5 * sum(a for a, _ in rates) + 0.5 * sum(b for _, b in rates)) / len(rates)


def walk(videos: int, frames: int) -> dict[str, Count]:
    """Both ways with the network without sense, for videos of a sixth of the frames up to all of them."""
    length = torch.linspace(frames // 6, frames, videos).long()
    return {
        "slow": lambda: [count_slowly(guessing, number) for number in length.tolist()],
        "ours": lambda: count_cycles(guessing, length).counts.tolist(),
    }


def of_vit(videos: int) -> dict[str, Count]:
    """Both ways with the first weights of a tiny ViT, for generated videos."""
    torch.manual_seed(0)
    method = RepetitionCounting(VideoViT("micro", 32, 16, 8)).eval()
    clips = make_repetitions(videos, 64, 32, "val", 0)
    video, length = clips.video, clips.cycles.length

    @torch.no_grad()
    def slowly(row: int) -> float:
        def answer(states: Tensor) -> tuple[Tensor, Tensor]:
            logits, box = method(method.prepare(*method.cut(video[row : row + 1], length[row : row + 1], states)))
            return logits.softmax(2)[None, :, :, 1], box[None]

        return count_slowly(answer, int(length[row]))

    return {
        "slow": lambda: [slowly(row) for row in range(videos)],
        "ours": lambda: method.count(video, length).counts.tolist(),
    }


def compare(name: str, ways: dict[str, Count], repeats: int) -> dict[str, object]:
    """Times of both ways, which must count alike.

    Raises:
        SystemExit: if they do not.
    """
    # What the libraries set up at first use is no part of it.
    slow, ours = (way() for way in ways.values())
    if not all(math.isclose(one, other, rel_tol=1e-9) for one, other in zip(slow, ours, strict=True)):
        raise SystemExit(f"{name}: the counts are not equal: {slow} and {ours}")
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, count in ways.items():
            start = time.perf_counter()
            count()
            times[way].append(time.perf_counter() - start)
    ratio = statistics.median(a / b for a, b in zip(times["slow"], times["ours"], strict=True))
    seconds = [statistics.median(taken) for taken in times.values()]
    print(f"{name:<6} {len(slow):>7} {seconds[0]:>9.3f} {seconds[1]:>9.4f} {ratio:>12.1f}")
    return {"videos": len(slow), "seconds": times, "ratio": ratio, "counts": ours}


def main(videos: int = 32, frames: int = 300, clips: int = 8, repeats: int = 5, out: Path | None = None) -> None:
    """Compare the two ways of counting.

    Args:
        videos: Videos of the walk alone.
        frames: Frames of the longest of them.
        clips: Generated videos in which the ViT counts; 0 leaves it out.
        repeats: Measurements of time, after one that does not count.
        out: JSON file to write.
    """
    print(f"{'':<6} {'videos':>7} {'slow, s':>9} {'ours, s':>9} {'slow / ours':>12}")
    result = {"walk": compare("walk", walk(videos, frames), repeats)}
    if clips:
        result["ViT"] = compare("ViT", of_vit(clips), repeats)
    if out is not None:
        out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
