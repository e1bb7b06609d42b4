"""UTD-MHAD: depth, joints and a wearable sensor of 27 actions (C. Chen, R. Jafari, N. Kehtarnavaz, ICIP 2015), and their
readers.

Two layouts are supported:

* the official files, in any folders below it: `a1_s1_t1_depth.mat` (`d_depth` uint16 [240, 320, T], millimetres, 0 where the
  authors removed the background), `a1_s1_t1_skeleton.mat` (`d_skel` float64 [20, 3, T], metres), `a1_s1_t1_inertial.mat`
  (`d_iner` float64 [S, 6], acceleration in g, then angular rate in degrees per second), `a1_s1_t1_color.avi` (not verified);
* a reduced form: `labels.csv` (columns clip, action, subject), `depth/swipe_left/a01_s1_t1.mp4` (grey, see `millimetres`),
  `skeleton.npz` (by clip, float [T, 20, 3]) and `inertial.npz` (by clip, float [S, 6]). It has no colour.

The streams of a recording are assumed to start and end together, so they are matched by the fraction of the recording
that has passed. According to the paper, there are 30 frames and 50 samples per second, so the streams would end at different
times. In the data, there are 2.6 samples for each frame (median; 2.5 to 3.1 in nine of ten recordings) instead of 1.7. The
sensor's angular rate correlates with how fast the forearm or thigh of the skeleton turns by 0.77 if both end together (mean
over 287 recordings), by 0.72 at 19 frames per second, which is the best single rate, and by 0.20 at 30.
"""

import csv
import re
from abc import abstractmethod
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from scipy.io import loadmat
from torch import Tensor

from datamodules.base import VideoDataModule
from datamodules.lists.manifest import Manifest, is_file
from datamodules.lists.packed import PackedStrings
from datamodules.skeleton.normalise import JOINTS, PERSONS, normalise
from datamodules.streams.reader import StreamReader, seconds_of
from datamodules.streams.settings import SignalSettings
from datamodules.video.crops import Box
from datamodules.video.decode import DecodeError, VideoInfo, probe, read_clips
from datamodules.video.readers import Reason
from datamodules.video.sampling import Plan
from modules.core.batch import Kind, Stream
from modules.core.errors import SettingError

ACTIONS = (
    *("swipe_left", "swipe_right", "wave", "clap", "throw", "arm_cross", "basketball_shoot", "draw_x", "draw_circle_cw"),
    *("draw_circle_ccw", "draw_triangle", "bowling", "boxing", "baseball_swing", "tennis_swing", "arm_curl", "tennis_serve"),
    *("push", "knock", "catch", "pickup_throw", "jog", "walk", "sit2stand", "stand2sit", "lunge", "squat"),
)
"""Names of actions 1 to 27."""
SPLITS: dict[str, dict[str, tuple[int, ...]]] = {
    "xsub": {"train": (1, 3, 5, 7), "val": (2, 4, 6, 8)},
    "xsub_settings": {"train": (1, 3, 5), "val": (7,)},
}
"""Subjects of each split by benchmark."""
FRAME_RATE = 19.0
"""Frames per second of depth and joints by the sensor's clock: 50 / 2.625, the median of all recordings."""
CHANNELS = 6
ROUNDING = 1e-3
"""Rounding error of times in float32, in samples."""
# For each joint of Kinect v2, which is the format of this project, its index among the 20 joints of Kinect v1. Kinect v1 has no
# neck, no tips of hands and no thumbs: the neck (2) is a copy of the centre of the shoulders (20), tips and thumbs (21 to 24)
# are copies of the hands (7 and 11).
KINECT_V1 = (3, 2, 1, 0, *range(4, 20), 1, 7, 7, 11, 11)
KINECT_V1_JOINTS = 20
# In reduced files, grey values 40 to 255 are 3400 to 2000 mm, and 0 is no measurement. The video codec creates values between 0
# and 40 at borders; values below 20 count as no measurement.
NOTHING_BELOW, NEAREST, PER_GREY = 20, 2000, 1400 / 215
FILE = re.compile(r"a(\d+)_s(\d+)_t(\d+)_(depth\.mat|skeleton\.mat|inertial\.mat|color\.avi)", re.IGNORECASE)
STREAM_OF = {"depth.mat": "depth", "skeleton.mat": "skeleton", "inertial.mat": "signal", "color.avi": "video"}


class Recording(NamedTuple):
    """One performance of an action; numbers count from 1."""

    action: int
    subject: int
    trial: int


class UTDMHAD(VideoDataModule):
    """UTD-MHAD: 861 recordings of 27 actions by 8 people. Streams: depth (the default), skeleton, signal, video.

    Benchmark xsub trains on subjects 1, 3, 5, 7 and tests on 2, 4, 6, 8; xsub_settings, for choosing settings, trains on
    1, 3, 5 and validates on 7. The sensor is on the right wrist (actions 1 to 21) or the right thigh (22 to 27); `signal` is
    [V, 6, L], resampled to `data.streams.signal.steps` samples over the time of the clip. Most actions are done with the right
    hand, and some differ only in their direction. Official and reduced files: see `datamodules/sets/utd_mhad.py`.
    """

    benchmarks = ("xsub", "xsub_settings")
    flips_change_labels = True
    splits = ("train", "val")
    lists_taken: ClassVar[tuple[str, ...]] = ()
    offers: ClassVar[dict[str, Kind]] = {"depth": "depth", "skeleton": "skeleton", "signal": "signal", "video": "video"}
    gives = ("depth",)

    def read_official(self, split: str) -> Manifest | None:
        """See `VideoDataModule.read_official`."""
        labels = self.root / "labels.csv"
        files = reduced_files(labels) if labels.is_file() else official_files(self.root)
        names = [name for name in self.offers if name in self.wanted]
        for name in names:
            if not any(name in streams for streams in files.values()):
                raise SettingError(
                    f"{self.root} contains no {name} of UTD-MHAD; leave it out of data.streams.names, or set data.root to the "
                    "folder of all files."
                )
        subjects = SPLITS[self.benchmark][split]
        own = [one for one in sorted(files) if one.subject in subjects]
        # The path of the recording is the file of its first stream.
        rows = [one for one in own if names[0] in files[one]]
        if not rows:
            raise SettingError(
                f"{self.root} has no {names[0]} of the subjects {', '.join(map(str, subjects))} of UTD-MHAD; set data.root "
                "to the folder of all files."
            )
        if len(rows) < len(own):
            rank_zero_warn(f"{len(own) - len(rows)} recordings in {self.root} have no {names[0]} and are left out.")
        paths = {name: PackedStrings(files[one].get(name, "") for one in rows) for name in names}
        label = np.array([one.action - 1 for one in rows], np.int64)
        return Manifest(self.root, paths.pop(names[0]), label, list(ACTIONS), further=paths)

    def reader_of(self, name: str) -> StreamReader:
        """See `VideoDataModule.reader_of`."""
        if name == "depth":
            return DepthReader(self.reading.decode_timeout)
        return SkeletonReader() if name == "skeleton" else SignalReader(self.stream_settings.signal)


def official_files(root: Path) -> dict[Recording, dict[str, str]]:
    """The official files below a folder: path of each stream of each recording.

    Raises:
        SettingError: if there is no such file, if a file exists twice, or if the data set does not have its action.
    """
    found: dict[Recording, dict[str, str]] = {}
    for path in sorted(root.rglob("*")):
        named = FILE.fullmatch(path.name)
        if named is None:
            continue
        recording, stream = _recording(named, path), STREAM_OF[named[4].lower()]
        streams = found.setdefault(recording, {})
        if stream in streams:
            raise SettingError(f"{root} contains {path.name} in two folders; set data.root to a folder with each file once.")
        streams[stream] = path.relative_to(root).as_posix()
    if not found:
        raise SettingError(
            f"{root} has neither official files of UTD-MHAD, such as a1_s1_t1_depth.mat, nor the labels.csv of its reduced "
            "form; set data.root to the folder of these."
        )
    return found


def reduced_files(labels: Path) -> dict[Recording, dict[str, str]]:
    """The reduced files: path of each stream of each recording. A path inside an archive ends in the name of the array.

    Raises:
        SettingError: if the list has another format.
    """
    root, found = labels.parent, {}
    with labels.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        clip = row.get("clip") or ""
        named = re.fullmatch(r"a(\d+)_s(\d+)_t(\d+)", clip)
        if named is None:
            raise SettingError(f"{labels} has a row without a clip such as a01_s1_t1: {row!r:.200}; correct it.")
        recording = _recording(named, labels)
        folder = f"depth/{ACTIONS[recording.action - 1]}"
        streams = {"depth": f"{folder}/{clip}.mp4"} if (root / "depth").is_dir() else {}
        archives = {"skeleton": "skeleton.npz", "signal": "inertial.npz"}
        streams |= {name: f"{archive}/{clip}" for name, archive in archives.items() if (root / archive).is_file()}
        found[recording] = streams
    return found


def _recording(named: re.Match[str], source: Path) -> Recording:
    numbers = Recording(*map(int, named.groups()[:3]))
    if not 1 <= numbers.action <= len(ACTIONS):
        raise SettingError(f"{source} is of action {numbers.action}, but UTD-MHAD has {len(ACTIONS)}; correct data.root.")
    return numbers


# --- Files ---


@lru_cache(maxsize=2)  # A file is read twice: first for its length, then for its content.
def load_array(source: Path, variable: str) -> np.ndarray:
    """An array of a .mat file, or of an archive for a path like `skeleton.npz/a01_s1_t1`. Do not modify it: it is cached.

    Raises:
        DecodeError: if it cannot be read.
    """
    archived = source.parent.suffix == ".npz"
    if not is_file(source.parent if archived else source):
        raise DecodeError("file not found", str(source))
    try:
        if archived:
            return _archive(source.parent)[source.name]
        array: np.ndarray = loadmat(source, variable_names=[variable])[variable]
        return array
    except KeyError as error:
        raise DecodeError("no such stream", f"no array {error}") from error
    except Exception as error:  # SciPy and NumPy raise many types of errors for damaged files
        raise DecodeError("cannot open", f"{type(error).__name__}: {error}".partition("\n")[0]) from error


@lru_cache(maxsize=2)
def _archive(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def checked(array: np.ndarray, shape: tuple[int | None, ...], source: Path) -> np.ndarray:
    """Check the shape of an array, and that it is finite.

    Args:
        array: array of any shape.
        shape: required shape; None stands for any length of at least 1.
        source: file, for the error message.

    Raises:
        DecodeError: if the shape differs, or a value is not finite.
    """
    fits = len(array.shape) == len(shape) and all(
        have == want if want is not None else have > 0 for have, want in zip(array.shape, shape, strict=True)
    )
    if not fits:
        wrong: Reason = "another size" if len(shape) != 2 else "another width"
        raise DecodeError(wrong, f"{source.name} has {list(array.shape)}")
    if not np.issubdtype(array.dtype, np.number) or not np.isfinite(array).all():
        raise DecodeError("not numbers", source.name)
    return array


# --- Readers ---


class RecordingReader(StreamReader):
    """Base class of the readers: the streams of a recording start and end together."""

    rate: float = FRAME_RATE
    """steps per second"""

    @abstractmethod
    def steps(self, source: Path) -> np.ndarray:
        """All steps of a file, time first. Raises DecodeError."""

    def info(self, source: Path) -> VideoInfo:
        """See `StreamReader.info`."""
        return VideoInfo(len(self.steps(source)), self.rate, 0, 0)


def shown(plan: Plan, count: int) -> np.ndarray:
    """The steps of a file that a plan shows, int64 [V, T], if the file starts and ends with the recording."""
    return plan.frames_at(count / plan.duration, count)


class DepthReader(RecordingReader):
    """Depth of official or reduced files: uint16 [V, T, H, W, 1] in millimetres, nearest-neighbour resized; 0 is not measured.

    Args:
        decode_timeout: seconds after which a video counts as broken.
    """

    kind = "depth"

    def __init__(self, decode_timeout: float | None = None) -> None:
        self.decode_timeout = decode_timeout

    def steps(self, source: Path) -> np.ndarray:
        """All frames of an official file, [T, 240, 320]."""
        depth = load_array(source, "d_depth")
        return checked(depth, (None, None, None), source).transpose(2, 0, 1)

    def info(self, source: Path) -> VideoInfo:
        """See `StreamReader.info`."""
        if source.suffix == ".mat":
            count, height, width = self.steps(source).shape
        else:
            found = probe(source, self.decode_timeout)
            count, height, width = found.num_frames, found.height, found.width
        return VideoInfo(count, self.rate, width, height)

    def read(self, source: Path, plan: Plan, size: int) -> Stream:
        """See `StreamReader.read`."""
        if source.suffix == ".mat":
            frames = self.steps(source)
            numbers, place = np.unique(shown(plan, len(frames)), return_inverse=True)
            pictures = frames[numbers].astype(np.uint16)
        else:
            decoded = read_clips(source, lambda info, _: shown(plan, info.num_frames), None, decode_timeout=self.decode_timeout)
            pictures, place = millimetres(np.stack([frame[..., 0] for frame in decoded.frames])), decoded.position
        place = place.reshape(plan.moments.shape)
        views = [cut_nearest(pictures, box, plan.picture, size)[place[view]] for view, box in enumerate(plan.boxes)]
        valid = torch.ones(place.shape, dtype=torch.bool)
        return Stream("depth", torch.from_numpy(np.stack(views)[..., None]), valid, seconds_of(plan), _corners(plan))

    def nothing(self, plan: Plan, size: int) -> Stream:
        """See `StreamReader.nothing`."""
        shape = plan.moments.shape
        empty = torch.zeros(*shape, size, size, 1, dtype=torch.uint16)
        return Stream("depth", empty, torch.zeros(shape, dtype=torch.bool), seconds_of(plan), _corners(plan))


def _corners(plan: Plan) -> Tensor:
    return torch.from_numpy(plan.corners)


def millimetres(grey: np.ndarray) -> np.ndarray:
    """Grey values of the reduced files, uint8, as millimetres, uint16: 255 is 2000, 40 is 3400, and values below 20 are 0,
    which means not measured."""
    depth = np.round(NEAREST + (255.0 - grey) * PER_GREY).astype(np.uint16)
    return np.where(grey < NOTHING_BELOW, np.uint16(0), depth)


def cut_nearest(pictures: np.ndarray, box: Box, counted_in: tuple[int, int], size: int) -> np.ndarray:
    """Crop pictures to a box and resize with the nearest pixel, because averages of depths would be wrong at borders.

    Args:
        pictures: [N, h, w].
        box: in pixels of pictures of the size `counted_in`.
        counted_in: width and height of the pictures that the box refers to.
        size: side of the result.

    Returns:
        [N, size, size]
    """
    steps = (np.arange(size) + 0.5) / size
    height, width = pictures.shape[1:]
    rows = ((box.y + steps * box.height) * height / counted_in[1]).astype(np.int64)
    columns = ((box.x + steps * box.width) * width / counted_in[0]).astype(np.int64)
    return pictures[:, rows][:, :, columns]


class SkeletonReader(RecordingReader):
    """Joints of official or reduced files: float32 [V, 3, T, 25, 2] in the order of Kinect v2, of one person, centred and
    aligned once per recording like those of NTU RGB+D (`datamodules/skeleton/normalise.py`)."""

    kind = "skeleton"

    def steps(self, source: Path) -> np.ndarray:
        """[T, 20, 3], as in the file."""
        joints = load_array(source, "d_skel")
        if source.suffix == ".mat":
            return checked(joints, (KINECT_V1_JOINTS, 3, None), source).transpose(2, 0, 1)
        return checked(joints, (None, KINECT_V1_JOINTS, 3), source)

    def read(self, source: Path, plan: Plan, size: int) -> Stream:
        """See `StreamReader.read`."""
        joints = self.steps(source)
        persons = np.zeros((PERSONS, len(joints), JOINTS, 3), np.float32)
        persons[0] = joints[:, KINECT_V1]
        frames = shown(plan, len(joints))
        # [M, T, J, C] -> [V, C, T, J, M]
        clips = normalise(persons).transpose(3, 1, 2, 0)[:, frames].swapaxes(0, 1)
        valid = torch.ones(frames.shape, dtype=torch.bool)
        return Stream("skeleton", torch.from_numpy(np.ascontiguousarray(clips)), valid, seconds_of(plan))

    def nothing(self, plan: Plan, size: int) -> Stream:
        """See `StreamReader.nothing`."""
        views, frames = plan.moments.shape
        empty = torch.zeros(views, 3, frames, JOINTS, PERSONS)
        return Stream("skeleton", empty, torch.zeros(views, frames, dtype=torch.bool), seconds_of(plan))


class SignalReader(RecordingReader):
    """The sensor of official or reduced files: float32 [V, 6, L], interpolated linearly over the time that the clip shows.

    Args:
        settings: rate, samples per clip, offset.

    Raises:
        SettingError: if any other setting is set.
    """

    kind = "signal"

    def __init__(self, settings: SignalSettings) -> None:
        taken = SignalSettings(rate=settings.rate, steps=settings.steps, offset=settings.offset)
        for name, value in vars(settings).items():
            if value != getattr(taken, name):
                raise SettingError(f"data.streams.signal.{name} is set, which UTDMHAD does not use; leave it out.")
        self.settings, self.rate = settings, settings.rate

    def steps(self, source: Path) -> np.ndarray:
        """[S, 6], as in the file."""
        return checked(load_array(source, "d_iner"), (None, CHANNELS), source)

    def read(self, source: Path, plan: Plan, size: int) -> Stream:
        """See `StreamReader.read`."""
        table = self.steps(source).astype(np.float32)
        first, last = ((plan.time.astype(np.float64) - self.settings.offset) * len(table) / plan.duration).T[..., None]
        if self.settings.steps is None:
            places = first + np.arange(int((last - first).max() + ROUNDING) + 1)
            valid = places <= last + ROUNDING
        else:
            places = np.linspace(first[:, 0], last[:, 0], self.settings.steps, axis=1)
            valid = np.ones(places.shape, bool)
        # A sample is valid until the next one.
        valid &= (places >= 0) & (places <= len(table))
        curves = np.stack([np.interp(places, np.arange(len(table)), channel) for channel in table.T], 1)
        curves = np.where(valid[:, None], curves, 0).astype(np.float32)
        return Stream("signal", torch.from_numpy(curves), torch.from_numpy(valid), seconds_of(plan))

    def nothing(self, plan: Plan, size: int) -> Stream:
        """See `StreamReader.nothing`."""
        steps = self.settings.steps or 1
        empty = torch.zeros(plan.views, CHANNELS, steps)
        return Stream("signal", empty, torch.zeros(plan.views, steps, dtype=torch.bool), seconds_of(plan))
