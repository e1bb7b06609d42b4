"""Intermediate features of all encoders, and settings that they refuse in one sentence."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modules.backbones.cnn.i3d import I3D
from modules.backbones.cnn.s3d import S3D
from modules.backbones.depth import Depth
from modules.backbones.encoder import Encoder
from modules.backbones.signal.cnn import SignalCNN
from modules.backbones.skeleton.gcn import AGCN
from modules.backbones.skeleton.gru import BiGRU
from modules.backbones.skeleton.hcn import HCN
from modules.core.errors import SettingError
from tests.registry import FRAMES, SIDE, tiny_cnn, tiny_locomotion, tiny_sequence, tiny_vit

BUILD: dict[str, Callable[[], Any]] = {
    "vit": tiny_vit,
    "beit": lambda: tiny_locomotion().backbone,
    "r3d": tiny_cnn,
    "i3d": lambda: I3D(0.0625),
    "depth": lambda: Depth(tiny_vit()),
    "signal": lambda: SignalCNN(6, 4, 2),
    "sequence": tiny_sequence,
    "gru": lambda: BiGRU(8, 3, "true_bidirectional"),
    "gcn": lambda: AGCN(4),
    "hcn": lambda: HCN(4, 16),
}
BLOCKS = {"vit": 2, "beit": 2, "r3d": 5, "i3d": 4, "depth": 2, "signal": 4, "sequence": 2, "gru": 3, "gcn": 10, "hcn": 2}
# [B, D, ...] of the first returned block, for two clips.
GRIDS = {
    "vit": (2, 32, 2, 4, 4),
    "beit": (2, 32, 4, 4, 4),
    "r3d": (2, 4, 4, 16, 16),
    "i3d": (2, 12, 2, 4, 4),
    "depth": (2, 32, 2, 4, 4),
    "signal": (2, 4, 24),
    "sequence": (2, 32, 10),
    "gru": (2, 16, 4),
    "gcn": (2, 4, 4, 25, 2),
    "hcn": (2, 8, 2, 2),
}


def raw_clip(encoder: Any) -> Tensor:
    g = torch.Generator().manual_seed(0)
    if encoder.kind == "video":
        return torch.randint(0, 256, (2, FRAMES, SIDE, SIDE, 3), generator=g).to(torch.uint8)
    if encoder.kind == "depth":
        return torch.randint(0, 6000, (2, FRAMES, SIDE, SIDE, 1), generator=g).to(torch.uint16)
    if encoder.kind == "feature":
        return torch.randn(2, 10, 32, generator=g)
    frames = getattr(encoder, "num_frames", FRAMES)  # of HCN, which takes clips of one length
    return torch.randn((2, 6, 24) if encoder.kind == "signal" else (2, 3, frames, 25, 2), generator=g)


def blocks_of(encoder: Any) -> list[nn.Module]:
    """The modules whose outputs are the intermediates, if they are outputs of single modules."""
    if isinstance(encoder, Depth):
        encoder = encoder.network
    if hasattr(encoder, "temporal"):
        return list(encoder.temporal)
    if hasattr(encoder, "blocks"):
        return list(encoder.blocks)
    if isinstance(encoder, SignalCNN):
        return [encoder.stem, *encoder.stages]
    if isinstance(encoder, AGCN):
        return [getattr(encoder, f"l{number}") for number in range(1, 11)]
    if isinstance(encoder, HCN):
        return [encoder.conv5, encoder.conv6]
    return [stage[-1] for stage in encoder.stages()]


@pytest.mark.parametrize("name", BUILD)
def test_intermediates(name: str) -> None:
    torch.manual_seed(0)
    encoder = BUILD[name]().eval()
    assert isinstance(encoder, Encoder)
    with torch.inference_mode():
        clip = encoder.preprocess(raw_clip(encoder))
        features, found = encoder.forward_intermediates(clip, norm=True)
        # The features and the last output equal forward_features bit for bit.
        expected = encoder.forward_features(clip)
        assert torch.equal(features, expected)
        assert (len(found), tuple(found[0].shape)) == (BLOCKS[name], GRIDS[name])
        # Without the class token.
        expected = expected[:, 1:] if name == "sequence" else expected
        flat = encoder.forward_intermediates(clip, [-1], norm=True, output_fmt="NLC", intermediates_only=True)[0]
        assert torch.equal(flat, expected if expected.ndim == 3 and name != "signal" else expected.flatten(2).transpose(1, 2))
        assert torch.equal(flat, found[-1].flatten(2).transpose(1, 2))
        # Selection by timm's rules: the last n, numbers from either end, in the order of the network.
        plain = encoder.forward_intermediates(clip, intermediates_only=True)
        for indices, numbers in ((2, [-2, -1]), ([-1, 0], [0, -1]), ([0], [0])):
            some = encoder.forward_intermediates(clip, indices, intermediates_only=True)
            assert all(torch.equal(one, plain[number]) for one, number in zip(some, numbers, strict=True))
        early, one = encoder.forward_intermediates(clip, [0], stop_early=True)
        assert torch.equal(one[0], plain[0])
        assert early.shape != expected.shape or not torch.equal(early, expected)
    for wrong in (0, BLOCKS[name] + 1, [BLOCKS[name]], []):
        with pytest.raises(SettingError, match=f"has {BLOCKS[name]} blocks; ask for 1 to"):
            encoder.forward_intermediates(clip, wrong)
    with pytest.raises(SettingError, match="must be 'grid' or 'NLC'"):
        encoder.forward_intermediates(clip, output_fmt="NCHW")


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in BUILD if name != "gru"])
def test_intermediates_are_the_outputs_of_the_blocks(name: str) -> None:
    encoder = BUILD[name]().eval()
    seen: list[Tensor] = []
    handles = [block.register_forward_hook(lambda *given: seen.append(given[2].clone())) for block in blocks_of(encoder)]
    clip = encoder.preprocess(raw_clip(encoder))
    expected = encoder(clip)
    hooked, found = list(seen), encoder.forward_intermediates(clip, intermediates_only=True)
    for handle in handles:
        handle.remove()
    shape = encoder.layers(clip).grid
    assert all(torch.equal(shape(one, False), other) for one, other in zip(hooked, found, strict=True))
    assert torch.equal(encoder(clip), expected)


# --- What is refused ---

UINT8 = torch.zeros(2, FRAMES, SIDE, SIDE, 3, dtype=torch.uint8)
VIDEO = torch.zeros(2, 3, FRAMES, SIDE, SIDE)
OF_VIDEO: dict[str, tuple[Tensor, str]] = {
    "uint8 pixels": (
        UINT8,
        r"takes normalised clips \[B, 3, T, H, W\] of float32, but was given uint8 \[2, 4, 32, 32, 3\]; pass",
    ),
    "float pixels": (UINT8.float(), r"was given float32 \[2, 4, 32, 32, 3\]; pass network\.preprocess\(clip\)"),
    "uint8 planes": (VIDEO.byte(), r"was given uint8 \[2, 3, 4, 32, 32\]; pass network\.preprocess\(clip\)"),
    "an image": (VIDEO[:, :, 0], r"was given float32 \[2, 3, 32, 32\]"),
    "no batch": (VIDEO[0], r"was given float32 \[3, 4, 32, 32\]"),
    "one channel": (VIDEO[:, :1], r"was given float32 \[2, 1, 4, 32, 32\]"),
    "frames first": (VIDEO.transpose(1, 2), r"was given float32 \[2, 4, 3, 32, 32\]"),
    "double": (VIDEO.double(), r"of float32, but was given float64"),
}


@pytest.mark.parametrize("name", ["vit", "beit", "r3d", "i3d", "depth"])
def test_what_is_no_normalised_clip_is_refused_in_one_sentence(name: str) -> None:
    encoder = BUILD[name]()
    for given, message in OF_VIDEO.values():
        for call in (encoder, encoder.forward_features, encoder.forward_intermediates):
            with pytest.raises(SettingError, match=message):
                call(given)
    channels = 1 if name == "depth" else 3
    for given in (VIDEO, VIDEO[:, :, 0], UINT8[0], torch.zeros(2, FRAMES, SIDE, SIDE, 4)):
        with pytest.raises(SettingError, match=rf"preprocess takes decoded clips \[B, T, H, W, {channels}\], but"):
            encoder.preprocess(given)


REFUSED = {
    "frames no tubelet divides": ("vit", VIDEO[:, :, :3], "Clips of 3 frames of 32 x 32 px do not make tokens of 2 frames"),
    "pixels no token divides": ("vit", VIDEO[..., :30], "of 32 x 30 px do not make tokens"),
    "tokens of depth": ("depth", VIDEO[:, :, :3], "do not make tokens of 2 frames"),
    "more frames than positions": ("beit", torch.zeros(1, 3, 5, 32, 32), "5 frames, but this BEiTVideo has positions for 4"),
    "another size": ("beit", torch.zeros(1, 3, 4, 32, 40), "4 frames of 32 x 40 px, but 4 frames of 32 x 32 px are needed"),
    "too short": ("r3d", VIDEO[:, :, :2], "Clips of 2 frames are too short for VideoResNet; set data.clip.frames to 4"),
    "too small": ("i3d", VIDEO[..., :20], "32 x 20 pixels are too small for I3D; set data.clip.size to 32 or more"),
    "bodies of two axes": (
        "gru",
        torch.zeros(2, 16, 150),
        r"takes skeletons \[B, 3, T, 25, 2\] .* was given float32 \[2, 16, 150\]",
    ),
    "whole numbers": ("gcn", torch.zeros(1, 3, 16, 25, 2).int(), r"was given int32 \[1, 3, 16, 25, 2\]"),
    "double bodies": ("hcn", torch.zeros(1, 3, 16, 25, 2).double(), "was given float64"),
    "another body": ("gcn", torch.zeros(1, 3, 16, 17, 2), "not 2 of 17 in 3"),
    "no frames": ("gru", torch.zeros(1, 3, 0, 25, 2), "skeletons of at least one frame"),
    "another window": ("hcn", torch.zeros(1, 3, 32, 25, 2), "window 16, but clips have 32 frames"),
    "a signal of one axis": ("signal", torch.zeros(6), r"takes signals \[B, 6, L\] of float32, but was given float32 \[6\]"),
    "other channels": ("signal", torch.zeros(1, 24, 6), "takes 6 channels, but the data have 24"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_clips_of_other_sizes_are_refused_in_one_sentence(case: str) -> None:
    name, given, message = REFUSED[case]
    encoder = BUILD[name]()
    for call in (encoder, encoder.forward_intermediates):
        with pytest.raises(SettingError, match=message):
            call(given)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*BUILD, "s3d"])
def test_checks_are_compiled_and_exported(name: str) -> None:
    """No graph breaks, with batches of any size."""
    encoder = S3D().eval() if name == "s3d" else BUILD[name]().eval()
    clip = encoder.preprocess(raw_clip(encoder))
    if name == "s3d":
        clip = clip.repeat(1, 1, 2, 1, 1)
    with torch.no_grad():
        expected = encoder(clip)
        if name != "gru":  # torch.compile breaks its graph at every GRU
            compiled = torch.compile(encoder, backend="eager", fullgraph=True)
            assert torch.allclose(compiled(clip), expected, atol=1e-6)
        batch = {0: torch.export.Dim("batch")}
        exported = torch.export.export(encoder, (clip,), dynamic_shapes=(batch,)).module()
        assert torch.allclose(exported(clip), expected, atol=1e-5)
        assert torch.allclose(exported(clip.repeat(2, *[1] * (clip.ndim - 1))), expected.repeat(2, 1), atol=1e-5)
