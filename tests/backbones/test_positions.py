"""Weights that were pretrained on clips of another size: position codes are interpolated, reported, and saved again."""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor

from datamodules.generated.motion import SyntheticMotion
from datamodules.video.sampling import ClipSettings
from modules.backbones.vit.beit_video import BEiTVideo
from modules.backbones.vit.decoder import DecoderSettings
from modules.backbones.vit.positions import position_codes, sincos_positions
from modules.backbones.vit.video_vit import VideoViT
from modules.convert.command import convert
from modules.core.batch import unlabelled
from modules.core.errors import SettingError
from modules.core.preprocessing import HALF, IMAGENET, Normalisation
from modules.core.tokens import Grid, gather_tokens, patchify
from modules.downstream.classification import Classification
from modules.layers.targets import PixelTarget
from modules.masks.tokens import TubeMask
from modules.methods.videomae import VideoMAE
from modules.weights.files import Checkpoint
from modules.weights.names.videomae import to_official
from modules.weights.origin import origin_of
from modules.weights.passport import read_passport
from tests.registry import OPTIM

WIDTH = 32


def vit(frames: int, size: int, checkpoint: Path | None = None, **settings: Any) -> VideoViT:
    sizes: dict[str, Any] = {"patch_size": 8, "embed_dim": WIDTH, "depth": 1, "num_heads": 2} | settings
    return VideoViT("micro", size, frames, checkpoint=None if checkpoint is None else str(checkpoint), **sizes)


def mae(frames: int, size: int, **settings: Any) -> VideoMAE:
    return VideoMAE(vit(frames, size), PixelTarget(), TubeMask(0.5), DecoderSettings(1, WIDTH), optim=OPTIM, **settings)


def motion(frames: int, size: int) -> SyntheticMotion:
    return SyntheticMotion(ClipSettings(frames=frames, size=size), 4, train_videos=4, val_videos=4)


def run_of(method: Any, frames: int, size: int, folder: Path) -> Path:
    """A checkpoint of a short run."""
    run = lightning.Trainer(
        accelerator="cpu", devices=1, default_root_dir=folder, max_steps=1, limit_val_batches=0, num_sanity_val_steps=0,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, logger=False,
        use_distributed_sampler=False,
    )  # fmt: skip
    run.fit(method, datamodule=motion(frames, size))
    run.save_checkpoint(folder / "run.ckpt")
    return folder / "run.ckpt"


def by_hand(grid: tuple[int, int, int], trained: tuple[int, int, int], dim: int) -> Tensor:
    """Each new token reads the old codes at its own middle, between the eight nearest."""
    old = sincos_positions(trained[0] * trained[1] * trained[2], dim)[0].double().view(*trained, dim)
    rows = []
    for place in itertools.product(*map(range, grid)):
        corners = []
        for number, new, count in zip(place, grid, trained, strict=True):
            at = min(max((number + 0.5) * count / new - 0.5, 0), count - 1)
            low = min(int(at), count - 1)
            corners.append(((low, 1 - (at - low)), (min(low + 1, count - 1), at - low)))
        rows.append(sum(one * two * three * old[t, h, w] for (t, one), (h, two), (w, three) in itertools.product(*corners)))
    return torch.stack(rows)[None].float()


def said(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if words in record.getMessage()]


@pytest.mark.parametrize("grid", [(4, 4, 4), (2, 6, 6), (3, 5, 5), (1, 2, 2)])
def test_codes_lie_between_those_of_the_nearest_tokens(grid: tuple[int, int, int]) -> None:
    found = position_codes(Grid(*grid, 2, 8), Grid(2, 4, 4, 2, 8), 12)
    assert torch.allclose(found, by_hand(grid, (2, 4, 4), 12), atol=1e-5)


def test_codes_of_the_same_grid_are_the_table_itself() -> None:
    assert torch.equal(position_codes(Grid(2, 4, 4, 2, 8), Grid(2, 4, 4, 2, 16), 12), sincos_positions(32, 12))


@pytest.mark.parametrize("form", ["checkpoint", "passport", "command", "setting"])
def test_longer_and_larger_clips_than_in_pretraining(form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The source of the size may be the run, the passport, the official script, or the user."""
    path, settings = tmp_path / "weights.pth", {}
    source = mae(4, 32)
    if form in ("checkpoint", "passport"):
        path = run_of(source, 4, 32, tmp_path)
    if form == "passport":
        path = tmp_path / "weights.safetensors"
        convert(tmp_path / "run.ckpt", path, heads=2)
    elif form == "command":
        command = argparse.Namespace(input_size=32, num_frames=4)
        torch.save({"model": to_official(source.state_dict(), source.backbone.grid), "args": command}, path)
    elif form == "setting":
        torch.save(source.state_dict(), path)
        settings = {"pretrained_frames": 4, "pretrained_size": 32}
    with caplog.at_level("INFO"):
        backbone = vit(8, 48, path, **settings)
    assert torch.allclose(backbone.positions, by_hand((4, 6, 6), (2, 4, 4), WIDTH), atol=1e-5)
    assert len(said(caplog, "interpolated over time, rows and columns from the 2 x 4 x 4 tokens of 4 frames of 32 px")) == 1
    assert not said(caplog, "does not record its pretraining clips")
    caplog.clear()
    with caplog.at_level("INFO"):
        assert torch.equal(vit(4, 32, path, **settings).positions, sincos_positions(32, WIDTH))
    assert not said(caplog, "osition codes")


def test_what_nobody_says_is_assumed_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(vit(4, 32).state_dict(), tmp_path / "weights.pth")
    with caplog.at_level("INFO"):
        assert torch.equal(vit(8, 32, tmp_path / "weights.pth").positions, sincos_positions(64, WIDTH))
    assert len(said(caplog, "does not record its pretraining clips: 8 frames of 32 px assumed")) == 1


def test_published_networks_were_pretrained_on_16_frames_of_224_px(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wide = {"embed_dim": 384, "num_heads": 6, "patch_size": 16}
    source = vit(16, 224, **wide)
    state = {f"backbone.{key}": value for key, value in source.state_dict().items()}
    torch.save({"model": to_official(state, source.grid)}, tmp_path / "weights.pth")
    with caplog.at_level("INFO"):
        backbone = vit(32, 224, tmp_path / "weights.pth", **wide)
    assert backbone.trained_grid == source.grid
    # Two slices are made of each.
    assert torch.allclose(backbone.positions[:, : 14 * 14], source.positions[:, : 14 * 14], atol=1e-6)
    middle = 0.75 * source.positions[:, : 14 * 14] + 0.25 * source.positions[:, 14 * 14 : 2 * 14 * 14]
    assert torch.allclose(backbone.positions[:, 14 * 14 : 2 * 14 * 14], middle, atol=1e-5)
    assert len(said(caplog, "does not record its pretraining clips: 16 frames of 224 px assumed")) == 1
    assert len(said(caplog, "interpolated over time, rows and columns")) == 1


def test_fine_tuned_weights_keep_the_positions_that_they_were_tuned_with(tmp_path: Path) -> None:
    """From a checkpoint, from its converted file, in a later command, and again from there."""
    first = run_of(mae(4, 32), 4, 32, tmp_path)
    tuned = Classification(vit(8, 48, first), 13, optim=OPTIM)
    (tmp_path / "tuned").mkdir()
    run = run_of(tuned, 8, 48, tmp_path / "tuned")
    expected = by_hand((4, 6, 6), (2, 4, 4), WIDTH)
    assert torch.allclose(tuned.backbone.positions, expected, atol=1e-5)
    convert(run, tmp_path / "tuned.safetensors", heads=2, image_size=48, num_frames=8)
    convert(tmp_path / "tuned.safetensors", tmp_path / "again.safetensors", part="backbone")
    sizes = read_passport(tmp_path / "again.safetensors")["architecture"]
    assert (sizes["num_frames"], sizes["image_size"]) == (8, 48)
    assert (sizes["pretrained_frames"], sizes["pretrained_size"]) == (4, 32)
    for path in (run, tmp_path / "tuned.safetensors", tmp_path / "again.safetensors"):
        assert torch.equal(vit(8, 48, path).positions, tuned.backbone.positions)
    whole = Classification(vit(8, 48), 13, init_from=str(tmp_path / "tuned.safetensors"), optim=OPTIM)
    assert torch.equal(whole.backbone.positions, tuned.backbone.positions)
    later = Classification(vit(8, 48), 13, optim=OPTIM)
    later.on_load_checkpoint(torch.load(run, weights_only=True))
    assert torch.equal(later.backbone.positions, tuned.backbone.positions)


def test_a_checkpoint_of_before_positions_were_interpolated_is_fed_as_its_run_was(tmp_path: Path) -> None:
    """Its command still contains the initial encoder, which was pretrained with other clips and pixels."""
    first = run_of(
        VideoMAE(vit(4, 32, normalisation=HALF), PixelTarget(), TubeMask(0.5), DecoderSettings(1), optim=OPTIM), 4, 32, tmp_path
    )
    method = Classification(vit(8, 48, first), 13, optim=OPTIM)
    assert method.backbone.normalisation == HALF
    method.on_load_checkpoint({"state_dict": {}, "record": {}})
    assert torch.equal(method.backbone.positions, sincos_positions(4 * 6 * 6, WIDTH))
    assert method.backbone.normalisation == IMAGENET


@pytest.mark.parametrize("to", ["huggingface", "official"])
def test_formats_that_cannot_say_it_are_refused(to: Any, tmp_path: Path) -> None:
    first = run_of(mae(4, 32), 4, 32, tmp_path)
    (tmp_path / "tuned").mkdir()
    run = run_of(Classification(vit(8, 48, first), 13, optim=OPTIM), 8, 48, tmp_path / "tuned")
    out = tmp_path / ("folder" if to == "huggingface" else "out.pth")
    with pytest.raises(SettingError, match=r"does not support position codes .* from clips of 4 frames of 32 px"):
        convert(run, out, to, heads=2, image_size=48, num_frames=8)
    convert(first, out, to, heads=2, image_size=32, num_frames=4)


def test_a_whole_method_that_starts_from_other_clips(tmp_path: Path) -> None:
    """Encoder and decoder."""
    first = run_of(mae(4, 32), 4, 32, tmp_path)
    method = mae(8, 48, init_from=str(first))
    expected = by_hand((4, 6, 6), (2, 4, 4), WIDTH)
    assert torch.allclose(method.backbone.positions, expected, atol=1e-5)
    assert torch.allclose(method.decoder.positions, expected, atol=1e-5)
    assert not {name for name in method.state_dict() if "positions" in name}


def test_clips_that_are_no_whole_tokens_are_refused() -> None:
    with pytest.raises(SettingError, match=r"set model\.backbone\.pretrained_frames and pretrained_size"):
        vit(4, 32, pretrained_size=30)


# --- BEiT ---


def beit(frames: int, size: int, checkpoint: Path | None = None) -> BEiTVideo:
    path = None if checkpoint is None else str(checkpoint)
    return BEiTVideo("micro", size, frames, 8, embed_dim=WIDTH, depth=1, num_heads=2, temporal_scale=1.0, checkpoint=path)


def test_relative_positions_of_larger_frames_are_resampled(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = beit(2, 32)
    table = source.blocks[0].attn.relative_position_bias_table
    with torch.no_grad():
        # The bias of an offset is its column, so that resampling is visible.
        offsets = torch.arange(-3.0, 4).expand(7, 7).flatten()
        table[:-3] = offsets[:, None]
        table[-3:] = torch.tensor([[5.0], [6], [7]])
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    with caplog.at_level("INFO"):
        larger = beit(2, 64, tmp_path / "weights.pth").blocks[0].attn.relative_position_bias_table
    assert larger.shape == (15 * 15 + 3, 2)
    cube = larger[:-3, 0].view(15, 15)
    assert torch.allclose(cube, cube[:1].expand(15, 15), atol=1e-4)
    # Offsets larger than those of the smaller frames repeat the largest one.
    assert (cube[0].diff() >= 0).all()
    assert cube[0, [0, -1]].tolist() == [-3, 3]
    assert torch.allclose(cube[0, 6:9], torch.tensor([-1.0, 0, 1]), atol=1e-4)
    assert torch.equal(larger[-3:], table[-3:])
    assert len(said(caplog, "Relative position biases")) == 1


@pytest.mark.parametrize(("frames", "words"), [(2, "the last ones are left out"), (6, "zeros follow")])
def test_positions_of_other_frames_are_cut_or_filled_aloud(
    frames: int, words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(beit(4, 32).state_dict(), tmp_path / "weights.pth")
    with caplog.at_level("INFO"):
        beit(frames, 32, tmp_path / "weights.pth")
    assert len(said(caplog, f"positions of 4 frames, the network of {frames}: {words}")) == 1


def test_folders_of_transformers_say_how_their_networks_were_fed(tmp_path: Path) -> None:
    """Missing settings have the library's defaults."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "videomae", "num_frames": 8}))
    means = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(means))
    weights = {"videomae.embeddings.patch_embeddings.projection.weight": torch.zeros(1)}
    for path in (tmp_path, tmp_path / "model.safetensors"):
        origin = origin_of(path, Checkpoint(weights, {}, {}))
        assert (origin.frames, origin.size, origin.normalisation) == (8, 224, HALF)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(means | {"do_normalize": False}))
    plain = origin_of(tmp_path, Checkpoint(weights, {}, {})).normalisation
    assert plain == Normalisation((0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize("shape", [(8, 32, 32), (4, 16, 48), (2, 40, 24)])
def test_clips_of_other_frames_and_sides(shape: tuple[int, int, int], caplog: pytest.LogCaptureFixture) -> None:
    frames, height, width = shape
    backbone, clips = vit(4, 32).eval(), torch.randn(2, 3, *shape)
    grid = (frames // 2, height // 8, width // 8)
    with caplog.at_level("INFO"):
        with torch.inference_mode():
            tokens = backbone.forward_features(clips)
        again = backbone.forward_features(clips)
    assert torch.equal(tokens, again)
    assert tokens.shape == (2, grid[0] * grid[1] * grid[2], WIDTH)
    assert torch.allclose(backbone.positions_of(backbone.clip_grid(clips)), by_hand(grid, (2, 4, 4), WIDTH), atol=1e-5)
    # Reported once, and training also works after an evaluation.
    assert len(said(caplog, "interpolated from 2 x 4 x 4 to {} x {} x {} tokens".format(*grid))) == 1
    again.sum().backward()
    # The codes are used: the order of the tokens matters.
    picked = torch.tensor([[0, 3], [3, 0]])
    some = backbone.forward_features(clips, picked)
    alone = backbone.patch_embed(patchify(clips, backbone.clip_grid(clips)).flatten(2))
    hidden = gather_tokens(alone + backbone.positions_of(backbone.clip_grid(clips)), picked)
    assert torch.allclose(some, backbone.norm(backbone.blocks[0](hidden)), atol=1e-5)


def test_pooling_over_time_follows_the_clip() -> None:
    backbone = vit(4, 32, pooling="time").eval()
    assert backbone(torch.randn(1, 3, 8, 16, 32)).shape == (1, 4 * WIDTH)


def test_clips_of_half_tokens_are_refused() -> None:
    for shape in ((3, 32, 32), (4, 36, 32), (4, 32, 4)):
        with pytest.raises(SettingError, match=r"do not make tokens of 2 frames and 8 px; set data\.clip\.frames"):
            vit(4, 32).forward_features(torch.zeros(1, 3, *shape))


def test_masks_are_for_the_clips_of_the_settings() -> None:
    """Token indices of one grid are different positions in another grid."""
    method = mae(4, 32)
    clip = torch.zeros(1, 4, 16, 64, 3, dtype=torch.uint8)
    mask = method.draw_mask(1, torch.Generator())
    with pytest.raises(SettingError, match=r"4 frames of 32 px, not 4 of 16 x 64; set data\.clip\.frames"):
        method.predict(clip, mask.visible, mask.targets)
    with pytest.raises(SettingError, match=r"Clips have 4 frames of 16 x 64 px, but 4 frames of 32 x 32 px are needed"):
        method.step(unlabelled(clip[:, None]), torch.Generator())
