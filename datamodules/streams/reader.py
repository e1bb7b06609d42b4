"""Interface of the readers of further streams: flow, depth, masks, sound, sensors, joints, boxes, features.

A reader only cuts the part that the plan of a sample shows (`datamodules/video/sampling.py`) out of a file:
normalisation, random changes and filters run on the device. Axis letters: `V` views, `T` frames.
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
    """A part of a stream is broken. The rest is kept, and the file is counted and listed.

    Args:
        error: What is wrong.
        kept: The stream; its broken part is not valid.
    """

    def __init__(self, error: DecodeError, kept: Stream) -> None:
        super().__init__(error.reason, error.detail, error.stream)
        self.kept = kept


class StreamReader(ABC):
    """Reads one kind of stream. Constructors take settings; instances are sent to worker processes.

    Streams of a reader always have `valid`, bool [V, T'] along their time axis: false where the file has no data, or for
    padding.
    """

    kind: ClassVar[Kind]
    """kind of the streams that it returns"""

    def learn(self, source: Path) -> None:  # noqa: B027  (most kinds have nothing to learn)
        """Learn from a file what all files of the stream have in common and `nothing` needs: columns, width, joints.

        Args:
            source: the first file of the training list that can be read; files that differ raise DecodeError when they are
                read.

        Raises:
            DecodeError: if it cannot be read.
        """

    @property
    def window(self) -> float | None:
        """Seconds of this stream in each view, independent of the frames of clips, if it is the first stream of its sample;
        infinite for the complete file. None if clips are a number of steps."""
        return None

    @abstractmethod
    def info(self, source: Path) -> VideoInfo:
        """Number of steps and rate of a file, which are used to choose clips if this is the first stream of its sample.

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
            plan: plan of the sample.
            size: side of pictures after cropping and resizing.

        Returns:
            A stream of one sample, its tensors [V, ...], with `valid` and `time`.

        Raises:
            DecodeError: if the file is broken or has a wrong format; the reason is one of a few fixed texts. `PartlyReadError`
                if only a part of it is broken.
        """

    @abstractmethod
    def nothing(self, plan: Plan, size: int) -> Stream:
        """Zeros for a missing stream, with the shape that `read` returns, all of them not valid."""


def seconds_of(plan: Plan) -> Tensor:
    """`time` of a stream that follows a plan: float32 [V, 2]."""
    return torch.from_numpy(plan.time)
