"""Speed of reading clips from videos written by `python main.py prepare videos`, compared with the original files.

    python benchmarks/prepared.py --videos DIR     # files with fewer than 720 rows are enlarged first, to the size of camera
    files

Clips of 16 frames, four apart, are decoded, cropped and resized from both files in turns; the figure is the geometric mean over
files of the median ratio of processor time. Enlarged files have an H.264 keyframe every 250 frames, the encoder's default.
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import av
import numpy as np
from jsonargparse import auto_cli

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.loader import clip_ours, h264_files, machine, timed
from datamodules.prepare.reencode import Encoding, reencode
from datamodules.video.crops import multi_scale_box
from datamodules.video.decode import probe
from datamodules.video.samplers import dense_indices
from modules.core.errors import SettingError

HEIGHT = 720
FRAMES, STRIDE, SIZE = 16, 4, 224


def enlarge(source: Path, target: Path) -> None:
    """Write a file as H.264 of 720 rows."""
    with av.open(str(source)) as read, av.open(str(target), "w") as written:
        stream = read.streams.video[0]
        width = round(stream.width * HEIGHT / stream.height / 2) * 2
        made = written.add_stream("libx264", rate=stream.average_rate)
        made.width, made.height, made.pix_fmt = width, HEIGHT, "yuv420p"
        for frame in read.decode(stream):
            written.mux(made.encode(frame.reformat(width, HEIGHT, "yuv420p")))
        written.mux(made.encode(None))


def main(
    videos: Path, clips: int = 9, short_side: int = 256, gop: int = 12, quality: int = 20, out: Path | None = None
) -> None:
    """Time both kinds of files.

    Args:
        videos: folder of H.264 files of 100 frames or more; others are left out.
        clips: clips per file, after a warm-up.
        short_side: see `prepare videos`.
        gop: see `prepare videos`.
        quality: see `prepare videos`.
        out: JSON file to write.

    Raises:
        SettingError: if no file can be used.
    """
    encoding = Encoding(short_side, gop, quality, 30)
    rows: list[dict[str, Any]] = []
    print(f"{'file':32}{'raw ms':>9}{'prepared ms':>13}{'ratio':>8}{'raw MB':>8}{'prepared MB':>13}")
    with tempfile.TemporaryDirectory() as folder:
        for path in h264_files(videos):
            info = probe(path)
            if info.num_frames < 100:
                continue
            raw, prepared = path, Path(folder, f"prepared_{path.stem}.mp4")
            if info.height < HEIGHT:
                raw = Path(folder, f"raw_{path.stem}.mp4")
                enlarge(path, raw)
            reencode(raw, prepared, None, None, encoding)
            infos = {file: probe(file) for file in (raw, prepared)}
            taken: dict[Path, list[float]] = {raw: [], prepared: []}
            for clip in range(clips + 1):
                for file in (raw, prepared) if clip % 2 else (prepared, raw):
                    rng, one = np.random.default_rng(clip), infos[file]
                    indices = dense_indices(one.num_frames, FRAMES, STRIDE, rng)
                    box = multi_scale_box(one.width, one.height, SIZE, rng)
                    seconds = timed(lambda file=file, indices=indices, box=box: clip_ours(file, indices, box, SIZE))[0]  # type: ignore[misc]
                    taken[file].append(seconds)
            ratio = statistics.median(one / other for one, other in zip(taken[raw][1:], taken[prepared][1:], strict=True))
            ms = [1000 * statistics.median(taken[file][1:]) for file in (raw, prepared)]
            mb = [file.stat().st_size / 1e6 for file in (raw, prepared)]
            rows.append({"file": path.name, "raw_ms": ms[0], "prepared_ms": ms[1], "ratio": ratio, "megabytes": mb})
            print(f"{path.name:32}{ms[0]:>9.1f}{ms[1]:>13.1f}{ratio:>8.2f}{mb[0]:>8.2f}{mb[1]:>13.2f}", flush=True)
    if not rows:
        raise SettingError(f"--videos {videos} holds no H.264 file of 100 frames or more; pass another folder.")
    mean = statistics.geometric_mean(row["ratio"] for row in rows)
    print(f"geometric mean: prepared files are {mean:.2f} times as fast")
    if out is not None:
        out.write_text(json.dumps({"machine": machine(), "ratio": mean, "rows": rows}, indent=1))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
