"""SkeletonContrast: comparisons, queues, momentum copies, and files."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from modules.backbones.skeleton.base import SkeletonEncoder
from modules.backbones.skeleton.gcn import AGCN
from modules.backbones.skeleton.gru import BiGRU
from modules.backbones.skeleton.hcn import HCN
from modules.core.batch import unlabelled
from modules.core.errors import SettingError
from modules.layers.contrast.momentum_contrast import ContrastSettings
from modules.losses.contrast import Contrast, contrast_logits
from modules.methods.skeleton_contrast import SHOWN_CLIPS, SHOWN_FRAMES, SkeletonContrast
from modules.training.optim import SGDSettings
from modules.weights.names.skeleton_contrast import to_official

KEYS, CLIPS, FRAMES = 12, 4, 16
PAIRS = {
    "sequence and graph": (lambda: BiGRU(6, 2), lambda: AGCN(4)),
    "sequence and image": (lambda: BiGRU(6, 2), lambda: HCN(4, FRAMES)),
    "graph and image": (lambda: AGCN(4), lambda: HCN(4, FRAMES)),
    "sequence alone": (lambda: BiGRU(6, 2), lambda: None),
}
everywhere = pytest.mark.parametrize("pair", PAIRS)


def build(pair: str = "sequence and graph", seed: int = 0, init_from: str | None = None, **settings: float) -> SkeletonContrast:
    torch.manual_seed(seed)
    first, second = PAIRS[pair]
    contrast = ContrastSettings(**{"out_dim": 8, "queue_size": KEYS, "temperature": 0.07, "shuffle": False} | settings)  # type: ignore[arg-type]
    return SkeletonContrast(first(), second(), contrast=contrast, init_from=init_from)


def views(seed: int = 0) -> tuple[Tensor, Tensor]:
    one, other = torch.randn(2, CLIPS, 3, FRAMES, 25, 2, generator=torch.Generator().manual_seed(seed))
    return one, other


def losses(found: list[Contrast]) -> list[float]:
    return [float(one.loss.detach()) for one in found]


@everywhere
def test_step_of_every_pair(pair: str) -> None:
    method = build(pair)
    skeleton = torch.stack(views(), dim=1)
    output = method.step(unlabelled(skeleton, "skeleton"), torch.Generator().manual_seed(0))
    output["loss"].backward()
    assert output["loss"].isfinite()
    assert set(output["log"]) == ({"top1"} if pair == "sequence alone" else {"top1", "partner_top1"})
    assert torch.equal(output["show"]["plain_skeleton"], skeleton[:, 0])
    assert not torch.equal(output["show"]["skeleton"], skeleton[:, 0])
    assert not torch.equal(output["show"]["key_skeleton"], skeleton[:, 1])


def test_queries_are_compared_with_keys_and_queue_of_the_other_encoder() -> None:
    method = build().eval()
    assert method.partner_contrast is not None
    before = losses(method.compare(*views()))
    for changed, contrast in enumerate((method.contrast, method.partner_contrast)):
        kept = contrast.queue.keys.clone()
        contrast.queue.keys.copy_(kept.roll(1, 1))
        after = losses(method.compare(*views()))
        contrast.queue.keys.copy_(kept)
        # Queue 1 is only used for queries of the second encoder, and queue 2 for those of the first.
        assert after[changed] == before[changed]
        assert after[1 - changed] != before[1 - changed]
    # The positives too.
    for parameter in method.partner_contrast.key_head.parameters():
        parameter.zero_()
    after = losses(method.compare(*views()))
    assert (after[0] == before[0], after[1] == before[1]) == (False, True)


def test_alone_an_encoder_is_compared_with_itself() -> None:
    method = build("sequence alone")
    again = build("sequence alone")
    (found,) = method.compare(*views())
    expected = again.contrast(again.backbone, *views(), torch.Generator())
    assert torch.equal(found.loss, expected.loss)
    assert torch.equal(method.contrast.queue.keys, again.contrast.queue.keys)


def test_loss_of_a_method_that_knows_nothing() -> None:
    method = build(temperature=1e4).eval()
    assert sum(losses(method.compare(*views()))) == pytest.approx(2 * math.log(KEYS + 1), rel=1e-3)
    query, key, queue = torch.eye(8)[:4], torch.eye(8)[4:], torch.randn(KEYS, 8)
    assert contrast_logits(query, key, queue, 1).shape == (4, KEYS + 1)
    assert not contrast_logits(query, key, queue, 1)[:, 0].any()


def test_queues_are_read_before_they_are_written_and_wrap() -> None:
    method, still = build(), build()
    # Batch norm of both is in training mode; the second one does not update its statistics.
    for contrast in (still.contrast, still.partner_contrast):
        contrast.remember = lambda keys: None  # type: ignore
    kept = [method.contrast.queue.keys.clone()]
    for number in range(4):
        assert int(method.contrast.queue.pointer) == number * CLIPS % KEYS
        found = losses(method.compare(*views(number)))
        kept.append(method.contrast.queue.keys.clone())
        if number == 0:
            assert found == losses(still.compare(*views(number)))
        rows = (kept[-1] != kept[-2]).any(1).nonzero().flatten()
        first = number * CLIPS % KEYS
        assert rows.tolist() == list(range(first, first + CLIPS))
    assert method.partner_contrast is not None
    assert torch.equal(method.partner_contrast.queue.pointer, method.contrast.queue.pointer)
    assert not torch.equal(method.partner_contrast.queue.keys, method.contrast.queue.keys)


@pytest.mark.parametrize("momentum", [0.9, 1.0])
def test_slow_copies_move_once_per_step(momentum: float) -> None:
    method = build(momentum=momentum)
    for part in (method.backbone, method.partner, method.contrast.head, method.partner_contrast.head):  # type: ignore[union-attr]
        for value in part.parameters():  # type: ignore[union-attr]
            value.data.add_(0.1 * torch.randn_like(value))
    slow = {name: value.clone() for name, value in method.named_parameters() if "key_" in name}
    online = dict(method.named_parameters())
    sum(one.loss for one in method.compare(*views())).backward()  # type: ignore[union-attr]
    assert len(slow) * 2 == len(online)
    for name, before in slow.items():
        query = name.replace("partner_contrast.key_backbone", "partner").replace("contrast.key_backbone", "backbone")
        expected = momentum * before + (1 - momentum) * online[query.replace("key_head", "head")]
        assert torch.allclose(online[name], expected, atol=1e-7), name
        assert online[name].grad is None
        assert torch.equal(online[name], before) == (momentum == 1), name
    method.eval()
    before = {name: online[name].clone() for name in slow}
    method.compare(*views())
    assert all(torch.equal(online[name], value) for name, value in before.items())


@pytest.mark.parametrize("network", [BiGRU(128, 1), AGCN(64), HCN(16)], ids=["sequence", "graph", "image"])
def test_heads_start_as_the_official_ones_do(network: SkeletonEncoder) -> None:
    method = SkeletonContrast(network, contrast=ContrastSettings(queue_size=8))
    last = method.contrast.head[2]
    deviation = 0.125 if isinstance(network, AGCN) else math.sqrt(2 / (network.embed_dim + 128))
    assert float(last.weight.detach().std()) == pytest.approx(deviation, rel=0.02)
    assert bool(last.bias.any()) == (not isinstance(network, HCN))
    slow = method.contrast.key_head.state_dict()
    assert all(torch.equal(slow[name], value) for name, value in method.contrast.head.state_dict().items())


@everywhere
def test_official_and_own_files_start_the_whole_method(pair: str, tmp_path: Path) -> None:
    method = build(pair)
    method.compare(*views())
    official = {f"module.{key}": value for key, value in to_official(method.state_dict()).items()}
    alone = pair == "sequence alone"
    queues = {"queue", "queue_ptr"} if alone else {"Queue_S1", "queue_ptr_S1", "Queue_S2", "queue_ptr_S2"}
    branches = {"encoder_q", "encoder_k"} | (set() if alone else {"encoder_r", "encoder_l"})
    assert {key.split(".")[1] for key in official} == queues | branches
    assert official["module.queue" if alone else "module.Queue_S1"].shape == (8, KEYS)
    torch.save({"epoch": 451, "state_dict": official}, tmp_path / "checkpoint_0450.pth.tar")
    torch.save({"state_dict": method.state_dict()}, tmp_path / "last.ckpt")
    for file in ("checkpoint_0450.pth.tar", "last.ckpt"):
        loaded = build(pair, seed=1, init_from=str(tmp_path / file)).state_dict()
        for name, value in method.state_dict().items():
            assert torch.equal(loaded[name], value), name


def test_a_file_of_another_pair_is_an_error(tmp_path: Path) -> None:
    torch.save({"state_dict": to_official(build("sequence and image").state_dict())}, tmp_path / "a.pth")
    with pytest.raises(SettingError, match=r"a\.pth does not fit this SkeletonContrast"):
        build("sequence and graph", init_from=str(tmp_path / "a.pth"))


def test_features_are_those_of_the_first_encoder_and_first_view() -> None:
    method = build().eval()
    one, other = views()
    batch = unlabelled(torch.stack([one, other], dim=1), "skeleton")
    assert torch.equal(method.embed(batch), method.backbone(one))  # type: ignore[arg-type]


def test_pictures_show_a_few_clips_and_frames() -> None:
    skeleton = torch.randn(SHOWN_CLIPS + 2, 3, 50, 25, 2)
    pictures = build().pictures({"show": dict.fromkeys(("skeleton", "key_skeleton", "plain_skeleton"), skeleton)})
    assert set(pictures) == {"plain", "query", "key"}
    assert all(len(video) == SHOWN_CLIPS and SHOWN_FRAMES / 2 < video.shape[1] <= SHOWN_FRAMES for video in pictures.values())


def test_rates_of_the_official_runs() -> None:
    settings = SGDSettings(milestones=[251, 351])
    factor = settings.factor(0, 351, 0)
    peak = settings.rates(64)[0]
    assert [peak * factor(epoch) for epoch in (0, 250, 251, 350, 351)] == pytest.approx([0.01, 0.01, 1e-3, 1e-3, 1e-4])
    assert SGDSettings(milestones=[4]).factor(2, 9, 0)(1) == 0.75
    assert "a tenth of it from each of the epochs [251, 351]" in settings.describe(0, 1)
    assert "cosine" in SGDSettings().describe(0, 1)
