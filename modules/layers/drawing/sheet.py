"""All streams of a sample on one page: frames at several times of the clip in columns, and signals over time below.

Missing parts are hatched in grey: entries that are not `valid`, times without a step, and numbers that are not finite. The
steps of a stream are assumed to be evenly spaced over its `time`, from its start to its end; those of streams without `time`,
over the time of all others. Axis letters as in `modules/core/batch.py`.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from modules.core.batch import SEQUENCE_AXIS, Batch, Kind, Stream, Text
from modules.core.errors import SettingError
from modules.layers.drawing.skeletons import draw_skeletons
from modules.layers.drawing.streams import (
    DECIBELS,
    LINE,
    OCTAVES,
    depth_limits,
    draw_curves,
    draw_depth,
    draw_features,
    draw_flow,
    draw_masks,
    draw_spectrogram,
    draw_tracks,
    fit,
    flow_limit,
    flow_wheel,
    font,
    hatch,
    steps_at,
    to_tensor,
    wrap,
    write,
)

TILE, GAP, MARGIN = 128, 4, 112
"""Side of a frame, space between frames, and width of the names on the left, in pixels."""
ABREAST = 4
"""Tiles in a row of an animation."""
STRIP, THIN = 64, 32
"""Heights of signals over time, in pixels: of a picture, and of a curve of sound."""
CURSOR = (213, 94, 0)
PICTORIAL: tuple[Kind, ...] = ("video", "picture", "flow", "depth", "mask", "track", "skeleton")
OVER_TIME: tuple[Kind, ...] = ("audio", "signal", "feature")
PER_PANEL, MOST_CURVES = 3, 12
"""Channels of a sensor per panel, and largest number of channels that are drawn as curves."""
MOST_SENTENCES = 4
BLANK = 60
"""Grey background of masks and boxes if there is no video."""


@dataclass
class One:
    """One view of one stream of one sample, on the host, without padding."""

    name: str
    kind: Kind
    data: Tensor
    """without the axes of samples and views, T or L or S as its first axis; a picture has one step"""
    valid: Tensor
    """bool [T, ...]"""
    span: tuple[float, float] | None
    """start and end in seconds, if known"""

    @property
    def steps(self) -> int:
        """T, L or S."""
        return len(self.data)


@dataclass
class Tiles:
    """A stream that is shown as frames."""

    title: list[str]
    frames: Tensor
    """uint8 [T, h, w, 3]"""
    moments: Tensor
    """float64 [T], times of the frames; empty for a still image"""
    lasts: float
    """largest distance in time at which a frame is shown"""
    legend: Tensor | None = None
    """uint8 [h, w, 3]"""

    def at(self, moment: float) -> Tensor:
        """The frame at a time on a white square, uint8 [TILE, TILE, 3]; hatched if there is none."""
        if not len(self.frames):
            return hatch(TILE, TILE)
        if not len(self.moments):
            return _square(self.frames[0])
        distance, nearest = (self.moments - moment).abs().min(0)
        return _square(self.frames[nearest]) if distance <= self.lasts else hatch(TILE, TILE)


@dataclass
class Clock:
    """The time range of a page, in seconds; an arbitrary range if no stream has times."""

    start: float
    end: float
    is_known: bool

    def column(self, moment: float, width: int) -> int:
        """Column of a time in a picture of the complete range."""
        return round((moment - self.start) / (self.end - self.start) * (width - 1))

    def label(self, moment: float) -> str:
        """A time as text."""
        return f"{moment:.2f} s" if self.is_known else f"{(moment - self.start) / (self.end - self.start):.0%} of the clip"


def sheet(batch: Batch, row: int = 0, view: int = 0, columns: int = 6) -> Tensor:
    """All streams of a sample on one picture.

    Args:
        batch: batch on any device.
        row: index of the sample in the batch.
        view: index of the view.
        columns: largest number of evenly spaced times; signals over time have a line at each of them.

    Returns:
        uint8 [H, W, 3]

    Raises:
        SettingError: if the batch has no such sample or view.
    """
    width = max(columns, ABREAST) * (TILE + GAP) - GAP
    page = _Page(batch, row, view, width)
    moments = page.moments(columns)
    parts = [page.title()]
    if page.tiles:
        heads = moments if page.leader is not None else []
        parts += [_beside([], _row([write([page.clock.label(one)], TILE) for one in heads], width))] if heads else []
        for tiles in page.tiles:
            shown = moments if len(tiles.moments) else moments[:1]
            parts.append(_beside(tiles.title, _row([tiles.at(one) for one in shown], width), tiles.legend))
    parts += page.over_time(moments if page.leader is not None else [])
    return _column(parts)


def film(batch: Batch, row: int = 0, view: int = 0, frames: int = 32) -> Tensor:
    """All streams of a sample as an animation, with a moving line in the signals over time.

    Args:
        batch: batch on any device.
        row: index of the sample in the batch.
        view: index of the view.
        frames: largest number of evenly spaced frames.

    Returns:
        uint8 [T, H, W, 3]

    Raises:
        SettingError: if the batch has no such sample or view.
    """
    width = ABREAST * (TILE + GAP) - GAP
    page = _Page(batch, row, view, width)
    made = []
    for moment in page.moments(frames):
        cells = [_under(tiles.title, tiles.at(moment), tiles.legend) for tiles in page.tiles]
        rows = [_row(cells[first : first + ABREAST], MARGIN + width) for first in range(0, len(cells), ABREAST)]
        made.append(_column([page.title(moment), *rows, *page.over_time([moment])]))
    return torch.stack(made)


def tile(stream: Stream, row: int, frames: int) -> Tensor:
    """The first view of one sample of a stream of any kind, on white squares.

    Args:
        stream: stream on any device.
        row: index of the sample.
        frames: largest number of evenly spaced frames.

    Returns:
        uint8 [T, TILE, TILE, 3]. Signals over time, such as sound, are one picture of their complete length, T = 1.
    """
    one = _one(stream.kind, stream, row, 0)
    if one.kind in OVER_TIME:
        strips = torch.cat([picture for _, picture in _draw_over_time(one, TILE)])
        return _square(fit(strips[None], TILE)[0])[None]
    if not one.steps:
        return hatch(TILE, TILE)[None]
    drawn = _hatched(_draw_frames(one, None)[0], one)
    shown = torch.linspace(0, len(drawn) - 1, min(frames, len(drawn))).round().long()
    return torch.stack([_square(frame) for frame in drawn[shown]])


class _Page:
    """Contents of a page before the layout, `width` pixels wide without the margin."""

    def __init__(self, batch: Batch, row: int, view: int, width: int) -> None:
        streams = [stream for stream in batch.streams.values() if isinstance(stream, Stream)]
        views = min((stream.data.shape[1] for stream in streams), default=1)
        if not (0 <= row < len(batch.index) and 0 <= view < views):
            raise SettingError(
                f"Sample {row}, view {view} cannot be drawn, because the batch has {len(batch.index)} sample(s) of {views} "
                "view(s); choose one of these."
            )
        self.batch, self.row, self.view, self.views, self.width = batch, row, view, views, width
        own = [_one(name, stream, row, view) for name, stream in batch.streams.items() if isinstance(stream, Stream)]
        own.sort(key=lambda one: (*PICTORIAL, *OVER_TIME).index(one.kind))
        self.clock = _clock(own)
        self.leader = next((one for one in own if one.kind in PICTORIAL and one.kind != "picture" and one.steps), None)
        canvas = next((one for one in own if one.kind == "video"), None)
        self.tiles = [self._tiles(one, canvas) for one in own if one.kind in PICTORIAL]
        self.strips = [strip for one in own if one.kind in OVER_TIME for strip in self._strips(one)]

    def moments(self, count: int) -> list[float]:
        """Evenly spaced times of frames of the first pictorial stream; without one, of the complete time range."""
        if self.leader is None and not self.strips:
            return [self.clock.start]
        if self.leader is None:
            return torch.linspace(self.clock.start, self.clock.end, count, dtype=torch.float64).tolist()
        moments = self._moments(self.leader)
        picked = torch.linspace(0, len(moments) - 1, min(count, len(moments))).round().long()
        found: list[float] = moments[picked].tolist()
        return found

    def _moments(self, one: One) -> Tensor:
        start, end = one.span or (self.clock.start, self.clock.end)
        return torch.linspace(start, end, one.steps, dtype=torch.float64)

    def _step(self, one: One) -> float:
        start, end = one.span or (self.clock.start, self.clock.end)
        return (end - start) / max(1, one.steps - 1)

    def _tiles(self, one: One, video: One | None) -> Tiles:
        frames, note, legend = _draw_frames(one, video)
        is_still = one.kind == "picture" or (one.steps == 1 and one.span is None)
        moments = torch.empty(0) if is_still else self._moments(one)
        # A single frame with a time is shown at the nearest time of the page.
        lasts = self._step(one) or (0.0 if self.leader is None else self._step(self.leader) / 2)
        # Times are rounded to float32.
        return Tiles([one.name, *note], _hatched(frames, one), moments, lasts * 1.001 + 1e-3, legend)

    def title(self, moment: float | None = None) -> Tensor:
        """A description of the sample, with the time if it is given."""
        label = self.batch.label[self.row]
        labels = [int(label)] if label.ndim == 0 else label.nonzero().flatten().tolist()
        told = [f"sample {int(self.batch.index[self.row])}"]
        told += [f"view {self.view + 1} of {self.views}"] if self.views > 1 else []
        told += [f"label {', '.join(map(str, labels))}" if labels and labels[0] >= 0 else "no label"]
        broken = int(self.batch.substituted[self.row])
        told += [f"in the place of sample {broken}, whose file is broken"] if broken >= 0 else []
        told += [self.clock.label(moment)] if moment is not None else []
        return write(["; ".join(told)], MARGIN + self.width)

    def over_time(self, cursors: list[float]) -> list[Tensor]:
        """Rows of signals over time with lines at some times, an axis, and the sentences."""
        rows = []
        columns = [self.clock.column(moment, self.width) for moment in cursors]
        for title, picture in self.strips:
            lined = picture.clone()
            lined[:, columns] = torch.tensor(CURSOR, dtype=torch.uint8)
            rows.append(_beside(title, lined))
        if rows:
            rows.append(_beside([], self._axis()))
        for name, text in self.batch.streams.items():
            if isinstance(text, Text):
                rows.append(_beside([name], _sentences(text.sentences[self.row], self.width)))
        return rows

    def _strips(self, one: One) -> list[tuple[list[str], Tensor]]:
        """Titles and pictures of one stream, aligned with the page's time range."""
        start, end = one.span or (self.clock.start, self.clock.end)
        first, last = (self.clock.column(moment, self.width) for moment in (start, end))
        made = []
        # The last step is drawn up to the time of a next one.
        after = min(end + self._step(one), self.clock.end)
        until = self.clock.column(after, self.width)
        for title, picture in _draw_over_time(one, last - first + 1):
            whole = hatch(len(picture), self.width).clone()
            whole[:, first : last + 1] = picture
            whole[:, last + 1 : until + 1] = picture[:, -1:]
            made.append((title, whole))
        return made

    def _axis(self) -> Tensor:
        """Time axis with five ticks."""
        width = self.width
        picture = Image.new("RGB", (width, LINE + 4), "white")
        pen = ImageDraw.Draw(picture)
        ticks = torch.linspace(self.clock.start, self.clock.end, 5, dtype=torch.float64).tolist()
        for tick, anchor in zip(ticks, ("la", "ma", "ma", "ma", "ra"), strict=True):
            column = self.clock.column(tick, width)
            pen.line((column, 0, column, 3), "black")
            pen.text((column, 4), self.clock.label(tick), "black", font(), anchor)
        return to_tensor(picture)


def _one(name: str, stream: Stream, row: int, view: int) -> One:
    data = stream.data[row, view].cpu()
    axis = SEQUENCE_AXIS.get(stream.kind, 0) - 1
    if stream.kind == "picture" or (stream.kind == "feature" and data.ndim == 1):
        data = data[None]
    elif axis > 0:
        data = data.movedim(axis, 0)
    steps = len(data)
    if stream.length is not None:
        length = stream.length[row]
        steps = min(steps, int(length if length.ndim == 0 else length[view]))
    valid = torch.ones(len(data), dtype=torch.bool)
    if stream.valid is not None:
        own = stream.valid[row, view].cpu()
        valid = own if own.ndim else own.expand(len(data))
    span = None
    if stream.time is not None:
        start, end = stream.time[row, view].tolist()
        # Several steps cannot have the same time; such a range is ignored.
        span = (start, end) if math.isfinite(end - start) and (start < end or (start == end and steps == 1)) else None
    return One(name, stream.kind, data[:steps], valid[:steps], span)


def _clock(streams: list[One]) -> Clock:
    spans = [one.span for one in streams if one.span is not None]
    start, end = min((start for start, _ in spans), default=0.0), max((end for _, end in spans), default=0.0)
    return Clock(start, end, True) if start < end else Clock(start, start + 1, False)


def _draw_frames(one: One, video: One | None) -> tuple[Tensor, list[str], Tensor | None]:
    """Frames of a pictorial stream, uint8 [T, h, w, 3], a short description, and a legend."""
    data = one.data
    if not one.steps:
        return torch.empty(0, TILE, TILE, 3, dtype=torch.uint8), ["nothing"], None
    if one.kind in ("video", "picture"):
        return fit(data, TILE), [f"{data.shape[2]} x {data.shape[1]} pixels"], None
    if one.kind == "flow":
        limit = flow_limit(torch.where(_pixels_there(one), data, torch.zeros_like(data)))
        return fit(draw_flow(data, limit), TILE), [f"full: {limit:.3g} px/frame"], flow_wheel(48)
    if one.kind == "depth":
        limits = depth_limits(data)
        told = [f"bright {limits[0] / 1000:.2f} m,", f"dark {limits[1] / 1000:.2f} m"] if limits[1] else ["nothing measured"]
        return fit(draw_depth(data, limits), TILE), told, None
    if one.kind == "skeleton":
        persons = int((data.abs().amax((0, 1, 2)) > 0).sum())
        figures = draw_skeletons(data.movedim(0, 1)[None].nan_to_num(posinf=0, neginf=0), TILE)[0]
        return figures, [f"{data.shape[2]} joints, {persons} person(s)"], None
    if one.kind == "mask":
        canvas = _canvas(video, len(data), (data.shape[1], data.shape[2]), grey=True)
        masks = fit(data.byte() * 255, TILE) > 127
        return draw_masks(fit(canvas, TILE), masks), [f"{int(data.flatten(0, 2).any(0).sum())} mask(s)"], None
    return _draw_boxes(one, video)


def _draw_boxes(one: One, video: One | None) -> tuple[Tensor, list[str], Tensor | None]:
    boxes = one.data.float()
    if video is not None and video.steps == one.steps:
        size = (video.data.shape[1], video.data.shape[2])
    else:
        furthest = boxes.nan_to_num(posinf=0, neginf=0).flatten(0, 1).amax(0) if boxes.shape[1] else torch.ones(4)
        size = (max(1, math.ceil(furthest[3])), max(1, math.ceil(furthest[2])))
    canvas = _canvas(video, one.steps, size, grey=False)
    shown = fit(canvas, TILE)
    scale = torch.tensor([shown.shape[2] / size[1], shown.shape[1] / size[0]]).repeat(2)
    there = one.valid if one.valid.ndim == 2 else None
    return draw_tracks(shown, boxes * scale, there), [f"{boxes.shape[1]} box(es)"], None


def _canvas(video: One | None, frames: int, size: tuple[int, int], grey: bool) -> Tensor:
    """The background: the video if it has the same frames and size, or else dark grey. uint8 [T, H, W, 3]."""
    if video is None or video.data.shape[:3] != (frames, *size):
        return torch.full((frames, *size, 3), BLANK, dtype=torch.uint8)
    if not grey:
        return video.data
    return video.data.float().mean(-1, keepdim=True).byte().expand(-1, -1, -1, 3)


def _hatched(frames: Tensor, one: One) -> Tensor:
    """Hatch missing frames or pixels."""
    if not one.steps:
        return frames
    there = _pixels_there(one)
    there = fit(there.byte() * 255, TILE) > 127 if there[0].numel() > 1 else there
    return torch.where(there, frames, hatch(frames.shape[1], frames.shape[2]))


def _pixels_there(one: One) -> Tensor:
    """Which pixels are present: bool [T, H, W, 1], or [T, 1, 1, 1] if this only depends on the frame."""
    valid, has_pixels = one.valid, one.kind in ("video", "flow", "depth", "mask")
    if has_pixels and valid.shape[1:3] == one.data.shape[1:3]:
        there = valid.flatten(3).any(-1, keepdim=True) if valid.ndim > 3 else valid[..., None]
    else:
        # Missing objects or persons do not hide the others.
        there = valid.reshape(one.steps, -1).any(1)[:, None, None, None]
    if one.kind == "flow":
        return there & one.data.isfinite().all(-1, keepdim=True)
    if one.kind == "skeleton":
        return there & one.data.isfinite().flatten(1).all(1)[:, None, None, None]
    return there


def _draw_over_time(one: One, width: int) -> list[tuple[list[str], Tensor]]:
    """Titles and pictures of a stream over its complete length, [h, width, 3] each."""
    if not one.steps:
        return [([one.name, "nothing"], hatch(STRIP, width))]
    values = one.data.float()
    there = (one.valid.flatten(1).any(1) if one.valid.ndim > 1 else one.valid) & values.isfinite().all(1)
    # Missing values must not affect the scale.
    values = torch.where(there[:, None], values, torch.zeros(())) if one.kind == "audio" else _held(values, there)
    if one.kind == "audio":
        made = _sound(one, values, width)
    elif one.kind == "feature" or values.shape[1] > MOST_CURVES:
        low, high = (float(bound) for bound in values.aminmax())
        title = [one.name, f"{one.steps} x {values.shape[1]}", f"{low:.3g} to {high:.3g}"]
        made = [(title, draw_features(values, STRIP, width))]
    else:
        made = _sensor(one.name, values, width)
    missing = ~there[steps_at(one.steps, width)]
    if one.steps > width:
        missing = F.adaptive_max_pool1d((~there).float()[None], width)[0] > 0
    return [(title, torch.where(missing[None, :, None], hatch(len(picture), width), picture)) for title, picture in made]


def _held(values: Tensor, there: Tensor) -> Tensor:
    """Steps [L, C], with missing ones replaced by the previous present step, or at the start by the first present one."""
    if not there.any():
        return torch.zeros_like(values)
    steps = torch.arange(len(values))
    last = torch.where(there, steps, -1).cummax(0).values
    return values[torch.where(last < 0, steps[there][0], last)]


def _sound(one: One, values: Tensor, width: int) -> list[tuple[list[str], Tensor]]:
    """A spectrogram, and a curve for each channel."""
    loudest = float(values.abs().max())
    half = f"{(one.steps - 1) / (one.span[1] - one.span[0]) / 2000:.2g} kHz" if one.span is not None else "half the rate"
    spectrum = [one.name, f"{OCTAVES} octaves up to", f"{half}; {DECIBELS} dB"] if loudest else [one.name, "silent"]
    limits = (-max(loudest, 1e-9), max(loudest, 1e-9))
    curves = [draw_curves(channel[None], THIN, width, limits) for channel in values.T]
    return [
        (spectrum, draw_spectrogram(values.T, STRIP, width)),
        ([one.name, f"{len(curves)} channel(s)", f"up to {loudest:.3g}"], torch.cat(curves)),
    ]


def _sensor(name: str, values: Tensor, width: int) -> list[tuple[list[str], Tensor]]:
    """A panel of curves for every three channels."""
    made = []
    for first in range(0, values.shape[1], PER_PANEL):
        part = values[:, first : first + PER_PANEL]
        low, high = (float(bound) for bound in part.aminmax())
        free = 0.05 * (high - low) or 1.0
        channels = f"channels {first + 1} to {first + part.shape[1]}" if part.shape[1] > 1 else f"channel {first + 1}"
        title = [name, channels, f"{low:.3g} to {high:.3g}"]
        made.append((title, draw_curves(part.T, STRIP, width, (low - free, high + free))))
    return made


def _sentences(sentences: list[str], width: int) -> Tensor:
    lines = [line for sentence in sentences[:MOST_SENTENCES] for line in wrap(sentence, width)]
    more = len(sentences) - MOST_SENTENCES
    return write(lines + ([f"and {more} more"] if more > 0 else []) or ["none"], width)


def _square(frame: Tensor) -> Tensor:
    """Put a frame in the middle of a white square."""
    height, width = frame.shape[:2]
    top, left = (TILE - height) // 2, (TILE - width) // 2
    padding = (0, 0, left, TILE - width - left, top, TILE - height - top)
    return F.pad(frame, padding, value=255)


def _widened(picture: Tensor, width: int) -> Tensor:
    """Pad with white on the right to a width."""
    return F.pad(picture, (0, 0, 0, width - picture.shape[1]), value=255)


def _heightened(picture: Tensor, height: int) -> Tensor:
    """Pad with white below to a height."""
    return F.pad(picture, (0, 0, 0, 0, 0, height - picture.shape[0]), value=255)


def _row(cells: list[Tensor], width: int) -> Tensor:
    """Pictures in a row with gaps, padded with white to a width."""
    height = max(len(cell) for cell in cells)
    spaced = [_widened(_heightened(cell, height), cell.shape[1] + GAP) for cell in cells]
    return _widened(torch.cat(spaced, dim=1)[:, :-GAP], width)


def _beside(title: list[str], content: Tensor, legend: Tensor | None = None) -> Tensor:
    """A picture with a title and a legend on its left."""
    lines = [line for part in title for line in wrap(part, MARGIN - GAP)]
    margin = write(lines, MARGIN) if lines else torch.full((1, MARGIN, 3), 255, dtype=torch.uint8)
    if legend is not None:
        margin = torch.cat([margin, _widened(legend, MARGIN)])
    height = max(len(margin), len(content))
    return torch.cat([_heightened(margin, height), _heightened(content, height)], dim=1)


def _under(title: list[str], tile: Tensor, legend: Tensor | None) -> Tensor:
    """A picture under a title of two lines, with a legend of half the size to the right of the title."""
    band = write([title[0], " ".join(title[1:])], tile.shape[1])
    if legend is not None:
        small = legend[::2, ::2]
        band[: len(small), -small.shape[1] :] = small
    return torch.cat([band, tile])


def _column(parts: list[Tensor]) -> Tensor:
    """Pictures in a column, with gaps and a white border."""
    width = max(part.shape[1] for part in parts)
    spaced = [F.pad(_widened(part, width), (0, 0, GAP, GAP, GAP, 0), value=255) for part in parts]
    return F.pad(torch.cat(spaced), (0, 0, 0, 0, 0, GAP), value=255)
