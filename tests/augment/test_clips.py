"""Augmentation for classification: it is the same in all frames and a function of the generator; effects of each part."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.auto_augment import AugmentOp, rand_augment_transform
from torch import Tensor

from modules.augment.clips import ClipAugmentation, Mixing, augment_pixels, erase_boxes, mix_clips, rand_augment
from modules.augment.pixels import change_pixels, group_changes
from modules.core.errors import SettingError
from modules.core.randomness import seeded_libraries

OFFICIAL = "rand-m7-n4-mstd0.5-inc1"
NOTHING = ClipAugmentation(None, flip=0, erase=0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def still(clips: int = 2, frames: int = 3, side: int = 24) -> Tensor:
    """uint8 [N, T, H, W, 3] of random but smooth pictures, all frames of a clip equal."""
    small = torch.randint(0, 256, (clips, 3, 6, 6), generator=generator(7)).float()
    picture = torch.nn.functional.interpolate(small, (side, side), mode="bilinear")
    return picture.round().to(torch.uint8).permute(0, 2, 3, 1)[:, None].expand(-1, frames, -1, -1, -1)


@pytest.mark.parametrize("settings", [ClipAugmentation(), ClipAugmentation(None, jitter=0.4, hue=0.2, erase=0)])
def test_frames_of_a_clip_are_treated_alike_and_clips_differently(settings: ClipAugmentation) -> None:
    clips = still(1).expand(12, -1, -1, -1, -1)
    made = augment_pixels(clips, settings, generator())
    assert made.dtype == torch.uint8
    assert made.shape == clips.shape
    assert torch.equal(made, made[:, :1].expand_as(made))
    assert len({clip.numpy().tobytes() for clip in made}) > 8
    assert torch.equal(made, augment_pixels(clips, settings, generator()))
    assert not torch.equal(made, augment_pixels(clips, settings, generator(1)))
    assert torch.equal(augment_pixels(clips, NOTHING, generator()), clips)


def operations(name: str = OFFICIAL, probability: float = 1.0) -> dict[str, AugmentOp]:
    found = rand_augment(name).ops
    for operation in found:
        operation.prob = probability
    return {operation.name: operation for operation in found}


def done(operation: AugmentOp, clip: Tensor) -> Tensor:
    """Result of an operation for a clip uint8 [T, H, W, 3]."""
    return change_pixels(clip[None], group_changes([operation([])], (clip.shape[1], clip.shape[2])))[0]


def test_each_operation_changes_the_picture_and_keeps_its_kind() -> None:
    clip = still(1)[0]
    found = operations()
    for name, operation in found.items():
        made = done(operation, clip)
        assert (made.dtype, made.shape) == (clip.dtype, clip.shape)
        assert not torch.equal(made, clip), name
    assert len(found) == 15
    # Also at zero and full strength.
    for name, operation in [*operations("rand-m0-inc1").items(), *operations("rand-m10-inc1").items()]:
        assert done(operation, clip).shape == clip.shape, name


def test_operations_agree_with_timm_on_pil_images() -> None:
    clip = still(1)[0]
    picture = Image.fromarray(clip[0].numpy())
    theirs = rand_augment_transform(OFFICIAL, {"interpolation": Image.Resampling.BILINEAR}).ops
    for ours, other in zip(operations().values(), theirs, strict=True):
        other.prob = 1.0
        with seeded_libraries(5):
            made = done(ours, clip)[0].float()
        with seeded_libraries(5):
            expected = torch.from_numpy(np.array(other(picture))).float()
        moved = ours.name.startswith(("Rotate", "Shear", "Translate"))
        off = (made - expected).abs()
        # Operations that move pixels differ at the border, and in the definition of pixel centres.
        assert off.mean() < 3 if moved else off.max() <= 1, ours.name


def test_rand_augment_draws_operations_with_probability_one_half() -> None:
    transform = rand_augment(OFFICIAL)
    transform.ops = [operation for operation in transform.ops if operation.name == "Rotate"]
    with seeded_libraries(0):
        drawn = [level for _ in range(500) for change in transform([]) for level in change.levels]
    # 2000 draws, half of which are applied; angles are normal around 21 degrees, to either side.
    assert abs(len(drawn) - 1000) < 5 * np.sqrt(500)
    angles = np.array(drawn)
    assert abs(np.abs(angles).mean() - 21) < 0.3
    assert abs(np.abs(angles).std() - 1.5) < 0.15
    assert abs(np.sign(angles).sum()) < 5 * np.sqrt(1000)


def test_erased_boxes_are_alike_in_all_frames_and_hold_noise() -> None:
    video = torch.full((400, 1, 2, 16, 24), 9.0)
    made = erase_boxes(video.clone(), 0.25, generator())
    changed = made != video
    boxes = changed[:, 0, 0]
    assert torch.equal(changed[:, 0, 0], changed[:, 0, 1])
    hit = boxes.flatten(1).any(1)
    assert abs(int(hit.sum()) - 100) < 5 * np.sqrt(75)
    for box in boxes[hit]:
        rows, columns = box.any(1).sum(), box.any(0).sum()
        assert box.sum() == rows * columns
        # 2 to 33 % of the picture, in whole pixels.
        assert 0.01 < box.float().mean() < 0.38
    noise = made[changed]
    assert abs(noise.mean()) < 0.05
    assert abs(noise.std() - 1) < 0.05
    # Each frame has its own noise.
    assert not torch.equal(made[hit][:, 0, 0], made[hit][:, 0, 1])
    assert torch.equal(made, erase_boxes(video.clone(), 0.25, generator()))


def mixed(settings: Mixing, seed: int, clips: int = 4) -> tuple[Tensor, Tensor]:
    return mix_clips(*mixing_batch(clips), settings, generator(seed))


def mixing_batch(clips: int) -> tuple[Tensor, Tensor]:
    video = torch.arange(clips).float().view(-1, 1, 1, 1, 1).expand(-1, 3, 2, 10, 10).clone()
    return video, torch.eye(clips)


def test_mixup_is_with_the_mirrored_clip_and_one_share() -> None:
    for seed in range(5):
        video, targets = mixed(Mixing(cutmix=0), seed)
        share = targets[0, 0]
        assert torch.allclose(targets, share * torch.eye(4) + (1 - share) * torch.eye(4).flip(0))
        for clip in range(4):
            assert torch.allclose(video[clip], share * clip + (1 - share) * (3 - clip), atol=1e-5)


def test_cutmix_pastes_one_box_whose_area_is_the_share() -> None:
    for seed in range(20):
        video, targets = mixed(Mixing(mixup=0), seed)
        pasted = (video[0] == 3).float()
        assert torch.equal(pasted, pasted[:1, :1].expand_as(pasted))
        assert targets[0, 3].item() == pytest.approx(pasted.mean().item(), abs=1e-6)
        assert torch.equal(video[0] == 3, video[3] == 0)


def test_shares_follow_their_distributions() -> None:
    ups = torch.stack([mixed(Mixing(cutmix=0), seed)[1][0, 0] for seed in range(600)])
    # Beta(0.8, 0.8) has mean 1/2 and variance 1 / (4 * 2.6).
    assert abs(ups.mean() - 0.5) < 0.06
    assert abs(ups.var() - 1 / 10.4) < 0.012
    kinds = [mixed(Mixing(), seed)[0][0].unique().numel() for seed in range(400)]
    # A pasted box leaves two values, mixup a single one.
    assert 0.35 < np.mean([kind == 2 for kind in kinds]) < 0.6
    untouched = [torch.equal(mixed(Mixing(probability=0.3), seed)[1], torch.eye(4)) for seed in range(400)]
    assert 0.6 < np.mean(untouched) < 0.8


def test_last_of_an_odd_batch_stays() -> None:
    video, targets = mixed(Mixing(cutmix=0), 1, clips=3)
    assert torch.equal(targets[2], torch.tensor([0.0, 0, 1]))
    assert torch.equal(video[2], torch.full((3, 2, 10, 10), 2.0))
    assert 0 < targets[0, 1] < 1
    video, targets = mixed(Mixing(), 1, clips=1)
    assert torch.equal(targets, torch.ones(1, 1))


def test_global_generators_are_left_alone() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), np.random.random(), torch.rand(()).item()  # noqa: NPY002

    def seeded() -> None:
        random.seed(3)
        np.random.seed(3)  # noqa: NPY002
        torch.manual_seed(3)

    seeded()
    expected = draw()
    seeded()
    augment_pixels(still(), ClipAugmentation(), generator())
    erase_boxes(torch.zeros(2, 3, 2, 8, 8), 1.0, generator())
    mixed(Mixing(), 0)
    assert draw() == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClipAugmentation(flip=1.5), r"model\.augmentation\.flip is 1\.5; it must be at least 0 and at most 1"),
        (lambda: ClipAugmentation(hue=0.7), r"model\.augmentation\.hue is 0\.7"),
        (
            lambda: ClipAugmentation("rand-m7-x4"),
            r"rand_augment is rand-m7-x4, which is not a RandAugment config",
        ),
        (lambda: ClipAugmentation("augmix-m3"), r"rand_augment is augmix-m3"),
        (lambda: Mixing(mixup=0, cutmix=0), r"set model\.mixing to null"),
        (lambda: Mixing(switch=-1), r"model\.mixing\.switch is -1"),
    ],
)
def test_wrong_settings(make: object, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("settings", [Mixing(cutmix=0), Mixing(mixup=0)], ids=["mixup", "cutmix"])
@pytest.mark.parametrize("missing", [0.0, -1.0], ids=["one label", "several labels"])
def test_clips_without_label_mix_with_nobody(settings: Mixing, missing: float) -> None:
    """Targets of a clip without label are zeros for single labels, and -1 for several labels."""
    video, targets = mixing_batch(5)
    expected = mix_clips(video.clone(), targets, settings, generator(1))
    targets = torch.where(torch.arange(5)[:, None] == 3, missing, targets)
    labelled = torch.arange(5) != 3
    mixed_video, mixed_targets = mix_clips(video.clone(), targets, settings, generator(1), labelled)
    # 0 and 3 are a pair, and 4 is left over; 1 and 2 are mixed as if all had labels.
    for alone in (0, 3, 4):
        assert torch.equal(mixed_video[alone], video[alone])
        assert torch.equal(mixed_targets[alone], targets[alone])
    for both in (1, 2):
        assert torch.equal(mixed_video[both], expected[0][both])
        assert torch.equal(mixed_targets[both], expected[1][both])
    assert not torch.equal(mixed_targets[1], targets[1])
