"""Audio as a stream of a sample: mono or stereo, starting at the time of the clip's first frame."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from datamodules.audio.decode import OpenSound, open_sound, sound_length
from datamodules.streams.reader import PartlyReadError, StreamReader
from datamodules.streams.settings import SoundSettings
from datamodules.video.decode import DecodeError, VideoInfo
from datamodules.video.pyav_reader import SoundWish
from datamodules.video.sampling import Plan
from modules.core.batch import Stream
from modules.core.errors import SettingError


class AudioReader(StreamReader):
    """Audio of video and audio files, read with PyAV.

    Sample 0 is at the time of the clip's first frame, even if the file's audio starts later or earlier than its
    video. Where the file has no audio (before its start, after its end, in place of broken packets) samples are 0 and not
    valid. The file counts as broken if it has no audio in any of the clips, or only zeros from start to end.

    Args:
        settings: rate, channels and length.
    """

    kind = "audio"

    def __init__(self, settings: SoundSettings) -> None:
        self.settings = settings

    @property
    def window(self) -> float | None:
        """See `StreamReader.window`."""
        return math.inf if self.settings.whole else self.settings.seconds

    @property
    def wish(self) -> SoundWish:
        """Which part of the audio of a video is read."""
        return "whole" if self.settings.whole else "near"

    def info(self, source: Path) -> VideoInfo:
        """See `StreamReader.info`; a step is a sample."""
        rate = self.settings.rate
        return VideoInfo(max(1, round(sound_length(source) * rate)), float(rate), 0, 0)

    def read(self, source: Path, plan: Plan, size: int) -> Stream:
        """See `StreamReader.read`: float32 [V, C, S]."""
        with open_sound(source) as sound:
            return self.read_open(sound, plan)

    def read_open(self, sound: OpenSound, plan: Plan) -> Stream:
        """Like `read`, but from an open file. Raises DecodeError."""
        starts, lengths = self._parts(plan, sound.length)
        rate = self.settings.rate
        read = sound.read(starts, int(lengths.max()), rate, self.settings.channels)
        _, last = plan.span or (0.0, math.inf)
        real = np.minimum(lengths, np.maximum((last - starts) * rate, 0)) if self.settings.whole else lengths
        valid = read.valid & (np.arange(read.valid.shape[1]) < real[:, None])
        data = torch.from_numpy(np.where(valid[:, None], read.data, np.float32(0)))
        stream = Stream("audio", data, torch.from_numpy(valid), _time(starts, lengths / rate))
        if read.faults:
            raise PartlyReadError(DecodeError("failed while decoding", f"{read.faults} times; the rest is kept"), stream)
        return stream

    def nothing(self, plan: Plan, size: int) -> Stream:
        """See `StreamReader.nothing`."""
        starts, lengths = self._parts(plan, lambda: 0.0)
        data = torch.zeros(plan.views, 2 if self.settings.channels == "stereo" else 1, int(lengths.max()))
        return Stream("audio", data, torch.zeros(data.shape[0], data.shape[2], dtype=torch.bool), _time(starts, 0 * starts))

    def _parts(self, plan: Plan, length: Callable[[], float]) -> tuple[np.ndarray, np.ndarray]:
        """The parts of a file that a plan covers.

        Args:
            plan: plan of the sample.
            length: returns the seconds of audio in the file, if needed.

        Returns:
            float64 [V], start times, and int64 [V], lengths in samples.

        Raises:
            SettingError: if clips have a single frame, and no setting defines the length of the audio.
        """
        time, settings = plan.time.astype(np.float64), self.settings
        # The complete part of the file that a row of a list refers to.
        first, last = plan.span or (0.0, math.inf)
        first = max(first, 0.0)
        starts = np.full(plan.views, first) if settings.whole else time[:, 0]
        if settings.seconds is not None:
            seconds = np.full(plan.views, settings.seconds)
        else:
            seconds = np.full(plan.views, min(length(), last) - first) if settings.whole else time[:, 1] - time[:, 0]
        if not settings.whole and plan.moments.shape[1] == 1 and settings.seconds is None:
            raise SettingError("Clips of one frame do not define the length of their audio; set data.streams.sound.seconds.")
        return starts, np.maximum(np.floor(seconds * settings.rate + 0.5), 1).astype(np.int64)


def _time(starts: np.ndarray, seconds: np.ndarray) -> torch.Tensor:
    """Start and end times: float32 [V, 2]."""
    return torch.from_numpy(np.stack([starts, starts + seconds], 1).astype(np.float32))
