"""Facts about SEVERE's protocol that belong to no other test: names, sizes of subsets, batches and rates."""

import numpy as np
import pytest
import torch

from datamodules.lists.manifest import Manifest
from datamodules.loading.loader import EpochSampler
from modules.backbones.cnn.resnet import VideoResNet
from modules.downstream.counting import counting_errors
from modules.severe.published import COLUMNS, PUBLISHED, severe_score
from modules.weights.names.cnn.video_cnn import to_official


def test_encoder_has_222_names_that_map_one_to_one() -> None:
    with torch.device("meta"):
        own = {f"backbone.{name}": value for name, value in VideoResNet("r2plus1d_18").state_dict().items()}
    assert len(own) == len(to_official(own)) == 222


@pytest.mark.parametrize(
    ("classes", "fewest", "wanted", "per_class"),
    [(101, 75, 1000, 10), (101, 75, 2000, 20), (101, 75, 4000, 40), (99, 47, 1000, 11), (99, 47, 2000, 21), (99, 47, 4000, 41)],
)
def test_low_shot_counts_of_ucf101_and_gym99(
    classes: int, fewest: int, wanted: int, per_class: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(classes), fewest + np.arange(classes)))
    manifest = Manifest(".", [f"{row}.mp4" for row in range(len(labels))], labels)  # type: ignore[arg-type]
    few = manifest.few(wanted, 99999)
    assert np.bincount(few.labels).tolist() == [per_class] * classes
    # Of other processes and ranks: random numbers outside play no role.
    np.random.seed(7)  # noqa: NPY002
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert list(manifest.few(wanted, 99999).paths) == list(few.paths)


def test_two_processes_of_16_take_the_steps_of_one_of_32() -> None:
    alone, *both = [[key.row for key in EpochSampler(1024, 100, True, rank, world)] for rank, world in ((0, 1), (0, 2), (1, 2))]
    assert sorted(both[0] + both[1]) == list(range(1024))
    for step in range(32):
        joined = [row for part in both for row in part[16 * step : 16 * (step + 1)]]
        assert set(joined) == set(alone[32 * step : 32 * (step + 1)])


def test_counts_are_rounded_half_to_even_and_off_by_one_is_near_enough() -> None:
    counts, true = torch.tensor([2.5, 3.5, 4.4, 10.6], dtype=torch.float64), torch.tensor([2, 3, 5, 9])
    errors = counting_errors(counts, true)
    assert errors["MAE"].item() == pytest.approx((0 + 1 / 3 + 1 / 5 + 2 / 9) / 4)
    assert errors["OBO"].item() == pytest.approx(3 / 4)


def test_scores_of_the_published_pages() -> None:
    assert severe_score(dict(zip(COLUMNS, PUBLISHED["vit"]["SVT"], strict=True))) == pytest.approx(51.0125)
    sigma = (*PUBLISHED["vit"]["SIGMA (DINO)"][:7], 23.3)
    assert severe_score(dict(zip(COLUMNS, sigma, strict=True))) == pytest.approx(64.2625)
