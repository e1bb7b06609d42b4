"""Rendering of the generated world: frames, flow, occlusion, depth, masks and boxes, all from one sampling of its objects.

An object covers a pixel if its opacity there is at least a half, and is visible if no nearer object covers the pixel. All
streams except the frames are based on this. Axis letters: `N` clips, `T` frames, `K` objects.
"""

import math
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from modules.core.batch import Stream, Text
from modules.motion.render import PIECE_CPU, PIECE_GPU, Geometry, blend, geometry, offsets, sample_objects
from modules.scenes.backgrounds import make_backgrounds
from modules.scenes.captioned import Stage
from modules.scenes.classes import Draws
from modules.scenes.objects import in_chunks, make_textures, record_of, texels
from modules.scenes.senses import sense_streams
from modules.scenes.streams import PLANES, WorldStreams
from modules.scenes.world import BACKGROUND_DEPTH, DIMMEST, HOP, Moment, World, WorldSettings

SEEN = 0.5
"""Minimum opacity at which an object covers a pixel."""
BACKGROUND_MM = round(1000 * BACKGROUND_DEPTH)


@dataclass
class WorldClips:
    """Clips of the generated world with their annotations.

    Args:
        streams: the video and the selected streams by name; data [N, 1, ...], one view.
        motion: int64 [N], index into `MOTION_CLASSES` of the first object's motion.
        object: int64 [N], index into `SHAPES` of the first object.
        background: int64 [N], index into the given backgrounds.
        identity: int64 [N], identity of the first object within its split; None if each clip has its own.
    """

    streams: dict[str, Stream | Text]
    motion: Tensor
    object: Tensor
    background: Tensor
    identity: Tensor | None

    @property
    def video(self) -> Tensor:
        """uint8 [N, V, T, H, W, 3]"""
        video = self.streams["video"]
        assert isinstance(video, Stream)
        return video.data


def make_world(
    count: int,
    stage: Stage,
    settings: WorldSettings,
    streams: WorldStreams,
    object_size: tuple[float, float] = (0.22, 0.55),
    distractors: bool = False,
    view: int = 0,
    device: torch.device | str = "cpu",
) -> WorldClips:
    """Make clips 0 .. count - 1 of a split. Clip n only depends on (seed, split, n, view) and the settings.

    With default settings, the video is that of `make_clips`.

    Args:
        count: Number of clips N.
        stage: Settings of frames and backgrounds.
        settings: Settings of the world.
        streams: Streams to make in addition to the video, which does not depend on them.
        object_size: Smallest and largest side of an object, in sides of the frame.
        distractors: Add small random drifts of the quantities that the class does not use.
        view: Other numbers give the same objects, background and class with other starts, speeds and headings.
        device: Device of the clips.
    """
    parts: list[dict[str, Stream | Text]] = []
    known = []
    for index in in_chunks(count, stage.frames, stage.size, device):
        world = World(index, stage.frames, stage.split, stage.seed, settings, object_size, distractors, view)
        parts.append(film(world, stage, streams) | sense_streams(world, streams))
        known.append((world.motion[:, 0], world.shape(0), background_of(world, stage), world.identity))
    joined = {name: join_clips([part[name] for part in parts]) for name in parts[0]}
    motion, kind, background, identity = (torch.cat(column) for column in zip(*known, strict=True))
    return WorldClips(joined, motion, kind, background, None if settings.identities is None else identity)


def clip_bytes(stage: Stage, settings: WorldSettings, streams: WorldStreams) -> int:
    """Size of a clip with all its streams in bytes."""
    each = sum(last * kind.itemsize for last, kind in _planes(streams, settings.objects).values())
    world = World(torch.zeros(1, dtype=torch.int64), stage.frames, stage.split, stage.seed, settings)
    senses = [stream.data for stream in sense_streams(world, streams).values() if isinstance(stream, Stream)]
    return stage.frames * stage.size**2 * each + sum(data.nbytes for data in senses)


def _planes(streams: WorldStreams, objects: int) -> dict[str, tuple[int, torch.dtype]]:
    """Channels and type of the video and the selected streams of pixels."""
    planes = {
        "flow": (2, torch.float16),
        "occlusion": (1, torch.bool),
        "depth": (1, torch.uint16),
        "mask": (objects, torch.bool),
        "whole_mask": (objects, torch.bool),
    }
    return {"video": (3, torch.uint8)} | {name: plane for name, plane in planes.items() if getattr(streams, name)}


def join_clips(parts: list[Stream | Text], axis: int = 0) -> Stream | Text:
    """Concatenate streams of different clips, or with axis 1 of different views of the same clips. Sentences of views are those
    of the first one."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, Text):
        every = [part.sentences for part in parts if isinstance(part, Text)]
        return Text(list(chain.from_iterable(every))) if axis == 0 else first
    fields: dict[str, Any] = {}
    for name in ("data", "valid", "time", "box", "length"):
        values: list[Any] = [getattr(part, name) for part in parts]
        fields[name] = None if values[0] is None else torch.cat(values, axis)
    return Stream(first.kind, **fields)


def background_of(world: World, stage: Stage) -> Tensor:
    """int64 [N], index of each clip's kind of background, independent of its objects."""
    return _scenery(world).integer("background", len(stage.backgrounds))


def _scenery(world: World) -> Draws:
    return Draws(world.seed, world.split, world.index)


class _Scene(NamedTuple):
    """Tensors that are shared by all chunks, in pixels; their first axis is [N]."""

    still: Tensor
    """uint8 [N, H, W, 3], backgrounds"""
    textures: Tensor
    """uint8 [N, K, s, s, 4]"""
    bright: Tensor
    """float32 [N, K, T, 1, 1], brightness of objects"""
    distance: Tensor
    """int16 [N, K, T, 1, 1], distance of objects in millimetres"""
    across: Tensor
    """float32 [N, K, T, 2, 1, W], contribution of a pixel's column to its flow"""
    down: Tensor
    """float32 [N, K, T, 2, H, 1], contribution of its row"""


def film(world: World, stage: Stage, streams: WorldStreams) -> dict[str, Stream | Text]:
    """The video and the selected streams of pixels of some clips: data [N, 1, T, ...], one view."""
    count, frames, size = len(world.index), world.frames, stage.size
    objects, device = world.settings.objects, world.index.device
    moment = world.at_frames(more=1)
    centre, side = moment.centre * size, moment.size * size
    aspect = torch.stack([world.looks(k).banded("aspect", 0.7, 1).float() for k in range(objects)], 1)
    record = record_of(centre, torch.stack([side * aspect[..., None], side], -1), moment.angle)
    # The occlusion of the last frame needs the frame that would follow.
    sampled = frames + 1 if streams.occlusion else frames
    place = Geometry(*(part[:, :, :sampled] for part in geometry(record, (size, size), wrap=True)))
    scene = _scene(world, stage, moment)
    shape = (count, frames, size, size)
    wanted = _planes(streams, objects).items()
    out = {name: torch.empty(*shape, last, dtype=kind, device=device) for name, (last, kind) in wanted}
    columns = rows = torch.empty(0)
    if streams.track:
        columns, rows = torch.empty(2, count, objects, frames, size, dtype=torch.bool, device=device)
    piece = max(1, (PIECE_CPU if device.type == "cpu" else PIECE_GPU) // (objects * frames * size * size))
    for start in range(0, count, piece):
        part = slice(start, start + piece)
        sample = sample_objects(Geometry(*(values[part] for values in place)), scene.textures[part], None)
        whole = sample[:, :, 3] >= SEEN
        planes = {name: values[part] for name, values in out.items()}
        _draw(planes, _Scene(*(values[part] for values in scene)), sample, whole, world.settings.contacts)
        if streams.track:
            opacity = sample[:, :, 3, :frames]
            columns[part], rows[part] = opacity.amax(-2) >= SEEN, opacity.amax(-1) >= SEEN
    made = {name: Stream(PLANES.get(name, "video"), values[:, None]) for name, values in out.items()}
    if streams.track:
        sides = zip((centre[:, :, :frames, 0], centre[:, :, :frames, 1]), (columns, rows), strict=True)
        (x1, x2), (y1, y2) = (_extent(middle, there) for middle, there in sides)
        boxes, valid = torch.stack([x1, y1, x2, y2], -1), columns.any(-1)
        boxes = torch.where(valid[..., None], boxes, 0).transpose(1, 2)
        made["track"] = Stream("track", boxes[:, None], valid=valid.transpose(1, 2)[:, None])
    for stream in made.values():
        stream.time = torch.tensor([0, world.duration], device=device).expand(count, 1, 2)
    return dict(made)


def _scene(world: World, stage: Stage, moment: Moment) -> _Scene:
    size, objects, frames = stage.size, world.settings.objects, world.frames
    side = texels(world.object_size[0], size)
    textures = torch.stack([make_textures(world.looks(k), world.shape(k), side) for k in range(objects)], 1)
    still = make_backgrounds(_scenery(world), background_of(world, stage), stage.backgrounds, size, stage.images)
    lift = moment.lift[:, :, :frames, None, None]
    distance = world.ground()[:, :, None, None, None] - HOP * lift
    across, down = _flow(moment, size)
    return _Scene(still, textures, DIMMEST + (1 - DIMMEST) * lift, (1000 * distance).round().to(torch.int16), across, down)


def _flow(moment: Moment, size: int) -> tuple[Tensor, Tensor]:
    """Contributions of the column and the row of a pixel to the flow of an object (see `_Scene`).

    Between frames, an object is shifted, and rotated and scaled about its centre. A point at offset d from the centre moves by
    ``shift + (stretch * rotation - 1) d``.
    """
    shift = (moment.way.diff(dim=2) * size).float()
    turn = torch.deg2rad(moment.turned.diff(dim=2))
    stretch = (moment.size[:, :, 1:] / moment.size[:, :, :-1]).double()
    along, aside = (stretch * turn.cos() - 1).float(), (stretch * turn.sin()).float()
    x, y = (offsets(moment.centre[:, :, :-1, axis] * size, size, wrap=True) for axis in (0, 1))
    by_x, by_y = torch.stack([along, aside], -1)[..., None], torch.stack([-aside, along], -1)[..., None]
    across = shift[..., None] + by_x * x[..., None, :]
    down = by_y * y[..., None, :]
    return across[..., None, :], down[..., :, None]


def _draw(planes: dict[str, Tensor], scene: _Scene, sample: Tensor, whole: Tensor, dimmed: bool) -> None:
    """Fill the planes [n, T, H, W, ...] of a chunk.

    Args:
        planes: planes by name of the stream.
        scene: scene of these clips.
        sample: float [n, K, 4, T or T + 1, H, W], see `sample_objects`.
        whole: bool [n, K, T or T + 1, H, W], pixels that objects cover.
        dimmed: whether the brightness of objects varies.
    """
    frames, objects = planes["video"].shape[1], whole.shape[1]
    now = whole[:, :, :frames]
    canvas = scene.still[:, None].expand_as(planes["video"]).float()
    for number in range(objects):
        one = sample[:, number, :, :frames]
        if dimmed:
            one[:, :3].mul_(scene.bright[:, None, number])
        blend(canvas, one)
    # On CPUs, conversion to int16 and then to uint8 takes a third of the time of a direct one.
    planes["video"].copy_(canvas.to(torch.int16))
    if "whole_mask" in planes:
        planes["whole_mask"].copy_(now.movedim(1, -1))
    if planes.keys() <= {"video", "whole_mask"}:
        return
    seen = _seen(now)
    if "mask" in planes:
        planes["mask"].copy_(seen.movedim(1, -1))
    if "depth" in planes:
        # Few operations of torch support uint16; these numbers fit into int16.
        depth = planes["depth"].view(torch.int16)[..., 0].fill_(BACKGROUND_MM)
        for number in range(objects):
            depth.add_(seen.view(torch.uint8)[:, number] * (scene.distance[:, number] - BACKGROUND_MM))
    flow: list[Tensor] = []
    if "flow" in planes or ("occlusion" in planes and objects > 1):
        flow = [_flow_plane(scene, seen, axis) for axis in (0, 1)]
    if "flow" in planes:
        for axis in (0, 1):
            planes["flow"][..., axis] = flow[axis]
    if "occlusion" in planes:
        hidden = planes["occlusion"][..., 0]
        if objects == 1:
            # Nothing occludes the only object, and the background does not move.
            torch.bitwise_and(whole[:, 0, 1:], ~now[:, 0], out=hidden)
            return
        layer = torch.zeros_like(whole[:, 0], dtype=torch.uint8)
        for number in range(objects):
            layer.masked_fill_(whole[:, number], number + 1)
        torch.gt(_carried(layer[:, 1:], *flow), layer[:, :-1], out=hidden)


def _seen(whole: Tensor) -> Tensor:
    """Visible parts of objects from their complete masks: bool [n, K, T, H, W]."""
    if whole.shape[1] == 1:
        return whole
    seen, nearer = torch.empty_like(whole), torch.zeros_like(whole[:, 0])
    for number in reversed(range(whole.shape[1])):
        torch.bitwise_and(whole[:, number], ~nearer, out=seen[:, number])
        nearer |= whole[:, number]
    return seen


def _flow_plane(scene: _Scene, seen: Tensor, axis: int) -> Tensor:
    """One component of the flow: float [n, T, H, W], from the visible parts of objects, bool [n, K, T, H, W]."""
    plane: Tensor | None = None
    for number in range(seen.shape[1]):
        own = scene.across[:, number, :, axis] + scene.down[:, number, :, axis]
        own.mul_(seen.view(torch.uint8)[:, number])
        plane = own if plane is None else plane.add_(own)
    assert plane is not None
    return plane


def _carried(values: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Values [n, T, H, W] at the pixels to which the centres of pixels move by a flow x, y in pixels."""
    height, width = values.shape[-2:]
    column = (torch.arange(width, device=x.device) + 0.5 + x).floor_().remainder_(width)
    row = (torch.arange(height, device=y.device)[:, None] + 0.5 + y).floor_().remainder_(height)
    index = row.mul_(width).add_(column).long()
    return values.flatten(2).gather(2, index.flatten(2)).view_as(values)


def _extent(centre: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """First and last edge of the pixels that an object covers along an axis, float [N, K, T], beyond the picture if the object
    wraps around; from its centre in pixels [N, K, T] and the covered pixels, bool [N, K, T, extent].
    """
    edge = (centre[..., None] + offsets(centre, there.shape[-1], wrap=True) - 0.5).round()
    return torch.where(there, edge, math.inf).amin(-1), torch.where(there, edge, -math.inf).amax(-1) + 1
