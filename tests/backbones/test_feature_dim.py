"""The stated length of the pooled feature is that of the output of `forward`, for all heads that use it."""

from collections.abc import Callable

import pytest
import torch

from modules.backbones.depth import Depth
from modules.backbones.vit.video_vit import VideoViT
from modules.downstream.arrow_of_time import ArrowOfTime
from modules.downstream.counting import RepetitionCounting
from tests.registry import tiny_cnn, tiny_vit, video_batch


def in_slices() -> VideoViT:
    """A video transformer with a feature per time slice."""
    network = tiny_vit()
    network.pooling = "time"
    return network


@pytest.mark.parametrize("build", [tiny_vit, tiny_cnn, in_slices, lambda: Depth(in_slices())])
def test_it_is_the_length_of_the_pooled_feature(build: Callable[[], torch.nn.Module]) -> None:
    network = build().eval()
    assert network(torch.zeros(1, 3, 4, 32, 32)).shape == (1, network.feature_dim)


def test_heads_fit_features_of_slices() -> None:
    batch = video_batch()
    assert ArrowOfTime(in_slices()).step(batch, torch.Generator())["loss"].isfinite()
    counting = RepetitionCounting(in_slices())
    logits, boxes = counting(torch.zeros(2, 3, 4, 32, 32))
    assert logits.shape[:3] == (2, 2, 2)
    assert boxes.shape[:2] == (2, 2)
