"""The stated length of the pooled feature is that of the output of `forward`, for all heads that use it."""

from collections.abc import Callable

import pytest
import torch

from modules.backbones.depth import Depth
from modules.backbones.vit.beit_video import BEiTVideo
from modules.backbones.vit.video_vit import VideoViT
from modules.downstream.arrow_of_time import ArrowOfTime
from modules.downstream.counting import RepetitionCounting
from modules.downstream.detection import ActionDetection
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


def test_a_beit_is_an_encoder_of_all_tasks() -> None:
    def beit() -> BEiTVideo:
        return BEiTVideo("micro", 32, 4, patch_size=8, embed_dim=32, depth=1, num_heads=1)

    torch.manual_seed(0)
    clips = torch.rand(2, 3, 4, 32, 32)
    logits, boxes = RepetitionCounting(beit())(clips)
    detection = ActionDetection(beit(), 5)
    found = detection.logits(clips, torch.tensor([[0.0, 2, 2, 20, 20], [1, 8, 8, 30, 30]]))
    assert found.shape == (2, 5)
    for method, loss in ((detection, found.square().sum()), (ArrowOfTime(beit()), None)):
        loss = method.step(video_batch(), torch.Generator())["loss"] if loss is None else loss
        loss.backward()
        # Distributed training refuses parameters without gradient.
        assert all(value.grad is not None for value in method.parameters() if value.requires_grad)
    assert logits.isfinite().all()
    assert boxes.isfinite().all()
