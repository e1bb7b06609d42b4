"""The loader's worker against decord and PIL, and against torchcodec: clips per second of one core, for each file.

Both do the work of one loader worker on the same frames and crop boxes, in one process and one thread, in
turns:

- this project: `read_clips`, then crop and resize into a uint8 clip. Workers do nothing else by design;
  normalisation runs on the device, over the whole batch.
- the peer, as in the official VideoMAE pretraining loader: decord with one thread, PIL crop and bilinear resize of
  each frame, stacking, conversion to float, and normalisation plane by plane.

Times are CPU times of the process, which other processes disturb less than wall-clock times; each ratio is the median
over interleaved pairs. The frames of both are compared before anything is timed. Two more columns compare less: `uint8`
lets the peer stop at a uint8 clip, without conversion to float and normalisation; `decode` leaves out crop and resize
on both sides as well. Needs the `benchmarks` extra.

If torchcodec is installed, it is a second peer, used as in its guide: one thread, exact seeking, crop and resize of the whole
clip by torchvision, up to a uint8 clip. `codec` compares this with this project's uint8 clip, `its decode` only the decoding.
torchvision itself no longer has a video reader; its guide recommends torchcodec instead.
"""

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

import av
import decord
import numpy as np
import torch
from jsonargparse import auto_cli
from PIL import Image
from torchvision.transforms.v2.functional import resized_crop

sys.path.insert(0, str(Path(__file__).parents[1]))

from datamodules.video.crops import Box, multi_scale_box
from datamodules.video.decode import DecodeError, VideoInfo, probe, read_clips
from datamodules.video.samplers import dense_indices
from datamodules.video.transforms import crop_and_resize

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
# Fields of Row with comparisons, and their headings.
RATIOS = {"ratio": "ratio", "ratio_wall": "wall", "uint8_ratio": "uint8", "decode_ratio": "decode"}
TORCHCODEC_RATIOS = {"torchcodec_ratio": "codec", "torchcodec_decode_ratio": "its decode"}


@dataclass
class Row:
    """Medians over all pairs of one file, in milliseconds of CPU time per clip."""

    file: str
    ours_ms: float
    peer_ms: float
    ratio: float
    ratio_wall: float
    uint8_ratio: float
    decode_ratio: float
    torchcodec_ratio: float | None = None
    torchcodec_decode_ratio: float | None = None

    @property
    def ours_per_second(self) -> float:
        """Clips per second of one core."""
        return 1000 / self.ours_ms

    @property
    def peer_per_second(self) -> float:
        """Clips per second of one core."""
        return 1000 / self.peer_ms


def read_ours(path: Path, indices: np.ndarray) -> list[np.ndarray]:
    """Decoded frames, by this project. Indices are distinct and ascending, or repeat the last one."""
    decoded = read_clips(path, lambda info, rng: indices[None], None)
    return [decoded.frames[position] for position in decoded.position[0]]


def read_peer(path: Path, indices: np.ndarray) -> np.ndarray:
    """Decoded frames, by decord."""
    reader = decord.VideoReader(str(path), num_threads=1)
    # The official loader reads the length first, to draw the indices.
    len(reader)
    frames: np.ndarray = reader.get_batch(indices.tolist()).asnumpy()
    return frames


def clip_ours(path: Path, indices: np.ndarray, box: Box, size: int) -> torch.Tensor:
    """uint8 [T, size, size, 3]."""
    return crop_and_resize(read_ours(path, indices), box, size)


def clip_peer(path: Path, indices: np.ndarray, box: Box, size: int, normalise: bool = True) -> torch.Tensor:
    """float32 [3, T, size, size], normalised; or uint8 [size, size, T * 3]."""
    corners = (box.x, box.y, box.x + box.width, box.y + box.height)
    pictures = [Image.fromarray(frame) for frame in read_peer(path, indices)]
    pictures = [p.crop(corners).resize((size, size), Image.Resampling.BILINEAR) for p in pictures]
    planes = torch.from_numpy(np.concatenate([np.asarray(p) for p in pictures], axis=2))
    if not normalise:
        return planes
    planes = planes.permute(2, 0, 1).contiguous().float().div(255)
    for number, plane in enumerate(planes):
        plane.sub_(MEAN[number % 3]).div_(STD[number % 3])
    return planes.view(len(indices), 3, size, size).transpose(0, 1)


def torchcodec_decoders() -> ModuleType | None:
    """torchcodec, if it is installed with its libraries."""
    try:
        from torchcodec import decoders
    except (ImportError, OSError, RuntimeError) as error:
        print(f"torchcodec is left out: {str(error).partition(chr(10))[0]}")
        return None
    found: ModuleType = decoders
    return found


def read_torchcodec(decoders: ModuleType, path: Path, indices: np.ndarray) -> torch.Tensor:
    """Decoded frames, by torchcodec: uint8 [T, 3, h, w]."""
    frames: torch.Tensor = decoders.VideoDecoder(str(path), num_ffmpeg_threads=1).get_frames_at(indices.tolist()).data
    return frames


def clip_torchcodec(decoders: ModuleType, path: Path, indices: np.ndarray, box: Box, size: int) -> torch.Tensor:
    """uint8 [T, 3, size, size]."""
    frames = read_torchcodec(decoders, path, indices)
    return resized_crop(frames, box.y, box.x, box.height, box.width, [size, size])


def timed(function: Callable[[], object]) -> tuple[float, float]:
    """CPU and wall-clock seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.process_time() - cpu, time.perf_counter() - wall


def single_stream(path: Path, folder: Path) -> Path:
    """The file, or a copy of its first video stream if it has several, because decord would use another one."""
    with av.open(str(path)) as source:
        if len(source.streams.video) == 1:
            return path
        copy = folder / path.name
        with av.open(str(copy), "w") as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(source.streams.video[0]):
                if packet.dts is not None:
                    packet.stream = stream
                    target.mux(packet)
    return copy


def h264_files(videos: Path) -> list[Path]:
    """The readable h264 files in mp4 or mkv containers of a folder."""
    files = []
    for path in sorted(videos.iterdir()):
        if path.suffix not in (".mp4", ".mkv"):
            continue
        try:
            info = probe(path)
            read_ours(path, np.array([info.num_frames - 1]))
        except DecodeError as error:
            print(f"left out {path.name}: {error}")
            continue
        with av.open(str(path)) as container:
            if container.streams.video[0].codec_context.name == "h264":
                files.append(path)
    return files


def measure(path: Path, info: VideoInfo, pairs: int, frames: int, stride: int, size: int, torchcodec: ModuleType | None) -> Row:
    """Time all loaders on `pairs` clips of one file, in turns."""
    times: dict[str, list[tuple[float, float]]] = defaultdict(list)
    rng = np.random.default_rng(0)
    for pair in range(pairs + 1):
        indices = dense_indices(info.num_frames, frames, stride, rng)
        box = multi_scale_box(info.width, info.height, size, rng)
        jobs: dict[str, Callable[[], object]] = {
            "ours": partial(clip_ours, path, indices, box, size),
            "peer": partial(clip_peer, path, indices, box, size),
            "ours_decode": partial(read_ours, path, indices),
            "peer_decode": partial(read_peer, path, indices),
            "peer_uint8": partial(clip_peer, path, indices, box, size, normalise=False),
        }
        if torchcodec is not None:
            jobs["torchcodec"] = partial(clip_torchcodec, torchcodec, path, indices, box, size)
            jobs["torchcodec_decode"] = partial(read_torchcodec, torchcodec, path, indices)
        if pair == 0:
            right = np.stack(read_ours(path, indices))
            if not np.array_equal(right, read_peer(path, indices)):
                raise SystemExit(f"{path.name}: the two decoders return different frames")
            if torchcodec is not None:
                others = read_torchcodec(torchcodec, path, indices).movedim(1, -1).numpy()
                if not np.array_equal(right, others):
                    raise SystemExit(f"{path.name}: torchcodec returns different frames")
            for job in jobs.values():
                job()
            continue
        for name in jobs if pair % 2 else reversed(jobs):
            times[name].append(timed(jobs[name]))
    cpu = {name: [t[0] for t in values] for name, values in times.items()}

    def ratio(peer: str, ours: str, clock: int) -> float:
        return statistics.median(p[clock] / o[clock] for p, o in zip(times[peer], times[ours], strict=True))

    return Row(
        file=path.name,
        ours_ms=1000 * statistics.median(cpu["ours"]),
        peer_ms=1000 * statistics.median(cpu["peer"]),
        ratio=ratio("peer", "ours", 0),
        ratio_wall=ratio("peer", "ours", 1),
        uint8_ratio=ratio("peer_uint8", "ours", 0),
        decode_ratio=ratio("peer_decode", "ours_decode", 0),
        torchcodec_ratio=None if torchcodec is None else ratio("torchcodec", "ours", 0),
        torchcodec_decode_ratio=None if torchcodec is None else ratio("torchcodec_decode", "ours_decode", 0),
    )


def machine() -> dict[str, str | int | float]:
    """Description of the machine."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count() or 0,
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "av": av.__version__,
        "decord": decord.__version__,
    }


def main(videos: Path, out: Path | None = None, pairs: int = 15, frames: int = 16, stride: int = 4, size: int = 224) -> None:
    """Compare the loader's worker with decord and PIL, and with torchcodec if installed, on the h264 files of a folder.

    Args:
        videos: Folder of videos; its .mp4 and .mkv files with h264 are used.
        out: JSON file to write the table to.
        pairs: Clips per file, each read by all in turns.
        frames: Frames per clip.
        stride: Distance of consecutive frames in the video.
        size: Side of the clip after crop and resize.
    """
    torch.set_num_threads(1)
    about = machine()
    files = h264_files(videos)
    if not files:
        raise SystemExit(f"There is no readable h264 file (.mp4, .mkv) in {videos}.")
    rows = []
    torchcodec = torchcodec_decoders()
    ratios = RATIOS if torchcodec is None else RATIOS | TORCHCODEC_RATIOS
    print(f"{'file':32} {'ours/s':>8} {'peer/s':>8}" + "".join(f" {name:>10}" for name in ratios.values()))
    with tempfile.TemporaryDirectory() as folder:
        for path in files:
            row = measure(single_stream(path, Path(folder)), probe(path), pairs, frames, stride, size, torchcodec)
            rows.append(row)
            speeds = f"{row.file:32} {row.ours_per_second:8.1f} {row.peer_per_second:8.1f}"
            print(speeds + "".join(f" {getattr(row, name):10.2f}" for name in ratios))
    means = {name: statistics.geometric_mean(getattr(row, name) for row in rows) for name in ratios}
    print(f"{'geometric mean':50}" + "".join(f" {mean:10.2f}" for mean in means.values()))
    if out is not None:
        report = {"machine": about, "files": [asdict(row) for row in rows], "geometric_mean": means}
        out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
