"""What every reader of a further stream offers: flow, depth, masks, sound, sensors, joints, boxes, features.

A reader cuts out of one file what the plan of a sample shows (`datamodules/video/sampling.py`), and nothing else: whatever is
normalised, drawn at random or filtered happens on the device. Axis letters: `V` views, `T` frames.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from datamodules.video.decode import DecodeError, VideoInfo
from datamodules.video.sampling import Plan
from modules.core.batch import Kind, Stream


class PartlyReadError(DecodeError):
    """A stream of which a part is broken; the rest is kept, and counted and named all the same.

    Args:
        error: What is wrong.
        kept: What could be read; what could not is not valid.
    """

    def __init__(self, error: DecodeError, kept: Stream) -> None:
        super().__init__(error.reason, error.detail, error.stream)
        self.kept = kept


class StreamReader(ABC):
    """Reads one kind of stream. Constructors take settings; instances go to worker processes.

    Streams of a reader always have `valid`, bool [V, T'] along their axis of time: false where the file has nothing, or where
    nothing but zeros fills it up.
    """

    kind: ClassVar[Kind]
    """of the streams that it gives"""

    def learn(self, source: Path) -> None:  # noqa: B027  (most kinds have nothing to learn)
        """Take from a file what all files of the stream have in common and `nothing` needs: columns, width, joints.

        Args:
            source: the first file of the training list that can be read; a file unlike it raises DecodeError when it is read.

        Raises:
            DecodeError: if it cannot be read.
        """

    @property
    def window(self) -> float | None:
        """Seconds that each view has of this stream, however many frames clips have, where it is the first of its sample;
        infinite for all of the file. None where clips are so many steps."""
        return None

    @abstractmethod
    def info(self, source: Path) -> VideoInfo:
        """Steps and rate of a file, by which clips are chosen where this stream is the first of its sample.

        Args:
            source: file, or folder of pictures.

        Raises:
            DecodeError: if it cannot be read.
        """

    @abstractmethod
    def read(self, source: Path, plan: Plan, size: int) -> Stream:
        """The part of a file that a plan shows.

        Args:
            source: file, or folder of pictures.
            plan: of the sample.
            size: side of pictures after cropping and resizing.

        Returns:
            A stream of one sample, its tensors [V, ...], with `valid` and `time`.

        Raises:
            DecodeError: if the file is broken, or not what it should be; the reason is one of a few stable words.
                `PartlyReadError` if only a part of it is.
        """

    @abstractmethod
    def nothing(self, plan: Plan, size: int) -> Stream:
        """Zeros in the place of a stream that a sample lacks, of the shape that `read` gives, none of them valid."""


def seconds_of(plan: Plan) -> Tensor:
    """`time` of a stream that follows a plan: float32 [V, 2]."""
    return torch.from_numpy(plan.time)
