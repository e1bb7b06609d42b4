"""Changes of skeletons in space, and their pictures."""

import pytest
import torch
from torch import Tensor

from modules.augment.skeletons import SkeletonAugmentation, SkeletonDraws, joint_matrices, transform_joints
from modules.core.errors import SettingError
from modules.layers.drawing.skeletons import draw_skeletons

CLIPS = 400
MATRICES = torch.eye(3).expand(2, 3, 3)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def skeletons(clips: int = 2, frames: int = 8) -> Tensor:
    return torch.randn(clips, 3, frames, 25, 2, generator=generator(9))


def drawn(sheared: bool, zeroed: bool = False, matrix: Tensor = MATRICES) -> SkeletonDraws:
    """Two clips whose joints 0 to 14 are chosen."""
    chosen = (torch.arange(25) < 15).expand(2, 25)
    return SkeletonDraws(torch.tensor([sheared] * 2), chosen, torch.tensor([zeroed] * 2), matrix)


@pytest.mark.parametrize("sheared", [True, False])
def test_identity_changes_nothing(sheared: bool) -> None:
    clip = skeletons()
    assert torch.equal(transform_joints(clip, joint_matrices(drawn(sheared))), clip)


def test_hidden_joints_are_hidden_in_all_frames_and_for_both_persons() -> None:
    clip = skeletons(frames=64)
    hidden = transform_joints(clip, joint_matrices(drawn(False, zeroed=True)))
    assert not hidden[:, :, :, :15].any()
    assert torch.equal(hidden[:, :, :, 15:], clip[:, :, :, 15:])


def test_shear_multiplies_from_the_left_and_jitter_from_the_right() -> None:
    clip, matrix = skeletons(), torch.rand(2, 3, 3, generator=generator())
    shear = matrix.clone()
    shear[:, range(3), range(3)] = 1
    sheared = transform_joints(clip, joint_matrices(drawn(True, matrix=matrix)))
    assert torch.allclose(sheared, torch.einsum("bcd,bdtjm->bctjm", shear, clip), atol=1e-6)
    moved = transform_joints(clip, joint_matrices(drawn(False, matrix=matrix)))
    assert torch.allclose(moved[..., :15, :], torch.einsum("bdc,bdtjm->bctjm", matrix, clip[..., :15, :]), atol=1e-6)
    assert torch.equal(moved[..., 15:, :], clip[..., 15:, :])


def test_each_clip_is_changed_in_exactly_one_way() -> None:
    draws = SkeletonAugmentation().draw(CLIPS, 25, generator())
    assert torch.equal(draws.chosen.sum(1), torch.full((CLIPS,), 15))
    # Three standard deviations of a fair coin, four of a joint.
    assert abs(float(draws.sheared.float().mean()) - 0.5) < 0.075
    assert abs(float(draws.zeroed[~draws.sheared].float().mean()) - 0.5) < 0.11
    assert (draws.chosen.float().mean(0) - 0.6).abs().max() < 0.1
    assert 0.98 < float(draws.matrix.abs().max()) <= 1
    matrices = joint_matrices(draws)
    same = (matrices == torch.eye(3)).all(-1).all(-1).sum(1)
    assert torch.equal(same == 10, ~draws.sheared)
    assert not same[draws.sheared].any()


def test_draws_come_from_the_generator_alone() -> None:
    clip, augmentation = skeletons(8), SkeletonAugmentation()
    first = augmentation(clip, generator(1))
    torch.rand(3)
    assert torch.equal(first, augmentation(clip, generator(1)))
    assert not torch.equal(first, augmentation(clip, generator(2)))


def test_autocast_does_not_round_coordinates() -> None:
    clip, augmentation = skeletons(8), SkeletonAugmentation()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = augmentation(clip, generator())
    assert torch.equal(rounded, augmentation(clip, generator()))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"shear_probability": 1.5}, r"shear_probability is 1\.5"), ({"joints": -1}, r"model\.augmentation\.joints is -1")],
)
def test_impossible_settings(settings: dict[str, float], expected: str) -> None:
    with pytest.raises(SettingError, match=expected):
        SkeletonAugmentation(**settings).check()  # type: ignore[arg-type]


def test_figures_stay_in_the_picture_and_follow_the_joints() -> None:
    clip = torch.zeros(1, 3, 2, 25, 2)
    # The head of the first person moves from left to right, above everything else.
    clip[0, 0, :, 3, 0], clip[0, 2, :, 3, 0] = torch.tensor([-1.0, 1.0]), 1.0
    video = draw_skeletons(clip, 33)
    assert video.shape == (1, 2, 33, 33, 3)
    assert video.dtype == torch.uint8
    ink = (video[0] < 255).any(-1)
    # The figure is 29 of 33 pixels wide and half as high, in the middle of the picture.
    rows, columns = (ink.any(2), ink.any(1))
    assert rows[0].nonzero().flatten().tolist() == list(range(9, 24))
    assert columns[0].nonzero().flatten().tolist() == list(range(2, 17))
    assert columns[1].nonzero().flatten().tolist() == list(range(16, 31))
    assert ink[0, 9, 2]
    assert ink[1, 9, 30]


def test_a_person_who_is_not_there_is_not_drawn() -> None:
    clip = skeletons(1)
    alone = clip.clone()
    alone[..., 1] = 0
    second = (230, 159, 0)
    assert (draw_skeletons(clip) == torch.tensor(second)).all(-1).any()
    assert not (draw_skeletons(alone) == torch.tensor(second)).all(-1).any()
    assert (draw_skeletons(torch.zeros_like(clip)) == 255).all()
