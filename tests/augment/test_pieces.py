"""Motion of frames, draws by weight, and features of pieces, against loops."""

import pytest
import torch

from modules.augment.pieces import (
    check_pieces,
    cut_pieces,
    draw_by_weight,
    encode_pieces,
    mean_feature,
    motion_scores,
    runs,
    uniform_whole,
    window_means,
)
from modules.backbones.cnn.caffenet import CaffeNet
from modules.core.errors import SettingError
from tests.registry import tiny_cnn, tiny_vit

CLIP = torch.randint(0, 256, (2, 6, 24, 24, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_motion_is_the_mean_difference_from_the_neighbours() -> None:
    scores = motion_scores(CLIP)
    frames = CLIP.double()
    for clip in range(2):
        for frame in range(6):
            near = [other for other in (frame - 1, frame + 1) if 0 <= other < 6]
            expected = sum((frames[clip, frame] - frames[clip, other]).abs().mean() for other in near) / len(near)
            assert float(scores[clip, frame]) == pytest.approx(float(expected), rel=1e-5)
    assert not motion_scores(CLIP[:, :1].expand(-1, 4, -1, -1, -1)).any()
    assert motion_scores(CLIP[:, :1]).tolist() == [[0], [0]]
    assert torch.allclose(window_means(scores, 3)[:, 2], scores[:, 2:5].mean(1))


def test_places_are_drawn_in_proportion_to_their_weight() -> None:
    weight = torch.tensor([0.0, 1.0, 3.0]).expand(8000, -1)
    found = draw_by_weight(weight, torch.Generator().manual_seed(0)).bincount(minlength=3)
    assert found[0] == 0
    assert float(found[2] / 8000) == pytest.approx(0.75, abs=0.02)


def test_whole_numbers_are_uniform_with_both_ends() -> None:
    low, high = torch.full((6000,), 2), torch.full((6000,), 4)
    found = uniform_whole(low, high, torch.Generator().manual_seed(0)).bincount(minlength=5)
    assert found[:2].tolist() == [0, 0]
    assert (found[2:] > 1850).all()


def test_pieces_are_encoded_each_on_its_own() -> None:
    torch.manual_seed(0)
    net = CaffeNet(6, stem="small").eval()
    index = runs(torch.tensor([[3, 0], [4, 2]]), 2)
    assert index.tolist() == [[[3, 4], [0, 1]], [[4, 5], [2, 3]]]
    pieces = cut_pieces(CLIP, index)
    with torch.no_grad():
        found = encode_pieces(net, pieces)
        for clip in range(2):
            for place in range(2):
                own = CLIP[clip, index[clip, place]]
                assert torch.equal(pieces[clip, place], own)
                assert torch.allclose(found[clip, place], net(net.preprocess(own[None]))[0], atol=1e-5)
        # Five frames and crops of 22 px: two pieces of two frames.
        mean = mean_feature(net, CLIP[:, :5], 2, 2)
        inner = CLIP[:, :, 1:23, 1:23]
        expected = (net(net.preprocess(inner[:, :2])) + net(net.preprocess(inner[:, 2:4]))) / 2
    assert torch.allclose(mean, expected, atol=1e-5)


def test_encoders_that_take_other_pieces_are_refused() -> None:
    check_pieces(tiny_cnn(), "model.frames", 4)
    with pytest.raises(SettingError, match=r"model\.frames is 1, but VideoResNet takes clips of 4 frames or more; .*CaffeNet"):
        check_pieces(tiny_cnn(), "model.frames", 1)
    with pytest.raises(SettingError, match=r"model\.frames is 2 but model\.backbone\.num_frames is 4"):
        check_pieces(tiny_vit(), "model.frames", 2)
