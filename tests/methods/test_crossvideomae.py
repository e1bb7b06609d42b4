"""CrossVideoMAE: its losses against a slow reference, what each term trains, sizes of the paper, files, and its small layer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from main import main
from modules.backbones.frame_tower import FrameTower
from modules.backbones.vit.decoder import DecoderSettings
from modules.backbones.vit.video_vit import VideoViT
from modules.convert.command import convert
from modules.convert.load import load_backbone
from modules.core.batch import unlabelled
from modules.core.errors import SettingError
from modules.core.output import StepOutput
from modules.layers.siamese_mae import patch_target
from modules.layers.targets import PixelTarget
from modules.masks.clip import UniformMask
from modules.masks.tokens import TubeMask
from modules.methods.crossvideomae import AgreementSettings, CrossVideoMAE, ImageBranch
from tests.registry import FRAMES, SIDE, rows_of, tiny_tower, tiny_vit, video_batch

ROOT = Path(__file__).parents[2]
SMALL = ImageBranch(0.75, True, 1, 16, 1)


def tiny(seed: int = 0, **settings: Any) -> CrossVideoMAE:
    torch.manual_seed(seed)
    chosen = {"decoder": DecoderSettings(1), "image": SMALL, "agreement": AgreementSettings(16), "flip": 0.5} | settings
    return CrossVideoMAE(tiny_vit(), tiny_tower(1), PixelTarget(), TubeMask(0.5), **chosen).eval()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- Losses ---


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """SimCLR's loss, row by row."""
    rows = torch.cat([first, second]).double()
    rows = rows / rows.norm(dim=1, keepdim=True)
    losses = []
    for i in range(len(rows)):
        scores = [(rows[i] @ rows[k] / temperature).exp() for k in range(len(rows)) if k != i]
        partner = (rows[i] @ rows[(i + len(first)) % len(rows)] / temperature).exp()
        losses.append(-(partner / torch.stack(scores).sum()).log())
    return torch.stack(losses).mean()


def project(head: torch.nn.Sequential, rows: Tensor) -> Tensor:
    hidden = (rows @ head[0].weight.T + head[0].bias).clamp_min(0)
    projected = hidden @ head[2].weight.T + head[2].bias
    return projected / projected.norm(dim=1, keepdim=True)


def complement(masked: Tensor, count: int) -> Tensor:
    return torch.tensor([[token for token in range(count) if token not in row] for row in masked.tolist()])


@torch.no_grad()
def reference(method: CrossVideoMAE, output: StepOutput) -> dict[str, Tensor]:
    """All losses of a step from what was drawn in it, clip by clip."""
    show, grid = output["show"], method.backbone.grid
    pooled: dict[str, list[Tensor]] = {"clip": [], "frame": []}
    for clips, masked in ((show["clip"], show["masked"]), (show["augmented"], show["augmented_masked"])):
        seen, means = complement(masked, grid.tokens), []
        for clip, places, frame in zip(clips, seen, show["frame"].tolist(), strict=True):
            tokens = method.backbone.forward_features(method.backbone.preprocess(clip[None]), places[None])[0]
            time_slice = [token for token, place in zip(tokens, places.tolist(), strict=True) if place // 16 == frame // 2]
            means.append(torch.stack([tokens.mean(0), torch.stack(time_slice).mean(0)]))
        for level, rows in zip(pooled.values(), torch.stack(means, 1), strict=True):
            level.append(rows)
    count = len(show["clip"])
    pictures = torch.stack([show["clip"][number, int(show["frame"][number])] for number in range(count)])
    assert torch.equal(show["picture"][:, 0], pictures)
    tower, image_grid = method.image_backbone, method.image_backbone.grid
    images, seen = tower.preprocess(pictures[:, None])[:, :, 0], complement(show["image_masked"], image_grid.tokens)
    image = project(method.image_projection, tower.encode_frames(images, seen)[:, 1:].mean(1))
    temperature = method.agreement.temperature
    losses = {}
    for level, (original, augmented) in pooled.items():
        first, second = project(method.video_projection, original), project(method.video_projection, augmented)
        losses[f"intra_{level}"] = nt_xent(first, second, temperature)
        losses[f"cross_{level}"] = nt_xent((first + second) / 2, image, temperature)
    target = PixelTarget()(method.normalise(show["clip"]), grid)
    patches = patch_target(images, image_grid, normalise=True)
    for name, values, masked, prediction in (
        ("video", target, show["masked"], show["prediction"]),
        ("image", patches, show["image_masked"], show["image_prediction"]),
    ):
        errors = [(prediction[row] - values[row, masked[row]]).square().mean() for row in range(count)]
        losses[name] = torch.stack(errors).mean()
    return losses


def test_losses_are_those_of_a_slow_reference() -> None:
    method = tiny(agreement=AgreementSettings(16, 0.2, 0.5, 2.0))
    output = method.step(video_batch(4), generator())
    expected = reference(method, output)
    for name, value in expected.items():
        assert output["log"][f"{name}_loss"].item() == pytest.approx(value.item(), rel=1e-4), name
    intra, cross = (expected[f"{kind}_clip"] + expected[f"{kind}_frame"] for kind in ("intra", "cross"))
    total = expected["video"] + expected["image"] + 0.5 * intra + 2 * cross
    assert output["loss"].item() == pytest.approx(total.item(), rel=1e-4)
    assert len({round(value.item(), 4) for value in expected.values()}) == 6


def test_with_one_clip_nothing_is_contrasted() -> None:
    """Statement 16."""
    output = tiny().step(video_batch(1), generator())
    log = output["log"]
    assert all(log[f"{kind}_{level}_loss"] == 0 for kind in ("intra", "cross") for level in ("clip", "frame"))
    assert output["loss"].isfinite()
    assert output["loss"] == log["video_loss"] + log["image_loss"]
    output["loss"].backward()


def test_each_term_trains_its_own_parts() -> None:
    plain = tiny(agreement=AgreementSettings(16, intra=0.0, cross=0.0))
    plain.step(video_batch(), generator())["loss"].backward()
    assert not any(
        value.grad.any() for name, value in plain.named_parameters() if "projection" in name and value.grad is not None
    )
    # The copy is not reconstructed: without contrast, its pixels do not matter.
    brighter = tiny(agreement=AgreementSettings(16, intra=0.0, cross=0.0), flip=1.0).step(video_batch(), generator())
    assert brighter["log"]["video_loss"] == plain.step(video_batch(), generator())["log"]["video_loss"]
    cross = tiny(agreement=AgreementSettings(16, intra=0.0, cross=1.0))
    output = cross.step(video_batch(), generator())
    (output["loss"] - output["log"]["video_loss"] - output["log"]["image_loss"]).backward()
    for part in (cross.video_projection, cross.image_projection, cross.backbone, cross.image_backbone):
        assert any(value.grad is not None and value.grad.any() for value in part.parameters())


def test_the_image_branch_sees_no_hidden_pixel() -> None:
    method = tiny()
    picture = video_batch(2).stream("video").data[:, 0, :1]
    found = method.rebuild(picture, generator())
    hidden = torch.zeros(2, 16, dtype=torch.bool).scatter(1, found["masked"], True).view(2, 4, 4)
    blind = picture.clone()
    blind[hidden.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None]] = 0
    again = method.rebuild(blind, generator())
    assert torch.equal(again["tokens"], found["tokens"])
    assert torch.equal(again["prediction"], found["prediction"])
    assert not torch.equal(again["target"], found["target"])


def test_changes_of_copies_are_drawn_in_advance() -> None:
    """A function of the seed, the epoch and the row, for each clip of a video."""
    method, batch = tiny(flip=0.0), video_batch(2, 3)
    prepare = method.preparation()
    prepare(batch, 0)
    copies = method.step(batch, generator())["show"]["augmented"]
    assert copies.shape == (6, FRAMES, SIDE, SIDE, 3)
    assert torch.equal(copies, method.step(batch, generator(1))["show"]["augmented"])
    second, looks = rows_of(video_batch(2, 3), slice(1, 2)), batch.prepared
    prepare(second, 0)
    assert second.prepared == looks[3:]
    prepare(batch, 1)
    assert batch.prepared != looks


# --- Sizes and settings ---


@torch.no_grad()
def test_shapes_of_the_paper() -> None:
    backbone = VideoViT("micro", embed_dim=32, num_heads=2, depth=1)
    sizes: dict[str, int] = {"embed_dim": 32, "depth": 1, "num_heads": 1}
    tower = FrameTower("vit_base_patch16_224.mae", 1, checkpoint=None, **sizes)
    image = ImageBranch(decoder_depth=1, decoder_dim=16, decoder_heads=2)
    method = CrossVideoMAE(backbone, tower, PixelTarget(), TubeMask(0.95), DecoderSettings(1, 16, 2), image).eval()
    clip = torch.randint(0, 256, (2, 1, 16, 224, 224, 3), dtype=torch.uint8)
    show = method.step(unlabelled(clip), generator())["show"]
    assert show["prediction"].shape == (2, 1488, 1536)
    assert show["image_prediction"].shape == (2, 177, 768)
    assert method.image_visible == 19
    assert method.video_projection[2].weight.shape == (256, 256)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mask": UniformMask(0.5)}, r"model\.mask is UniformMask, .* set it to TubeMask"),
        ({"image_backbone": tiny_tower}, r"model\.image_backbone takes 4 frames of 32 px, .* num_frames to 1"),
        ({"image": ImageBranch(0.99)}, r"model\.image\.mask_ratio 0\.99 leaves 0 of 16"),
    ],
)
def test_impossible_settings(change: dict[str, Any], said: str) -> None:
    parts: dict[str, Any] = {"backbone": tiny_vit(), "target": PixelTarget(), "mask": TubeMask(0.5), "image": SMALL}
    parts |= {name: value() if callable(value) and name == "image_backbone" else value for name, value in change.items()}
    parts.setdefault("image_backbone", tiny_tower(1))
    with pytest.raises(SettingError, match=said):
        CrossVideoMAE(**parts)


def test_impossible_numbers() -> None:
    with pytest.raises(SettingError, match=r"model\.image\.decoder_dim is 18"):
        ImageBranch(decoder_dim=18, decoder_heads=4)
    with pytest.raises(SettingError, match=r"model\.agreement\.temperature is 0"):
        AgreementSettings(temperature=0)


# --- Files ---


def test_both_encoders_are_read_from_a_checkpoint(tmp_path: Path) -> None:
    method, path = tiny(), tmp_path / "last.ckpt"
    torch.save({"state_dict": method.state_dict(), "record": {"backbone": method.backbone.facts()}}, path)
    sizes: dict[str, Any] = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "checkpoint": str(path)}
    video = VideoViT("micro", SIDE, FRAMES, **sizes)
    image = FrameTower("vit_base_patch16_224.mae", FRAMES, SIDE, **sizes)
    for loaded, own in ((video, method.backbone), (image, method.image_backbone)):
        assert all(torch.equal(value, own.state_dict()[name]) for name, value in loaded.state_dict().items())
    clip = video_batch(2).stream("video").data[:, 0]
    features = method.embed(video_batch(2), "image_backbone")
    assert torch.allclose(features, image.eval()(image.preprocess(clip)), atol=1e-6)
    convert(path, tmp_path / "encoder.safetensors", part="backbone", heads=2)
    again = load_backbone(tmp_path / "encoder.safetensors")
    assert torch.allclose(again(again.preprocess(clip)), method.embed(video_batch(2)), atol=1e-6)
    with pytest.raises(SettingError, match="does not support CrossVideoMAE's image branch; pass --part backbone"):
        convert(path, tmp_path / "all.pth", "official", heads=2, decoder_heads=1)


@pytest.mark.slow
def test_small_layer(tmp_path: Path) -> None:
    """configs/debug/small_crossvideomae.yaml on the recipe."""
    layers = [f"--config={ROOT / 'configs' / name}" for name in ("crossvideomae.yaml", "debug/small_crossvideomae.yaml")]
    small = ["--data.train_videos=16", "--data.val_videos=8", "--data.batch_size=8", "--trainer.max_epochs=1"]
    small += ["--data.probe_samples=8", "--trainer.log_every_n_steps=1"]
    main(["fit", *layers, *small, f"--trainer.default_root_dir={tmp_path}", "--trainer.enable_progress_bar=false"])
    assert (tmp_path / "pictures/0000001_image_reconstruction.png").is_file()
    curves = EventAccumulator(str(tmp_path)).Reload()
    for name in ("collapse/rankme", "collapse/image_backbone/rankme", "val/cross_clip_top1"):
        assert len(curves.Scalars(name)) == 1, name
