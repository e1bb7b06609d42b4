"""The points of a map: recordings of one or several collections of features, or their steps.

Axis letters: `N` recordings, `S` steps, `D` width, `P` points.
"""

from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from modules.core.errors import SettingError
from modules.embed.collection import Collection, read_collection

Per = Literal["step", "video"]
MAX_POINTS = 100_000
"""Maximum number of points; drawing and comparing more would take too long."""


class Points(NamedTuple):
    """The points of a map."""

    feature: Tensor
    """float32 [P, D]"""
    row: Tensor
    """int64 [P], index of the recording of each point"""
    span: Tensor | None
    """float32 [P, 2], start and end in seconds; None if unknown"""
    files: list[Path]
    """files of the recordings, [N]"""
    paths: list[str]
    """displayed names of the recordings, [N]"""
    labels: list[str]
    """classes of the recordings, '' for none, [N]"""
    origin: list[str]
    """collections of the recordings, [N]"""
    encoder: str
    """name of the encoder"""
    missing_root: str
    """why the files cannot be found; empty if they may exist"""

    def groups(self) -> Tensor:
        """Index of the file of each point, int64 [P]: points of one file are not independent neighbours.

        If all points are from one file, each point is a group.
        """
        known: dict[Path, int] = {}
        numbers = torch.tensor([known.setdefault(file, len(known)) for file in self.files])
        return numbers[self.row] if len(known) > 1 else torch.arange(len(self.row))


def read_points(names: list[Path], per: Per, root: Path | None) -> Points:
    """Read collections of features from the same encoder.

    Args:
        names: names of the collections.
        per: points of collections of sequences: their steps, or the mean of each recording.
        root: folder that relative paths are relative to; None takes those in the passports.

    Raises:
        SettingError: if a collection cannot be read, they do not fit together, or there is nothing to draw.
    """
    collections = [read_collection(name) for name in names]
    first = collections[0]
    for other in collections[1:]:
        if other.feature.shape[-1] != first.feature.shape[-1] or _encoder_hash(other) != _encoder_hash(first):
            raise SettingError(f"--features: {first.name} and {other.name} are of different encoders; draw a map of each.")
    features, rows, spans = [], [], []
    start = 0
    for one in collections:
        feature, row, span = _points_of(one, per)
        features.append(feature)
        rows.append(row + start)
        spans.append(span)
        start += len(one.paths)
    feature = torch.cat(features)
    known_spans = [span for span in spans if span is not None]
    where = " and ".join(str(name) for name in names)
    if len(feature) < 2:
        raise SettingError(f"--features: {where} has a single point; a map needs at least two.")
    if len(feature) > MAX_POINTS:
        raise SettingError(
            f"--features: {where} has {len(feature)} points, but a map holds {MAX_POINTS} at most; pass --per video, or write "
            "fewer features with embed (--every, --what)."
        )
    if not (feature != feature[0]).any():
        raise SettingError(f"--features: all {len(feature)} features in {where} are equal, so there is nothing to draw.")
    several = len(collections) > 1
    return Points(
        feature=feature,
        row=torch.cat(rows),
        span=torch.cat(known_spans) if len(known_spans) == len(spans) else None,
        files=[(root or one.root or Path()) / path for one in collections for path in one.paths],
        paths=[f"{one.name.name}/{path}" if several else path for one in collections for path in one.paths],
        labels=[label for one in collections for label in one.labels],
        origin=[one.name.name for one in collections for _ in one.paths],
        encoder=_encoder_name(first),
        missing_root=next((why for one in collections if (why := _why_missing(one, root))), ""),
    )


def _points_of(one: Collection, per: Per) -> tuple[Tensor, Tensor, Tensor | None]:
    """Features, recordings and time spans of the points of a collection."""
    every = torch.arange(len(one.feature))
    if not one.is_sequences:
        return one.feature, every, one.time
    is_step = torch.arange(one.feature.shape[1]) < one.length[:, None]
    if per == "step":
        return one.feature[is_step], every.repeat_interleave(is_step.sum(1)), None if one.time is None else one.time[is_step]
    count = is_step.sum(1, keepdim=True)
    if not count.all():
        raise SettingError(
            f"--features: {one.paths[int(count.argmin())]} in {one.name} has no step; write the collection again."
        )
    mean = (one.feature * is_step[..., None]).sum(1) / count
    if one.time is None:
        return mean, every, None
    last = one.time[..., 1].masked_fill(~is_step, 0).amax(1)
    return mean, every, torch.stack([one.time[:, 0, 0], last], 1)


def _encoder_hash(one: Collection) -> object:
    encoder = one.passport.get("encoder")
    return encoder.get("sha256") if isinstance(encoder, dict) else None


def _encoder_name(one: Collection) -> str:
    encoder = one.passport.get("encoder")
    if not isinstance(encoder, dict):
        return "an unknown encoder"
    words = [encoder.get(name) for name in ("network", "file")]
    method = encoder.get("method")
    name = " ".join(str(word) for word in words if word)
    return f"{name} ({str(method).rpartition('.')[2]})" if method else name or "an unknown encoder"


def _why_missing(one: Collection, root: Path | None) -> str:
    """Text that explains why no file can be found; empty if files may exist."""
    folder = root or one.root
    if all(Path(path).is_absolute() for path in one.paths):
        return ""
    if folder is None:
        return f"{one.name}.json does not name the folder that paths start from; pass it as --root"
    return "" if folder.is_dir() else f"the folder {folder} does not exist; pass the folder that paths start from as --root"
