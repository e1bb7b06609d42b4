"""Encoders of skeletons: forms of the input, shapes, and files."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from modules.backbones.skeleton.base import BONES, SkeletonEncoder, adjacency
from modules.backbones.skeleton.gcn import AGCN, GraphConv
from modules.backbones.skeleton.gru import BiGRU, to_sequence
from modules.backbones.skeleton.hcn import HCN, motion
from modules.core.errors import SettingError
from modules.weights.names.skeleton_contrast import gru_to_official

TINY = {"bigru": lambda: BiGRU(6, 2), "agcn": lambda: AGCN(4), "hcn": lambda: HCN(4, 16)}
everywhere = pytest.mark.parametrize("name", TINY)


def skeletons(clips: int = 3, frames: int = 16, seed: int = 0) -> Tensor:
    return torch.randn(clips, 3, frames, 25, 2, generator=torch.Generator().manual_seed(seed))


def build(name: str, seed: int = 0) -> SkeletonEncoder:
    torch.manual_seed(seed)
    return TINY[name]().eval()


@torch.no_grad()
def features(network: SkeletonEncoder, clips: Tensor) -> Tensor:
    return network(clips)


def test_columns_of_the_sequence() -> None:
    clips = skeletons(2, 64)
    rows = to_sequence(clips)
    assert rows.shape == (2, 64, 150)
    for t, v, c, m in [(0, 0, 0, 0), (5, 7, 2, 1), (63, 24, 1, 0)]:
        assert torch.equal(rows[:, t, 6 * v + 2 * c + m], clips[:, c, t, v, m])


def test_sums_of_the_graphs() -> None:
    graphs = adjacency()
    assert graphs.sum((1, 2)).tolist() == [25, 24, 20]
    assert graphs[2, 1, 20] == 0.25
    assert len(BONES) == len({child for child, _ in BONES}) == 24


@pytest.mark.parametrize(
    ("network", "width", "parameters"), [(BiGRU, 2048, 45_260_928), (AGCN, 256, 3_486_986), (HCN, 4096, 1_043_840)]
)
def test_published_sizes(network: type[SkeletonEncoder], width: int, parameters: int) -> None:
    with torch.device("meta"):
        encoder, classifier = network(), nn.Linear(width, 128)
    assert encoder.embed_dim == width
    assert sum(value.numel() for part in (encoder, classifier) for value in part.parameters()) == parameters
    if network is AGCN:
        assert len(encoder.state_dict()) + len(classifier.state_dict()) == 352
        assert not any(key.endswith(".A") for key in encoder.state_dict())


@pytest.mark.parametrize(("name", "shape"), [("bigru", (3, 16, 12)), ("agcn", (3, 16, 4, 25, 2)), ("hcn", (3, 16, 1, 1))])
def test_shapes(name: str, shape: tuple[int, ...]) -> None:
    network = build(name)
    with torch.no_grad():
        assert network.forward_features(skeletons()).shape == shape
    pooled = features(network, skeletons())
    assert pooled.shape == (3, network.embed_dim)
    assert torch.allclose(pooled[1:2], features(network, skeletons()[1:2]), atol=1e-5)


@everywhere
def test_whether_the_order_of_persons_counts(name: str) -> None:
    network = build(name)
    clips = skeletons()
    same = torch.allclose(features(network, clips), features(network, clips.flip(-1)), atol=1e-5)
    # A new A-GCN treats both persons equally; a trained one has norms that distinguish them.
    assert same == (name != "bigru")
    if isinstance(network, AGCN):
        nn.init.uniform_(network.data_bn.bias)
        assert not torch.allclose(features(network, clips), features(network, clips.flip(-1)), atol=1e-5)


def step_by_step(network: BiGRU, clips: Tensor) -> Tensor:
    """The official network: one nn.GRU of two directions, fed frame by frame with all states so far."""
    whole = nn.GRU(150, network.embed_dim // 2, len(network.first), batch_first=True, bidirectional=True)
    whole.load_state_dict({key.removeprefix("encoder.gru."): v for key, v in gru_to_official(network.state_dict()).items()})
    state = None
    for frame in to_sequence(clips).split(1, dim=1):
        output, state = whole(frame, state)
    return output[:, 0]


def test_whole_sequences_give_what_single_frames_give() -> None:
    torch.manual_seed(0)
    network, clips = BiGRU(8, 3), skeletons(2, 12)
    with torch.no_grad():
        assert torch.allclose(network(clips), step_by_step(network, clips), atol=1e-6)


def test_true_directions_are_those_of_pytorch() -> None:
    torch.manual_seed(0)
    network, clips = BiGRU(8, 2, "true_bidirectional"), skeletons(2, 12)
    whole = nn.GRU(150, 8, 2, batch_first=True, bidirectional=True)
    whole.load_state_dict({key.removeprefix("encoder.gru."): v for key, v in gru_to_official(network.state_dict()).items()})
    with torch.no_grad():
        states, last = whole(to_sequence(clips))
        assert torch.allclose(network.forward_features(clips), states, atol=1e-6)
        assert torch.allclose(network(clips), torch.cat([last[-2], last[-1]], dim=1), atol=1e-6)
        assert not torch.allclose(network(clips), step_by_step(network, clips), atol=1e-2)


def test_attention_sums_to_one_over_the_joints_that_give() -> None:
    torch.manual_seed(0)
    conv = GraphConv(3, 8)
    weights = conv.attention(skeletons()[..., 0])
    assert weights.shape == (3, 3, 25, 25)
    assert torch.allclose(weights.sum(2), torch.ones(3, 3, 25), atol=1e-5)
    assert not torch.allclose(weights.sum(3), torch.ones(3, 3, 25), atol=1e-2)


def test_motion_is_stretched_to_as_many_frames() -> None:
    clips = torch.zeros(1, 3, 5, 25, 2)
    clips[0, 1, :, 7, 1] = torch.tensor([0.0, 1, 3, 6, 10])
    moved = motion(clips)
    # Differences 1, 2, 3, 4 at the middles of four fifths.
    assert torch.allclose(moved[0, 1, :, 7, 1], torch.tensor([1.0, 1.7, 2.5, 3.3, 4.0]))
    moved[0, 1, :, 7, 1] = 0
    assert not moved.any()


@everywhere
def test_layers_in_order_hold_every_parameter_once(name: str) -> None:
    network = build(name)
    grouped = [id(value) for group in network.layer_groups() for value in group]
    assert sorted(grouped) == sorted(id(value) for value in network.parameters())
    assert network.no_weight_decay() == set()
    first = network.layer_groups()[0]
    assert first[0] is next(network.parameters())


# --- Files ---


def released(encoders: dict[str, SkeletonEncoder], path: Path) -> Path:
    """A file as the official code writes it."""
    weights = {}
    for prefix, network in encoders.items():
        head = {"fc.0.weight": torch.zeros(2, 2), "fc.2.bias": torch.zeros(2)}
        named = gru_to_official(network.state_dict()) | head
        weights |= {f"module.{prefix}.{key}": value for key, value in named.items()}
    queues = {"module.Queue_S1": torch.zeros(2, 4), "module.queue_ptr_S1": torch.zeros(1, dtype=torch.int64)}
    torch.save({"epoch": 451, "state_dict": weights | queues, "optimizer": {"state": {}, "param_groups": []}}, path)
    return path


@everywhere
@pytest.mark.parametrize("place", ["encoder_q", "encoder_r"])
def test_released_files_load_wherever_the_encoder_is(name: str, place: str, tmp_path: Path) -> None:
    """Only the classifier is missing, and unused weights belong to other parts of the method."""
    network, fresh = build(name), build(name, seed=1)
    other = build("hcn" if name != "hcn" else "agcn")
    pair = {"encoder_q": network, "encoder_r": other} if place == "encoder_q" else {"encoder_q": other, "encoder_r": network}
    slow = {"encoder_k": pair["encoder_q"], "encoder_l": pair["encoder_r"]}
    path = released(pair | slow, tmp_path / "checkpoint_0450.pth.tar")
    assert not torch.equal(features(fresh, skeletons()), features(network, skeletons()))
    report = fresh.load(str(path))
    assert (len(report.matched), report.missing, report.reshaped) == (len(network.state_dict()), [], [])
    elsewhere = {"Queue_S1", "queue_ptr_S1", "encoder_k", "encoder_l", "fc", *(set(pair) - {place})}
    assert {key.split(".")[0] for key in report.left_over} == elsewhere
    assert torch.equal(features(fresh, skeletons()), features(network, skeletons()))


@everywhere
def test_own_files_load(name: str, tmp_path: Path) -> None:
    network = build(name)
    for prefix in ("", "backbone.", "partner."):
        weights = {f"{prefix}{key}": value for key, value in network.state_dict().items()}
        rest = {"contrast.queue.keys": torch.zeros(2, 2)} if prefix else {}
        torch.save({"state_dict": weights | rest}, tmp_path / "last.ckpt")
        fresh = build(name, seed=1)
        fresh.load(str(tmp_path / "last.ckpt"))
        assert torch.equal(features(fresh, skeletons()), features(network, skeletons()))


def test_official_names_of_a_classifier_load(tmp_path: Path) -> None:
    network = build("bigru")
    state = gru_to_official(network.state_dict())
    assert "encoder.gru.weight_hh_l1_reverse" in state
    torch.save({"state_dict": state | {"fc.weight": torch.zeros(2, 12), "fc.bias": torch.zeros(2)}}, tmp_path / "a.pth.tar")
    torch.manual_seed(1)
    fresh = BiGRU(6, 2, checkpoint=str(tmp_path / "a.pth.tar"))
    assert torch.equal(features(fresh, skeletons()), features(network, skeletons()))


@everywhere
def test_wrong_files(name: str, tmp_path: Path) -> None:
    network = build(name)
    weights = network.state_dict()
    first = next(iter(weights))
    path = tmp_path / "a.pth"
    for broken, expected in (
        ({key: value for key, value in weights.items() if key != first}, f"1 missing .{first}"),
        (weights | {f"{first}.more": torch.zeros(1)}, f"1 left over .{first}"),
        (weights | {first: torch.zeros(1, 2, 3)}, "other shape"),
    ):
        torch.save({f"backbone.{key}": value for key, value in broken.items()}, path)
        with pytest.raises(SettingError, match=expected):
            network.load(str(path))
    torch.save({"stem.weight": torch.zeros(1)}, path)
    with pytest.raises(SettingError, match=rf"contains no {type(network).__name__} \(its tensors: stem\.weight"):
        network.load(str(path))


WRONG = {
    "layers": (lambda: BiGRU(0), "hidden 0 and layers 3"),
    "width": (lambda: AGCN(3), "width 3; set it to 4 or more"),
    "window": (lambda: HCN(window=60), "a multiple of 16"),
    "frames": (lambda: HCN(4, 16)(skeletons(frames=17)), "window 16, but clips have 17 frames"),
    "joints": (lambda: BiGRU(2)(torch.zeros(1, 3, 4, 17, 2)), "2 persons of 25 joints in 3 coordinates, not 2 of 17 in 3"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_settings(case: str) -> None:
    make, expected = WRONG[case]
    with pytest.raises(SettingError, match=expected):
        make()
