"""Streams of pixels of the generated world: exact, consistent with each other, and single frames do not reveal the class."""

import math
from dataclasses import fields
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

from modules.core.batch import Stream
from modules.core.errors import SettingError
from modules.downstream.metrics.probes import knn_accuracy, single_frame
from modules.scenes import objects as scenes
from modules.scenes import world_pictures
from modules.scenes.captioned import Stage
from modules.scenes.classes import MOTION_CLASSES, Split
from modules.scenes.objects import make_clips
from modules.scenes.streams import PLANES, WorldStreams
from modules.scenes.world import BACKGROUND_DEPTH, DIMMEST, HOP, World, WorldSettings
from modules.scenes.world_pictures import WorldClips, make_world

ALL = WorldStreams(**dict.fromkeys(PLANES, True))
CROWD = WorldSettings(objects=3, smooth=True, contacts=True)
HALF = 1300
CHANCE = 1 / len(MOTION_CLASSES)
BOUND = 3 * (CHANCE * (1 - CHANCE) / HALF) ** 0.5


def data(made: WorldClips, name: str) -> Tensor:
    """A stream of the only view: [N, T, ...]."""
    stream = made.streams[name]
    assert isinstance(stream, Stream)
    return stream.data[:, 0]


def planes(made: WorldClips, name: str) -> Tensor:
    """Masks with one plane per object: bool [N, K, T, H, W]."""
    return data(made, name).movedim(-1, 1)


def layers(made: WorldClips) -> Tensor:
    """What is seen in each pixel, from the masks: int64 [N, T, H, W], 0 for the background, then the objects' numbers."""
    seen = data(made, "mask").long()
    return (seen * torch.arange(1, seen.shape[-1] + 1)).sum(-1)


def world_of(count: int, stage: Stage, settings: WorldSettings, object_size: tuple[float, float] = (0.22, 0.55)) -> World:
    return World(torch.arange(count), stage.frames, stage.split, stage.seed, settings, object_size)


@pytest.mark.parametrize(("split", "view", "distractors"), [("train", 0, False), ("val", 1, True)])
def test_without_further_settings_clips_are_as_before(split: Split, view: int, distractors: bool) -> None:
    kinds: list[Literal["black", "texture"]] = ["black", "texture"]
    before = make_clips(26, 9, 24, split, 5, kinds, distractors=distractors, view=view)
    made = make_world(26, Stage(9, 24, split, 5, kinds), WorldSettings(), ALL, distractors=distractors, view=view)
    assert torch.equal(data(made, "video"), before.video)
    for name in ("motion", "object", "background"):
        assert torch.equal(getattr(made, name), getattr(before, name))
    assert made.identity is None


@pytest.mark.parametrize("settings", [WorldSettings(), CROWD])
def test_no_stream_depends_on_the_others_or_on_chunks(settings: WorldSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(5, 20, "train", 1, ("texture",))
    every = make_world(9, stage, settings, ALL)
    assert list(make_world(9, stage, settings, WorldStreams()).streams) == ["video"]
    for name in PLANES:
        alone = make_world(9, stage, settings, WorldStreams(**{name: True}))
        assert set(alone.streams) == {"video", name}
        for kept in alone.streams:
            assert torch.equal(data(alone, kept), data(every, kept)), f"{kept} beside {name}"
    monkeypatch.setattr(scenes, "CHUNK_PIXELS", 4 * 5 * 20 * 20)
    monkeypatch.setattr(world_pictures, "PIECE_CPU", 1)
    in_pieces = make_world(9, stage, settings, ALL)
    for name in every.streams:
        assert torch.equal(data(in_pieces, name), data(every, name)), name
    assert not torch.equal(data(make_world(9, stage, settings, ALL, view=1), "flow"), data(every, "flow"))


def test_shapes_types_and_times() -> None:
    made = make_world(3, Stage(6, 16, "val", 0), WorldSettings(objects=2, fps=10), ALL)
    expected = {
        "video": (torch.uint8, (3, 1, 6, 16, 16, 3)),
        "flow": (torch.float16, (3, 1, 6, 16, 16, 2)),
        "occlusion": (torch.bool, (3, 1, 6, 16, 16, 1)),
        "depth": (torch.uint16, (3, 1, 6, 16, 16, 1)),
        "mask": (torch.bool, (3, 1, 6, 16, 16, 2)),
        "whole_mask": (torch.bool, (3, 1, 6, 16, 16, 2)),
        "track": (torch.float32, (3, 1, 6, 2, 4)),
    }
    assert made.streams.keys() == expected.keys()
    for name, (kind, shape) in expected.items():
        stream = made.streams[name]
        assert isinstance(stream, Stream)
        assert stream.kind == ({"video": "video"} | ALL.kinds)[name]
        assert (stream.data.dtype, stream.data.shape) == (kind, shape)
        assert stream.time is not None
        assert torch.equal(stream.time, torch.tensor([0, 0.5]).expand(3, 1, 2))


def carried(world: World, size: int) -> Tensor:
    """Where the pixels' middles of each frame go, if they lie on each object, worked out point by point in double precision:
    into the object's own coordinates at one frame, and out of them at the next. float64 [N, K, T, H, W, 2]."""
    moment = world.at(torch.arange(world.frames + 1) / world.settings.fps)
    centre, angle = moment.way * size, torch.deg2rad(moment.turned)
    middle = (torch.arange(size) + 0.5).double()
    pixel = torch.stack(torch.meshgrid(middle, middle, indexing="xy"), -1)

    def spread(values: Tensor) -> Tensor:
        return values[:, :, :, None, None]

    def rotate(points: Tensor, by: Tensor) -> Tensor:
        x, y = points.unbind(-1)
        return torch.stack([x * by.cos() - y * by.sin(), x * by.sin() + y * by.cos()], -1)

    offset = (pixel - spread(centre[:, :, :-1]) + size / 2).remainder(size) - size / 2
    own = rotate(offset, -spread(angle[:, :, :-1])) / spread(moment.size[:, :, :-1])[..., None]
    later = rotate(own * spread(moment.size[:, :, 1:])[..., None], spread(angle[:, :, 1:]))
    return pixel + spread(centre[:, :, 1:] - centre[:, :, :-1]) + later - offset


@pytest.mark.parametrize("settings", [WorldSettings(), WorldSettings(objects=3, smooth=True)])
def test_flow_and_occlusion_follow_the_points_of_what_is_seen(settings: WorldSettings) -> None:
    stage, size = Stage(6, 32, "train", 2), 32
    made, world = make_world(39, stage, settings, ALL), world_of(39, stage, settings)
    layer, flow, hidden = layers(made), data(made, "flow").double(), data(made, "occlusion")[..., 0]
    middle = (torch.arange(size) + 0.5).double()
    pixel = torch.stack(torch.meshgrid(middle, middle, indexing="xy"), -1)
    still = pixel.expand(39, 1, 6, size, size, 2)
    ways = torch.cat([still, carried(world, size)], 1)
    expected = ways.gather(1, layer[:, None, ..., None].expand(-1, 1, -1, -1, -1, 2))[:, 0]
    # Half a unit in the last place of a half, and what single precision leaves of positions in pixels.
    error = (flow - (expected - pixel)).abs()
    assert (error <= (expected - pixel).abs() / 2048 + 1e-4).all()
    assert (flow[layer == 0] == 0).all()
    # Flow of objects that leave on one side leads out of the picture.
    assert ((expected < 0) | (expected > size)).any(-1).sum() > 50

    # The pixel in which a point arrives, unless it is too near to the edge of one to tell.
    last = layer[:, :-1]
    target = expected[:, :-1]
    clear = ((target - target.round()).abs() > 1e-4).all(-1)
    column, row = target.floor().long().remainder(size).unbind(-1)
    clip, frame = torch.arange(39)[:, None, None, None], torch.arange(1, 6)[:, None, None]
    nearer = layer[clip, frame, row, column] > last
    assert torch.equal(nearer[clear], hidden[:, :-1][clear])
    assert clear.double().mean() > 0.99
    assert hidden[:, :-1][last == 0].any()
    assert hidden[:, :-1][last > 0].any() == (settings.objects > 1)
    # What follows the last frame: the same clips, one frame longer, as far as they move at one speed.
    if not settings.smooth:
        straight = made.motion < 2
        background = layer[:, -1] == 0
        assert (hidden[:, -1] <= background).all()
        assert hidden[straight, -1].flatten(1).any(1).all()


def test_flow_warps_each_frame_onto_the_next() -> None:
    """Away from edges, where pixels mix what moves differently, a frame is the next one seen along the flow, up to bilinear
    interpolation: an eighth of the second differences around, and one level of truncation in either frame."""
    size, count = 80, 13
    stage = Stage(5, size, "train", 0, ("texture",))
    made = make_world(count, stage, WorldSettings(objects=2), ALL, object_size=(0.35, 0.55), distractors=True)
    layer, flow = layers(made), data(made, "flow").float()
    video = data(made, "video").permute(0, 1, 4, 2, 3).float()
    pure = pure_pixels(layer)
    shown, now = video[:, 1:].flatten(0, 1), video[:, :-1].flatten(0, 1)
    around = pad(shown, (2, 2, 2, 2), "circular")
    bend_x = (around[..., 1:-1, 2:] - 2 * around[..., 1:-1, 1:-1] + around[..., 1:-1, :-2]).abs()
    bend_y = (around[..., 2:, 1:-1] - 2 * around[..., 1:-1, 1:-1] + around[..., :-2, 1:-1]).abs()
    allowed = 2 + max_pool2d(bend_x + bend_y, 3, 1) / 8

    def seen_along(flow: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Errors and what is allowed of pixels that keep away from edges, and which they are."""
        place = torch.arange(size) + flow[..., 0], torch.arange(size)[:, None] + flow[..., 1]
        (x0, y0), (fx, fy) = ([part.floor().long() for part in place], [part - part.floor() for part in place])
        clip = torch.arange(len(shown))[:, None, None]

        def at(values: Tensor, dx: int, dy: int) -> Tensor:
            return values.movedim(1, -1)[clip, (y0 + dy).remainder(size), (x0 + dx).remainder(size)]

        weights = [((1 - fx) * (1 - fy), 0, 0), (fx * (1 - fy), 1, 0), ((1 - fx) * fy, 0, 1), (fx * fy, 1, 1)]
        warped = sum(weight[..., None] * at(shown, dx, dy) for weight, dx, dy in weights)
        bound = torch.stack([at(allowed, dx, dy) for _, dx, dy in weights]).amax(0)
        kept = pure[:, :-1].flatten(0, 1)
        there = layer[:, 1:].flatten(0, 1)[:, None], pure[:, 1:].flatten(0, 1)[:, None]
        same = [at(there[0], dx, dy)[..., 0] == layer[:, :-1].flatten(0, 1) for _, dx, dy in weights]
        clean = [at(there[1], dx, dy)[..., 0] for _, dx, dy in weights]
        kept = kept & torch.stack([*same, *clean]).all(0)
        return (warped - now.movedim(1, -1)).abs(), bound, kept

    steps = flow[:, :-1].flatten(0, 1)
    error, bound, kept = seen_along(steps)
    hidden = data(made, "occlusion")[:, :-1, ..., 0].flatten(0, 1)
    assert not (kept & hidden).any()
    assert (error <= bound)[kept].all()
    moving = kept & (layer[:, :-1].flatten(0, 1) > 0)
    # Objects are compared too, of each class of motion.
    assert (moving.unflatten(0, (count, 4)).flatten(1).sum(1) > 100).all()
    # A flow that is half a pixel off does not pass.
    error, bound, kept = seen_along(steps + 0.5)
    assert (error > bound).any(-1)[kept & (layer[:, :-1].flatten(0, 1) > 0)].double().mean() > 0.1


def pure_pixels(layer: Tensor) -> Tensor:
    """Whether all pixels around show the same, on the torus: bool [N, T, H, W]."""
    around = pad(layer.float(), (2, 2, 2, 2), "circular")
    return max_pool2d(around, 5, 1) == -max_pool2d(-around, 5, 1)


@pytest.mark.parametrize("settings", [WorldSettings(), CROWD])
def test_depth_masks_and_order_agree(settings: WorldSettings) -> None:
    stage = Stage(6, 32, "train", 4)
    made, world = make_world(30, stage, settings, ALL), world_of(30, stage, settings)
    whole, seen = planes(made, "whole_mask"), planes(made, "mask")
    objects = settings.objects
    for number in range(objects):
        nearer = whole[:, number + 1 :].any(1)
        assert torch.equal(seen[:, number], whole[:, number] & ~nearer)
    lift = world.at_frames().lift
    distance = (1000 * (world.ground()[..., None] - HOP * lift)).round()
    depth = data(made, "depth")[..., 0].int()
    assert (distance.diff(dim=1) < 0).all()
    assert distance.max() < 1000 * BACKGROUND_DEPTH
    assert (depth[~seen.any(1)] == 1000 * BACKGROUND_DEPTH).all()
    for number in range(objects):
        own = distance[:, number, :, None, None].expand_as(depth)
        assert (depth == own)[seen[:, number]].all()
    # Of what is in a pixel, the nearest is seen.
    far = torch.where(whole, distance[..., None, None], 1000 * BACKGROUND_DEPTH).amin(1)
    assert torch.equal(depth.double(), far.double())
    assert (lift.std() > 0.1) == settings.contacts


def test_no_hop_brings_an_object_before_a_nearer_one() -> None:
    ground = World(torch.arange(500), 4, "train", 0, WorldSettings(objects=8, contacts=True)).ground()
    assert (ground[:, :-1] - HOP > ground[:, 1:]).all()
    assert ground.min() >= 1.2
    assert ground.max() <= 3.4


def test_objects_are_brighter_the_nearer_they_are() -> None:
    stage, count = Stage(8, 32, "train", 0), 20
    plain, hopping = (make_world(count, stage, WorldSettings(contacts=flag), ALL) for flag in (False, True))
    lift = world_of(count, stage, WorldSettings(contacts=True)).at_frames().lift[:, 0]
    inside = planes(plain, "mask")[:, 0]
    assert torch.equal(inside, planes(hopping, "mask")[:, 0])
    before, after = (data(made, "video").float() for made in (plain, hopping))
    bright = (DIMMEST + (1 - DIMMEST) * lift)[..., None, None, None]
    assert ((after - before * bright).abs()[inside] <= 1.01).all()
    assert bright.min() < 0.75 < 0.95 < bright.max()


@pytest.mark.parametrize(("settings", "size"), [(WorldSettings(), 32), (WorldSettings(objects=3), 24)])
def test_boxes_bound_the_masks_to_the_pixel(settings: WorldSettings, size: int) -> None:
    made = make_world(60, Stage(5, size, "train", 0), settings, ALL)
    whole, track = planes(made, "whole_mask"), made.streams["track"]
    assert isinstance(track, Stream)
    assert track.valid is not None
    box, valid = track.data[:, 0].transpose(1, 2).long(), track.valid[:, 0].transpose(1, 2)
    assert torch.equal(box.float(), track.data[:, 0].transpose(1, 2))
    assert torch.equal(valid, whole.any((-2, -1)))
    # Columns and rows in the box, on the torus, hold the object at both ends, and there is none beyond.
    for axis, there in ((0, whole.any(-2)), (1, whole.any(-1))):
        low, high = box[..., axis], box[..., axis + 2]
        assert (high - low <= size)[valid].all()
        assert there.gather(-1, low.remainder(size)[..., None])[valid].all()
        assert there.gather(-1, (high - 1).remainder(size)[..., None])[valid].all()
        inside = (torch.arange(size) - low[..., None]).remainder(size) < (high - low)[..., None]
        assert inside[there].all()
        # An object's middle lies in the picture, so some boxes reach over its edges on either side.
        assert (low < 0)[valid].any()
        assert (high > size)[valid].any()
        assert (low < size)[valid].all()
        assert (high > 0)[valid].all()


def test_an_object_too_small_to_be_in_any_pixel_has_no_box() -> None:
    made = make_world(40, Stage(4, 8, "train", 0), WorldSettings(), WorldStreams(track=True), object_size=(0.02, 0.05))
    track = made.streams["track"]
    assert isinstance(track, Stream)
    assert track.valid is not None
    assert not track.valid.all()
    assert (track.data[~track.valid] == 0).all()
    assert track.data.isfinite().all()


def knn(x: Tensor, y: Tensor) -> float:
    """Fitted to the first half of the clips, counted on the second."""
    return knn_accuracy(x[:HALF], y[:HALF], x[HALF:], y[HALF:])


def ridge(x: Tensor, y: Tensor) -> float:
    """As above, by a line fitted to the classes by least squares, with a penalty that suits pixels of one frame."""
    x, one_hot = (x - x[:HALF].mean(0)) / x[:HALF].std(), torch.eye(len(MOTION_CLASSES))[y[:HALF]]
    weight = torch.linalg.solve(x[:HALF].T @ x[:HALF] + 30 * torch.eye(x.shape[1]), x[:HALF].T @ (one_hot - CHANCE))
    return float(((x[HALF:] @ weight).argmax(1) == y[HALF:]).float().mean())


def boxes(made: WorldClips, t: int) -> Tensor:
    """Boxes of a frame, and their middles as a line can cut them on the torus."""
    box = data(made, "track")[:, t] / 16
    middle = math.pi * (box[..., :2] + box[..., 2:])
    return torch.cat([box, middle.sin(), middle.cos()], -1).flatten(1)


def test_no_single_frame_of_any_static_stream_tells_the_motion() -> None:
    """Flow and occlusion contain the motion between frames, as intended."""
    made = make_world(2 * HALF, Stage(6, 16, "train", 0), CROWD, ALL)
    for t in (0, 3, -1):
        features = {
            "video": single_frame(data(made, "video"), t),
            "depth": data(made, "depth")[:, t].flatten(1).float(),
            "mask": data(made, "mask")[:, t].flatten(1).float(),
            "track": boxes(made, t),
        }
        for name, values in features.items():
            for probe in (knn, ridge):
                accuracy = probe(values, made.motion)
                assert abs(accuracy - CHANCE) < BOUND, f"{probe.__name__} on {name} of frame {t}: {accuracy:.3f}"
    # The same probes see the class where it is: in the first object's flow.
    flow = (data(made, "flow")[:, 2] * data(made, "mask")[:, 2, ..., :1]).flatten(1).float()
    assert min(knn(flow, made.motion), ridge(flow, made.motion)) > 2.5 * CHANCE


def test_identities_look_alike_and_move_in_all_ways() -> None:
    identities, count = 26, 26 * 13
    stage = Stage(4, 16, "train", 0, ("texture",))
    made = make_world(count, stage, WorldSettings(objects=2, identities=identities), WorldStreams(mask=True))
    assert made.identity is not None
    assert torch.equal(made.identity, torch.arange(count) % identities)
    # Each identity has each motion once, though the numbers of both share a factor.
    table = torch.zeros(identities, 13).index_put_((made.identity, made.motion), torch.tensor(1.0), accumulate=True)
    assert (table == 1).all()
    world = world_of(count, stage, WorldSettings(objects=2, identities=identities))
    first, second = (scenes.make_textures(world.looks(k), world.shape(k), 16) for k in (0, 1))
    shape = made.object.unflatten(0, (13, identities))
    assert (shape == shape[:1]).all()
    textures = first.unflatten(0, (13, identities))
    assert (textures == textures[:1]).all()
    assert len({texture.numpy().tobytes() for texture in textures[0]}) == identities
    # Its surroundings belong to the clip.
    others = second.unflatten(0, (13, identities))
    assert not (others == others[:1]).flatten(2).all(-1)[1:].any()
    assert len({clip.numpy().tobytes() for clip in data(made, "video")[:, 0]}) == count
    val = make_world(identities, Stage(4, 16, "val", 0), WorldSettings(identities=identities), WorldStreams())
    assert not torch.equal(val.object, made.object[:identities])


def test_switches_are_true_or_false() -> None:
    for switch in fields(WorldStreams):
        if switch.default is False:
            with pytest.raises(SettingError, match=rf"data\.streams\.{switch.name} is 1; it must be true or false"):
                WorldStreams(**{switch.name: 1})  # type: ignore[arg-type]
