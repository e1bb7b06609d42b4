"""Changes of many clips at once: equal to torchvision clip by clip, with a constant number of operations."""

import math
from collections.abc import Callable

import pytest
import torch
import torchvision.transforms.v2.functional as tv
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor

from benchmarks.fake_cuda import step_cost
from datamodules.generated.motion import SyntheticMotion
from datamodules.settings import LoadSettings
from datamodules.video.sampling import ClipSettings
from modules.augment.clips import ClipAugmentation, augment_pixels, draw_changes
from modules.augment.pixels import KIND_OF, Change, change_pixels, group_changes
from modules.downstream.classification import Classification
from tests.registry import DOWNSTREAM, FRAMES, SIDE, Case, tiny_vit, video_batch

SETTINGS = {
    "RandAugment": ClipAugmentation(flip=0),
    "at full strength": ClipAugmentation("rand-m10-n4-inc1", flip=0),
    "not increasing": ClipAugmentation("rand-m3-n3-mstd2", flip=0),
    "jitter": ClipAugmentation(None, jitter=0.4, hue=0.2, flip=0),
    "both": ClipAugmentation(jitter=0.8, hue=0.5, flip=0),
}


def affine(clip: Tensor, angle: float = 0, across: float = 0, down: float = 0, shear: tuple[float, float] = (0, 0)) -> Tensor:
    centre = [0.0, 0.0] if any(shear) else None
    degrees = [math.degrees(math.atan(part)) for part in shear]
    shift = [across * clip.shape[-1], down * clip.shape[-2]]
    return tv.affine(clip, angle, shift, 1.0, degrees, tv.InterpolationMode.BILINEAR, fill=[128.0] * 3, center=centre)


def solarize_add(clip: Tensor, amount: int) -> Tensor:
    return torch.where(clip < 128, (clip.int() + amount).clamp(max=255).to(clip.dtype), clip)


REFERENCE: dict[str, Callable[..., Tensor]] = {
    "AutoContrast": tv.autocontrast,
    "Equalize": tv.equalize,
    "Invert": tv.invert,
    "Rotate": lambda clip, angle: affine(clip, angle=-angle),
    "Posterize": lambda clip, bits: tv.posterize(clip, max(1, bits)),
    "Solarize": lambda clip, threshold: tv.solarize(clip, threshold) if threshold < 256 else clip,
    "SolarizeAdd": solarize_add,
    "Color": tv.adjust_saturation,
    "Contrast": tv.adjust_contrast,
    "Brightness": tv.adjust_brightness,
    "Sharpness": tv.adjust_sharpness,
    "ShearX": lambda clip, factor: affine(clip, shear=(factor, 0.0)),
    "ShearY": lambda clip, factor: affine(clip, shear=(0.0, factor)),
    "TranslateXRel": lambda clip, share: affine(clip, across=-share),
    "TranslateYRel": lambda clip, share: affine(clip, down=-share),
    "Hue": tv.adjust_hue,
}
"""For one clip uint8 [T, 3, H, W]."""


def one_by_one(clips: Tensor, changes: list[list[Change]]) -> Tensor:
    """The result of `change_pixels`, clip by clip."""
    made = []
    for clip, own in zip(clips.permute(0, 1, 4, 2, 3), changes, strict=True):
        for change in own:
            clip = REFERENCE[change.name](clip, *change.levels)
        made.append(clip)
    return torch.stack(made).permute(0, 1, 3, 4, 2)


def pictures(clips: int, height: int = 20, width: int = 28) -> Tensor:
    """uint8 [N, 3, H, W, 3], each with a smooth and a noisy part and a plain frame."""
    g = torch.Generator().manual_seed(7)
    small = torch.randint(0, 256, (clips * 3, 3, 5, 7), generator=g).float()
    smooth = torch.nn.functional.interpolate(small, (height, width), mode="bilinear").view(clips, 3, 3, height, width)
    smooth[..., : height // 2, :4] = torch.randint(0, 256, (clips, 3, 3, height // 2, 4), generator=g).float()
    smooth[:, 2] = smooth[:, 2, :, :1, :1]
    return smooth.round().to(torch.uint8).permute(0, 1, 3, 4, 2).contiguous()


def changed(clips: Tensor, changes: list[list[Change]]) -> Tensor:
    return change_pixels(clips, group_changes(changes, (clips.shape[2], clips.shape[3])))


def strengths(name: str) -> list[tuple[float, ...]]:
    """Weak and strong ones."""
    if name in ("Color", "Contrast", "Brightness", "Sharpness"):
        return [(0.1,), (0.63,), (1.0,), (1.9,)]
    whole = {"Posterize": [(0,), (2,), (4,)], "Solarize": [(0,), (77,), (256,)], "SolarizeAdd": [(0,), (77,), (110,)]}
    plain = {
        "AutoContrast": [()],
        "Equalize": [()],
        "Invert": [()],
        "Rotate": [(-30.0,), (21.3,)],
        "Hue": [(-0.5,), (0.03,), (0.2,)],
    }
    return (whole | plain).get(name, [(-0.31,), (0.17,)])


@pytest.mark.parametrize("name", REFERENCE)
def test_a_change_is_that_of_torchvision(name: str) -> None:
    levels = strengths(name)
    clips = pictures(len(levels))
    changes = [[Change(name, one)] for one in levels]
    before = clips.clone()
    made = changed(clips, changes)
    assert torch.equal(clips, before)
    off = (made.int() - one_by_one(clips, changes).int()).abs()
    if KIND_OF[name] in ("value", "stretch", "equalize"):
        assert off.max() == 0
    # With float32, other machines may add in another order.
    assert off.max() <= 1
    assert (off > 0).float().mean() < 5e-4


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_all_that_is_drawn_for_a_batch_is_done_to_each_clip_in_its_order(settings: ClipAugmentation) -> None:
    clips = pictures(40)
    changes = draw_changes(len(clips), settings, 3)
    assert len({len(own) for own in changes}) > 1 or settings.rand_augment is None
    off = (changed(clips, changes).int() - one_by_one(clips, changes).int()).abs()
    assert (off > 0).float().mean() < 5e-4
    made = augment_pixels(clips, settings, torch.Generator().manual_seed(3))
    assert torch.equal(made, changed(clips, changes))


def test_operations_do_not_grow_with_the_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same changes for twice as many clips, and few groups for any number of separate draws."""
    settings, counts = ClipAugmentation(jitter=0.4, hue=0.2, flip=0, erase=0), []
    changes = draw_changes(16, settings, 0)
    for copies in (1, 2):
        groups = group_changes(changes * copies, (SIDE, SIDE))
        monkeypatch.setattr("modules.augment.clips.group_changes", lambda *_, groups=groups: groups)
        cost = step_cost(Classification(tiny_vit(), 2, "finetune", settings), video_batch(16 * copies))
        counts.append(sum(number for place, number in cost.places.items() if place.startswith("modules/augment/")))
    assert counts[0] == counts[1]
    assert counts[0] > 100
    several = [len(group_changes(draw_changes(count, ClipAugmentation(), 0), (32, 32))) for count in (16, 64, 1024)]
    assert several[2] <= 24


@pytest.mark.parametrize("case", DOWNSTREAM, ids=lambda case: case.name)
def test_steps_with_augmentation_neither_copy_nor_wait(case: Case) -> None:
    cost = step_cost(case.build(), case.batch())
    assert cost.copies == cost.waits == []


def test_changes_are_a_function_of_seed_epoch_and_video() -> None:
    """Drawn by the loader: the same with another batch size and in workers; none in validation."""
    method = Classification(tiny_vit(), 13, "finetune", ClipAugmentation(flip=0, erase=0))

    def augmented(batch_size: int, workers: int, epoch: int) -> dict[int, bytes]:
        clip = ClipSettings(frames=FRAMES, size=SIDE, clips=2)
        data = SyntheticMotion(clip, batch_size, LoadSettings(workers), train_videos=12, val_videos=6)
        data.preparation = method.preparation()
        loader = data.train_dataloader()
        loader.batches.sampler.set_epoch(epoch)
        found = {}
        for batch in loader:
            clips = batch.stream("video").data
            made = change_pixels(clips.flatten(0, 1), move_data_to_device(batch.prepared, torch.device("cpu")))
            for row, one in zip(batch.index.tolist(), made.unflatten(0, clips.shape[:2]), strict=True):
                found[row] = one.numpy().tobytes()
        assert all(batch.prepared is None for batch in data.val_dataloader())
        return found

    first = augmented(4, 0, 0)
    assert len(first) == 12
    assert augmented(6, 1, 0) == first
    later = augmented(4, 0, 1)
    assert sum(later[row] != first[row] for row in first) >= 11
