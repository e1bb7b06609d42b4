"""Cost of the streams of generated clips, compared with clips without further streams.

    python benchmarks/world.py                        # 16 x 64 x 64, batches of 64
    python benchmarks/world.py --objects 3 --contacts true

Times, in turns on one thread, `make_clips` and the generated world with the video alone, with each further stream, and with
all of them at once. The figures are the median, over rounds, of milliseconds of processor time per clip, and of the ratio to
`make_clips` of the same round.
"""

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli

sys.path.insert(0, str(Path(__file__).parents[1]))

from modules.scenes.captioned import Stage
from modules.scenes.objects import make_clips
from modules.scenes.senses import GeneratedSensor, GeneratedSound
from modules.scenes.streams import PLANES, WorldStreams
from modules.scenes.world import WorldSettings
from modules.scenes.world_pictures import make_world

PEER = "make_clips"


def switches() -> dict[str, WorldStreams]:
    """The video alone, with each stream, and with all of them."""
    on: dict[str, Any] = dict.fromkeys((*PLANES, "skeleton", "text"), True)
    senses: dict[str, Any] = {"sound": GeneratedSound(), "sensor": GeneratedSensor()}
    alone = {name: WorldStreams(**{name: value}) for name, value in (on | senses).items()}
    pictures: dict[str, Any] = dict.fromkeys(PLANES, True)
    every = WorldStreams(**on, **senses)
    return {"video": WorldStreams()} | alone | {"all pictures": WorldStreams(**pictures), "all streams": every}


def main(
    frames: int = 16,
    size: int = 64,
    batch: int = 64,
    objects: int = 1,
    contacts: bool = False,
    rounds: int = 9,
    out: Path | None = None,
) -> None:
    """Time the streams.

    Args:
        frames: frames per clip.
        size: side of the frames in pixels.
        batch: clips per batch.
        objects: objects per clip of the generated world; `make_clips` has one.
        contacts: whether objects hop.
        rounds: measurements of each, after a warm-up.
        out: JSON file to write.
    """
    torch.set_num_threads(1)
    stage, settings = Stage(frames, size, "train", 0), WorldSettings(objects=objects, contacts=contacts)
    work: dict[str, Callable[[], object]] = {PEER: partial(make_clips, batch, frames, size, "train", 0)}
    work |= {name: partial(make_world, batch, stage, settings, streams) for name, streams in switches().items()}
    taken: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name in work if number % 2 else reversed(work):
            start = time.process_time()
            work[name]()
            taken[name].append(time.process_time() - start)
    per_clip = {name: 1e3 * statistics.median(times[1:]) / batch for name, times in taken.items()}
    ratio = {
        name: statistics.median(own / peer for own, peer in zip(times[1:], taken[PEER][1:], strict=True))
        for name, times in taken.items()
    }
    print(f"clips of {frames} x {size} x {size}, {objects} object(s), batches of {batch}, one thread")
    print(f"{'video and':>14} {'ms per clip':>12} {'times ' + PEER:>17}")
    for name in work:
        print(f"{name:>14} {per_clip[name]:>12.2f} {ratio[name]:>17.2f}")
    if out is not None:
        machine = platform.processor() or platform.machine()
        about = {"frames": frames, "size": size, "batch": batch, "objects": objects, "contacts": contacts, "machine": machine}
        out.write_text(json.dumps({"ms_per_clip": per_clip, "ratio": ratio, "seconds": taken} | about, indent=1))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
