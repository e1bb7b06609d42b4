"""Base class of data sets of complete videos with labels in every frame, for label propagation; frames are picture files."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.lists.manifest import check_root
from datamodules.loading.loader import EpochSampler, ResumableLoader, SampleKey
from modules.core.batch import Batch, Kind, Reading, Stream
from modules.core.errors import SettingError, check_whole, given
from modules.core.run import Measure

PICTURES = (".jpg", ".jpeg", ".png", ".bmp")
THREADS = 4
"""Pictures that are read at the same time."""
FEWEST = 3
"""Frames of a video: DAVIS scores neither the first nor the last."""
T = TypeVar("T")


@dataclass
class FrameSize:
    """Size of the frames that the encoder takes; with all null, that of the files. Frames are resized bilinearly, without
    antialiasing, as the official protocols do.

    Args:
        short: Shorter side in pixels, with the other in proportion (DINO: 480).
        long: Longer side in pixels, with the other in proportion (CropMAE on VIP: 880).
        exact: Height and width (CropMAE on DAVIS: 480 and 880).
        multiple: The side that follows from the other is rounded down to a multiple of this (both: 64).
    """

    short: int | None = None
    long: int | None = None
    exact: list[int] | None = None
    multiple: int = 1

    def __post_init__(self) -> None:
        check_whole("data.size", 1, multiple=self.multiple, **given(short=self.short, long=self.long))
        if sum(value is not None for value in (self.short, self.long, self.exact)) > 1:
            raise SettingError(
                f"data.size.short is {self.short}, data.size.long {self.long} and data.size.exact {self.exact}; set only one."
            )
        if self.exact is not None and (len(self.exact) != 2 or min(self.exact) < 1):
            raise SettingError(f"data.size.exact is {self.exact}; it must be a height and a width in pixels.")

    def of(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the frames of files of a size.

        Raises:
            SettingError: if nothing remains of a side.
        """
        if self.exact is not None:
            return self.exact[0], self.exact[1]
        asked = self.short or self.long
        if asked is None:
            return height, width
        is_height = (height <= width) == (self.short is not None)
        other, side = (width, height) if is_height else (height, width)
        follows = int(other * asked / side) // self.multiple * self.multiple
        if follows < 1:
            raise SettingError(
                f"Frames of {height} x {width} pixels, resized to a side of {asked}, have the other below {self.multiple}; set "
                "data.size to larger ones."
            )
        return (asked, follows) if is_height else (follows, asked)


class UnreadableError(Exception):
    """A file that cannot be read, with the reason."""


class LabelledVideo(NamedTuple):
    """Files of a video."""

    name: str
    frames: list[Path]
    labels: list[Path]
    """one per frame, or a single one"""


class SequenceDataset(Dataset[Batch]):
    """Videos, one per batch. A video with a broken file becomes one black frame that is marked as missed.

    Args:
        videos: files.
        size: size of the frames.
        read_labels: annotations of a video, as `Batch.extra` without the batch axis, from its files and the size of its
            pictures.
    """

    def __init__(
        self,
        videos: list[LabelledVideo],
        size: FrameSize,
        read_labels: Callable[[LabelledVideo, tuple[int, int]], dict[str, Tensor]],
    ) -> None:
        self.videos, self.size, self.read_labels = videos, size, read_labels

    def __len__(self) -> int:
        return len(self.videos)

    def __getitems__(self, keys: list[SampleKey]) -> Batch:
        """The batch of one video."""
        (row,) = [key.row for key in keys]
        try:
            frames = in_threads(read_frame, self.videos[row].frames)
            sizes = {frame.shape[:2] for frame in frames}
            if len(sizes) > 1:
                raise UnreadableError(f"frames of {len(sizes)} sizes")
            height, width = sizes.pop()
            video = resized(frames, self.size.of(height, width))
            extra = self.read_labels(self.videos[row], (height, width))
            # Frames after the last annotated one are left out.
            video = video[: len(extra.get("joints", video))]
        except UnreadableError as error:
            black = torch.zeros(1, 1, 1, 1, 1, 3, dtype=torch.uint8)
            return one_video(row, black, {}, str(error))
        return one_video(row, video[None, None], extra)


def one_video(row: int, video: Tensor, extra: dict[str, Tensor], fault: str | None = None) -> Batch:
    """A batch of one video.

    Args:
        row: its number.
        video: uint8 [1, 1, T, H, W, 3].
        extra: annotations without the batch axis.
        fault: why it could not be read.
    """
    index = torch.tensor([row])
    return Batch(
        index,
        torch.full_like(index, -1),
        {"video": Stream("video", video)},
        substituted=index if fault is not None else None,  # type: ignore[arg-type]
        extra={name: value[None] for name, value in extra.items()},
        reading=Reading(faults=[(row, fault)] if fault is not None else []),
    )


def in_threads(read: Callable[[Path], T], paths: Sequence[Path]) -> list[T]:
    """Read files at the same time, in order."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(read, paths))


def open_picture(path: Path) -> Image.Image:
    """A decoded picture.

    Raises:
        UnreadableError: with its name.
    """
    try:
        picture: Image.Image = Image.open(path)
        picture.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnreadableError(f"{path.name}: {type(error).__name__}") from error
    return picture


def read_frame(path: Path) -> np.ndarray:
    """Colours of a picture: uint8 [H, W, 3]."""
    return np.array(open_picture(path).convert("RGB"))


def read_mask(path: Path) -> np.ndarray:
    """Object ids of a picture with a palette or one channel: uint8 [H, W].

    Raises:
        UnreadableError: for other pictures.
    """
    picture = open_picture(path)
    if picture.mode == "1":
        picture = picture.convert("L")
    if picture.mode not in ("P", "L"):
        raise UnreadableError(f"{path.name}: {picture.mode} pixels are no object ids")
    return np.array(picture)


def read_masks(video: LabelledVideo, stored: tuple[int, int]) -> Tensor:
    """Masks of all frames: uint8 [T, H, W].

    Raises:
        UnreadableError: if their size is not that of the frames.
    """
    masks = in_threads(read_mask, video.labels)
    other = next((path.name for path, mask in zip(video.labels, masks, strict=True) if mask.shape != stored), None)
    if other is not None:
        raise UnreadableError(f"{other}: not the size of the frame")
    return torch.from_numpy(np.stack(masks))


def resized(frames: list[np.ndarray], size: tuple[int, int]) -> Tensor:
    """Frames uint8 [H, W, 3] as one tensor uint8 [T, *size, 3]."""
    if frames[0].shape[:2] == size:
        return torch.from_numpy(np.stack(frames))
    out = torch.empty(len(frames), *size, 3, dtype=torch.uint8)
    for place, frame in zip(out, frames, strict=True):
        planes = torch.from_numpy(frame).permute(2, 0, 1).float()
        changed = F.interpolate(planes[None], size, mode="bilinear", align_corners=False)[0]
        place.copy_(changed.round().permute(1, 2, 0))
    return out


def pictures_in(folder: Path) -> list[Path]:
    """Pictures of a folder in the order of their numbers, or of their names."""
    found = [path for path in folder.iterdir() if path.suffix.lower() in PICTURES]
    return sorted(found, key=lambda path: (int(path.stem) if path.stem.isdecimal() else -1, path.name))


class LabelledSequenceData(LightningDataModule, ABC):
    """Complete videos with labels in every frame, for `LabelPropagation`; there is nothing to train on.

    Args:
        root: folder of the data set.
        size: size of the frames that the encoder takes.
        listed: list of the videos; null takes the data set's own.
        only: names of videos to take; null takes all of the list.
        max_frames: first frames of each video to take; null takes all.

    Raises:
        SettingError: if a value is out of range.
    """

    measure: Measure = "objects"
    num_labels: int | None = None

    def __init__(
        self,
        root: str,
        size: FrameSize = FrameSize(),  # noqa: B008  (never mutated; shows the defaults in --help)
        listed: str | None = None,
        only: list[str] | None = None,
        max_frames: int | None = None,
    ) -> None:
        super().__init__()
        check_whole("data", FEWEST, **given(max_frames=max_frames))
        self.root, self.size, self.only, self.max_frames = Path(root), size, only, max_frames
        self.listed = Path(listed) if listed is not None else None
        self.batch_size = 1
        self.videos: list[LabelledVideo] = []

    @abstractmethod
    def find_videos(self) -> list[LabelledVideo]:
        """The videos of the list, all of them with their files.

        Raises:
            SettingError: if the list or a folder is missing.
        """

    @abstractmethod
    def read_labels(self, video: LabelledVideo, stored: tuple[int, int]) -> dict[str, Tensor]:
        """Annotations of a video by name; see `modules.core.run.LabelledSequences`.

        Args:
            video: files.
            stored: height and width of its pictures.

        Raises:
            UnreadableError: if they cannot be read.
        """

    @property
    def streams(self) -> dict[str, Kind]:
        """Streams of a batch."""
        return {"video": "video"}

    @property
    def sequence_names(self) -> list[str]:
        """Names of the videos in order."""
        return [video.name for video in self.videos]

    @property
    def manifest_hash(self) -> str:
        """Hash of the names and numbers of frames, for result files."""
        return sha256("\n".join(f"{video.name} {len(video.frames)}" for video in self.videos).encode()).hexdigest()

    def check(self, stage: str) -> None:
        """Check folders and lists before a network is built."""
        self.setup(stage)

    def setup(self, stage: str) -> None:
        """Find the files of all videos.

        Raises:
            SettingError: for commands other than test, missing folders, lists and annotations, and unknown names in `only`.
        """
        if stage != "test":
            raise SettingError(f"{type(self).__name__} is only for python main.py test with --model LabelPropagation.")
        if self.videos:
            return
        check_root(self.root)
        if self.listed is not None and not self.listed.is_file():
            raise SettingError(f"The list {self.listed} does not exist; set data.listed to an existing file.")
        found = self.find_videos()
        if unknown := sorted(set(self.only or ()) - {video.name for video in found}):
            raise SettingError(f"data.only names {unknown[0]}, which is not among the {len(found)} videos of {self.root}.")
        chosen = [self._shortened(video) for video in found if self.only is None or video.name in self.only]
        if not chosen:
            raise SettingError(f"The list of videos of {self.root} has none; set data.listed or data.only to null.")
        self.videos = chosen
        rank_zero_info(f"{type(self).__name__}: {len(chosen)} videos, {sum(len(video.frames) for video in chosen)} frames.")

    def _shortened(self, video: LabelledVideo) -> LabelledVideo:
        if len(video.frames) < FEWEST:
            raise SettingError(
                f"{video.name} in {self.root} has {len(video.frames)} frames, and label propagation needs {FEWEST}; take it "
                "out of the list."
            )
        labels = video.labels if len(video.labels) == 1 else video.labels[: self.max_frames]
        return video._replace(frames=video.frames[: self.max_frames], labels=labels)

    def test_dataloader(self) -> ResumableLoader:
        """The videos in order, one per batch."""
        trainer = self.trainer
        ranks = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
        dataset = SequenceDataset(self.videos, self.size, self.read_labels)
        return ResumableLoader(dataset, EpochSampler(len(dataset), 0, False, *ranks), 1, collate_fn=as_it_is)

    def with_masks(self, names: list[str], pictures: Path, masks: Path) -> list[LabelledVideo]:
        """Videos whose masks are pictures of the same names.

        Args:
            names: of the videos.
            pictures: folder that has a folder of pictures for each.
            masks: folder that has a folder of masks for each.

        Raises:
            SettingError: if a folder or a mask is missing.
        """
        found = []
        for name in names:
            for folder in (pictures / name, masks / name):
                if not folder.is_dir():
                    raise SettingError(f"{folder} does not exist; set data.root to the folder of the data set.")
            frames = pictures_in(pictures / name)
            known = {path.stem: path for path in pictures_in(masks / name)}
            if missing := [path.name for path in frames if path.stem not in known]:
                raise SettingError(
                    f"{masks / name} has no mask for {len(missing)} of {len(frames)} frames, the first is {missing[0]}; "
                    "label propagation needs the annotations of all frames."
                )
            found.append(LabelledVideo(name, frames, [known[path.stem] for path in frames]))
        return found


def as_it_is(batch: Batch) -> Batch:
    """Batches are complete as they come."""
    return batch
