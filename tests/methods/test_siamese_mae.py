"""CropMAE and SiamMAE: statements about their views, masks and decoder, sources of images, and that they train."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from datamodules.folder import VideoFolder
from datamodules.generated.motion import SyntheticMotion
from datamodules.settings import ReadSettings
from datamodules.video.crops import Centre, Crop, MultiScale, Nested, RandomResized, Shared
from datamodules.video.samplers import Dense, FramePair, OrderedClips
from datamodules.video.sampling import ClipSettings
from main import main
from modules.backbones.frame_tower import FrameTower
from modules.backbones.vit.cross_decoder import CrossDecoderSettings
from modules.core.errors import SettingError
from modules.layers.siamese_mae import kept_patches, patch_target
from modules.methods.cropmae import CropMAE
from modules.methods.siammae import SiamMAE
from tests.registry import CROSS, OPTIM, SIDE, tiny_tower, video_batch

ROOT = Path(__file__).parents[2]


def crop(**settings: Any) -> CropMAE:
    torch.manual_seed(0)
    return CropMAE(tiny_tower(), **{"mask_ratio": 0.75, "decoder": CROSS, "optim": OPTIM, "flip": 0.5} | settings)


def siam(**settings: Any) -> SiamMAE:
    torch.manual_seed(0)
    return SiamMAE(tiny_tower(), **{"mask_ratio": 0.75, "decoder": CROSS, "optim": OPTIM, "flip": 0.5} | settings)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- Network ---


@torch.no_grad()
def test_patches_at_the_published_size() -> None:
    """2 or 9 of 196 patches are visible, and a prediction is [B, 196, 768]."""
    sizes: dict[str, int] = {"embed_dim": 32, "depth": 1, "num_heads": 1}
    encoder = FrameTower("vit_base_patch16_224.mae", 1, 224, checkpoint=None, **sizes)
    method = CropMAE(encoder, decoder=CROSS, optim=OPTIM)
    visible, masked = method.draw_visible(3, generator())
    assert (visible.shape, masked.shape) == ((3, 2), (3, 194))
    assert torch.cat([visible, masked], 1).sort(1).values.tolist() == [list(range(196))] * 3
    images = torch.randn(2, 3, 3, 224, 224)
    assert method.predict(*images, visible).shape == (3, 196, 768)
    assert SiamMAE(encoder_again(encoder), decoder=CROSS, optim=OPTIM).visible == 9
    assert [kept_patches(196, ratio) for ratio in (0.985, 0.95)] == [2, 9]


def encoder_again(encoder: FrameTower) -> FrameTower:
    return FrameTower(**{**encoder.sizes(), "checkpoint": None})


@torch.no_grad()
def test_only_masked_patches_count(monkeypatch: pytest.MonkeyPatch) -> None:
    method = crop().eval()
    clip = video_batch(2).stream("video").data[:, 0]
    usual = method.rebuild(clip, clip, generator())
    real = method.predict
    changes: dict[str, float] = {"visible": 0.0, "masked": 0.0}

    def changed(first: Tensor, second: Tensor, visible: Tensor) -> Tensor:
        prediction = real(first, second, visible) + changes["masked"]
        shift = torch.zeros_like(prediction).scatter(1, visible[..., None].expand(-1, -1, prediction.shape[2]), 1.0)
        return prediction + (changes["visible"] - changes["masked"]) * shift

    monkeypatch.setattr(method, "predict", changed)
    changes["visible"] = 5.0
    assert torch.equal(method.rebuild(clip, clip, generator())["loss"], usual["loss"])
    changes["masked"] = 5.0
    assert method.rebuild(clip, clip, generator())["loss"] > usual["loss"] + 1


@torch.no_grad()
def test_the_order_of_the_first_views_tokens_does_not_matter() -> None:
    method = crop(decoder=CrossDecoderSettings(2, 16, 2, 64)).eval()
    first, second = torch.randn(2, 2, 3, SIDE, SIDE, generator=generator())
    visible, _ = method.draw_visible(2, generator())
    own, other = method.encode(second, visible), method.encode(first)
    usual = method.decoder(own, visible, other)
    order = torch.randperm(other.shape[1], generator=generator(1))
    assert torch.allclose(method.decoder(own, visible, other[:, order]), usual, atol=1e-6)
    turned = visible.flip(1), torch.cat([own[:, :1], own[:, 1:].flip(1)], 1)
    assert torch.allclose(method.decoder(turned[1], turned[0], other), usual, atol=1e-6)
    # Nothing of the hidden patches is seen.
    hidden = torch.ones(2, method.grid.tokens, dtype=torch.bool).scatter(1, visible, False)
    squares = hidden.view(2, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    assert torch.allclose(method.predict(first, second + 9 * squares, visible), usual, atol=1e-6)
    # Dropout is on in training only.
    method.train()
    assert not torch.equal(method.decoder(own, visible, other), method.decoder(own, visible, other))


def test_targets_of_flat_patches_are_zero() -> None:
    method = crop()
    images = torch.zeros(1, 3, SIDE, SIDE)
    images[:, :, 8:16, 8:16] = torch.randn(1, 3, 8, 8, generator=generator())
    target = patch_target(images, method.grid, normalise=True)
    assert target.abs().sum(2).ne(0).nonzero().tolist() == [[0, 5]]
    assert target[0, 5].mean().abs() < 1e-5
    assert target[0, 5].var() == pytest.approx(1, rel=1e-3)
    pixels = images[0, :, 8:16, 8:16].permute(1, 2, 0).flatten()
    assert torch.equal(patch_target(images, method.grid, normalise=False)[0, 5], pixels)


def test_positions_are_fixed_and_those_of_loaded_weights_kept(tmp_path: Path) -> None:
    method = crop()
    assert not any("pos" in name for name, _ in method.named_parameters())
    assert {"backbone.vit.pos_embed", "decoder.positions"} <= method.state_dict().keys()
    assert method.no_weight_decay() == set()
    learned = tiny_tower()
    torch.save(learned.vit.state_dict(), tmp_path / "vit.pth")
    sizes = learned.sizes() | {"checkpoint": str(tmp_path / "vit.pth")}
    kept = CropMAE(FrameTower(**sizes), mask_ratio=0.75, decoder=CROSS, optim=OPTIM)
    assert all(torch.equal(kept.backbone.vit.state_dict()[name], value) for name, value in learned.vit.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mask_ratio": 0.99}, r"model\.mask_ratio 0\.99 leaves 0 of 16 patches visible"),
        ({"mask_ratio": 0.0}, r"leaves 16 of 16 patches visible"),
        ({"mask_ratio": 1.5}, r"model\.mask_ratio is 1\.5"),
        ({"local_scale": (0.6, 0.3)}, r"model\.local_scale is \[0\.6, 0\.3\]"),
        ({"flip": 2.0}, r"model\.flip is 2\.0"),
    ],
)
def test_impossible_settings(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        crop(**settings)


def test_encoders_that_do_not_fit() -> None:
    with pytest.raises(SettingError, match=r"model\.decoder\.dim is 18"):
        CrossDecoderSettings(dim=18, heads=4)
    sizes: dict[str, Any] = {"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2, "checkpoint": None}
    with pytest.raises(SettingError, match=r"model\.backbone\.every is 2"):
        CropMAE(FrameTower("vit_base_patch16_224.mae", 4, SIDE, every=2, **sizes), mask_ratio=0.75, decoder=CROSS)
    with pytest.raises(SettingError, match="has no class token"):
        CropMAE(FrameTower("vit_base_patch16_siglip_224.webli", 4, SIDE, **sizes), mask_ratio=0.75, decoder=CROSS)


def test_a_pair_counts_as_one_sample_of_the_learning_rate_rule() -> None:
    def data(**clip: int) -> Any:
        return SimpleNamespace(batch_size=8, clip=ClipSettings(frames=1, size=SIDE, **clip))

    pair = SimpleNamespace(batch_size=8, clip=ClipSettings(frames=1, size=SIDE, clips=2, sampler=FramePair()))
    assert siam().samples_per_batch(pair) == 8
    assert crop().samples_per_batch(data()) == 8
    assert crop().samples_per_batch(data(repeat=2)) == 16
    assert crop(views="random").samples_per_batch(data(repeat=2)) == 8


# --- Views ---


def ramps(count: int) -> Tensor:
    """Images whose red says the column and whose green the row: uint8 [count, 1, 1, SIDE, SIDE, 3]."""
    place = torch.arange(SIDE)
    image = torch.stack([4 * place.expand(SIDE, -1), 4 * place[:, None].expand(-1, SIDE), torch.zeros(SIDE, SIDE)], 2)
    return image.byte().expand(count, 1, 1, -1, -1, -1)


def is_mirrored(clip: Tensor) -> Tensor:
    """bool [P]: whether red falls from left to right in images of `ramps`."""
    red = clip[:, 0, :, :, 0].float().mean(1)
    return red[:, 0] > red[:, -1]


def test_local_crops_are_inside_and_flips_independent() -> None:
    method = crop()
    whole, part = method.make_views(ramps(2000), generator())
    assert torch.equal(torch.where(is_mirrored(whole)[:, None, None, None, None], whole.flip(3), whole), ramps(2000)[:, 0])
    # A local crop shows from three tenths to six tenths of the area, in the order of the rows.
    spread = [part[..., channel].flatten(1).float().aminmax(dim=1) for channel in (0, 1)]
    width, height = ((high - low) / 4 + 1 for low, high in spread)
    assert ((width / height > 0.65) & (width / height < 1.55)).all()
    share = width * height / SIDE**2
    assert 0.25 < share.min() < 0.33
    assert 0.55 < share.max() < 0.65
    joint = torch.stack([is_mirrored(whole), is_mirrored(part)], 1).long()
    frequency = torch.bincount(2 * joint[:, 0] + joint[:, 1], minlength=4) / 2000
    assert (frequency - 0.25).abs().max() < 0.04


def test_the_other_views() -> None:
    video = ramps(40)
    first, second = crop(views="local_to_global").make_views(video, generator())
    forward = crop().make_views(video, generator())
    assert torch.equal(first, forward[1])
    assert torch.equal(second, forward[0])
    first, second = crop(views="same").make_views(video, generator())
    assert torch.equal(first, second)
    assert is_mirrored(first).any()
    assert not is_mirrored(first).all()
    two = torch.cat([video, video + 100], 1)
    first, second = crop(views="random", flip=0.0).make_views(two, generator())
    assert torch.equal(torch.stack([first, second], 1), two)
    first, second = crop(views="random").make_views(two, generator())
    assert not torch.equal(is_mirrored(first), is_mirrored(second))
    with pytest.raises(SettingError, match=r"random views needs two crops of a frame, not 1; set data\.clip\.repeat to 2"):
        crop(views="random").make_views(video, generator())


def test_every_frame_of_a_clip_is_an_image_of_its_own() -> None:
    method = crop()
    clip = ramps(1)[:, 0].expand(1, 64, -1, -1, -1)
    whole, part = method.make_views(clip[:, None], generator())
    assert 10 < is_mirrored(whole[0, :, None]).sum() < 54
    assert len(torch.unique(part[0].flatten(1), dim=0)) > 32
    visible, _ = method.draw_visible(64, generator())
    assert len(torch.unique(visible.sort(1).values, dim=0)) > 32


def test_both_frames_have_the_same_flip() -> None:
    video = torch.cat([ramps(64), ramps(64)], 1)
    first, second = siam().mirrored(video, generator()).unbind(1)
    assert torch.equal(is_mirrored(first), is_mirrored(second))
    assert 16 < is_mirrored(first).sum() < 48


def test_other_crops_and_clips_without_order_are_refused() -> None:
    def files(crop: Crop) -> Any:
        return SimpleNamespace(clip=ClipSettings(frames=1, size=SIDE, clips=2, sampler=FramePair(), crop=crop))

    method = siam()
    for same in (Shared(), Centre()):
        method.take_data(files(same))
    for other in (MultiScale(), Nested()):
        with pytest.raises(SettingError, match=rf"data\.clip\.crop is {type(other).__name__}, .* set it to Shared"):
            method.take_data(files(other))
    method.take_data(
        SyntheticMotion(ClipSettings(frames=4, size=SIDE, clips=2, sampler=OrderedClips(4)), 4, train_videos=8, val_videos=4)
    )
    with pytest.raises(SettingError, match="does not give clips in order; set it to FramePair"):
        method.take_data(SyntheticMotion(ClipSettings(frames=4, size=SIDE, clips=2), 4, train_videos=8, val_videos=4))


# --- Data and training ---


def test_a_folder_of_images(tmp_path: Path) -> None:
    """Images below class folders, of different sizes."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(6):
            path = tmp_path / split / f"n{number % 2}" / f"{number}.{'JPEG' if number % 3 else 'png'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (40 + number, 60, 3), np.uint8)).save(path)
    clip = ClipSettings(frames=1, size=SIDE, sampler=Dense(1), crop=RandomResized((0.1, 1.0)))
    data = VideoFolder(str(tmp_path), clip=clip, batch_size=3, reading=ReadSettings(0))
    data.setup("fit")
    assert data.num_classes == 2
    batch = next(iter(data.train_dataloader()))
    video = batch.stream("video").data
    assert video.shape == (3, 1, 1, SIDE, SIDE, 3)
    sizes: dict[str, int] = {"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
    encoder = FrameTower("vit_base_patch16_224.mae", 1, SIDE, checkpoint=None, **sizes)
    output = CropMAE(encoder, mask_ratio=0.75, decoder=CROSS, optim=OPTIM).step(batch, generator())
    assert output["loss"].isfinite()


def noise(seed: int) -> Tensor:
    """64 images of 2 x 2 patches of random squares: uint8 [64, 1, 16, 16, 3]."""
    squares = torch.randint(0, 256, (64, 1, 4, 4, 3), generator=generator(seed), dtype=torch.uint8)
    return squares.repeat_interleave(4, 2).repeat_interleave(4, 3)


@pytest.mark.slow
def test_predictions_use_the_other_view() -> None:
    """Of noise, nothing can be predicted but what the other view shows. Trained on pairs of the same image, the loss of new
    pairs is far below that of the best constant; with another image as the first view it is not."""
    torch.manual_seed(0)
    sizes: dict[str, int] = {"patch_size": 8, "embed_dim": 64, "depth": 1, "num_heads": 2}
    encoder = FrameTower("vit_base_patch16_224.mae", 1, 16, checkpoint=None, **sizes)
    method = CropMAE(encoder, mask_ratio=0.75, decoder=CrossDecoderSettings(2, 64, 2, 128, dropout=0), optim=OPTIM)
    optimiser = torch.optim.AdamW(method.parameters(), lr=2e-3)
    for step in range(600):
        images = noise(step + 1)
        loss = method.rebuild(images, images, generator(step))["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    unseen = noise(0)
    with torch.no_grad():
        same, other = (method.rebuild(first, unseen, generator()) for first in (unseen, unseen.roll(1, 0)))
    constant = same["log"]["constant_loss"]
    assert same["loss"] < 0.5 * constant
    assert other["loss"] > constant


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cropmae", "siammae"])
def test_layer_for_generated_motion(name: str, tmp_path: Path) -> None:
    """configs/debug/motion_images.yaml on the recipes."""
    layers = [f"--config={ROOT / 'configs' / one}" for one in (f"{name}.yaml", "debug/motion_images.yaml")]
    small = ["--data.train_videos=8", "--data.val_videos=8", "--data.batch_size=4", "--trainer.max_epochs=1"]
    where = [f"--trainer.default_root_dir={tmp_path}", "--trainer.enable_progress_bar=false", "--trainer.log_every_n_steps=1"]
    main(["fit", *layers, *small, *where, "--model.optim.warmup_epochs=0"])
    assert (tmp_path / "pictures/0000001_masked_view_2.png").is_file()
    curves = EventAccumulator(str(tmp_path)).Reload()
    assert curves.Scalars("val/constant_loss")[-1].value > 0
