"""Moving grounds: they move according to the class, and no single frame reveals it."""

from dataclasses import fields

import pytest
import torch
from torch import Tensor

from modules.downstream.metrics.probes import frame_difference, knn_accuracy, linear_accuracy, single_frame
from modules.scenes import objects as scenes
from modules.scenes import textures as grounds
from modules.scenes.classes import GROWTH, MOTION_CLASSES, TRAVEL
from modules.scenes.objects import SyntheticClips
from modules.scenes.textures import make_grounds

NAMES = [c.name for c in MOTION_CLASSES]
HALF = 1300


def of(made: SyntheticClips, name: str) -> Tensor:
    """Clips of a class as grey pictures: float [n, T, H, W]."""
    return made.video[made.motion == NAMES.index(name)][..., 0].float()


def likeness(one: Tensor, other: Tensor) -> float:
    """Mean correlation of pictures [n, H, W]."""
    one, other = ((x - x.mean((1, 2), keepdim=True)).flatten(1) for x in (one, other))
    return torch.cosine_similarity(one, other).mean().item()


def test_a_clip_is_a_function_of_seed_split_and_number(monkeypatch: pytest.MonkeyPatch) -> None:
    many = make_grounds(20, 4, 16, "train", 3)
    monkeypatch.setattr(scenes, "CHUNK_PIXELS", 3 * 4 * 16 * 16)
    again = make_grounds(20, 4, 16, "train", 3)
    for field in fields(SyntheticClips):
        assert torch.equal(getattr(many, field.name), getattr(again, field.name)), field.name
    for other in (
        make_grounds(20, 4, 16, "train", 4),
        make_grounds(20, 4, 16, "val", 3),
        make_grounds(20, 4, 16, "train", 3, view=1),
    ):
        assert not torch.equal(other.video, many.video)
    assert torch.equal(many.motion, torch.arange(20) % 13)
    assert (many.object == -1).all()
    assert many.boxes.shape == (20, 0, 4, 4)
    grey = make_grounds(200, 4, 16, "train", 0).video.float() / 255
    assert grey.mean() == pytest.approx(0.5, abs=0.02)
    assert grey.std() == pytest.approx(grounds.CONTRAST, abs=0.03)


@pytest.mark.parametrize(("name", "x", "y"), [("right", 1, 0), ("left", -1, 0), ("down", 0, 1), ("up", 0, -1)])
def test_the_texture_travels_as_the_class_says(name: str, x: int, y: int) -> None:
    clips = of(make_grounds(520, 8, 32, "train", 0), name)
    whole = {step: likeness(torch.roll(clips[:, 0], (step * y, step * x), (1, 2)), clips[:, 1]) for step in range(-5, 6)}
    # Between two of eight frames a ground travels by a seventh of its path.
    low, high = (32 * length / 7 for length in TRAVEL)
    assert low - 0.5 < max(whole, key=lambda step: whole[step]) < high + 0.5
    assert whole[2] > whole[0] > whole[-2]


def test_clockwise_turns_and_growth() -> None:
    made = make_grounds(520, 16, 33, "train", 0)
    for name, sign in (("rotate_clockwise", 1), ("rotate_anticlockwise", -1)):
        clips, angle = of(made, name), made.angle[made.motion == NAMES.index(name)]
        quarter = (sign * angle - 90).remainder(360).sub(180).abs().argmax(1)
        assert ((sign * angle.gather(1, quarter[:, None])[:, 0]).remainder(360) - 90).abs().max() < 9
        later = clips[torch.arange(len(clips)), quarter]
        # rot90 turns anticlockwise where rows go down.
        assert likeness(torch.rot90(clips[:, 0], -sign, (1, 2)), later) > 0.9
        assert likeness(torch.rot90(clips[:, 0], sign, (1, 2)), later) < 0.3
    for name, ratio in (("grow", 1.0), ("shrink", -1.0)):
        clips, size = of(made, name), made.size[made.motion == NAMES.index(name)]
        assert (ratio * size[:, -1].log()).min() > torch.tensor(GROWTH[0]).log() - 1e-5
        a, b = (clips[:, 0], clips[:, 3]) if ratio > 0 else (clips[:, 3], clips[:, 0])
        scale = (size[:, 3] / size[:, 0]) ** ratio
        theta = torch.eye(2, 3)[None] / scale[:, None, None]
        grid = torch.nn.functional.affine_grid(theta, [len(a), 1, 33, 33], align_corners=False)
        larger = torch.nn.functional.grid_sample(a[:, None], grid, align_corners=False)[:, 0]
        # By an eighth larger, a sixth of the octave has faded in at one end and out at the other.
        assert likeness(larger, b) > max(0.7, likeness(a, b) + 0.05)


def test_nothing_jumps() -> None:
    made = make_grounds(520, 16, 32, "train", 0)
    clips = made.video[..., 0].float()
    change = (clips[:, 1:] - clips[:, :-1]).abs().mean((2, 3))
    for label in range(len(NAMES)):
        # A ground whose wavelengths come round changes no more in that frame than in others.
        assert (change[made.motion == label].amax(1) < 60).all()


def test_no_single_frame_tells_the_motion() -> None:
    made = make_grounds(2 * HALF, 8, 16, "train", 0)
    known, new = slice(0, HALF), slice(HALF, 2 * HALF)

    def accuracies(features: Tensor) -> list[float]:
        sets = features[known], made.motion[known], features[new], made.motion[new]
        return [knn_accuracy(*sets), linear_accuracy(*sets, iterations=25)]

    chance = 1 / len(NAMES)
    bound = 3 * (chance * (1 - chance) / HALF) ** 0.5
    for t in (0, 4, -1):
        spectrum = torch.fft.rfft2(made.video[:, t, :, :, 0].float()).abs().flatten(1)
        for features in (single_frame(made.video, t), spectrum):
            for accuracy in accuracies(features):
                assert abs(accuracy - chance) < bound, t
    assert accuracies(frame_difference(made.video))[0] > 1.5 * chance
