"""Optical flow of any folder of videos, stored next to them: `python main.py prepare flow`.

A file contains the flow of each frame to the next one, so it has one entry less than the video has frames, in pixels of the
frames that it was computed on. Files are written atomically, and a journal records finished ones, as in
`prepare videos`.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import pad

from datamodules.lists.manifest import check_root, is_file
from datamodules.prepare.parallel import core_count
from datamodules.prepare.videos import (
    JOURNALS,
    Job,
    Result,
    finish,
    is_done,
    outcome,
    read_jobs,
    read_journals,
    share_of,
    with_keys,
    work,
)
from datamodules.streams.stored import FLOW_FACTS
from datamodules.video.crops import Box
from datamodules.video.picture_folder import PictureFolderReader
from datamodules.video.pyav_reader import MISSING_FRAMES, MISSING_SHARE, PyAVReader, display_matrix, upright
from datamodules.video.readers import DecodeError, PictureFolder
from datamodules.video.transforms import crop_and_resize
from modules.core.errors import SettingError, check_positive, check_whole, check_writable, given
from modules.core.files import read_json, replacing, sha256, write_json
from modules.core.loading import reason

Method = Literal["dis", "tvl1", "raft"]
Estimate = Callable[[Iterable[np.ndarray]], Iterator[np.ndarray]]
"""Maps frames uint8 [h, w, 3] to the flow from each to the next one, float32 [h, w, 2]."""

RAFT_STRIDE, RAFT_SMALLEST = 8, 128
"""RAFT requires sides that are multiples of the first and at least the second, for its pyramid of four levels."""
JPEG_QUALITY = 95


@dataclass(frozen=True)
class FlowFormat:
    """How flow is computed and stored; written next to the files, so that flow with other settings is not mixed with them."""

    method: str
    store: str
    bound: float | None
    """bound of pictures"""
    short_side: int
    weights: str | None
    """hash of the weights, if there are any"""


def prepare_flow(
    root: Path,
    out: Path,
    method: Method = "dis",
    weights: Path | None = None,
    store: Literal["array", "pictures"] = "array",
    bound: float = 20.0,
    short_side: int = 256,
    batch_size: int = 8,
    device: str | None = None,
    shard: str = "1/1",
    workers: int | None = None,
) -> None:
    """Compute the optical flow of all videos of a folder, from each frame to the next one.

    A killed command resumes when run again; failed files are tried again. Set data.streams.flow.folder to `out`, and
    data.streams.flow.bound to `bound`.

    Args:
        root: folder of the videos, or of folders of pictures.
        out: folder to write; files keep the videos' paths, with the suffix .npy, or become folders of pictures.
        method: dis (fast) or tvl1 (slow, usual for two-stream networks) of OpenCV, which `pip install -e ".[flow]"` brings; or
            raft, a network, for a GPU.
        weights: state dict of torchvision's raft_large or raft_small, for raft.
        store: array is float16 in pixels; pictures are JPEG of 8 bits, flow_x_00001.jpg and flow_y_00001.jpg.
        bound: pixels; in pictures, larger flow is clipped to it, and the clipped fraction is reported at the end.
        short_side: pixels of the shorter side of the frames that flow is computed on; smaller videos keep their size.
        batch_size: pairs of frames per batch of raft.
        device: where raft runs; null takes a GPU, if there is one.
        shard: i/n for the i-th of n equal parts of the work, from 1/n to n/n.
        workers: processes for dis and tvl1; null takes one per core, 0 uses the main process, as raft always does.

    Raises:
        SettingError: for wrong settings or weights, a missing package, no usable video, or a full disk.
    """
    number, count = share_of(shard)
    check_root(root, "--root")
    check_writable("--out", out)
    check_whole("--", 0, **given(workers=workers))
    check_whole("--", 1, batch_size=batch_size)
    check_whole("--", 2, short_side=short_side)
    check_positive("--", bound=bound)
    if out.resolve().is_relative_to(root.resolve()):
        raise SettingError(f"--out {out} is in --root {root}, where it would be read again; pass another folder.")
    if method == "raft" and weights is None:
        raise SettingError("--method raft needs --weights; pass a state dict of torchvision's raft_large or raft_small.")
    if method != "raft" and weights is not None:
        raise SettingError(f"--weights is {weights}, but --method {method} uses none; pass --method raft, or leave it out.")
    estimate: Estimate
    if weights is None:
        estimate = Classical(method)
        estimate.create()
    else:
        place = device or ("cuda" if torch.cuda.is_available() else "cpu")
        estimate, workers = Raft(weights, place, batch_size), 0
    kept_bound = bound if store == "pictures" else None
    settings = FlowFormat(method, store, kept_bound, short_side, None if weights is None else sha256(weights))
    before = read_json(out / FLOW_FACTS)
    if before and before != asdict(settings):
        raise SettingError(f"--out {out} contains flow with other settings (see {FLOW_FACTS} there); pass another folder.")
    suffix = ".npy" if store == "array" else ""
    named = [job._replace(out=Path(job.out).with_suffix(suffix).as_posix()) for job in read_jobs(root, None)]
    _check_outs(named)
    jobs = with_keys(named, settings)
    try:
        (out / JOURNALS).mkdir(parents=True, exist_ok=True)
        write_json(out / FLOW_FACTS, asdict(settings))
        known = read_journals(out)
        mine = {key: job for place, (key, job) in enumerate(jobs.items()) if place % count == number - 1}
        left = {key: job for key, job in mine.items() if not is_done(known.get(key), out / job.out)}
        workers = min(core_count() if workers is None else workers, len(left))
        make = partial(make_flow, root=root, out=out, settings=settings, estimate=estimate)
        work(left, len(mine), make, workers, out / JOURNALS / f"{number}-of-{count}")
        finish(jobs, out)
        _tell_clipped([result for key, result in read_journals(out).items() if key in jobs and result.frames])
    except OSError as error:
        raise SettingError(
            f"--out {out} cannot be written ({error}); free disk space or pass another folder. Finished files are kept."
        ) from error


def make_flow(job: Job, root: Path, out: Path, settings: FlowFormat, estimate: Estimate) -> Result:
    """Write the flow of one video atomically; `fault` of a success is the clipped percentage, if any.

    Args:
        job: what to write.
        root: folder to read from.
        out: folder to write to.
        settings: how to compute and store it.
        estimate: computes flow.

    Raises:
        OSError: if the disk is full, or without permission.
    """
    path, clipped = out / job.out, ""
    path.parent.mkdir(parents=True, exist_ok=True)

    def write() -> int:
        nonlocal clipped
        fields = estimate(frames_of(root / job.source, settings.short_side))
        if settings.bound is None:
            with replacing(path) as part:
                return write_array(part, fields)
        with replacing(path) as part:
            # Left by a killed run.
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            written, share = write_pictures(part, fields, settings.bound)
        clipped = f"{share:.2%}" if share > 0 else ""
        return written

    result = outcome(write, timeout=0)
    return result._replace(fault=clipped) if result.frames else result


def _check_outs(jobs: list[Job]) -> None:
    """Refuse a video whose folder of pictures would contain files of others. Raises SettingError."""
    outs = {job.out: job.source for job in jobs}
    for out, source in outs.items():
        if above := next((str(parent) for parent in Path(out).parents if str(parent) in outs), None):
            raise SettingError(
                f"The flow of {source} would be inside the folder of that of {outs[above]}; rename one of them, or pass "
                "--store array."
            )


def _tell_clipped(results: list[Result]) -> None:
    shares = [float(result.fault.rstrip("%")) for result in results if result.fault]
    if shares:
        print(
            f"In {len(shares)} of {len(results)} videos some flow exceeds --bound and was clipped to it, at most "
            f"{max(shares):g} % of a video's values; raise --bound, or pass --store array, if that matters."
        )


def frames_of(source: Path, short_side: int) -> Iterator[np.ndarray]:
    """All frames of a video, or of a folder of pictures, uint8 [h, w, 3], upright, with a shorter side of at most `short_side`.

    Raises:
        DecodeError: if it is broken, or the frame size changes.
    """
    first: tuple[int, ...] | None = None
    for frame in _pictures(source) if source.is_dir() else _decoded(source):
        if first is not None and frame.shape != first:
            raise DecodeError("frame size changes")
        first = frame.shape
        height, width = first[:2]
        scale = min(1.0, short_side / min(height, width))
        sides = (max(1, round(height * scale)), max(1, round(width * scale)))
        yield crop_and_resize([frame], Box(0, 0, width, height), sides)[0].numpy()


def _pictures(folder: Path) -> Iterator[np.ndarray]:
    reader = PictureFolderReader(PictureFolder(folder, 1.0), None)
    for number in range(reader.info.num_frames):
        yield reader.read([number])[0].frame


def _decoded(path: Path) -> Iterator[np.ndarray]:
    if not is_file(path):
        raise DecodeError("file not found")
    if path.stat().st_size == 0:
        raise DecodeError("empty file")
    with closing(PyAVReader(path, 1, None)) as reader:
        stated, count = reader.info.num_frames, 0
        try:
            for frame in reader.frames_from(0.0):
                yield upright(frame.to_ndarray(format="rgb24"), display_matrix(frame))
                count += 1
        except av.FFmpegError as error:
            raise DecodeError("failed while decoding", f"{error}, after {count} frames") from error
    if stated - count > max(MISSING_FRAMES, MISSING_SHARE * stated):
        raise DecodeError("failed while decoding", f"{count} of {stated} frames")


# --- What is stored ---


def write_array(path: Path, fields: Iterable[np.ndarray]) -> int:
    """Write flow as float16 [N, h, w, 2] in NumPy's format, one field at a time, because long videos do not fit into memory.

    Returns:
        N

    Raises:
        DecodeError: if there is no flow, or it is not finite.
    """
    count, shape = 0, (0, 0, 0)
    with path.open("wb") as file:
        for flow in fields:
            if count == 0:
                shape = flow.shape
                start = _write_header(file, 0, shape)
            with np.errstate(over="ignore"):
                half = np.ascontiguousarray(flow, "<f2")
            if not np.isfinite(half).all():
                raise DecodeError("not numbers", f"flow of frame {count}")
            file.write(half.tobytes())
            count += 1
        if not count:
            raise DecodeError("too short", "a single frame has no flow")
        # NumPy reserves space in the header for a larger number of entries.
        if _write_header(file, count, shape) != start:
            raise OSError(f"the header of {path} does not fit into its space")
    return count


def _write_header(file: Any, count: int, shape: tuple[int, ...]) -> int:
    file.seek(0)
    about = {"descr": "<f2", "fortran_order": False, "shape": (count, *shape)}
    np.lib.format.write_array_header_1_0(file, about)
    return int(file.tell())


def write_pictures(folder: Path, fields: Iterable[np.ndarray], bound: float) -> tuple[int, float]:
    """Write flow as 8-bit pictures: -bound to bound pixels become 0 to 255.

    Returns:
        Number of fields, and the fraction of values that exceed the bound.

    Raises:
        DecodeError: if there is no flow, or it is not finite.
    """
    count, beyond = 0, 0.0
    for flow in fields:
        if not np.isfinite(flow).all():
            raise DecodeError("not numbers", f"flow of frame {count}")
        count += 1
        beyond += float((np.abs(flow) > bound).mean())
        codes = np.rint((flow.clip(-bound, bound) + bound) * (255 / (2 * bound))).astype(np.uint8)
        for axis, name in enumerate("xy"):
            Image.fromarray(codes[..., axis]).save(folder / f"flow_{name}_{count:05d}.jpg", quality=JPEG_QUALITY)
    if not count:
        raise DecodeError("too short", "a single frame has no flow")
    return count, beyond / count


# --- How it is computed ---


class Classical:
    """DIS or TV-L1 of OpenCV, on grey frames, with one thread.

    Args:
        method: 'dis' or 'tvl1'.
    """

    def __init__(self, method: str) -> None:
        self.method = method

    def create(self) -> Any:
        """Create OpenCV's object, which cannot be sent to other processes.

        Raises:
            SettingError: if the package is missing, or lacks the method.
        """
        try:
            import cv2
        except ImportError as error:
            raise self._lacks() from error
        cv2.setNumThreads(1)
        if self.method == "dis":
            return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        if not hasattr(cv2, "optflow"):
            raise self._lacks()
        return cv2.optflow.DualTVL1OpticalFlow_create()

    def _lacks(self) -> SettingError:
        return SettingError(
            f'--method {self.method} needs opencv-contrib-python-headless; run pip install -e ".[flow]", without another '
            "OpenCV package."
        )

    def __call__(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """See `Estimate`."""
        import cv2

        algorithm = self.create()
        for first, second in pairwise(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames):
            yield algorithm.calc(first, second, None)


class Raft:
    """torchvision's RAFT, in batches of pairs of consecutive frames.

    Args:
        weights: state dict of raft_large or raft_small.
        device: device to run on.
        batch_size: pairs per batch.

    Raises:
        SettingError: if the file does not contain such weights, or the device does not exist.
    """

    def __init__(self, weights: Path, device: str, batch_size: int) -> None:
        self.batch_size, network = batch_size, load_raft(weights).eval()
        try:
            self.device = torch.device(device)
            self.network = network.to(self.device)
        except (RuntimeError, AssertionError) as error:
            said = str(error).partition("\n")[0]
            raise SettingError(f"--device {device} cannot be used ({said}); pass another, such as cpu.") from error

    def __call__(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """See `Estimate`."""
        held: list[Tensor] = []
        for frame in frames:
            held.append(torch.from_numpy(frame))
            if len(held) > self.batch_size:
                yield from self._flow(held)
                held = held[-1:]
        if len(held) > 1:
            yield from self._flow(held)

    @torch.inference_mode()
    def _flow(self, frames: list[Tensor]) -> np.ndarray:
        clip = torch.stack(frames).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        height, width = clip.shape[-2:]
        down, across = (max(RAFT_SMALLEST, -(-side // RAFT_STRIDE) * RAFT_STRIDE) - side for side in (height, width))
        clip = pad(clip, (0, across, 0, down), mode="replicate")
        flow: Tensor = self.network(clip[:-1], clip[1:])[-1]
        return flow[..., :height, :width].permute(0, 2, 3, 1).cpu().numpy()


def load_raft(weights: Path) -> nn.Module:
    """torchvision's raft_large or raft_small, depending on the names and shapes of the weights.

    Raises:
        SettingError: if the file cannot be read safely, or belongs to neither.
    """
    from torchvision.models.optical_flow import raft_large, raft_small

    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:
        raise SettingError(f"--weights {weights} cannot be read ({reason(weights, error)}); pass another file.") from error
    shapes = {name: tuple(value.shape) for name, value in state.items()} if _is_state(state) else {}
    for build in (raft_large, raft_small):
        network: nn.Module = build(weights=None)
        if shapes == {name: tuple(value.shape) for name, value in network.state_dict().items()}:
            network.load_state_dict(state)
            return network
    raise SettingError(f"--weights {weights} contains no state dict of torchvision's raft_large or raft_small; pass one.")


def _is_state(content: object) -> bool:
    return isinstance(content, dict) and all(isinstance(value, Tensor) for value in content.values())
