"""Speed of `python main.py embed` relative to its loader: clips per second of both, in turns.

    python benchmarks/embed.py --size 224     # on a GPU
    python benchmarks/embed.py --workers 1    # on two cores: one for the worker, one for the encoder

The whole command (reading, a tiny encoder, parts and collection in files) is timed against its own loader without any
consumer, on generated videos. Both start new workers. The figure is the median ratio over pairs, once of wall-clock
time, and once of processor time of all processes, which other processes disturb less. Clips are small, so that the loader
is the limit: on a CPU, normalising a clip of 224 pixels takes longer than decoding one.
"""

import gc
import json
import logging
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from jsonargparse import auto_cli
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1]))

from datamodules.prepare.synthesise import write_videos
from modules.backbones.vit.video_vit import VideoViT
from modules.convert.command import convert
from modules.convert.load import describe_backbone
from modules.embed.command import embed
from modules.embed.reading import read_all
from modules.embed.sampling import usual_clip
from modules.embed.source import videos_of
from modules.embed.windows import Videos, Windows, make_items

DIFFERENT = 16
"""Number of generated videos; the others are copies."""


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall-clock seconds of a call, and processor seconds of this process and its ended child processes."""
    start, before = time.perf_counter(), sum(os.times()[:4])
    work()
    gc.collect()  # ends the workers, whose time is counted then
    return time.perf_counter() - start, sum(os.times()[:4]) - before


def tiny_encoder(path: Path, frames: int, size: int) -> None:
    """Write a very fast encoder for clips of full size."""
    network = VideoViT(
        image_size=size, num_frames=frames, patch_size=size // 4, tubelet_size=frames // 2, embed_dim=32, depth=1, num_heads=2
    )
    raw = path.with_name("raw.safetensors")
    save_file({f"backbone.{name}": value.contiguous() for name, value in network.state_dict().items()}, raw)
    convert(raw, path, heads=2, image_size=size, num_frames=frames, stride=2)


def main(
    videos: int = 400,
    frames: int = 16,
    size: int = 32,
    video_size: int = 224,
    length: int = 48,
    workers: int = 2,
    pairs: int = 5,
    device: str = "auto",
    out: Path | None = None,
) -> None:
    """Time the command and its loader.

    Args:
        videos: number of files.
        frames: frames per clip.
        size: side of the clips in pixels.
        video_size: side of the videos.
        length: frames of each video.
        workers: number of reading processes.
        pairs: measurements of each, after a warm-up.
        device: device of the encoder.
        out: JSON file to write.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_videos(folder / "written", DIFFERENT, 1, length, video_size)
        written = sorted((folder / "written/train").rglob("*.mp4"))
        for number in range(videos):
            path = folder / f"videos/{number:06d}.mp4"
            path.parent.mkdir(exist_ok=True)
            shutil.copyfile(written[number % DIFFERENT], path)
        tiny_encoder(folder / "tiny.safetensors", frames, size)
        source = folder / "videos"
        clip = usual_clip(describe_backbone(folder / "tiny.safetensors"), None, 1)

        def loader() -> None:
            reader = Windows(Videos(videos_of(source, None), workers), make_items(videos, None, None), clip)
            for _ in read_all(reader, [*range(videos)], workers):
                pass

        def command(number: int) -> None:
            embed(folder / "tiny.safetensors", folder / f"features{number}", source, num_workers=workers, device=device)

        rows = []
        for pair in range(pairs + 1):
            first = timed(loader) if pair % 2 else None
            whole = timed(lambda pair=pair: command(pair))  # type: ignore[misc]
            alone = first or timed(loader)
            if pair:
                rows.append({"loader": alone, "embed": whole})
                speeds = "   ".join(
                    f"{what} {videos / seconds:7.1f} clips/s ({processor:.1f} s of processors)"
                    for what, (seconds, processor) in rows[-1].items()
                )
                print(speeds, flush=True)
    wall, processor = (statistics.median(row["loader"][kind] / row["embed"][kind] for row in rows) for kind in (0, 1))
    where = torch.cuda.get_device_name() if device != "cpu" and torch.cuda.is_available() else "CPU"
    print(f"embed reaches {wall:.3f} of the loader's speed ({where}); by processor time {processor:.3f}")
    if out is not None:
        about = {
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0],
            "python": platform.python_version(),
            "torch": torch.__version__,
        }
        facts = about | {"device": where, "workers": workers, "ratio": wall, "processor_ratio": processor}
        out.write_text(json.dumps(facts | {"rows": rows}, indent=1))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
