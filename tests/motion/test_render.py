"""Drawing of objects: invariances of affine sampling, and geometry."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from modules.motion import render
from modules.motion.render import paste
from modules.motion.trajectory import MotionRecord


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def still(centre: Tensor, size: Tensor, angle: float = 0.0) -> MotionRecord:
    """A record without shear, opaque: centre and size float [B, K, T, 2]."""
    B, K, T, _ = centre.shape
    return MotionRecord(
        centre.float(),
        size.float(),
        torch.full((B, K, T), angle),
        torch.zeros(B, K, T, 2),
        torch.ones(B, K, T),
        torch.ones(B, T, dtype=torch.bool),
        torch.zeros(B, T, dtype=torch.int8),
    )


def scene(B: int = 3, K: int = 2, T: int = 4, H: int = 32, W: int = 40) -> tuple[Tensor, MotionRecord, Tensor]:
    """Noise, objects that turn and shear and lie anywhere (some beyond the border), and textures with soft alpha."""
    g = generator()
    frames = torch.randint(0, 256, (B, T, H, W, 3), generator=g, dtype=torch.uint8)
    centre = torch.rand(B, K, T, 2, generator=g) * torch.tensor([W, H])
    record = still(centre, 5 + 10 * torch.rand(B, K, T, 2, generator=g))
    record.angle = 360 * torch.rand(B, K, T, generator=g)
    record.shear = torch.rand(B, K, T, 2, generator=g) - 0.5
    alpha = torch.rand(B, K, 16, 16, 1, generator=g)
    colour = torch.rand(B, K, 16, 16, 3, generator=g)
    return frames, record, (torch.cat([colour * alpha, alpha], dim=-1) * 255).round().to(torch.uint8)


def test_pixels_beyond_an_object_keep_their_value() -> None:
    frames, record, textures = scene()
    out = paste(frames, record, textures)
    x, y = torch.arange(frames.shape[3]) + 0.5, (torch.arange(frames.shape[2]) + 0.5)[:, None]
    distance = ((x - record.centre[..., 0, None, None]) ** 2 + (y - record.centre[..., 1, None, None]) ** 2).sqrt()
    # With shears of at most a half, no corner is further away than 1.5 diagonals.
    far = (distance > 0.75 * record.size.norm(dim=-1)[..., None, None] + 1.5).all(1)
    assert 0.1 < far.float().mean() < 0.9
    assert torch.equal(out[far], frames[far])
    assert (out != frames).any()


@pytest.mark.parametrize("centre", [(-2.0, 16.0), (42.0, 16.0), (20.0, -2.0), (20.0, 34.0), (-20.0, -20.0)])
def test_objects_across_each_border_are_cut(centre: tuple[float, float]) -> None:
    frames = torch.zeros(1, 1, 32, 40, 3, dtype=torch.uint8)
    record = still(torch.tensor(centre).view(1, 1, 1, 2), torch.full((1, 1, 1, 2), 10.0))
    covered = paste(frames, record, torch.full((1, 1, 16, 16, 4), 255, dtype=torch.uint8))[0, 0, :, :, 0] > 127
    x, y = torch.arange(40) + 0.5, (torch.arange(32) + 0.5)[:, None]
    assert torch.equal(covered, ((x - centre[0]).abs() < 5) & ((y - centre[1]).abs() < 5))


def test_frames_are_not_changed_in_place() -> None:
    frames, record, textures = scene()
    before = frames.clone(), record.centre.clone(), textures.clone()
    paste(frames, record, textures, wrap=True)
    assert torch.equal(frames, before[0])
    assert torch.equal(record.centre, before[1])
    assert torch.equal(textures, before[2])


def test_an_upright_opaque_object_of_its_own_size_is_copied() -> None:
    g = generator()
    frames = torch.randint(0, 256, (1, 1, 20, 24, 3), generator=g, dtype=torch.uint8)
    texture = torch.randint(0, 256, (1, 1, 8, 8, 4), generator=g, dtype=torch.uint8)
    texture[..., 3] = 255
    # Pixels 5..12 along x and 3..10 along y; pixel i covers [i, i + 1).
    out = paste(frames, still(torch.tensor([9.0, 7]).view(1, 1, 1, 2), torch.full((1, 1, 1, 2), 8.0)), texture)
    expected = frames.clone()
    expected[0, 0, 3:11, 5:13] = texture[0, 0, ..., :3]
    assert torch.equal(out, expected)


def test_an_enlarged_object_covers_its_box_up_to_the_edge() -> None:
    frames = torch.zeros(1, 1, 12, 12, 3, dtype=torch.uint8)
    texture = torch.full((1, 1, 2, 2, 4), 255, dtype=torch.uint8)
    middle = torch.full((1, 1, 1, 2), 6.0)
    out = paste(frames, still(middle, torch.full((1, 1, 1, 2), 8.0)), texture)[0, 0, ..., 0]
    assert (out[2:10, 2:10] == 255).all()
    assert out.sum() == 64 * 255
    # Half a pixel more on each side covers half of the pixels there.
    wider = paste(frames, still(middle, torch.full((1, 1, 1, 2), 9.0)), texture)[0, 0, ..., 0]
    assert wider[1, 5] == 127
    assert wider[1, 1] == 63


def test_alpha_blends_and_truncates() -> None:
    frames = torch.full((1, 1, 4, 4, 3), 101, dtype=torch.uint8)
    texture = torch.tensor([100.0, 0, 50, 127.5]).expand(1, 1, 2, 2, 4)
    out = paste(frames, still(torch.full((1, 1, 1, 2), 2.0), torch.full((1, 1, 1, 2), 2.0)), texture)
    # 101 * 0.5 = 50.5, plus the colours that carry their alpha already.
    assert out[0, 0, 1, 1].tolist() == [150, 50, 100]


@pytest.mark.parametrize("shift", [(3, 0), (0, -4), (5, 2)])
def test_translation_by_whole_pixels(shift: tuple[int, int]) -> None:
    """On one grey level everywhere, moving the object moves the picture."""
    _, record, textures = scene(H=64, W=64)
    record.centre = 24 + record.centre / 4
    frames = torch.full((3, 4, 64, 64, 3), 90, dtype=torch.uint8)
    moved = replace(record, centre=record.centre + torch.tensor(shift).float())
    first, second = paste(frames, record, textures), paste(frames, moved, textures)
    difference = (first.roll((shift[1], shift[0]), (2, 3)).int() - second.int()).abs()
    # Centres are floats: now and then a blend falls on the other side of a whole number.
    assert difference.max() <= 1
    assert difference.float().mean() < 1e-3
    assert (first != second).any()


def test_on_a_torus_moving_object_and_background_is_rolling() -> None:
    frames, record, textures = scene(H=32, W=32)
    moved = replace(record, centre=record.centre + torch.tensor([13.0, -9.0]))
    rolled = paste(frames.roll((-9, 13), (2, 3)), moved, textures, wrap=True)
    difference = (paste(frames, record, textures, wrap=True).roll((-9, 13), (2, 3)).int() - rolled.int()).abs()
    assert difference.max() <= 1
    assert difference.float().mean() < 1e-3
    # Without the torus, what leaves is cut.
    assert (paste(frames, record, textures) != paste(frames, record, textures, wrap=True)).any()


def test_opacity() -> None:
    frames, record, textures = scene()
    hidden = replace(record, opacity=torch.zeros_like(record.opacity))
    assert torch.equal(paste(frames, hidden, textures), frames)
    assert torch.equal(paste(frames, record, torch.zeros_like(textures)), frames)
    half = replace(record, opacity=torch.full_like(record.opacity, 0.5))
    one, single = half.select(slice(None)), textures[:, :1]
    for name in ("centre", "size", "angle", "shear", "opacity"):
        setattr(one, name, getattr(half, name)[:, :1])
    full = replace(one, opacity=torch.ones_like(one.opacity))
    middle = (paste(frames, full, single).float() + frames.float()) / 2
    assert (paste(frames, one, single).float() - middle).abs().max() <= 1


def test_later_objects_lie_on_top() -> None:
    frames = torch.zeros(1, 1, 16, 16, 3, dtype=torch.uint8)
    record = still(torch.full((1, 2, 1, 2), 8.0), torch.full((1, 2, 1, 2), 6.0))
    textures = torch.full((1, 2, 4, 4, 4), 255, dtype=torch.uint8)
    textures[:, 0, ..., 0], textures[:, 1, ..., 0] = 10, 20
    assert paste(frames, record, textures)[0, 0, 8, 8, 0] == 20
    assert paste(frames, record, textures.flip(1))[0, 0, 8, 8, 0] == 10


def test_square_objects_turn_clockwise() -> None:
    """A quarter turn of the object is a quarter turn of its picture."""
    texture = scene(T=1)[2][:, :1]
    frames = torch.full((3, 1, 16, 16, 3), 40, dtype=torch.uint8)
    middle, size = torch.full((3, 1, 1, 2), 8.0), torch.full((3, 1, 1, 2), 12.0)
    for quarter in (1, 2, 3):
        turned = paste(frames, still(middle, size, 90.0 * quarter), texture)
        # torch turns from the first axis to the second, that is anticlockwise on the screen; the object clockwise.
        expected = paste(frames, still(middle, size), texture.rot90(-quarter, (2, 3)))
        assert (turned.int() - expected.int()).abs().max() <= 1
        assert not torch.equal(turned, paste(frames, still(middle, size), texture))


def test_shear_slants_along_its_axis() -> None:
    frames = torch.zeros(1, 1, 33, 33, 3, dtype=torch.uint8)
    texture = torch.full((1, 1, 8, 8, 4), 255, dtype=torch.uint8)
    record = still(torch.full((1, 1, 1, 2), 16.5), torch.tensor([7.0, 15.0]).view(1, 1, 1, 2))
    record.shear = torch.tensor([0.5, 0.0]).view(1, 1, 1, 2)
    rows = paste(frames, record, texture)[0, 0, ..., 0].float()
    x = torch.arange(33) + 0.5
    middle = (rows * x).sum(1)[10:23] / rows.sum(1)[10:23]
    # Half a pixel to the right per row.
    assert torch.allclose(middle.diff(), torch.full((12,), 0.5), atol=0.02)


def test_pieces_of_the_batch_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    frames, record, textures = scene(B=7)
    whole = paste(frames, record, textures, wrap=True)
    monkeypatch.setattr(render, "PIECE_CPU", 3 * frames[0, ..., 0].numel())
    assert torch.equal(paste(frames, record, textures, wrap=True), whole)
    single = torch.cat([paste(frames[[b]], record.select(torch.tensor([b])), textures[[b]], wrap=True) for b in range(7)])
    assert torch.equal(single, whole)


def test_shapes_that_disagree_are_refused() -> None:
    frames, record, textures = scene()
    with pytest.raises(ValueError, match="disagree"):
        paste(frames, record, textures[:, :1])
    with pytest.raises(ValueError, match="disagree"):
        paste(frames[:, :3], record, textures)
