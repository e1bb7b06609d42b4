"""Shuffle & Learn, OPN and Odd-One-Out: what is shown and asked, slow references, settings that do not fit."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.generated.motion import SyntheticMotion
from datamodules.video.sampling import ClipSettings
from modules.augment.frames import FrameAugmentation
from modules.augment.pieces import motion_scores
from modules.backbones.cnn.caffenet import CaffeNet
from modules.core.errors import SettingError
from modules.methods.odd_one_out import (
    OddHead,
    OddOneOut,
    SequenceSettings,
    draw_odd_orders,
    draw_sequences,
    fuse_differences,
    nth_permutations,
)
from modules.methods.opn import OPN, ORDERS, PAIRS, draw_orders, draw_places, labels_of
from modules.methods.shuffle_and_learn import ShuffleAndLearn, Triples, TripleSettings, VerificationHead, draw_triples
from tests.backbones.test_caffenet import slow_caffenet
from tests.registry import CROPS, METHODS, tiny_caffenet, tiny_cnn, tiny_vit, video_batch

CPU = torch.device("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chi_square(counts: Tensor) -> float:
    """Of counts against the uniform distribution."""
    expected = counts.sum() / len(counts)
    return float(((counts - expected) ** 2 / expected).sum())


# --- Shuffle & Learn ---


def many(settings: TripleSettings, frames: int = 40, count: int = 3000) -> Triples:
    scores = torch.rand(count, frames, generator=generator(1))
    return draw_triples(scores, settings, generator())


@pytest.mark.parametrize("width", [1, 3])
def test_the_middle_is_inside_or_outside_of_the_same_ends(width: int) -> None:
    """Statement 6."""
    settings = TripleSettings(5, 12, frames=width)
    found = many(settings)
    b, c, d, out = found.first, found.inside, found.last, found.outside
    assert ((b + width <= c) & (c + width <= d)).all()
    assert ((d - b >= 2 * width) & (d - b <= 12)).all()
    near = max(5, width)
    assert ((out <= b - near) | (out >= d + near)).all()
    assert ((out >= 0) & (out + width <= 40) & (b >= 0) & (d + width <= 40)).all()
    shown = torch.where(found.reverse[:, None], found.shown().flip(1), found.shown())
    middle = torch.where(found.in_order, c, out)
    assert torch.equal(shown, torch.stack([b, middle, d], dim=1))
    assert {int(value) for value in (d - b).unique()} == set(range(2 * width, 13))
    assert float(found.in_order.float().mean()) == pytest.approx(0.25, abs=0.03)
    assert float(found.reverse.float().mean()) == pytest.approx(0.5, abs=0.03)
    # Both sides occur.
    assert 0.3 < float((out < b).float().mean()) < 0.7


def test_ends_say_nothing_about_the_answer() -> None:
    found = many(TripleSettings(2, 6), frames=14, count=8000)
    for ends in (found.first, found.last):
        share = [ends[found.in_order == answer].bincount(minlength=14) / (found.in_order == answer).sum() for answer in (0, 1)]
        assert (share[0] - share[1]).abs().max() < 0.03


def test_ends_are_where_the_clip_moves() -> None:
    scores = torch.zeros(2000, 40)
    scores[:, 20:26] = 10
    found = draw_triples(scores, TripleSettings(3, 5), generator())
    still = draw_triples(scores, TripleSettings(3, 5, motion=False), generator())
    moving = [float(((one.last >= 20) & (one.first < 26)).float().mean()) for one in (found, still)]
    assert moving[0] > 0.85
    assert moving[1] < 0.4


@pytest.mark.parametrize(
    ("count", "settings"), [(4, TripleSettings(1, 60)), (5, TripleSettings(2, 60)), (12, TripleSettings(2, 9, frames=3))]
)
def test_the_shortest_clips(count: int, settings: TripleSettings) -> None:
    assert settings.needed == count
    found = many(settings, frames=count, count=200)
    assert (found.last + settings.frames <= count).all()
    with pytest.raises(
        SettingError, match=rf"Clips of {count - 1} frames are too short .* data\.clip\.frames to {count} or more"
    ):
        many(settings, frames=count - 1)


def test_shuffle_and_learn_is_its_slow_reference() -> None:
    torch.manual_seed(0)
    net = CaffeNet(6, norm="plain", image_size=44)
    method = ShuffleAndLearn(net, TripleSettings(1, 4), hidden=10, flip=0.0)
    batch = video_batch(3, seed=2)
    clip = torch.randint(0, 256, (3, 1, 9, 44, 44, 3), generator=generator(3), dtype=torch.uint8)
    batch.streams["video"].data = clip  # type: ignore[union-attr]
    method.step(batch, generator(4))  # moves the statistics of batch norm
    method.eval()
    with torch.no_grad():
        found = method.step(batch, generator(5))
        loss = torch.zeros(())
        head = method.pretext
        for sample in range(3):
            three = []
            for frame in found["show"]["index"][sample, :, 0].tolist():
                picture = net.preprocess(clip[sample, 0, frame][None, None])[:, :, 0]
                hidden = slow_caffenet(net, picture).flatten(1)
                for layer in (head.fc6, head.fc7):
                    norm: Any = layer[1]
                    hidden = hidden @ layer[0].weight.T
                    hidden = ((hidden - norm.running_mean) / (norm.running_var + 1e-5).sqrt()).clamp_min(0)
                three.append(hidden)
            logits = torch.cat(three, dim=1) @ head.fc8.weight.T + head.fc8.bias
            loss += -logits.log_softmax(1)[0, found["show"]["label"][sample]] / 3
            assert torch.allclose(logits.softmax(1)[0], found["show"]["probability"][sample], atol=1e-5)
    assert float(found["loss"]) == pytest.approx(float(loss), rel=1e-5)


# --- OPN ---


def test_classes_cover_all_orders_once_with_their_reverse() -> None:
    """Statement 4."""
    assert labels_of(torch.tensor([[3, 2, 1, 0], [0, 1, 2, 3]])).tolist() == [0, 0]
    orders = torch.tensor(list(itertools.permutations(range(4))))
    labels = labels_of(orders)
    assert labels.bincount().tolist() == [2] * 12
    assert torch.equal(labels, labels_of(orders.flip(1)))
    assert torch.equal(labels_of(torch.tensor(ORDERS)), torch.arange(12))
    assert sorted(tuple(sorted(pair)) for pair in PAIRS) == list(itertools.combinations(range(4), 2))


def test_classes_and_directions_are_uniform() -> None:
    label, order = draw_orders(6000, generator(), CPU)
    assert torch.equal(labels_of(order), label)
    # The 99.9 % quantile of 23 degrees of freedom.
    assert chi_square((order * torch.tensor([64, 16, 4, 1])).sum(1).unique(return_counts=True)[1]) < 49.7


@pytest.mark.parametrize("width", [1, 3])
def test_pieces_are_in_order_and_do_not_overlap(width: int) -> None:
    scores = torch.rand(500, 18, generator=generator(1))
    place = draw_places(scores, width, True, generator())
    assert ((place[:, 1:] - place[:, :-1]) >= width).all()
    assert ((place >= 0) & (place + width <= 18)).all()
    # 18 frames have quarters of 4.
    assert (place // 4 == torch.arange(4)).all()


def test_opn_shows_the_frames_in_the_order_of_the_class() -> None:
    method = OPN(tiny_caffenet(), CROPS, hidden=8, flip=0.0)
    clip = torch.arange(8, dtype=torch.uint8).view(8, 1, 1, 1).expand(5, 1, 8, 32, 32, 3)
    batch = video_batch(5)
    batch.streams["video"].data = clip  # type: ignore[union-attr]
    output = method.step(batch, generator())
    shown = output["show"]["pieces"][:, :, 0, 0, 0, 0].long()
    assert torch.equal(shown.argsort(1).argsort(1), output["show"]["order"])
    assert torch.equal(shown, output["show"]["index"][:, :, 0])
    assert output["show"]["pieces"].shape == (5, 4, 1, 28, 28, 3)


# --- Odd-One-Out ---


@pytest.mark.parametrize("frames", [3, 4, 5])
def test_permutations_are_numbered_lexicographically(frames: int) -> None:
    every = torch.tensor(list(itertools.permutations(range(frames))))
    assert torch.equal(nth_permutations(torch.arange(math.factorial(frames)), frames), every)


def test_the_odd_order_is_any_other_than_sorted_and_reversed() -> None:
    """Statement 7, of the order."""
    for frames, count in ((3, 200), (6, 3000), (20, 200)):
        order = draw_odd_orders(count, frames, generator(), CPU)
        assert torch.equal(order.sort(1).values, torch.arange(frames).expand(count, -1))
        sorted_ = torch.arange(frames)
        assert not (order == sorted_).all(1).any()
        assert not (order == sorted_.flip(0)).all(1).any()
    four = draw_odd_orders(6600, 4, generator(), CPU)
    counts = (four * torch.tensor([64, 16, 4, 1])).sum(1).unique(return_counts=True)[1]
    assert len(counts) == 22
    # The 99.9 % quantile of 21 degrees of freedom.
    assert chi_square(counts) < 46.8


def test_one_sub_sequence_is_odd_and_its_index_is_uniform() -> None:
    """Statement 7, of the index: 6000 draws."""
    method = OddOneOut(tiny_caffenet("stack_of_differences", 6), hidden=8).eval()
    # Nothing is looked at: clips of a single pixel, and an encoder and a head that return zeros.
    method.backbone.forward = lambda video: torch.zeros(len(video), 1)  # type: ignore[method-assign, assignment]
    method.pretext.forward = lambda features: torch.zeros(len(features), 6)  # type: ignore[method-assign, assignment]
    batch, odd = video_batch(1), []
    batch.streams["video"].data = torch.zeros(1500, 1, 12, 1, 1, 3, dtype=torch.uint8)  # type: ignore[union-attr]
    for seed in range(4):
        show = method.step(batch, generator(seed))["show"]
        index, label = show["index"], show["label"]
        steps = index[..., 1:] - index[..., :-1]
        in_order = (steps == 1).all(2)
        assert torch.equal(in_order, label[:, None] != torch.arange(6))
        turned = index.gather(1, label[:, None, None].expand(-1, 1, 6))[:, 0]
        assert (turned.amax(1) - turned.amin(1) == 5).all(), "taken by the same rule"
        # A window of 9 frames.
        assert (index.flatten(1).amax(1) - index.flatten(1).amin(1) < 9).all()
        odd.append(label)
    # The 99.9 % quantile of 5 degrees of freedom.
    assert chi_square(torch.cat(odd).bincount(minlength=6).float()) < 20.5


@pytest.mark.parametrize("sampling", ["consecutive", "sorted", "constrained"])
def test_sub_sequences_of_each_rule(sampling: Any) -> None:
    settings = SequenceSettings(2, 4, sampling, window=1.5)
    scores = torch.ones(400, 12)
    scores[:, 8:] = 20
    found = draw_sequences(scores, settings, generator())
    steps = found[..., 1:] - found[..., :-1]
    assert found.shape == (400, 3, 4)
    assert ((found >= 0) & (found < 12)).all()
    assert (steps == 1).all() if sampling != "sorted" else ((steps >= 1).all() and (steps > 1).any())
    places = found[..., 0].unique().tolist()
    assert places == list(range(9))
    last = float((found[..., 0] >= 5).float().mean())
    assert (last > 0.5) == (sampling == "constrained"), "windows are where the clip moves"


def test_odd_one_out_is_its_slow_reference() -> None:
    torch.manual_seed(0)
    features = torch.randn(3, 4, 5)
    expected = torch.zeros(3, 5)
    for i, j in itertools.combinations(range(4), 2):
        expected += features[:, j] - features[:, i]
    assert torch.allclose(fuse_differences(features), expected, atol=1e-5)
    for fusion in ("sumdiff", "concat"):
        head = OddHead(5, 4, 6, fusion).eval()  # type: ignore[arg-type]
        each = [(head.fc6.weight @ features[sample].T + head.fc6.bias[:, None]).clamp_min(0).T for sample in range(3)]
        for sample, own in enumerate(each):
            pairs = [own[j] - own[i] for i, j in itertools.combinations(range(4), 2)]
            fused = torch.stack(pairs).sum(0) if fusion == "sumdiff" else torch.cat(list(own))
            logits = head.fc8((head.fc7.weight @ fused + head.fc7.bias).clamp_min(0))
            assert torch.allclose(head(features)[sample], logits, atol=1e-5), fusion


# --- All three ---

BUILD = {case.name: case.build for case in METHODS if case.name in ("Shuffle & Learn", "OPN", "Odd-One-Out")}


def on_clips(name: str, vit: bool) -> Any:
    """The method on clips of four frames in place of frames."""
    backbone = tiny_vit() if vit else tiny_cnn()
    if name == "Shuffle & Learn":
        return ShuffleAndLearn(backbone, TripleSettings(4, 8, frames=4), hidden=8, flip=0.0)
    if name == "OPN":
        return OPN(backbone, FrameAugmentation(split=True), 4, hidden=8, flip=0.0)
    return OddOneOut(backbone, SequenceSettings(3, 4), hidden=8, flip=0.0)


@pytest.mark.parametrize("vit", [False, True])
@pytest.mark.parametrize("name", BUILD)
def test_encoders_of_clips_take_the_place_of_those_of_frames(name: str, vit: bool) -> None:
    method = on_clips(name, vit)
    batch = video_batch(2)
    batch.streams["video"].data = torch.randint(0, 256, (2, 1, 16, 32, 32, 3), generator=generator(), dtype=torch.uint8)  # type: ignore[union-attr]
    output = method.step(batch, generator())
    output["loss"].backward()
    assert all(value.grad is not None for value in method.parameters())
    assert method.embed(batch).shape == (2, method.backbone.feature_dim)
    assert set(method.pictures(output)) == {"clip", "captioned"}
    assert {"top1", "chance"} == output["log"].keys()


@pytest.mark.parametrize("name", BUILD)
def test_time_order_is_all_that_counts(name: str) -> None:
    """Of a still clip, every answer is a guess: the logits depend on crops and channels only, and without them not at all."""
    method = BUILD[name]().eval()
    method.augmentation = FrameAugmentation()  # type: ignore[assignment]
    batch = video_batch(4)
    data = batch.stream("video").data
    batch.streams["video"].data = data[:1, :, :1].expand(4, -1, 12, -1, -1, -1)  # type: ignore[union-attr]
    show = method.step(batch, generator())["show"]
    assert not motion_scores(show["clip"][:1]).any()
    if "found" in show:
        assert len(set(show["found"].tolist())) <= 2, "mirrored or not"
    else:
        assert len({tuple(round(p, 4) for p in row) for row in show["probability"].tolist()}) <= 2


@pytest.mark.parametrize("name", BUILD)
def test_clips_that_are_too_short_or_small_are_refused_before_training(name: str) -> None:
    method: Any = on_clips(name, vit=False)

    class Trainer:
        datamodule = SyntheticMotion(ClipSettings(frames=4, size=32), 2, train_videos=2, val_videos=2)

    method.__dict__["_trainer"] = Trainer()
    with pytest.raises(SettingError, match=r"Clips of 4 frames are too short for .*; set data\.clip\.frames to \d+ or more"):
        method.check_clip()
    small = type(method)(CaffeNet(4, stem="small", image_size=40, window=6)) if name != "Odd-One-Out" else None
    if small is not None:
        Trainer.datamodule = SyntheticMotion(ClipSettings(frames=80, size=32), 2, train_videos=2, val_videos=2)
        small.__dict__["_trainer"] = Trainer()
        with pytest.raises(SettingError, match=r"data\.clip\.size 32 less model\.augmentation\.margin .*image_size is 40"):
            small.check_clip()


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(SettingError, match=r"model\.triples\.far is 3, which leaves no room .* 2 frame"):
        TripleSettings(far=3, frames=2)
    with pytest.raises(SettingError, match=r"model\.sequences\.even is 4: the sum of differences of 5 sub-sequences"):
        OddOneOut(tiny_caffenet("stack_of_differences", 6), SequenceSettings(4))
    OddOneOut(tiny_caffenet("stack_of_differences", 6), SequenceSettings(4), fusion="concat", hidden=4)
    with pytest.raises(SettingError, match=r"model\.sequences\.frames"):
        SequenceSettings(frames=2)
    with pytest.raises(SettingError, match=r"encoding is frames, .* does not depend on their order; set it to stack_of"):
        OddOneOut(tiny_caffenet())


def test_the_head_of_shuffle_and_learn_has_published_sizes() -> None:
    with torch.device("meta"):
        head = VerificationHead(9216, 4096)
    assert head.fc8.weight.shape == (2, 12288)
    assert not list(head.fc6[1].parameters())
