"""The projection head."""

import torch

from modules.layers.heads import ProjectionHead


def test_projection_is_linear_relu_linear() -> None:
    head = ProjectionHead(6, 5, 3)
    features = torch.randn(4, 6)
    hidden = (features @ head[0].weight.T + head[0].bias).clamp_min(0)
    assert torch.allclose(head(features), hidden @ head[2].weight.T + head[2].bias, atol=1e-6)
    assert (hidden == 0).any()


def test_projection_has_the_official_names() -> None:
    shapes = {name: tuple(value.shape) for name, value in ProjectionHead(6, 5, 3).named_parameters()}
    assert shapes == {"0.weight": (5, 6), "0.bias": (5,), "2.weight": (3, 5), "2.bias": (3,)}
