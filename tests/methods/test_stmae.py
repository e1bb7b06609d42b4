"""STMAE: what the encoder knows, what counts in the loss, sizes of the paper, and its layer for two CPU cores."""

from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from main import main
from modules.backbones.vit.decoder import DecoderSettings
from modules.backbones.vit.spacetime_vit import SpacetimeViT
from modules.core.batch import unlabelled
from modules.core.tokens import patchify, unpatchify
from modules.layers.targets import InputPixelTarget
from modules.masks.clip import UniformMask
from modules.methods.stmae import STMAE
from modules.weights.names.spacetime import to_spacetime
from tests.registry import tiny_spacetime, video_batch

ROOT = Path(__file__).parents[2]


def tiny(seed: int = 0, **settings: object) -> STMAE:
    torch.manual_seed(seed)
    return STMAE(tiny_spacetime(), InputPixelTarget(), UniformMask(0.5), DecoderSettings(1), **settings).eval()


def test_shapes_of_the_paper() -> None:
    backbone = SpacetimeViT("micro", patch_size=14, embed_dim=32, num_heads=2, depth=1)
    method = STMAE(backbone, InputPixelTarget(), UniformMask(0.9), DecoderSettings(1, 16, 2)).eval()
    lengths: list[int] = []
    for part in (backbone, method.decoder):
        part.blocks[0].register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    clip = torch.randint(0, 256, (1, 1, 16, 224, 224, 3), dtype=torch.uint8)
    output = method.step(unlabelled(clip), torch.Generator().manual_seed(0))
    assert backbone.grid.tokens == 2048
    assert output["show"]["prediction"].shape == output["show"]["target"].shape == (1, 1844, 1176)
    # With a class token each.
    assert lengths == [1 + 204, 1 + 2048]


def test_prediction_knows_no_hidden_pixel_and_the_loss_no_visible_one() -> None:
    method, batch = tiny(), video_batch(2)
    output = method.step(batch, torch.Generator().manual_seed(0))
    grid = method.backbone.grid
    cubes = patchify(batch.stream("video").data[:, 0].permute(0, 4, 1, 2, 3), grid)
    index = output["show"]["masked"][..., None, None].expand(-1, -1, *cubes.shape[2:])
    noise = torch.randint(0, 256, index.shape, dtype=torch.uint8)
    changed = unpatchify(cubes.scatter(1, index, noise), grid).permute(0, 2, 3, 4, 1)[:, None]
    other = method.step(unlabelled(changed), torch.Generator().manual_seed(0))
    assert torch.equal(other["show"]["prediction"], output["show"]["prediction"])
    assert not torch.allclose(other["show"]["target"], output["show"]["target"])
    # The loss is the mean over the predictions of hidden tokens, and there are no others.
    error = (output["show"]["prediction"].double() - output["show"]["target"].double()).square().mean()
    assert output["loss"].item() == pytest.approx(error.item(), rel=1e-5)


def test_clips_are_mirrored_in_training_only() -> None:
    method, batch = tiny(flip=1.0), video_batch(2)
    clip = batch.stream("video").data[:, 0]
    assert torch.equal(method.step(batch, torch.Generator().manual_seed(0))["show"]["clip"], clip)
    assert torch.equal(method.train().step(batch, torch.Generator().manual_seed(0))["show"]["clip"], clip.flip(3))


def test_tokens_and_positions_decay_in_pretraining() -> None:
    method = tiny()
    groups = method.optim_settings.build(method, 1e-3, method.no_weight_decay()).param_groups
    decayed = {id(value) for group in groups if group["weight_decay"] for value in group["params"]}
    for name, value in method.named_parameters():
        assert (id(value) in decayed) == (value.ndim > 1), name


@pytest.mark.parametrize("form", ["ours", "official"])
def test_init_from_restores_the_whole_method(form: str, tmp_path: Path) -> None:
    source = tiny()
    state = dict(source.state_dict())
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": state} if form == "ours" else {"model": to_spacetime(state, source.backbone.grid)}, path)
    loaded, batch = tiny(1, init_from=str(path)), video_batch(2)
    losses = [method.step(batch, torch.Generator().manual_seed(0))["loss"] for method in (source, loaded)]
    assert torch.equal(*losses)


def test_it_learns_two_clips() -> None:
    """The error of hidden pixels falls to less than half of that of the best constant."""
    torch.manual_seed(0)
    method = STMAE(tiny_spacetime(), InputPixelTarget(), UniformMask(0.5), DecoderSettings(1, 32, 2))
    # Smooth clips: a grey level per clip and slice.
    grey = torch.tensor([[40, 90], [200, 140]], dtype=torch.uint8).repeat_interleave(2, 1)
    batch = unlabelled(grey[:, None, :, None, None, None].expand(-1, 1, -1, 32, 32, 3).contiguous())
    optimiser = torch.optim.AdamW(method.parameters(), 1e-2)
    for step in range(40):
        output = method.step(batch, torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        output["loss"].backward()
        optimiser.step()
    assert output["loss"] < 0.5 * output["log"]["constant_loss"]


@pytest.mark.slow
def test_small_layer(tmp_path: Path) -> None:
    """configs/debug/small_stmae.yaml on the recipe: it draws and measures interpolations."""
    layers = [f"--config={ROOT / 'configs' / name}" for name in ("stmae.yaml", "debug/small_stmae.yaml")]
    small = ["--data.train_videos=16", "--data.val_videos=8", "--data.batch_size=8", "--trainer.max_epochs=1"]
    small += ["--data.probe_samples=8", "--trainer.log_every_n_steps=1"]
    main(["fit", *layers, *small, f"--trainer.default_root_dir={tmp_path}", "--trainer.enable_progress_bar=false"])
    assert (tmp_path / "pictures/0000001_interpolation.png").is_file()
    assert (tmp_path / "pictures/0000002_interpolation_video.gif").is_file()
    curves = EventAccumulator(str(tmp_path)).Reload()
    for name in ("network", "repeated", "blended"):
        assert len(curves.Scalars(f"interpolation/{name}")) == 2
