"""The interface between data modules and methods: one batch with named streams of any kind.

Axis letters, used throughout: `B` samples in a batch, `V` clips or views per sample, `T` frames, `H`, `W` rows and columns,
`C` channels, `L` and `S` steps, `N` tokens, `D` width of a feature, `K` objects or classes, `J` joints, `M` persons.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import default_collate

from modules.core.errors import SettingError

Kind = Literal["video", "flow", "depth", "mask", "track", "skeleton", "audio", "signal", "feature", "picture", "text"]

SEQUENCE_AXIS: dict[Kind, int] = {
    **{"video": 1, "flow": 1, "depth": 1, "mask": 1, "track": 1},
    **{"skeleton": 2, "audio": 2, "signal": 2, "feature": 1},
}
"""Time axis of one sample's data, for kinds whose length may differ between samples."""

ADVICE = "choose another --data, or another --model or --model.backbone"


@dataclass(eq=False)
class Stream:
    """One modality of a batch. In the stream of a single sample, the tensors have no batch axis."""

    kind: Kind
    """Kind of `data`."""
    data: Tensor
    """
    * video uint8 [B, V, T, H, W, 3], RGB as decoded, cropped and resized, not normalised.
    * flow float16 [B, V, T, H, W, 2], displacement from each frame to the next, right and down, in pixels of the clip; depth
      uint16 [B, V, T, H, W, 1], millimetres, 0 without a measurement.
    * mask bool [B, V, T, H, W, K], one plane per object; track float32 [B, V, T, K, 4], x1 y1 x2 y2 in pixels of the clip.
    * skeleton float32 [B, V, 3, T, J, M], metres: x, y, z of J joints of M persons, centred and aligned once per recording,
      cropped in time and resized to T frames. An absent person is 0 everywhere.
    * audio float32 [B, V, C, S], one channel or two, from -1 to 1; signal float32 [B, V, C, L].
    * feature float [B, V, D], or sequences [B, V, S, D] with `length`.
    * picture uint8 [B, V, H, W, 3].
    """
    valid: Tensor | None = None
    """bool [B, V, ...], which entries of `data` are valid; None if all are, up to `length`."""
    time: Tensor | None = None
    """float32 [B, V, 2], start and end of each view in seconds."""
    box: Tensor | None = None
    """float32 [B, V, 4], crop of each view: x1 y1 x2 y2 in pixels of the source."""
    length: Tensor | None = None
    """int64 [B] or [B, V], number of real steps; later ones are padding. None if there is no padding."""


@dataclass
class Text:
    """Sentences about the samples."""

    sentences: list[list[str]]
    """All sentences of each sample; the first is the sample's own."""
    kind: ClassVar[Kind] = "text"

    @property
    def first(self) -> list[str]:
        """The first sentence of each sample."""
        return [own[0] for own in self.sentences]


@dataclass(eq=False)
class Regions:
    """Boxes of key frames. Axis letters here: `M` boxes of all samples, concatenated, `K` actions."""

    box: Tensor
    """float32 [M, 5], the sample's index in the batch, and x1 y1 x2 y2 in pixels of the clip."""
    action: Tensor
    """float32 [M, K], 1 for the actions of each box, 0 for others."""
    number: Tensor
    """int64 [M], index of each box in its split."""


@dataclass
class Reading:
    """Statistics and faults of reading the samples. Stays on the host."""

    decode_ms: list[float] = field(default_factory=list)
    """Time that a worker needed for each sample, in milliseconds."""
    faults: list[tuple[int, str]] = field(default_factory=list)
    """Row and reason of every unreadable file."""
    unreplaced: list[bool] = field(default_factory=list)
    """Whether no readable file was found to replace a sample's file."""
    stream_ms: dict[str, list[float]] = field(default_factory=dict)
    """Share of `decode_ms` for reading each stream other than the video, by name."""
    place: int = 0
    """Samples of the epoch before this batch, over all processes: the same number in all of them. Set before a `Preparation`
    runs."""


@dataclass(eq=False)
class Batch:
    """A batch from a data module for a method."""

    index: Tensor
    """int64 [B], requested row of each sample in the split (also if its file was broken and replaced)."""
    label: Tensor
    """int64 [B], or float [B, K] for several labels; -1 if there is none."""
    streams: dict[str, Stream | Text]
    """The samples' modalities by name. The only stream of a kind is named after its kind."""
    substituted: Tensor = None  # type: ignore[assignment]  # made in __post_init__, so that readers need not ask
    """int64 [B], row of the broken file that a sample replaces, or -1 (the default)."""
    regions: Regions | None = None
    """Boxes of key frames, for detection."""
    extra: dict[str, Tensor] = field(default_factory=dict)
    """Further annotations of the samples, by name, [B, ...]: a second label, the cycles of a repetition."""
    reading: Reading = field(default_factory=Reading)
    """Statistics and faults of reading."""
    prepared: Any = None
    """Result of the method's `Preparation`, if the data module ran it."""

    def __post_init__(self) -> None:
        if self.substituted is None:
            self.substituted = torch.full_like(self.index, -1)

    def stream(self, name: str, *kinds: Kind) -> Stream:
        """A stream other than text.

        Args:
            name: name of the stream.
            kinds: kinds that the caller supports; without them, any kind.

        Raises:
            SettingError: if the data have no such stream, or one of another kind.
        """
        found = self.streams.get(name)
        if isinstance(found, Stream) and (not kinds or found.kind in kinds):
            return found
        raise _unlike(self.kinds, name, kinds)

    def text(self, name: str = "text") -> Text:
        """A stream of sentences.

        Raises:
            SettingError: if the data have no text of that name.
        """
        found = self.streams.get(name)
        if isinstance(found, Text):
            return found
        raise _unlike(self.kinds, name, ("text",))

    @property
    def kinds(self) -> dict[str, Kind]:
        """Kinds of the streams by name, like the attribute `streams` of data modules."""
        return {name: stream.kind for name, stream in self.streams.items()}

    def separate(self, views: int) -> "Batch":
        """Each view as a separate sample: B samples of V views become B * V samples of one view, grouped by sample.

        Args:
            views: V.
        """
        streams: dict[str, Stream | Text] = {}
        for name, stream in self.streams.items():
            if isinstance(stream, Text):
                streams[name] = Text([own for own in stream.sentences for _ in range(views)])
                continue
            each = {
                field: None if value is None else value.flatten(0, 1)[:, None]
                for field, value in (("valid", stream.valid), ("time", stream.time), ("box", stream.box))
            }
            length = stream.length
            if length is not None:
                length = length.flatten()[:, None] if length.ndim > 1 else length.repeat_interleave(views)
            streams[name] = Stream(stream.kind, stream.data.flatten(0, 1)[:, None], **each, length=length)
        index, label, substituted = (one.repeat_interleave(views, 0) for one in (self.index, self.label, self.substituted))
        extra = {name: value.repeat_interleave(views, 0) for name, value in self.extra.items()}
        return Batch(index, label, streams, substituted, extra=extra)

    def pin_memory(self) -> "Batch":
        """A copy in pinned memory. torch's DataLoader calls this before a batch is moved to a GPU."""
        pinned: Batch = apply_to_collection(self, Tensor, Tensor.pin_memory)
        return pinned


class Preparation(Protocol):
    """Work of a method on the host that needs no weights, such as writing captions. Data modules with an attribute
    `preparation` run it ahead of the step, where batches are read: in the workers if there are any, so it is pickled."""

    def __call__(self, batch: Batch, epoch: int | None) -> None:
        """Set `batch.prepared` for the method's `step`.

        Args:
            batch: batch as it was read, on the host.
            epoch: training epoch; None in validation, which is the same in every epoch.
        """
        ...


def unlabelled(data: Tensor, kind: Kind = "video") -> Batch:
    """A batch of one stream, named after its kind, with rows from 0 and without labels.

    Args:
        data: [B, ...]
        kind: kind of the stream.
    """
    index = torch.arange(len(data), device=data.device)
    return Batch(index, torch.full_like(index, -1), {kind: Stream(kind, data)})


def feature_stream(data: object, own: str) -> str | None:
    """Name of the stream of frozen features that a data module yields instead of the stream `own`, or None."""
    given: Mapping[str, Kind] = getattr(data, "streams", {})
    return None if own in given else next((name for name, kind in given.items() if kind == "feature"), None)


def check_streams(given: Mapping[str, Kind], wanted: Mapping[str, Iterable[Kind]], advice: str = ADVICE) -> None:
    """Compare the streams of a data module with those that a method needs.

    Args:
        given: kind of each stream of the data, by name.
        wanted: supported kinds of each stream that the method reads, by name.
        advice: what to change, for the error.

    Raises:
        SettingError: for the first stream that is missing or of another kind.
    """
    for name, kinds in wanted.items():
        if given.get(name) not in tuple(kinds):
            raise _unlike(given, name, tuple(kinds), advice)


def join_streams(samples: list[Stream]) -> Stream:
    """Collate the streams of single samples, which must have the same fields.

    Data of unequal lengths are padded with 0 at the end. `length` is then set to these lengths if the samples have none.

    Args:
        samples: B streams, whose tensors have no batch axis.
    """
    kind, axis = samples[0].kind, SEQUENCE_AXIS.get(samples[0].kind, 0)
    fields: dict[str, Any] = {name: [getattr(one, name) for one in samples] for name in ("time", "box", "length")}
    lengths = [one.data.shape[axis] for one in samples]
    if len(set(lengths)) > 1 and samples[0].length is None:
        fields["length"] = [torch.tensor(length) for length in lengths]
    joined = {name: torch.stack(parts) if parts[0] is not None else None for name, parts in fields.items()}
    valid = [one.valid for one in samples if one.valid is not None]
    filled = stack_padded(valid, 1 if valid[0].ndim > 1 else 0) if valid else None
    return Stream(kind, stack_padded([one.data for one in samples], axis), valid=filled, **joined)


def stack_padded(parts: list[Tensor], axis: int = 0, value: float = 0) -> Tensor:
    """Stack tensors that may differ in the length of one axis, padded at the end to the longest.

    Args:
        parts: B tensors.
        axis: axis of each part that may differ.
        value: padding value.

    Returns:
        [B, ...]
    """
    if len({part.shape[axis] for part in parts}) == 1:
        # In a worker, this writes directly into memory that is shared with the main process.
        stacked: Tensor = default_collate(parts)
        return stacked
    padded = pad_sequence([part.movedim(axis, 0) for part in parts], batch_first=True, padding_value=value)
    return padded.movedim(1, axis + 1)


def _unlike(given: Mapping[str, Kind], name: str, kinds: tuple[Kind, ...], advice: str = ADVICE) -> SettingError:
    listed = ", ".join(key if key == kind else f"{key} ({kind})" for key, kind in given.items()) or "none"
    wanted = name if not kinds or kinds == (name,) else f"{name} ({' or '.join(kinds)})"
    return SettingError(f"The model reads the stream {wanted}, but the data have the stream(s) {listed}; {advice}.")


class TrueBoxes(NamedTuple):
    """Ground-truth boxes of detection. Axis letter: `M` pairs of a box and an action."""

    frame: Tensor
    """int64 [M], index of the key frame."""
    box: Tensor
    """float [M, 4], corners x1 y1 x2 y2, in the same unit as the predicted boxes."""
    action: Tensor
    """int64 [M]"""

    def only(self, keep: Tensor) -> "TrueBoxes":
        """The pairs selected by `keep`, bool [M]."""
        return TrueBoxes(*(part[keep] for part in self))
