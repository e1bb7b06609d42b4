"""Sound, sensor, bodies and sentences of generated clips: synchronous with the motion, and no single time reveals the class."""

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from modules.core.batch import Stream, Text
from modules.core.errors import SettingError
from modules.downstream.metrics.probes import knn_accuracy, linear_accuracy
from modules.motion.appearance import SHAPES
from modules.scenes.classes import MOTION_CLASSES
from modules.scenes.senses import (
    CLAP,
    DECAY,
    FADE,
    GRAVITY,
    PARTIALS,
    TONE,
    GeneratedSensor,
    GeneratedSound,
    bodies,
    heard,
    pitch,
    sense_streams,
    sensed,
    told,
)
from modules.scenes.world import HOP, METRES, World, WorldSettings

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = [one.name for one in MOTION_CLASSES]
HALF = 1300
CHANCE = 1 / len(NAMES)
BOUND = 3 * (CHANCE * (1 - CHANCE) / HALF) ** 0.5
RATE = 16000
QUIET = GeneratedSound(noise=0)
EXACT = GeneratedSensor(noise=0, bias=0, gyro_noise=0, gyro_bias=0)


@dataclass
class Asked:
    """Which streams."""

    sound: GeneratedSound | None = None
    sensor: GeneratedSensor | None = None
    skeleton: bool = False
    text: bool = False


ALL = Asked(GeneratedSound(stereo=True, noise=0.01), GeneratedSensor(), True, True)


def world(index: int | Tensor, frames: int = 16, view: int = 0, seed: int = 0, **settings: Any) -> World:
    index = torch.arange(index) if isinstance(index, int) else index
    return World(index, frames, "train", seed, WorldSettings(**settings), view=view)


def data(made: dict[str, Stream | Text], name: str) -> Tensor:
    stream = made[name]
    assert isinstance(stream, Stream)
    return stream.data


def of_class(name: str, count: int) -> Tensor:
    """Numbers of clips of a class."""
    return NAMES.index(name) + len(NAMES) * torch.arange(count)


def test_streams_keep_the_contract_and_nothing_else_is_made() -> None:
    assert sense_streams(world(3), Asked()) == {}
    made = sense_streams(world(3, frames=24, objects=3), ALL)
    shapes = {"audio": (3, 1, 2, 24000), "signal": (3, 1, 6, 75), "skeleton": (3, 1, 3, 24, 25, 2)}
    ends = {"audio": 1.5 - 1 / RATE, "signal": 1.5 - 1 / 50, "skeleton": 23 / 16}
    assert made.keys() == shapes.keys() | {"text"}
    for name, shape in shapes.items():
        stream = made[name]
        assert isinstance(stream, Stream)
        assert (stream.kind, stream.data.shape, stream.data.dtype) == (name, shape, torch.float32)
        assert stream.time is not None
        assert stream.time.dtype == torch.float32
        assert torch.allclose(stream.time, torch.tensor([0, ends[name]]).expand(3, 1, 2))
        assert stream.valid is not None
        assert stream.valid.shape == (3, 1, 24 if name == "skeleton" else shape[-1])
        assert stream.valid.all()
    text = made["text"]
    assert isinstance(text, Text)
    assert [len(own) for own in text.sentences] == [1, 1, 1]
    assert data(made, "audio").abs().max() <= 1
    fast = sense_streams(world(1), Asked(GeneratedSound(48000), GeneratedSensor(rate=100)))
    assert data(fast, "audio").shape == (1, 1, 1, 48000)
    assert data(fast, "signal").shape == (1, 1, 6, 100)


def test_a_clip_is_the_same_in_whatever_company() -> None:
    settings: dict[str, Any] = {"objects": 2, "contacts": True, "smooth": True}
    many = sense_streams(world(23, **settings), ALL)
    rows = torch.tensor([17, 4, 9])
    few, other = sense_streams(world(rows, **settings), ALL), sense_streams(world(23, view=1, **settings), ALL)
    for name in ("audio", "signal", "skeleton"):
        assert torch.equal(data(few, name), data(many, name)[rows]), name
        assert not torch.equal(data(other, name), data(many, name))
    texts = many["text"], few["text"]
    assert all(isinstance(one, Text) for one in texts)
    assert texts[1].first == [texts[0].first[row] for row in rows.tolist()]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("made", "settings", "name"),
    [
        (GeneratedSound, {"rate": 44100}, "sound.rate"),
        (GeneratedSound, {"noise": -1}, "sound.noise"),
        (GeneratedSound, {"stereo": "yes"}, "sound.stereo"),
        (GeneratedSensor, {"rate": 0}, "sensor.rate"),
        (GeneratedSensor, {"bias": -1}, "sensor.bias"),
        (GeneratedSensor, {"gyro_noise": float("inf")}, "sensor.gyro_noise"),
        (GeneratedSensor, {"gravity": 1}, "sensor.gravity"),
    ],
)
def test_impossible_settings_name_what_to_change(made: type, settings: dict[str, Any], name: str) -> None:
    with pytest.raises(SettingError, match=rf"data\.streams\.{name} "):
        made(**settings)


# --- Sound ---


def spectra(sound: Tensor, seconds: Tensor, rate: int = RATE, length: int = 800) -> Tensor:
    """Magnitudes around some moments: [N, C, M, length / 2 + 1]."""
    first = (seconds * rate).round().long() - length // 2
    frames = torch.stack([sound[..., start : start + length] for start in first.tolist()], -2)
    return torch.fft.rfft(frames * torch.hann_window(length)).abs()


def inside(w: World, seconds: Tensor) -> Tensor:
    """Where the first object is fully audible around some times: bool [N, M]."""
    small, large = w.object_size
    found = torch.ones(len(w.index), len(seconds), dtype=torch.bool)
    for shift in (-0.03, 0.0, 0.03):
        moment = w.at(seconds + shift)
        size = (moment.size[:, 0, :, None] / small).log() / math.log(large / small)
        place = torch.cat([moment.centre[:, 0], size], -1)
        found &= ((place > FADE) & (place < 1 - FADE)).all(-1)
    return found


def test_pitch_follows_height() -> None:
    w, seconds = world(130, smooth=True), torch.linspace(0.1, 0.9, 9).double()
    found = spectra(heard(w, QUIET), seconds)[:, 0]
    peak = found.argmax(-1, keepdim=True)
    left, middle, right = (found.gather(-1, peak + k).log() for k in (-1, 0, 1))
    hertz = (peak + (left - right) / (left - 2 * middle + right) / 2)[..., 0] * RATE / 800
    height = 1 - w.at(seconds).centre[:, 0, :, 1]
    there = inside(w, seconds)
    assert there.float().mean() > 0.4
    octaves = (hertz / pitch(height)).log2()[there]
    assert octaves.abs().max() < 0.03
    # Rising sounds rise, and falling ones fall.
    rise = (hertz[:, 5] / hertz[:, 4]).log2()
    sure = there[:, 4] & there[:, 5]
    label = w.motion[:, 0]
    assert (rise[sure & (label == NAMES.index("up"))] > 0).all()
    assert (rise[sure & (label == NAMES.index("down"))] < 0).all()


def test_sides_and_size_are_heard() -> None:
    w, seconds = world(130, smooth=True), torch.linspace(0.1, 0.9, 9).double()
    energy = spectra(heard(w, GeneratedSound(stereo=True, noise=0)), seconds).square().sum(-1)
    moment, there = w.at(seconds), inside(w, seconds)
    share = (energy[:, 1] / energy.sum(1))[there]
    expected = (moment.centre[:, 0, :, 0] * math.pi / 2).sin().square()[there]
    assert (share - expected).abs().max() < 0.03
    # Of both channels together, and of one for all, the amplitude is that of the size.
    alone = spectra(heard(w, QUIET), seconds).square().sum(-1)[:, 0]
    for total in (energy.sum(1), alone):
        amplitude = (total / total[there].max()).sqrt()[there]
        size = moment.size[:, 0][there]
        assert torch.corrcoef(torch.stack([amplitude, size]))[0, 1] > 0.995


def test_nothing_clicks_where_objects_come_in_again() -> None:
    w = world(52)
    sound = heard(w, QUIET)[:, 0].double()
    way = w.at(torch.linspace(0, 1, 251).double()).centre[:, 0]
    assert (way.diff(dim=1).abs() > 0.5).any(1).any(1).sum() > 15
    # A tone of slowly changing pitch and loudness follows from its two last samples; a click does not.
    knots = torch.arange(RATE).double() / RATE
    turn = 2 * math.pi * pitch(1 - w.at(knots).way[:, 0, :, 1].remainder(1)) / RATE
    rest = sound[:, 2:] + sound[:, :-2] - 2 * turn[:, 1:-1].cos() * sound[:, 1:-1]
    assert rest.abs().max() < 2e-3
    assert sound.abs().max() > 0.35


def test_phase_is_right_after_20_seconds() -> None:
    # Bodies that grow keep their height, so that their tone is a sine.
    w = world(of_class("grow", 8), frames=320)
    sound = heard(w, QUIET)[:, 0].double()
    assert sound.shape[1] == 20 * RATE
    knots = torch.arange(5000).double() / 250
    moment = w.at(knots)
    begin = w.moves(0).uniform("phase of the tone", 0, 2 * math.pi)
    height = 1 - moment.way[:, 0, 0, 1].remainder(1)
    wave = (begin[:, None] + 2 * math.pi * pitch(height)[:, None] * knots).sin()
    size = moment.size[:, 0]
    full = inside(w, knots)
    error = sound[:, ::64] - TONE * size / w.object_size[1] * wave
    assert error[full].abs().max() < 1e-4
    assert full[:, -500:].any()


@pytest.mark.parametrize("rate", [16000, 48000])
def test_landings_begin_at_the_contact(rate: int) -> None:
    sound = GeneratedSound(rate, noise=0)
    w, silent = world(8, contacts=True), world(8)
    alone = heard(w, sound)[:, 0].double() - heard(silent, sound)[:, 0].double()
    when, there = w.contacts(1.0)
    assert there.sum() > 10
    seconds = torch.arange(rate).double() / rate
    expected = torch.zeros_like(alone)
    for clip, _, event in there.nonzero().tolist():
        start = float(when[clip, 0, event])
        size = float(w.at(when[clip, 0, event : event + 1]).size[clip, 0, 0])
        late = (seconds - start).clamp(min=0)
        ringing = sum(share * (2 * math.pi * hertz * late).sin() for hertz, share in PARTIALS) * (-late / DECAY).exp()
        expected[clip] += CLAP * size / w.object_size[1] * ringing
        # Not a sample before the contact, and at once after it.
        if event == 0:
            assert (alone[clip, : math.ceil(start * rate)] == 0).all()
    assert (alone - expected).abs().max() < 0.01 * CLAP
    # As heard, without knowing how it was made: the rise of what lies above all tones.
    frames = heard(w, sound)[:, 0].unfold(-1, rate // 100, rate // 400)
    high = torch.fft.rfft(frames * torch.hann_window(rate // 100)).abs()[..., 20:].square().sum(-1)
    for clip, _, event in there.nonzero().tolist():
        start = float(when[clip, 0, event])
        if not 0.1 < start < 0.9:
            continue
        near = high[clip, round((start - 0.06) * 400) : round((start + 0.06) * 400)]
        onset = start - 0.06 + int((near.log().diff()).argmax()) / 400 + 0.005
        assert abs(onset - start) < 1 / 16 / 4


# --- Sensor ---


@pytest.mark.parametrize("rate", [50.0, 123.4])
@pytest.mark.parametrize("smooth", [False, True])
def test_integrated_twice_the_sensor_gives_the_path(smooth: bool, rate: float) -> None:
    w = world(39, smooth=smooth, contacts=True)
    signal = sensed(w, GeneratedSensor(rate, 0, 0, 0, 0)).double()
    steps = signal.shape[2]
    # Angular rates lead to the angle of the next sample.
    moment = w.at((torch.arange(steps + 2) - 1).double() / rate)
    path = torch.cat([METRES * moment.way[:, 0], -HOP * moment.lift[:, 0, :, None]], -1)
    angle = moment.turned[:, 0, 1] * math.pi / 180
    place, speed = path[:, 1], (path[:, 1] - path[:, 0]) * rate
    for step in range(steps):
        across, down, along = signal[:, :3, step].unbind(1)
        force = torch.stack([angle.cos() * across - angle.sin() * down, angle.sin() * across + angle.cos() * down, along], 1)
        speed = speed + force / rate
        place = place + speed / rate
        angle = angle + signal[:, 5, step] / rate
        assert (place - path[:, step + 2]).abs().max() < 2e-6
        assert (angle - moment.turned[:, 0, step + 2] * math.pi / 180).abs().max() < 2e-6
    assert (signal[:, 3:5] == 0).all()


def test_gravity_points_up_in_the_frame_of_the_object() -> None:
    w = world(of_class("grow", 20))
    signal = sensed(w, GeneratedSensor(noise=0, bias=0, gyro_noise=0, gyro_bias=0, gravity=True))
    angle = torch.deg2rad(w.at(torch.zeros(1).double()).angle[:, 0, 0])
    up = -GRAVITY * torch.stack([angle.sin(), angle.cos()], 1)
    assert torch.allclose(signal[:, :2], up[..., None].expand_as(signal[:, :2]), atol=1e-4)
    assert torch.equal(sensed(w, EXACT), torch.zeros_like(signal))


def test_noise_and_bias_are_as_large_as_they_say() -> None:
    w = world(of_class("grow", 400))
    noisy = sensed(w, GeneratedSensor(noise=0.3, bias=0, gyro_noise=0.1, gyro_bias=0))
    assert (noisy[:, :3].std() / 0.3 - 1).abs() < 0.02
    assert (noisy[:, 3:].std() / 0.1 - 1).abs() < 0.02
    assert noisy.flatten(1)[:, :2].T.corrcoef()[0, 1].abs() < 0.2
    mean = sensed(w, GeneratedSensor(noise=0.3, bias=1.5, gyro_bias=0.5)).mean(-1)
    assert 1.4 < mean[:, :3].abs().max() < 1.5 + 1e-6
    assert 0.45 < mean[:, 3:].abs().max() < 0.5 + 1e-6


# --- Skeletons and sentences ---


def test_bodies_move_grow_and_turn_with_their_objects() -> None:
    w = world(26, objects=2, contacts=True)
    found, moment = bodies(w), w.at(w.times)
    ground = w.ground()
    for person in range(2):
        joints = found[..., person]
        height = (joints[:, 2, :, 3] - joints[:, 2, :, 19], joints[:, 0, :, 3] - joints[:, 0, :, 19])
        length = torch.stack([*height, joints[:, 1, :, 3] - joints[:, 1, :, 19]]).norm(dim=0)
        ratio = length / (METRES * moment.size[:, person])
        assert ((ratio > 0.9) & (ratio < 1.05)).all()
        assert (ratio.std(1) < 1e-5).all()
        # From foot to head it points up, but for its angle; clockwise turns it to the right.
        turned = torch.atan2(height[1], height[0]) - torch.deg2rad(moment.angle[:, person])
        drift = (turned - turned[:, :1] + math.pi).remainder(2 * math.pi) - math.pi
        assert drift.abs().max() < 1e-4
        assert (turned.cos() > 0.95).all()
        centre = METRES * (moment.centre[:, person] - 0.5)
        assert ((joints[:, 0].mean(-1) - centre[..., 0]).abs() < 0.2).all()
        assert ((joints[:, 2].mean(-1) + centre[..., 1]).abs() < 0.2).all()
        away = (ground[:, person] - ground[:, 0]).float()[:, None] - HOP * moment.lift[:, person]
        assert ((joints[:, 1].mean(-1) - away).abs() < 0.2).all()
    assert (bodies(world(4))[..., 1] == 0).all()


def test_bodies_belong_to_identities() -> None:
    w = world(40, identities=4)
    shape = bodies(w)[:, :, 0, :, 0]
    shape = (shape - shape[..., :1]).norm(dim=1)
    shape = shape / shape[:, 3:4]
    for row in range(36):
        assert torch.allclose(shape[row], shape[row + 4], atol=1e-4)
        assert not torch.allclose(shape[row], shape[row + 1], atol=1e-3)


def test_sentences_tell_shape_and_motion() -> None:
    words = {
        **{"right": ("right",), "left": ("left",)},
        "up": ("up", "upward", "ascen", "ris", "climb", "lift", "top"),
        "down": ("down", "descen", "fall", "drop", "bottom"),
        "rotate_clockwise": (" clockwise",),
        "rotate_anticlockwise": ("anticlockwise", "counterclockwise"),
        "grow": ("grow", "expand", "bigger", "closer", "com", "approach"),
        "shrink": ("shrink", "contract", "smaller", "reced", "back"),
        "go_then_stop": ("stop", "halt", "rest", "standstill"),
        "stop_then_go": ("wait", "stay", "pause", "stand", "remain", "rest", "linger"),
        "there_and_back": ("return", "com", "back"),
        **dict.fromkeys(("turn_left", "turn_right"), ("turn", "swing", "branch")),
    }
    w = world(260)
    for row, text in enumerate(told(w)):
        motion = NAMES[int(w.motion[row, 0])]
        assert any(word in text for word in words[motion]), (motion, text)
        assert SHAPES[int(w.shape(0)[row])].replace("_", " ") in text
    assert len(set(told(w))) > 100
    # Headings that the class leaves free are told as they are, and the turn with its sense.
    w = world(of_class("turn_left", 200))
    shift = w.at(w.times).way[:, 0].diff(dim=1)
    for text, first, last in zip(told(w), shift[:, 0], shift[:, -1], strict=True):
        for word, along in (("right", first), ("rightward", first)):
            if f"goes {word} and" in text or f"goes to the {word} and" in text:
                assert along[0] > 0.8 * along.norm()
                assert last[1] < -0.8 * last.norm()
    pair = told(world(26, objects=2))
    assert all(" while " in text for text in pair)


# --- No static statistic reveals the class ---


def probes(x: Tensor, y: Tensor) -> dict[str, float]:
    x = x.flatten(1).double()
    parts = x[:HALF], y[:HALF], x[HALF:], y[HALF:]
    return {"linear": linear_accuracy(*parts, iterations=25), "nearest": knn_accuracy(*parts, k=1)}


def assert_chance(x: Tensor, y: Tensor, what: str) -> None:
    for name, accuracy in probes(x, y).items():
        assert abs(accuracy - CHANCE) < BOUND, f"{name} on {what}: {accuracy:.3f}"


@pytest.mark.parametrize("smooth", [False, True])
def test_no_static_statistic_tells_the_class(smooth: bool) -> None:
    w = world(2 * HALF, smooth=smooth)
    label = w.motion[:, 0]
    signal = sensed(w, GeneratedSensor())
    assert_chance(signal.mean(-1), label, "means of the sensor")
    poses = bodies(w)[..., ::4, 0]
    for t in (0, 8, -1):
        assert_chance(poses[:, :, t], label, f"pose {t}")
    # In order, there is something to learn.
    assert probes(poses[:, :, 1:, 0] - poses[:, :, :-1, 0], label)["nearest"] > 5 * CHANCE
    moving = signal - signal.mean(-1, keepdim=True)
    felt = torch.cat([moving[:, :2].square().sum(1, keepdim=True).sqrt(), moving[:, 5:]], 1)
    # Without `smooth`, bodies feel little; see GeneratedSensor.
    assert probes(felt, label)["nearest"] > (6 if smooth else 1.7) * CHANCE


def test_no_single_spectrum_tells_the_class() -> None:
    sounds, label, seconds = [], torch.arange(2 * HALF) % len(NAMES), torch.linspace(0.0125, 0.95, 9)
    for part in torch.arange(2 * HALF).split(130):
        sounds.append(spectra(heard(world(part), GeneratedSound(stereo=True)), seconds, length=400)[..., :40])
    # Of 25 ms each, up to 1.6 kHz.
    single = torch.cat(sounds)
    for number in (0, 4, 8):
        assert_chance(single[:, :, number], label, f"spectrum at {seconds[number]:.2f} s")
    # Pitch, loudness and side, and how they change.
    energy = single.square()
    whole = energy.sum((1, 3)) + 1e-3
    hertz = (energy.sum(1) * torch.arange(40)).sum(-1) / whole
    side = (energy[:, 0].sum(-1) - energy[:, 1].sum(-1)) / whole
    course = torch.stack([(hertz + 1).log(), whole.log() / 4, side * 2], 1).diff(dim=-1)
    assert probes(course, label)["nearest"] > 3 * CHANCE
