"""Positions of points: correct directions, deterministic."""

import sys

import pytest
import torch

from modules.core.errors import SettingError
from modules.feature_map.layout import lay_out, pca


@pytest.mark.parametrize("shape", [(40, 6), (6, 40)])
def test_pca_is_that_of_the_singular_values(shape: tuple[int, int]) -> None:
    feature = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * torch.linspace(3, 1, shape[1]) + 5
    place, shares = pca(feature)
    left, values, _ = torch.linalg.svd(feature.double() - feature.double().mean(0), full_matrices=False)
    wanted = (left * values)[:, :2].float()
    assert torch.allclose(place.abs(), wanted.abs(), atol=1e-4)
    assert shares == pytest.approx((values[:2] ** 2 / (values**2).sum()).tolist(), rel=1e-6)
    assert all(float(axis[axis.abs().argmax()]) > 0 for axis in place.T)


def test_pca_of_single_numbers_and_of_two_points() -> None:
    place, shares = pca(torch.tensor([[1.0], [2.0], [4.0]]))
    assert place.shape == (3, 2)
    assert shares == (1, 0)
    place, shares = pca(torch.tensor([[0.0, 0, 0], [0, 3, 4]]))
    assert torch.allclose(place, torch.tensor([[-2.5, 0], [2.5, 0]]), atol=1e-5) or torch.allclose(
        place, torch.tensor([[2.5, 0], [-2.5, 0]]), atol=1e-5
    )
    assert shares == pytest.approx((1, 0))


def test_a_missing_umap_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(SettingError, match=r"needs umap-learn \(.*\); install it with pip install -e \.\[map\], or pass"):
        lay_out(torch.eye(10), "umap")
    with pytest.raises(SettingError, match="--method umap needs 8 points, but there are 5; pass --method pca"):
        lay_out(torch.eye(5), "umap")


@pytest.mark.slow
def test_umap_keeps_groups_together_and_is_the_same_each_time() -> None:
    pytest.importorskip("umap")
    group = torch.arange(60) % 2
    feature = torch.eye(8)[group] + 0.05 * torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    place = lay_out(feature, "umap").place
    centres = torch.stack([place[group == number].mean(0) for number in (0, 1)])
    assert torch.equal(torch.cdist(place, centres).argmin(1), group)
    assert torch.equal(place, lay_out(feature, "umap").place)
    # The minimum number.
    assert lay_out(feature[:8], "umap").place.isfinite().all()
