"""Distillation of token relations: teachers by name, their grids, and what of them is trained, saved and moved."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from modules.backbones.vit.decoder import DecoderSettings
from modules.backbones.vit.video_vit import VideoViT
from modules.core.errors import SettingError
from modules.core.tokens import gather_rounds
from modules.layers.relations import Alignment, RelationSettings
from modules.layers.targets import ClipTarget, EncoderTarget, PixelTarget
from modules.losses.relation import Pairs, token_relation_loss
from modules.masks.clip import UniformMask
from modules.masks.tokens import TubeMask
from modules.methods.sigma import SIGMA, MLPSettings
from modules.methods.smile import SMILE
from modules.methods.stmae import STMAE
from modules.methods.videomae import VideoMAE
from modules.training.compilation import compile_parts
from modules.training.rebuild import _without_files
from tests.layers.test_targets import write_clip_file
from tests.registry import FRAMES, SIDE, tiny_cnn, tiny_spacetime, tiny_tower, tiny_vit, video_batch


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def weights(tmp_path: Path) -> str:
    """Weights of an encoder whose tokens are larger and longer than the student's: 1 x 2 x 2 of 2 x 4 x 4."""
    torch.manual_seed(1)
    path = tmp_path / "teacher.ckpt"
    torch.save({"state_dict": {f"backbone.{name}": value for name, value in coarse().state_dict().items()}}, path)
    return str(path)


def coarse(checkpoint: str | None = None) -> VideoViT:
    sizes: dict[str, Any] = {"patch_size": 16, "tubelet_size": 4, "embed_dim": 24, "depth": 1, "num_heads": 2}
    return VideoViT("micro", SIDE, FRAMES, **sizes, checkpoint=checkpoint)


def videomae(relations: RelationSettings | None, mask: float = 0.5) -> VideoMAE:
    torch.manual_seed(0)
    return VideoMAE(tiny_vit(), PixelTarget(), TubeMask(mask), DecoderSettings(1), relations=relations).eval()


@pytest.mark.parametrize("pairs", ["all", "spatial", "temporal"])
def test_loss_is_that_of_the_visible_tokens_on_the_resampled_grid(weights: str, pairs: Pairs) -> None:
    relations = RelationSettings(EncoderTarget(coarse(weights), normalise=False), 0.25, 0.05, pairs)
    method, batch = videomae(relations), video_batch()
    output, plain = method.step(batch, generator()), videomae(None).step(batch, generator())
    clip, grid = batch.stream("video").data[:, 0], method.backbone.grid
    visible = method.draw_mask(len(clip), generator()).visible
    teacher = coarse(weights).eval()
    with torch.no_grad():
        maps = teacher.forward_features(teacher.preprocess(clip)).transpose(1, 2).unflatten(2, teacher.grid[:3])
        maps = F.interpolate(maps, grid[:3], mode="trilinear").flatten(2).transpose(1, 2)
        tokens = method.backbone.encode_clip(clip, visible)
        # The mask is that of a tube, so each slice has as many visible tokens.
        aligned = [one.unflatten(1, (grid.t, -1)) for one in (tokens, gather_rounds(maps, visible))]
        expected = token_relation_loss(*aligned, 0.05, pairs)  # type: ignore[call-overload]
    assert output["log"]["relation_loss"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert expected > 0.02
    assert output["log"]["prediction_loss"] == plain["loss"]
    assert output["loss"].item() == pytest.approx((plain["loss"] + 0.25 * expected).item(), rel=1e-5)
    output["loss"].backward()
    assert all(value.grad is None for value in relations.teacher.encoder.parameters())  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["SMILE", "SIGMA", "STMAE"])
def test_other_masked_methods_have_the_setting(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "clip.pt"
    write_clip_file(path)
    relations = RelationSettings(ClipTarget(str(path), normalise=False))
    torch.manual_seed(0)
    method: Any
    if kind == "SMILE":
        method = SMILE(tiny_vit(), PixelTarget(), TubeMask(0.5), None, relations=relations)
    elif kind == "SIGMA":
        method = SIGMA(tiny_vit(), PixelTarget(), TubeMask(0.5), MLPSettings([8]), 12, relations=relations)
    else:
        method = STMAE(tiny_spacetime(), PixelTarget(), UniformMask(0.5), DecoderSettings(1), relations=relations)
    log = method.step(video_batch(), generator())["log"]
    assert {"relation_loss", "prediction_loss"} <= log.keys()
    assert 0 < log["relation_loss"] < 2


def test_the_loss_pulls_relations_to_the_teachers(weights: str) -> None:
    method = videomae(RelationSettings(EncoderTarget(coarse(weights), normalise=False), 10.0)).train()
    batch, optimiser = video_batch(2), torch.optim.AdamW(method.parameters(), 5e-3)
    seen = []
    for _ in range(6):
        output = method.step(batch, generator())
        seen.append(output["log"]["relation_loss"].item())
        optimiser.zero_grad()
        output["loss"].backward()
        optimiser.step()
    assert seen[-1] < 0.7 * seen[0]


def test_the_teacher_is_neither_trained_nor_saved_but_compiled(weights: str) -> None:
    teacher = EncoderTarget(coarse(weights))
    assert not any(value.requires_grad for value in teacher.encoder.parameters())
    teacher.normalise = False
    method = videomae(RelationSettings(teacher))
    assert method.state_dict().keys() == videomae(None).state_dict().keys()
    assert [name for name, _ in method.named_parameters()] == [name for name, _ in videomae(None).named_parameters()]
    assert compile_parts(method, "all", "eager") == compile_parts(videomae(None), "all", "eager") + 1


@torch.no_grad()
@pytest.mark.parametrize("build", [tiny_cnn, tiny_tower, coarse])
def test_features_of_any_encoder_of_videos(build: Any) -> None:
    torch.manual_seed(0)
    encoder = build()
    clip, grid = video_batch().stream("video").data[:, 0], tiny_vit().grid
    target = EncoderTarget(encoder, normalise=False)
    found = target.of_tokens(clip, torch.arange(grid.tokens).expand(len(clip), -1), grid)
    assert found.shape == (4, grid.tokens, target.dim(grid))
    assert not found.is_inference()
    maps = encoder.forward_intermediates(encoder.preprocess(clip), 1, norm=True, intermediates_only=True)[0]
    expected = F.interpolate(maps, grid[:3], mode="trilinear").flatten(2).transpose(1, 2)
    assert torch.allclose(found, expected, atol=1e-5)
    backbone = tiny_vit()
    video = backbone.preprocess(clip)
    assert torch.allclose(target(video, grid, backbone.normalisation), found, atol=1e-3)
    centred = EncoderTarget(encoder).of_tokens(clip, torch.arange(grid.tokens).expand(len(clip), -1), grid)
    assert centred.mean(1).abs().max() < 1e-4


def test_teachers_that_do_not_fit(weights: str) -> None:
    with pytest.warns(
        UserWarning, match=r"VideoViT of model\.relations\.teacher has random weights; set .*encoder\.checkpoint"
    ):
        videomae(RelationSettings(EncoderTarget(coarse(), normalise=False)))
    with pytest.raises(SettingError, match=r"normalises its features.* set model\.relations\.teacher\.normalise to false"):
        RelationSettings(EncoderTarget(coarse(weights)))
    teacher = EncoderTarget(coarse(weights), normalise=False)
    for wrong in ({"weight": 0.0}, {"margin": -0.1}):
        with pytest.raises(SettingError, match=rf"model\.relations\.{next(iter(wrong))} is"):
            replace(RelationSettings(teacher), **wrong)
    longer = VideoViT("micro", SIDE, 6, patch_size=8, embed_dim=32, depth=1, num_heads=2)
    with pytest.raises(SettingError, match="Clips of 6 frames"):
        VideoMAE(longer, PixelTarget(), TubeMask(0.5), relations=RelationSettings(teacher))


def test_alignment_of_any_grid() -> None:
    network = Alignment(8, 12, 5)
    hidden = torch.randn(2, 4 * 7 * 10, 8, requires_grad=True)
    tokens = network(hidden, (4, 7, 10))
    assert tokens.shape == (2, 6, 6, 5)
    token_relation_loss(tokens, torch.randn(2, 6, 6, 9)).backward()
    assert hidden.grad is not None
    # The first latent frame is not used.
    assert not hidden.grad.unflatten(1, (4, 70))[:, 0].any()
    assert all(isinstance(value, nn.Parameter) and value.grad is not None for value in network.parameters())


def test_files_of_the_teacher_are_needed_to_rebuild_a_method() -> None:
    """Checkpoints replace the files of all other parts."""
    encoder = {"class_path": "VideoViT", "init_args": {"checkpoint": "file"}}
    teacher = {"class_path": "EncoderTarget", "init_args": {"encoder": encoder}}
    kept = _without_files({"init_args": {"backbone": encoder, "relations": {"teacher": teacher}}})["init_args"]
    assert kept["backbone"]["init_args"]["checkpoint"] is None
    assert kept["relations"]["teacher"] == teacher
