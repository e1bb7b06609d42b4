"""Colours and blur of pairs: one draw per clip, both forms, probabilities."""

import pytest
import torch
from torch import Tensor

from modules.augment.clip_pairs import FORMS, Look, PairAugmentation, apply, blur_size
from modules.core.batch import Batch
from modules.core.errors import SettingError

SETTINGS = PairAugmentation()


def clips(count: int = 3, frames: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, frames, 24, 20, 3), generator=generator, dtype=torch.uint8)


def test_equal_frames_stay_equal_and_clips_differ() -> None:
    still = clips(1, 1).expand(24, 4, -1, -1, -1)
    for looks in SETTINGS.draw(24, torch.Generator().manual_seed(0)):
        made = SETTINGS(still, looks)
        assert made.shape == still.shape
        assert made.dtype == torch.float32
        assert 0 <= float(made.min()) <= float(made.max()) <= 255
        assert torch.equal(made, made[:, :1].expand_as(made))
        different = sum(not torch.equal(made[one], made[other]) for one in range(24) for other in range(one))
        assert different > 0.9 * 24 * 23 / 2


def test_a_clip_without_changes_is_itself() -> None:
    one = clips(1)
    made = PairAugmentation("paper", jitter=0, grey=0)
    looks = made.draw(1000, torch.Generator().manual_seed(0))[0]
    assert {look.jitter for look in looks} == {()}
    planes = one[0].permute(3, 0, 1, 2) / 255
    assert torch.equal(apply(planes, Look()), planes)


@pytest.mark.parametrize("form", ["code", "paper"])
@pytest.mark.parametrize("view", [0, 1])
def test_probabilities_are_those_of_the_form(form: str, view: int) -> None:
    count = 8000
    looks = PairAugmentation(form).draw(count, torch.Generator().manual_seed(view))[view]  # type: ignore[arg-type]
    chances = FORMS[form][view]
    rates = {
        "jitter": (sum(bool(look.jitter) for look in looks), 0.8),
        "grey": (sum(look.grey for look in looks), 0.2),
        "blur": (sum(look.sigma is not None for look in looks), chances.blur),
        "solarise": (sum(look.solarise for look in looks), chances.solarise),
    }
    for name, (found, wanted) in rates.items():
        assert found / count == pytest.approx(wanted, abs=0.02), name
    sigmas = [look.sigma for look in looks if look.sigma is not None]
    assert 0.1 <= min(sigmas) < 0.15
    assert 1.95 < max(sigmas) <= 2
    jittered = [look for look in looks if look.jitter]
    # All orders are equally likely.
    orders = {tuple(name for name, _ in look.jitter) for look in jittered}
    assert len(orders) == 24
    assert sum(look.jitter[0][0] == "hue" for look in jittered) / len(jittered) == pytest.approx(0.25, abs=0.02)
    for name, low, high in (("brightness", 0.2, 1.8), ("contrast", 0.2, 1.8), ("saturation", 0.2, 1.8), ("hue", -0.2, 0.2)):
        factors = [dict(look.jitter)[name] for look in jittered]
        assert low <= min(factors) < low + 0.02
        assert high - 0.02 < max(factors) <= high


def test_prepared_changes_depend_on_seed_epoch_and_row_alone() -> None:
    def prepared(rows: list[int], seed: int, epoch: int | None) -> list[list[Look]]:
        batch = Batch(torch.tensor(rows), torch.zeros(len(rows)), {})
        SETTINGS.prepare(seed, batch, epoch)
        return batch.prepared

    first = prepared([3, 5], 0, 1)
    assert prepared([5, 9, 3], 0, 1)[1][::2] == first[1][::-1]
    assert first[0][0] != first[1][0]
    others = [prepared([3, 5], *key) for key in ((1, 1), (0, 2), (0, None))]
    assert all(other[view][row] != first[view][row] for other in others for view in (0, 1) for row in (0, 1))


def test_settings_out_of_range_are_named() -> None:
    with pytest.raises(SettingError, match=r"model\.augmentation\.grey is 1\.5"):
        PairAugmentation(grey=1.5)
    with pytest.raises(SettingError, match=r"model\.augmentation\.strength is 2"):
        PairAugmentation(strength=2.0)


def test_size_of_the_blur() -> None:
    assert [blur_size(height) for height in (224, 112, 32, 8)] == [23, 11, 3, 1]
