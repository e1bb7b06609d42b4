"""Appearance of objects: cut-outs from a folder, or shapes without one."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modules.core.errors import SettingError
from modules.motion.appearance import SHAPES, ObjectBank, blur_to_size, hsv_to_rgb, load_object, procedural_objects, shape_alpha


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def write_cut_outs(root: Path) -> None:
    """Three categories: red discs, plain green without alpha, and blue in the left half over invisible white."""
    y, x = np.mgrid[:40, :30]
    red = np.zeros((40, 30, 4), np.uint8)
    red[..., 0] = 200
    red[..., 3] = np.where((x - 14.5) ** 2 + (y - 19.5) ** 2 < 144, 255, 0)
    blue = np.full((40, 30, 4), 255, np.uint8)
    blue[:, :15, :2] = 0
    blue[:, 15:, 3] = 0
    for name, picture in (("disc", red), ("blue", blue), ("green", np.full((20, 20, 3), (0, 120, 0), np.uint8))):
        (root / name).mkdir(parents=True)
        Image.fromarray(picture).save(root / name / "0.png")


def test_folder_of_cut_outs(tmp_path: Path) -> None:
    write_cut_outs(tmp_path / "objects")
    bank = ObjectBank(str(tmp_path / "objects"), side=24)
    assert bank.names == ["blue", "disc", "green"]
    drawn = bank.draw(torch.full((300, 2, 2), 24.0), generator())
    assert drawn.shape == (300, 2, 24, 24, 4)
    assert drawn.dtype == torch.uint8
    # Colours carry their alpha: none is brighter than it, and the invisible white of the blue picture is gone.
    assert (drawn[..., :3] <= drawn[..., 3:]).all()
    brightest = drawn[..., :3].amax((2, 3)).flatten(0, 1)
    kind = brightest.argmax(-1)
    assert (kind.bincount() - 200).abs().max() < 5 * (600 * 2 / 9) ** 0.5
    texture = {name: load_object(tmp_path / "objects" / name / "0.png", 24)[0] for name in bank.names}
    assert (texture["green"][..., 3] == 255).all()
    assert texture["disc"][12, 12].tolist() == [200, 0, 0, 255]
    assert (texture["disc"][0, 0] == 0).all()
    assert texture["blue"][12, 4].tolist() == [0, 0, 255, 255]
    assert (texture["blue"][:, 16:] == 0).all()


def test_an_empty_or_missing_folder_names_the_setting(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(SettingError, match=r"model\.paste\.objects\.root"):
            ObjectBank(str(root))


def test_shapes_are_a_function_of_their_arguments() -> None:
    first = procedural_objects(16, 32, seed=1)
    assert torch.equal(first, procedural_objects(16, 32, seed=1))
    assert not torch.equal(first, procedural_objects(16, 32, seed=2))
    assert (first[..., :3] <= first[..., 3:]).all()
    bank = ObjectBank(side=32, shapes=20)
    assert bank.names == [SHAPES[i % 8] for i in range(20)]
    drawn = [bank.draw(torch.full((4, 2, 2), 30.0), generator(seed)) for seed in (3, 3, 4)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_no_quarter_turn_maps_a_shape_onto_itself_and_no_two_shapes_are_alike() -> None:
    """Else its rotation, or its label, could not be seen."""
    alpha = shape_alpha(torch.arange(len(SHAPES)), torch.full((len(SHAPES),), 0.3), 48)
    for turns in (1, 2, 3):
        assert ((alpha.rot90(turns, (1, 2)) - alpha).abs().mean((1, 2)) > 0.05).all()
    distance = (alpha[:, None] - alpha).abs().mean((2, 3))
    assert (distance + torch.eye(len(SHAPES)) > 0.05).all()
    # Shapes do not touch the box's corners on all sides, nor vanish.
    assert ((alpha.mean((1, 2)) > 0.2) & (alpha.mean((1, 2)) < 0.8)).all()


def test_coverage_does_not_depend_on_resolution() -> None:
    kind, stroke = torch.arange(len(SHAPES)), torch.full((len(SHAPES),), 0.3)
    coarse, fine = (shape_alpha(kind, stroke, side).mean((1, 2)) for side in (24, 192))
    assert (coarse - fine).abs().max() < 0.02


def test_hues() -> None:
    hue = torch.tensor([0.0, 1 / 6, 1 / 3, 2 / 3, 1.0])
    expected = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]])
    one = torch.ones(5)
    assert torch.allclose(hsv_to_rgb(hue, one, one), expected, atol=1e-6)
    assert torch.allclose(hsv_to_rgb(hue, one * 0, one * 0.4), torch.full((5, 3), 0.4))


def test_blurring_keeps_the_mean_and_smooths_what_will_be_small() -> None:
    texture = torch.randint(0, 256, (1, 1, 32, 32, 4), generator=generator(), dtype=torch.uint8)
    sizes = torch.tensor([64.0, 32, 16, 8, 4, 1])
    textures = texture.expand(1, 6, -1, -1, -1)
    blurred = blur_to_size(textures, torch.stack([sizes, sizes / 2], dim=-1)[None]).float()[0]
    # The longer side decides: at the texture's own size or above, nothing changes.
    assert torch.equal(blurred[:2], textures[0, :2].float())
    assert (blurred.mean((1, 2)) - texture.float().mean((2, 3))[0]).abs().max() < 2.5
    roughness = blurred.std((1, 2)).mean(-1)
    assert (roughness[1:4].diff() < -5).all()
    # An eighth is the end.
    assert torch.equal(blurred[4], blurred[5])
    even = torch.full((1, 1, 32, 32, 4), 77, dtype=torch.uint8)
    assert torch.equal(blur_to_size(even, torch.full((1, 1, 2), 5.0)), even)


def test_every_object_is_blurred_for_its_own_size() -> None:
    textures = torch.randint(0, 256, (3, 2, 16, 16, 4), generator=generator(), dtype=torch.uint8)
    size = torch.tensor([[16.0, 4], [8, 2], [3, 30]])[..., None].expand(-1, -1, 2)
    together = blur_to_size(textures, size)
    for b in range(3):
        for k in range(2):
            assert torch.equal(together[b, k], blur_to_size(textures[b : b + 1, k : k + 1], size[b : b + 1, k : k + 1])[0, 0])
