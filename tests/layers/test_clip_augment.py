"""Augmentation for classification: the same in all frames, a function of the generator, and what each part does."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

from modules.core.errors import SettingError
from modules.layers import clip_augment
from modules.layers.clip_augment import (
    OPERATIONS,
    ClipAugmentation,
    Mixing,
    augment_pixels,
    erase_boxes,
    mix_clips,
    rand_augment,
)

NOTHING = ClipAugmentation(operations=0, flip=0, erase=0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def still(clips: int = 2, frames: int = 3, side: int = 24) -> Tensor:
    """uint8 [N, T, H, W, 3] of random but smooth pictures, all frames of a clip equal."""
    small = torch.randint(0, 256, (clips, 3, 6, 6), generator=generator(7)).float()
    picture = torch.nn.functional.interpolate(small, (side, side), mode="bilinear")
    return picture.round().to(torch.uint8).permute(0, 2, 3, 1)[:, None].expand(-1, frames, -1, -1, -1)


@pytest.mark.parametrize("settings", [ClipAugmentation(), ClipAugmentation(0, jitter=0.4, hue=0.2, erase=0)])
def test_frames_of_a_clip_are_treated_alike_and_clips_differently(settings: ClipAugmentation) -> None:
    clips = still(1).expand(12, -1, -1, -1, -1)
    made = augment_pixels(clips, settings, generator())
    assert made.dtype == torch.uint8
    assert made.shape == clips.shape
    assert torch.equal(made, made[:, :1].expand_as(made))
    assert len({clip.numpy().tobytes() for clip in made}) > 8
    assert torch.equal(made, augment_pixels(clips, settings, generator()))
    assert not torch.equal(made, augment_pixels(clips, settings, generator(1)))
    assert augment_pixels(clips, NOTHING, generator()) is clips


def test_each_operation_changes_the_picture_and_keeps_its_kind() -> None:
    clip = still(1)[0].permute(0, 3, 1, 2)
    for operation in OPERATIONS:
        made = operation(clip, 0.7, 1)
        assert (made.dtype, made.shape) == (clip.dtype, clip.shape)
        assert not torch.equal(made, clip)
    assert len(OPERATIONS) == 15


def test_operations_agree_with_pil() -> None:
    clip = still(1)[0].permute(0, 3, 1, 2)
    picture = Image.fromarray(clip[0].permute(1, 2, 0).numpy())
    # Strength 0.7: two bits, threshold 256 - 179, and 0.21 of shear about the upper left corner.
    pairs = {
        0: ImageOps.autocontrast(picture),
        1: ImageOps.equalize(picture),
        2: ImageOps.invert(picture),
        4: ImageOps.posterize(picture, 2),
        5: ImageOps.solarize(picture, 77),
    }
    for number, expected in pairs.items():
        made = OPERATIONS[number](clip, 0.7, 1)[0].permute(1, 2, 0).int()
        assert (made - torch.from_numpy(np.array(expected)).int()).abs().max() <= 1, number
    sheared = picture.transform(
        picture.size, Image.Transform.AFFINE, (1, 0.21, 0, 0, 1, 0), Image.Resampling.BILINEAR, fillcolor=(128, 128, 128)
    )
    made = OPERATIONS[11](clip, 0.7, 1)[0].permute(1, 2, 0).float()
    assert (made - torch.from_numpy(np.array(sheared)).float()).abs().mean() < 4


def test_rand_augment_draws_operations_with_probability_one_half(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[float, int]] = []

    def note(clip: Tensor, strength: float, sign: int) -> Tensor:
        drawn.append((strength, sign))
        return clip

    monkeypatch.setattr(clip_augment, "OPERATIONS", (note,) * 15)
    rng = np.random.default_rng(0)
    for _ in range(500):
        rand_augment(still(1)[0], ClipAugmentation(), rng)
    # 2000 draws of which half are done; strengths are normal around 0.7.
    assert abs(len(drawn) - 1000) < 5 * np.sqrt(500)
    strengths = np.array([strength for strength, _ in drawn])
    assert abs(strengths.mean() - 0.7) < 0.01
    assert abs(strengths.std() - 0.05) < 0.005
    assert abs(sum(sign for _, sign in drawn)) < 5 * np.sqrt(1000)


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
        # 2 to 33 % of the picture, whole pixels.
        assert 0.01 < box.float().mean() < 0.38
    noise = made[changed]
    assert abs(noise.mean()) < 0.05
    assert abs(noise.std() - 1) < 0.05
    # Frames have noise of their own.
    assert not torch.equal(made[hit][:, 0, 0], made[hit][:, 0, 1])
    assert torch.equal(made, erase_boxes(video.clone(), 0.25, generator()))


def mixed(settings: Mixing, seed: int, clips: int = 4) -> tuple[Tensor, Tensor]:
    video = torch.arange(clips).float().view(-1, 1, 1, 1, 1).expand(-1, 3, 2, 10, 10)
    return mix_clips(video, torch.eye(clips), settings, generator(seed))


def test_mixup_is_with_the_mirrored_clip_and_one_share() -> None:
    for seed in range(5):
        video, targets = mixed(Mixing(cutmix=0), seed)
        share = targets[0, 0]
        assert torch.allclose(targets, share * torch.eye(4) + (1 - share) * torch.eye(4).flip(0))
        for clip in range(4):
            assert torch.allclose(video[clip], share * clip + (1 - share) * (3 - clip))


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


def test_middle_of_an_odd_batch_stays() -> None:
    video, targets = mixed(Mixing(), 1, clips=3)
    assert torch.allclose(targets[1], torch.tensor([0.0, 1, 0]))
    assert torch.allclose(video[1], torch.ones(3, 2, 10, 10))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClipAugmentation(flip=1.5), r"model\.augmentation\.flip is 1\.5; it must be at least 0 and at most 1"),
        (lambda: ClipAugmentation(hue=0.7), r"model\.augmentation\.hue is 0\.7"),
        (lambda: Mixing(mixup=0, cutmix=0), r"set model\.mixing to null"),
        (lambda: Mixing(switch=-1), r"model\.mixing\.switch is -1"),
    ],
)
def test_wrong_settings(make: object, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        make()  # type: ignore[operator]
