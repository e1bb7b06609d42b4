"""Feature sequences of recordings, computed by an encoder: one file per recording, or one for a collection.

Axis letters: `V` views, `N` recordings of a collection, `S` steps, `D` width.
"""

import math
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from datamodules.streams.arrays import MARK, check_file, load_arrays, split_source
from datamodules.streams.reader import StreamReader
from datamodules.streams.settings import FeatureSettings
from datamodules.video.decode import DecodeError, VideoInfo
from datamodules.video.sampling import Plan
from modules.core.batch import Stream
from modules.core.errors import SettingError


class FeatureReader(StreamReader):
    """Features from files. All must have the width of the first file of the list.

    * `file.npy`: [S, D], or [D] for a complete recording; `file.npz` with the same (array `feature`, or the only one, and
      optionally `time`), or one of its arrays as `file.npz#name`.
    * `file.safetensors`: `feature` [S, D] or [D], and optionally `time` [S, 2], start and end of each step in seconds.
    * `collection.safetensors#7`: recording 7, counted from 0, of `feature` [N, S, D] or [N, D] with optional `length` int64 [N]
      and `time` [N, S, 2].

    Args:
        settings: which steps are read.
    """

    kind = "feature"

    def __init__(self, settings: FeatureSettings) -> None:
        self.settings = settings
        self.width: int | None = None
        self.is_sequence = True

    def learn(self, source: Path) -> None:
        """See `StreamReader.learn`.

        Raises:
            SettingError: if times are needed, but neither the file nor the settings contain them.
        """
        feature, time = self._load(source)
        self.width, self.is_sequence = feature.shape[-1], feature.ndim == 2
        if not self.settings.whole and time is None:
            raise SettingError(
                f"{source} has no time stamps; set data.streams.feature.rate to their steps per second, or "
                "data.streams.feature.whole to true."
            )

    def info(self, source: Path) -> VideoInfo:
        """See `StreamReader.info`. Steps without times count as one per second."""
        feature, time = self._load(source)
        steps = len(feature) if feature.ndim == 2 else 1
        rate = 1.0 if time is None else steps / max(float(time[-1, 1]), 1e-6)
        return VideoInfo(steps, rate, 0, 0)

    def read(self, source: Path, plan: Plan, size: int) -> Stream:
        """See `StreamReader.read`: [V, S, D] with `length` [V], or [V, D] of files with one feature each, as float32."""
        feature, time = self._load(source)
        if feature.ndim == 1:
            return Stream("feature", feature.expand(plan.views, -1).clone(), torch.ones(plan.views, dtype=torch.bool))
        parts, span = torch.from_numpy(plan.time), plan.span or (-math.inf, math.inf)
        if self.settings.whole and span == (-math.inf, math.inf):
            own = torch.tensor([0.0, 0.0]) if time is None else torch.stack([time[0, 0], time[-1, 1]])
            return self._join([feature] * plan.views, own.expand(plan.views, 2).clone())
        if self.settings.whole:
            parts = torch.tensor(span, dtype=torch.float32).expand(plan.views, 2)
        if time is None:
            raise DecodeError("no such column", "no times")
        chosen = [(time[:, 0] < max(last, first + 1e-6)) & (time[:, 1] > first) for first, last in parts.tolist()]
        if not any(rows.any() for rows in chosen):
            raise DecodeError("too short", f"nothing from {parts[0, 0]:g} s to {parts[0, 1]:g} s")
        return self._join([feature[rows] for rows in chosen], parts.clone())

    def nothing(self, plan: Plan, size: int) -> Stream:
        """See `StreamReader.nothing`."""
        width = self.width or 1
        if not self.is_sequence:
            return Stream("feature", torch.zeros(plan.views, width), torch.zeros(plan.views, dtype=torch.bool))
        return self._join([torch.zeros(0, width)] * plan.views, torch.from_numpy(plan.time))

    def _join(self, sequences: list[Tensor], time: Tensor) -> Stream:
        """Join sequences [S, D] of all views, padded to the longest, with at least one step."""
        length = torch.tensor([len(sequence) for sequence in sequences])
        data = pad_sequence(sequences, batch_first=True)
        if not data.shape[1]:
            data = data.new_zeros(len(sequences), 1, data.shape[2])
        return Stream("feature", data, torch.arange(data.shape[1]) < length[:, None], time, length=length)

    def _load(self, source: Path) -> tuple[Tensor, Tensor | None]:
        """Features of a recording, float32 [S, D] or [D], and the time of each step, float32 [S, 2]. Raises DecodeError."""
        path, item = split_source(source)
        if path.suffix == ".safetensors":
            check_file(path)
            feature, time = _load_tensors(path, item)
        else:
            arrays = load_arrays(source, "feature", "time")
            if any(array.dtype.kind not in "fiu" for array in arrays.values()):
                raise DecodeError("not numbers", str(arrays["feature"].dtype))
            tensors = {name: torch.from_numpy(array.astype(np.float32)) for name, array in arrays.items()}
            feature, time = tensors["feature"], tensors.get("time")
        if feature.ndim not in (1, 2) or not feature.shape[-1]:
            detail = (
                f"shape {tuple(feature.shape)}; of a collection, write the file with {MARK} and the number of the recording"
            )
            raise DecodeError("another size", detail if feature.ndim == 3 else f"shape {tuple(feature.shape)}, not [S, D]")
        if self.width is not None and (feature.shape[-1] != self.width or (feature.ndim == 2) != self.is_sequence):
            form = "[S, {}]" if self.is_sequence else "[{}]"
            raise DecodeError("another width", f"shape {list(feature.shape)}, not {form.format(self.width)}")
        if not len(feature):
            raise DecodeError("too short", "no steps")
        if not feature.isfinite().all():
            raise DecodeError("not numbers", "NaN or infinity")
        if feature.ndim == 2 and time is None and self.settings.rate is not None:
            start = torch.arange(len(feature)) / self.settings.rate
            time = torch.stack([start, start + 1 / self.settings.rate], 1)
        if feature.ndim == 2 and time is not None:
            _check_times(feature, time)
        return feature, time


def _check_times(feature: Tensor, time: Tensor) -> None:
    if time.shape != (len(feature), 2):
        raise DecodeError("another size", f"{len(feature)} steps, times of shape {list(time.shape)}, not [S, 2]")
    if not time.isfinite().all():
        raise DecodeError("not numbers", "NaN or infinity among the times")
    if (time[:, 1] < time[:, 0]).any() or (time[1:, 0] < time[:-1, 0]).any():
        raise DecodeError("times not ascending")


def _load_tensors(path: Path, item: str | None) -> tuple[Tensor, Tensor | None]:
    """`feature` and `time` of a file, or of one recording of a collection, without reading the rest."""
    try:
        with safe_open(str(path), "pt") as file:
            names = set(file.keys())
            if "feature" not in names:
                raise DecodeError("no such stream", f"no tensor feature, but {', '.join(sorted(names)) or 'none'}")
            if item is None:
                time = file.get_tensor("time").float() if "time" in names else None
                return file.get_tensor("feature").float(), time
            feature = file.get_slice("feature")
            shape = feature.get_shape()
            if not item.isdecimal() or int(item) >= shape[0] or len(shape) < 2:
                raise DecodeError("no such stream", f"no recording {item} in a collection of shape {shape}")
            row, steps = int(item), shape[1] if len(shape) == 3 else 1
            length = int(file.get_slice("length")[row]) if "length" in names else steps
            if not 0 <= length <= steps:
                raise DecodeError("another size", f"length {length} of {steps} steps")
            if len(shape) == 2:
                return feature[row].float(), None
            time = file.get_slice("time")[row].float()[:length] if "time" in names else None
            return feature[row].float()[:length], time
    except (SafetensorError, OSError, ValueError) as error:
        raise DecodeError("cannot open", str(error).partition("\n")[0]) from error


def collection_size(path: Path) -> int:
    """Number of recordings in a collection.

    Raises:
        SettingError: if the file is not a collection.
    """
    try:
        with safe_open(str(path), "pt") as file:
            return int(file.get_slice("feature").get_shape()[0])
    except (SafetensorError, OSError) as error:
        advice = "pass a folder with collections of features"
        raise SettingError(f"{path} contains no features of a collection ({error}); {advice}.") from error
