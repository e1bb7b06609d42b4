"""UCFRep: repetitions in 526 videos of UCF101, with official annotations (https://arxiv.org/abs/2005.08465, official code)."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from scipy.io import loadmat
from torch import Tensor
from torch.nn.functional import interpolate, pad

from datamodules.base import VideoDataModule
from datamodules.lists.folders import IMAGE_SUFFIXES, is_hidden, usual_first, video_files
from datamodules.lists.manifest import Manifest
from datamodules.lists.official import found_manifest
from datamodules.loading.loader import SampleKey
from datamodules.loading.worker_guard import WorkerGuard
from datamodules.settings import ListSettings, ReadSettings, SubsetSettings
from datamodules.video.dataset import VideoClipDataset, collate
from datamodules.video.decode import DecodeError, Decoder, VideoInfo, read_clips
from datamodules.video.sampling import ClipSettings, ViewSettings
from modules.core.batch import Batch, stack_padded
from modules.core.errors import SettingError, check_whole

FEWEST_BORDERS = 3
# Containers may state a few frames more than they contain.
MISSING_FRAMES = 2
UNKNOWN = -1
EVALUATION_SHARE = 8


@dataclass
class Repetitions:
    """Annotation of one video. Frames count from 1.

    Args:
        start: first frame, where the first cycle begins.
        end: last frame, where the last cycle ends.
        borders: int64 [K], ascending frames at which cycles begin and end; there are K - 1 cycles.
        previous: int64 [end - start + 1], for each frame from `start` on, the length minus 1 of the cycle that ends there, or
            -1.
        next: the same for the cycle that begins at the frame.
    """

    start: int
    end: int
    borders: np.ndarray
    previous: np.ndarray
    next: np.ndarray


class Segment(NamedTuple):
    """Frames `first` to `last` of a video, counted from 1, and the number of cycles in them."""

    first: int
    last: int
    cycles: int


def read_repetitions(path: Path) -> Repetitions:
    """Read an official .mat file.

    Numbers are stored in the smallest type that fits, often uint8, and are converted to int64 first.

    Raises:
        SettingError: if the file is damaged or has another format.
    """
    try:
        label = loadmat(path)["label"][0, 0]
        start, end = (int(label[name].ravel()[0]) for name in ("start_frame", "end_frame"))
        names = ("temporal_bound", "offset_pre_estimate", "offset_next_estimate")
        borders, before, after = (label[name].ravel().astype(np.int64) for name in names)
    except Exception as error:
        # SciPy raises many types of errors for damaged files.
        raise SettingError(f"{path} is no UCFRep annotation ({type(error).__name__}: {error}); copy it again.") from error
    whole = len(before) == len(after) == end - start + 1 > 0
    if not whole or len(borders) == 0 or borders[0] < start or borders[-1] > end or (np.diff(borders) <= 0).any():
        raise SettingError(
            f"{path} has borders or offsets that do not match its frames {start} to {end}; copy the official file again."
        )
    return Repetitions(start, end, borders, before, after)


def annotations(folder: Path) -> list[Path]:
    """The .mat files of a folder that are not hidden, sorted."""
    return sorted(path for path in folder.glob("*.mat") if not is_hidden(path.name))


def draw_segment(repetitions: Repetitions, longest: int, rng: np.random.Generator) -> Segment:
    """Draw a part with at least two cycles; its ends are drawn within the cycles around it (official code).

    Args:
        repetitions: annotation of the video.
        longest: maximum number of frames; a longer part is cut at its end, but keeps its count.
        rng: source of randomness.
    """
    borders = repetitions.borders
    begin = int(rng.integers(len(borders) - 2))
    end = int(rng.integers(begin + 2, len(borders), endpoint=True))
    first, last = repetitions.start, repetitions.end
    if begin > 0:
        first = int(rng.integers(borders[begin - 1], borders[begin], endpoint=True))
    if end < len(borders):
        last = int(rng.integers(borders[end - 1], borders[end], endpoint=True))
    return Segment(first, min(last, first + longest - 1), end - begin)


def letterbox(frames: list[np.ndarray], size: int) -> Tensor:
    """Resize the longer side, and pad with black to a square around the picture.

    Args:
        frames: T arrays uint8 [h, w, 3].
        size: side of the square.

    Returns:
        uint8 [T, size, size, 3], contiguous.
    """
    clip = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
    height, width = clip.shape[2:]
    longer = max(height, width)
    # Rounded down to whole pixels, as in the official code.
    inner = (max(1, size * height // longer), max(1, size * width // longer))
    if inner != (height, width):
        clip = interpolate(clip, size=inner, mode="bilinear", antialias=True)
    down, across = size - inner[0], size - inner[1]
    clip = pad(clip, (across // 2, across - across // 2, down // 2, down - down // 2))
    return clip.permute(0, 2, 3, 1).contiguous()


def read_pictures(folder: Path, numbers: range) -> list[np.ndarray]:
    """RGB pictures of a folder, by position in the order of names.

    Raises:
        DecodeError: if a picture is missing or broken.
    """
    there = [file for file in folder.iterdir() if not is_hidden(file.name)] if folder.is_dir() else []
    files = sorted(file for file in there if file.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise DecodeError("file not found")
    if numbers.stop > len(files):
        raise DecodeError("failed while decoding", f"{len(files)} pictures, {numbers.stop} annotated")
    try:
        frames = [np.asarray(Image.open(files[number]).convert("RGB")) for number in numbers]
    except (OSError, ValueError, SyntaxError) as error:
        raise DecodeError("failed while decoding", str(error)) from error
    if len({frame.shape for frame in frames}) > 1:
        raise DecodeError("frame size changes")
    return frames


def find_recordings(root: Path) -> dict[str, str]:
    """Videos below a folder by name without suffix, or first pictures by name of their folder; videos are preferred."""
    videos: dict[str, str] = {}
    folders: dict[str, str] = {}
    for file in usual_first(video_files(root)):
        path = Path(file)
        if path.suffix.lower() in IMAGE_SUFFIXES:
            folders.setdefault(path.parent.name, file)
        else:
            videos.setdefault(path.stem, file)
    return folders | videos


class RepetitionDataset(VideoClipDataset):
    """Videos with their cycles: random parts in training, otherwise everything from the first to the last border.

    Args:
        manifest: videos, or the first pictures of folders.
        repetitions: annotations, one per video.
        clip: only `frames` (the longest part) and `size` are used.
        seed: random seed of the run.
        train: whether parts are random.
        fresh: draw new parts in every epoch.
        decoder: library that decodes videos.
        decode_timeout: seconds after which a file counts as broken.
        guard: see `VideoClipDataset`.
    """

    def __init__(
        self,
        manifest: Manifest,
        repetitions: list[Repetitions],
        clip: ClipSettings,
        seed: int,
        train: bool,
        fresh: bool,
        decoder: Decoder,
        decode_timeout: float | None,
        guard: WorkerGuard | None = None,
    ) -> None:
        super().__init__(manifest, clip, seed, train, decoder, decode_timeout, guard)
        self.repetitions, self.fresh = repetitions, fresh

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        """One sample.

        Returns:
            video uint8 [1, T, H, W, 3], its length, count, label, borders [K], previous [T] and next [T] (see `Repetitions`;
            borders count from its first frame), index, and the fields of `VideoClipDataset` about broken files.
        """
        return super().__getitem__(key if self.fresh else key._replace(epoch=0))

    def _read(self, row: int, rng: np.random.Generator | None) -> dict[str, Any]:
        known = self.repetitions[row]
        if rng is not None:
            segment = draw_segment(known, self.clip.frames, rng)
        else:
            segment = Segment(known.start, known.end, len(known.borders) - 1)
        return self._cycles(row, segment) | {"video": self._frames(row, segment)[None]}

    def _nothing(self, row: int) -> dict[str, Any]:
        known = self.repetitions[row]
        segment = Segment(known.start, known.end, len(known.borders) - 1)
        black = torch.zeros(known.end - known.start + 1, self.clip.size, self.clip.size, 3, dtype=torch.uint8)
        return self._cycles(row, segment) | {"video": black[None]}

    def _cycles(self, row: int, segment: Segment) -> dict[str, Tensor]:
        known = self.repetitions[row]
        part = slice(segment.first - known.start, segment.last - known.start + 1)
        inside = known.borders[(known.borders >= segment.first) & (known.borders <= segment.last)]
        return {
            "label": torch.tensor(self.manifest.labels[row]),
            "length": torch.tensor(segment.last - segment.first + 1),
            "count": torch.tensor(segment.cycles),
            "borders": torch.from_numpy(inside - segment.first),
            "previous": torch.from_numpy(known.previous[part]),
            "next": torch.from_numpy(known.next[part]),
        }

    def _frames(self, row: int, segment: Segment) -> Tensor:
        path, numbers = self.manifest.file(row), range(segment.first - 1, segment.last)
        if path.suffix.lower() in IMAGE_SUFFIXES:
            return letterbox(read_pictures(path.parent, numbers), self.clip.size)

        def choose(info: VideoInfo, _: np.random.Generator | None) -> np.ndarray:
            if numbers.stop > info.num_frames + MISSING_FRAMES:
                raise DecodeError("failed while decoding", f"{info.num_frames} frames, {numbers.stop} annotated")
            return np.minimum(np.array([numbers]), info.num_frames - 1)

        decoded = read_clips(path, choose, None, decode_timeout=self.decode_timeout, decoder=self.decoder)
        return letterbox([decoded.frames[place] for place in decoded.position[0]], self.clip.size)


def collate_repetitions(samples: list[dict[str, Any]]) -> Batch:
    """Join samples, padded to the longest: video [B, 1, T, H, W, 3] with black, labels and borders in `extra` with -1."""
    extra = {name: stack_padded([one[name] for one in samples], 0, UNKNOWN) for name in ("borders", "previous", "next")}
    return replace(collate(samples), extra=extra | {"count": torch.stack([one["count"] for one in samples])})


class UCFRep(VideoDataModule):
    """Videos with repetitions, for `RepetitionCounting`; results are reported for the validation videos.

    `root` contains the videos of UCF101 at any depth, or folders of their pictures, imgs/train/<Class>/<video>/image_00001.jpg
    and so on. The folder of the lists contains the official files annotations/train/<video>.mat and
    annotations/val/<video>.mat. Pictures are numbered from 1 in the order of their names. Videos with fewer than two cycles are
    left out, as in the official code.

    Training samples are random parts of the videos with at least two cycles. The official code draws them once at its start;
    here they are a function of seed and sample, and with `fresh_segments` also of the epoch. A batch is padded to
    the longest of its samples, and not always to 300 frames, because padding is never used.

    Args:
        root: folder of the videos or pictures.
        lists: only `folder` is used, the folder of the official annotations.
        clip: only `frames`, the longest part in training, and `size`, the side of the padded square frame, are used.
        segments: training samples of each video.
        fresh_segments: draw new parts in every epoch.
        batch_size: samples per batch and device in training; evaluation uses an eighth of it, because videos are complete.
        reading: worker processes, decoder, and tolerance for broken files.
        subset: part of the training videos, the same fraction of every action class.
        probe_samples: number of training samples whose complete videos online probes read.
        seed: random seed of order and parts; null takes the run's seed.

    Raises:
        SettingError: if settings or annotations are invalid.
    """

    lists_taken = ()
    splits = ("train", "val")
    places = ("", "annotations", "ucf526/annotations")

    def __init__(
        self,
        root: str,
        lists: ListSettings = ListSettings(),  # noqa: B008
        clip: ClipSettings = ClipSettings(frames=300, size=112),  # noqa: B008
        segments: int = 10,
        fresh_segments: bool = False,
        batch_size: int = 32,
        reading: ReadSettings = ReadSettings(),  # noqa: B008
        subset: SubsetSettings = SubsetSettings(),  # noqa: B008
        probe_samples: int = 421,
        seed: int | None = None,
    ) -> None:
        check_whole("data", 1, segments=segments)
        super().__init__(root, lists, clip, batch_size, reading, subset, probe_samples=probe_samples, seed=seed)
        if clip.clips != 1 or clip.repeat != 1:
            raise SettingError("data.clip.clips and data.clip.repeat must be 1 for UCFRep; set data.segments instead.")
        if clip != ClipSettings(frames=clip.frames, size=clip.size):
            raise SettingError("UCFRep reads complete cycles and frames; leave out data.clip.sampler and data.clip.crop.")
        self.segments, self.fresh_segments = segments, fresh_segments
        self._repetitions: dict[str, Repetitions] = {}
        self._recordings: dict[str, str] | None = None

    def read_official(self, split: str) -> Manifest | None:
        """See `VideoDataModule.read_official`."""
        folders = (self.list_folder / place / split for place in self.places)
        folder = next((folder for folder in folders if annotations(folder)), None)
        if folder is None:
            raise self.lacks(f"annotations/{split} with .mat files")
        known = {path.stem: read_repetitions(path) for path in annotations(folder)}
        known = {name: found for name, found in known.items() if len(found.borders) >= FEWEST_BORDERS}
        # Files are called v_<Class>_g01_c01. They spell HandStandPushups, while classInd.txt of UCF101 has HandstandPushups.
        class_of = {name: name[len("v_") : -len("_g01_c01")] for name in known}
        classes = sorted(set(class_of.values()))
        if self._recordings is None:
            self._recordings = find_recordings(self.root)
        rows = [(name, classes.index(class_of[name])) for name in known]
        manifest = found_manifest(self.root, rows, self._recordings, folder, classes, ".avi")
        self._repetitions |= dict(zip(manifest.paths, known.values(), strict=True))
        return manifest

    def setup(self, stage: str) -> None:
        """Read the annotations and check the settings; see `VideoDataModule.setup`."""
        is_new = self.train_manifest is None
        super().setup(stage)
        if is_new and self.train_manifest is not None:
            # Rows are repeated in the manifest and not in a loader, so that reports and `index` have the same meaning
            # everywhere.
            self.train_manifest = self.train_manifest.subset(np.repeat(np.arange(len(self.train_manifest)), self.segments))

    @staticmethod
    def _collate(samples: list[dict[str, Any]]) -> Batch:
        return collate_repetitions(samples)

    def _dataset(self, manifest: Manifest, train: bool, views: ViewSettings | None, guard: WorkerGuard) -> RepetitionDataset:
        known, reading = [self._repetitions[path] for path in manifest.paths], self.reading
        return RepetitionDataset(
            manifest, known, self.clip, self.seed, train, self.fresh_segments, reading.decoder, reading.decode_timeout, guard
        )

    def _samples_at_once(self, train: bool, views: ViewSettings | None) -> int:
        # Complete videos are large.
        return self.batch_size if train else max(1, self.batch_size // EVALUATION_SHARE)
