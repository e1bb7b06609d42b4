"""Streams of generated clips other than images: sound, a sensor on the first object, skeletons and sentences.

All of them use the positions of one `World`, so they are exactly synchronous with its frames. Each has one view. Axis letters:
`N` clips, `K` objects, `C` channels, `S` samples of sound, `L` samples of a sensor, `T` frames, `J` joints, `M` persons.
"""

import math
import random
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from modules.core.batch import Kind, Stream, Text
from modules.core.errors import SettingError, check_range
from modules.language.grammar import Clause, Speaker
from modules.language.sentences import sentence
from modules.motion.appearance import SHAPES
from modules.motion.primitives import HEADINGS
from modules.scenes.classes import MOTION_CLASSES, Draws
from modules.scenes.skeletons import CENTRES, JOINTS, draw_proportions, pose
from modules.scenes.world import HOP, METRES, Moment, World

RATES = (16000, 48000)
PITCH = (250.0, 1000.0)
"""Frequencies of a tone in Hz at the lower and the upper edge of the picture. The range is small, so that motion is hardly
visible within 25 ms."""
KNOTS = 250
"""Number of points per second at which pitch and loudness of tones are computed; they are linear in between."""
TONE, CLAP = 0.4, 0.5
"""Amplitudes of the tone and of the landing of the largest object if it is the only one."""
FADE = 0.06
"""An object is silent where it leaves the picture, or jumps from the largest to the smallest size. It has full loudness from
this distance on, as a fraction of the side of the picture or of the range of sizes."""
PARTIALS = ((2300.0, 0.6), (3700.0, 0.4))
"""Frequencies in Hz and amplitudes of the sound of a landing; they are above those of all tones."""
DECAY, RING = 0.02, 0.2
"""Decay time of a landing to 1/e, and its total length, in seconds."""
GRAVITY = 9.81
PERSONS = 2


@dataclass
class GeneratedSound:
    """Sound of generated clips: one tone per object. Its pitch follows the object's height, its loudness the size, and its
    panning the horizontal position. With `data.world.contacts`, there is a knock when the object lands, louder for larger
    objects. Rotations have no effect.

    Args:
        rate: Samples per second, 16000 or 48000.
        stereo: Two channels with constant-power panning. With one channel, right and left sound the same, and so do turn_left
            and turn_right.
        noise: Standard deviation of white noise. Without noise, weak side lobes in a single spectrum of a few milliseconds
            reveal the rate at which the pitch changes.
    """

    rate: int = 16000
    stereo: bool = False
    noise: float = 0.002

    def __post_init__(self) -> None:
        if self.rate not in RATES or isinstance(self.rate, bool):
            raise SettingError(f"data.streams.sound.rate is {self.rate}; it must be {' or '.join(map(str, RATES))}.")
        if not isinstance(self.stereo, bool):
            raise SettingError(f"data.streams.sound.stereo is {self.stereo}; it must be true or false.")
        check_range("data.streams.sound", 0, 1, noise=self.noise)


@dataclass
class GeneratedSensor:
    """Sensor on the first object, which moves and turns with it and measures acceleration and angular rate.

    Motion at constant speed causes no acceleration, and the sensor does not measure directions in the picture. So right, left,
    up and down have the same signals, and so have grow and shrink. Without `data.world.smooth`, the signals of these six
    classes are zero, and those of rotations are a constant, which is hidden by the bias; other classes have a single peak. With
    `gravity` and no bias, the signals show the orientation of the object.

    Args:
        rate: Samples per second.
        noise: Standard deviation of the noise of the acceleration, in m/s².
        bias: Largest offset of the acceleration, in m/s². The mean of each channel over a recording is replaced by a draw from
            [-bias, bias), like a sensor's drift, so that it does not depend on the class; 0 keeps the mean.
        gyro_noise: Like `noise`, for the angular rate, in rad/s.
        gyro_bias: Like `bias`, for the angular rate, in rad/s.
        gravity: Include gravity in the acceleration, as real sensors do: 9.81 m/s² upwards at rest.
    """

    rate: float = 50.0
    noise: float = 0.05
    bias: float = 2.0
    gyro_noise: float = 0.02
    gyro_bias: float = 2.0
    gravity: bool = False

    def __post_init__(self) -> None:
        check_range("data.streams.sensor", 1, 1000, rate=self.rate)
        check_range("data.streams.sensor", 0, 1000, noise=self.noise, bias=self.bias)
        check_range("data.streams.sensor", 0, 1000, gyro_noise=self.gyro_noise, gyro_bias=self.gyro_bias)
        if not isinstance(self.gravity, bool):
            raise SettingError(f"data.streams.sensor.gravity is {self.gravity}; it must be true or false.")


class Senses(Protocol):
    """Selection of these streams."""

    @property
    def sound(self) -> GeneratedSound | None:
        """Settings of the sound; None for no sound."""

    @property
    def sensor(self) -> GeneratedSensor | None:
        """Settings of the sensor; None for no sensor."""

    @property
    def skeleton(self) -> bool:
        """Whether to make skeletons."""

    @property
    def text(self) -> bool:
        """Whether to make sentences."""


def sense_streams(world: World, streams: Senses) -> dict[str, Stream | Text]:
    """The selected streams by name, with `time` in seconds and `valid`. Other streams are not computed.

    * audio float32 [N, 1, C, S], from the first frame until the last one ends: S = T / fps * rate
    * signal float32 [N, 1, 6, L], over the same time; see `sensed`
    * skeleton float32 [N, 1, 3, T, J, M]; see `bodies`
    * text, one sentence per clip; see `told`
    """
    made: dict[str, Stream | Text] = {}
    if streams.sound is not None:
        made["audio"] = _stream("audio", heard(world, streams.sound), -1, streams.sound.rate)
    if streams.sensor is not None:
        made["signal"] = _stream("signal", sensed(world, streams.sensor), -1, streams.sensor.rate)
    if streams.skeleton:
        made["skeleton"] = _stream("skeleton", bodies(world), 2, world.settings.fps)
    if streams.text:
        made["text"] = Text([[one] for one in told(world)])
    return made


def _stream(kind: Kind, data: Tensor, axis: int, rate: float) -> Stream:
    """Data [N, ...] as a stream of one view, all of it valid; `axis` is the time axis, in steps of 1 / rate seconds."""
    count, steps = len(data), data.shape[axis]
    valid = torch.ones(1, 1, 1, dtype=torch.bool, device=data.device).expand(count, 1, steps)
    time = torch.tensor([0, (steps - 1) / rate], device=data.device).expand(count, 1, 2)
    return Stream(kind, data[:, None], valid, time)


def _normal(draws: Draws, name: str, count: int) -> Tensor:
    """float64 [N, count], standard normal (Box-Muller transform)."""
    half = (count + 1) // 2
    radius = (-2 * (1 - draws.many(f"{name} radius", half)).log()).sqrt()
    angle = draws.many(f"{name} angle", half, 0, 2 * math.pi)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], 1)[:, :count]


# --- Sound ---


def pitch(height: Tensor) -> Tensor:
    """Frequency of a tone in Hz by height, from 0 (lower edge of the picture) to 1 (upper edge), on a logarithmic scale."""
    return PITCH[0] * (PITCH[1] / PITCH[0]) ** height


def heard(world: World, sound: GeneratedSound) -> Tensor:
    """Sound from the start of the first frame to the end of the last one: float32 [N, C, S], from -1 to 1.

    Where an object wraps around, phases are continuous and loudness is 0 (`FADE`), so that only landings make clicks. Landings
    start at the exact times of `World.contacts`, also between samples.
    """
    seconds = world.frames / world.settings.fps
    samples, block = round(seconds * sound.rate), sound.rate // KNOTS
    knots = torch.arange(-(-samples // block) + 1, device=world.index.device).double() / KNOTS
    moment = world.at(knots)
    level = _level(world, moment, sound.stereo)
    wave = _tones(world, moment, TONE * level * _presence(world, moment)[:, :, None], block)[..., :samples]
    if world.settings.contacts:
        wave = wave + _landings(world, CLAP * level, sound.rate, samples)
    if sound.noise > 0:
        noise = sound.noise * _normal(world.moves(0), "sound noise", samples * wave.shape[1])
        wave = wave + noise.view_as(wave).float()
    return wave.clamp(-1, 1)


def _level(world: World, moment: Moment, stereo: bool) -> Tensor:
    """Loudness of each object in each channel, float32 [N, K, C, S]; the power of two channels adds up to that of one."""
    level = (moment.size / world.object_size[1] / world.settings.objects)[:, :, None]
    if not stereo:
        return level
    across = moment.centre[..., 0] * (math.pi / 2)
    return level * torch.stack([across.cos(), across.sin()], 2)


def _presence(world: World, moment: Moment) -> Tensor:
    """float32 [N, K, S], 1 except near positions or sizes that wrap around, where it falls smoothly to 0."""
    small, large = world.object_size
    circles = [moment.centre[..., 0], moment.centre[..., 1]]
    if large > small:
        circles.append((moment.size / small).log() / math.log(large / small))
    present = torch.ones_like(moment.size)
    for place in circles:
        inside = (torch.minimum(place, 1 - place) / FADE).clamp(0, 1)
        present = present * inside.square() * (3 - 2 * inside)
    return present


def _tones(world: World, moment: Moment, loud: Tensor, block: int) -> Tensor:
    """Sum of the objects' tones: float32 [N, C, blocks * block] from loudness float32 [N, K, C, blocks + 1] at the knots."""
    each = pitch(1 - moment.way[..., 1].remainder(1)) * (2 * math.pi / KNOTS)
    # Pitch is linear within a block, so the phase is quadratic. Full turns are removed to keep the precision.
    turned = ((each[..., 1:] + each[..., :-1]) / 2).cumsum(-1)
    begin = torch.stack([world.moves(k).uniform("phase of the tone", 0, 2 * math.pi) for k in range(each.shape[1])], 1)
    phase = (begin[..., None] + torch.cat([torch.zeros_like(turned[..., :1]), turned[..., :-1]], -1)).remainder(2 * math.pi)
    phase, slope, bend = (x.float()[..., None] for x in (phase, each[..., :-1], each.diff(dim=-1) / 2))
    part = torch.arange(block, device=loud.device) / block
    first, change = loud[..., :-1, None], loud.diff(dim=-1)[..., None]
    wave = loud.new_zeros(len(loud), loud.shape[2], loud.shape[3] - 1, block)
    for k in range(loud.shape[1]):
        tone = torch.addcmul(phase[:, k], torch.addcmul(slope[:, k], bend[:, k], part), part).sin_()
        for channel in range(loud.shape[2]):
            wave[:, channel].addcmul_(tone, torch.addcmul(first[:, k, channel], change[:, k, channel], part))
    return wave.flatten(2)


def _landings(world: World, level: Tensor, rate: int, samples: int) -> Tensor:
    """Sum of the sounds of landings: float32 [N, C, samples] from loudness float32 [N, K, C, S] at the knots."""
    when, there = world.contacts(world.frames / world.settings.fps)
    clip, number, event = there.nonzero().unbind(1)
    start = when[clip, number, event]
    loud = level[clip, number, :, (start * KNOTS).long()]
    first = (start * rate).ceil()
    # A landing starts a fraction of a sample before its first sample. sin and exp of a sum are products of two tables.
    late, after = first / rate - start, torch.arange(round(RING * rate), device=level.device).double() / rate
    ringing = torch.zeros(len(start), len(after), device=level.device)
    for hertz, share in PARTIALS:
        turn, faded = 2 * math.pi * hertz, share * (-late / DECAY).exp()
        for here, later in (((turn * late).sin(), (turn * after).cos()), ((turn * late).cos(), (turn * after).sin())):
            table = later * (-after / DECAY).exp()
            ringing.addcmul_((faded * here).float()[:, None], table.float())
    whole = level.new_zeros(len(level), level.shape[2], samples + len(after))
    place = clip * whole[0].numel() + first.long()
    for channel in range(level.shape[2]):
        rows = (place + channel * whole.shape[2])[:, None] + torch.arange(len(after), device=level.device)
        whole.view(-1).index_add_(0, rows.flatten(), (ringing * loud[:, channel, None]).flatten())
    return whole[..., :samples]


# --- Sensor ---


def sensed(world: World, sensor: GeneratedSensor) -> Tensor:
    """Signal of a sensor on the first object, from the start of the first frame to the end of the last one: float32 [N, 6, L].

    Channels are ax, ay, az in m/s² and gx, gy, gz in rad/s, in the object's coordinate system. At angle 0, x is to the right in
    the picture, y down and z away from the camera; otherwise, the axes are rotated clockwise by the angle. A picture is
    `METRES` wide. Objects only rotate about z, and move along it when they hop (`data.world.contacts`), by `HOP` towards the
    camera.

    Sample i belongs to the time i / rate. The acceleration is the second difference of the path, and the angular rate the
    difference to the next angle, so that sums recover path and angle: with noise and bias 0, starting from the position p at
    sample 0 and the previous velocity v = (p(0) - p(-1)) * rate, repeating v += a / rate and p += v / rate gives all positions.
    """
    steps, device = max(1, round(world.frames / world.settings.fps * sensor.rate)), world.index.device
    moment = world.at((torch.arange(steps + 2, device=device) - 1).double() / sensor.rate)
    away = -HOP * moment.lift[:, 0].double()
    place = torch.cat([METRES * moment.way[:, 0], away[..., None]], -1)
    force = place.diff(dim=1).diff(dim=1) * sensor.rate**2
    if sensor.gravity:
        force[..., 1] -= GRAVITY
    angle = torch.deg2rad(moment.turned[:, 0])
    across, down, along = force.unbind(-1)
    cos, sin = angle[:, 1:-1].cos(), angle[:, 1:-1].sin()
    still = torch.zeros_like(along)
    turning = angle[:, 1:].diff(dim=1) * sensor.rate
    signal = torch.stack([cos * across + sin * down, cos * down - sin * across, along, still, still, turning], 1)
    draws = world.moves(0)
    for rows, name, noise, bias in (
        (slice(0, 3), "acceleration", sensor.noise, sensor.bias),
        (slice(3, 6), "angular rate", sensor.gyro_noise, sensor.gyro_bias),
    ):
        if noise > 0:
            signal[:, rows] += noise * _normal(draws, f"noise of {name}", 3 * steps).view(-1, 3, steps)
        if bias > 0:
            mean = draws.many(f"bias of {name}", 3, -bias, bias)[..., None]
            signal[:, rows] += mean - signal[:, rows].mean(-1, keepdim=True)
    return signal.float()


# --- Skeletons ---


def bodies(world: World) -> Tensor:
    """A rigid body for each of the first two objects, which moves, grows and turns with it: float32 [N, 3, T, J, M].

    Joints have the order of NTU RGB+D and are in metres; x is to the right, y away from the camera, z up as in aligned
    recordings. The origin is the centre of the picture at the ground of the first object. Unlike skeletons from files, bodies
    are not centred and aligned to their first frame, because the distance from it would reveal the class in a single pose. A
    body has the height of its object, in a picture of `METRES`.
    """
    count = min(PERSONS, world.settings.objects)
    moment = world.at(world.times)
    upright = torch.stack([_body(world.looks(number)) for number in range(count)], 1)
    angle = torch.deg2rad(moment.angle[:, :count])
    cos, sin = angle.cos()[..., None], angle.sin()[..., None]
    across, up, depth = (METRES * moment.size[:, :count, :, None] * x[:, :, None] for x in upright.unbind(-1))
    centre = METRES * (moment.centre[:, :count, :, None] - 0.5)
    ground = world.ground()[:, :count]
    away = (ground - ground[:, :1]).float()[..., None] - HOP * moment.lift[:, :count]
    turned = [cos * across + sin * up + centre[..., 0], depth + away[..., None], cos * up - sin * across - centre[..., 1]]
    found = centre.new_zeros(len(centre), 3, world.frames, JOINTS, PERSONS)
    found[..., :count] = torch.stack(turned, 1).permute(0, 1, 3, 4, 2)
    return found


def _body(looks: Draws) -> Tensor:
    """Joints of an upright body of height 1, centred, float32 [N, J, 3], with random proportions and pose."""
    angles = {name: looks.uniform(f"joint {name}", *bounds)[:, None] for name, bounds in CENTRES.items()}
    joints = pose(angles, draw_proportions(looks))[:, 0]
    low, high = joints.amin(1, keepdim=True), joints.amax(1, keepdim=True)
    return (joints - (low + high) / 2) / (high - low)[..., 1:2]


# --- Sentences ---


def told(world: World) -> list[str]:
    """One sentence per clip about the motion of the first object, and of the second if there is one, with random wording."""
    count = min(2, world.settings.objects)
    names = [[SHAPES[shape].replace("_", " ") for shape in world.shape(number).tolist()] for number in range(count)]
    headings = [world.moves(number).uniform("heading", 0, 360).tolist() for number in range(count)]
    motions = [world.motion[:, number].tolist() for number in range(count)]
    sentences = []
    for row, seed in enumerate(world.moves(0).bits("words", 1)[:, 0].tolist()):
        clauses = [_clause(motions[number][row], headings[number][row], number) for number in range(count)]
        sentences.append(sentence(clauses, [own[row] for own in names], Speaker(random.Random(seed))))
    return sentences


def _clause(motion: int, free: float, number: int) -> Clause:
    """The clause for a class of motion; `free` is the heading in degrees clockwise if the class does not define it."""
    one = MOTION_CLASSES[motion]
    heading = free if one.heading is None else one.heading
    # Names of headings are in anticlockwise order.
    first, second = (HEADINGS[round(-degrees / 45) % len(HEADINGS)] for degrees in (heading, heading + one.turn))
    direction: dict[str, tuple[str, ...]] = {f"T.{first}": ()}
    if one.spin:
        return Clause(head := "R.cw" if one.spin > 0 else "R.ccw", {head: ()}, (number,), (0, 1))
    if one.growth:
        return Clause(head := "Z.grow" if one.growth > 0 else "Z.shrink", {head: ()}, (number,), (0, 1))
    if not one.second:
        return Clause("P.stop", {"P.stop": ()} | direction, (number,), (0, 1))
    if not one.first:
        return Clause("P.start", {"P.start": ()} | direction, (number,), (0, 1))
    if abs(one.turn) == 180:
        return Clause("C.return", {"C.return": (first,)}, (number,), (0, 1))
    if one.turn:
        return Clause("C.turn", {"C.turn": (first, second)}, (number,), (0, 1))
    return Clause(f"T.{first}", direction, (number,), (0, 1))
