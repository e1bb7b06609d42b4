"""Targets of masked methods: pixels, and features of frozen towers."""

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from modules.backbones.image_towers import clip_tower
from modules.backbones.vit.video_vit import VideoViT
from modules.core.errors import SettingError
from modules.core.preprocessing import IMAGENET, IMAGENET_MEAN, IMAGENET_STD, normalise
from modules.core.tokens import Grid, gather_tokens, patchify, unpatchify
from modules.layers.targets import ClipTarget, PixelTarget, TimmTarget, normalise_over_tokens, resize_patches

GRID = Grid(4, 4, 4, 2, 8)


@pytest.fixture
def video() -> Tensor:
    """Textured clips, [2, 3, 8, 32, 32] normalised."""
    g = torch.Generator().manual_seed(0)
    return normalise(torch.randint(0, 256, (2, 8, 32, 32, 3), generator=g, dtype=torch.uint8))


def test_normalise_is_imagenets() -> None:
    clip = torch.randint(0, 256, (1, 2, 4, 4, 3), dtype=torch.uint8)
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    expected = ((clip / 255 - mean) / std).permute(0, 4, 1, 2, 3)
    assert torch.allclose(normalise(clip), expected, atol=1e-5)
    assert torch.allclose(IMAGENET.restore(normalise(clip)).permute(0, 2, 3, 4, 1) * 255, clip.float(), atol=1e-3)


def test_pixel_order_is_time_row_column_channel(video: Tensor) -> None:
    values = PixelTarget(normalise=False)(video, GRID)
    pixels = IMAGENET.restore(video)
    p0, p1, p2, channel = 1, 3, 5, 2
    token = 2 * 16 + 1 * 4 + 3
    expected = pixels[1, channel, 2 * 2 + p0, 1 * 8 + p1, 3 * 8 + p2]
    assert values[1, token, ((p0 * 8 + p1) * 8 + p2) * 3 + channel] == expected


def test_normalised_pixels_per_token_and_channel(video: Tensor) -> None:
    values = PixelTarget()(video, GRID).unflatten(2, (GRID.token_pixels, 3))
    assert values.mean(2).abs().max() < 1e-4
    assert (values.std(2) - 1).abs().max() < 1e-4


def test_flat_patches_give_a_finite_small_target() -> None:
    flat = torch.full((1, 3, 8, 32, 32), 0.4)
    values = PixelTarget()(flat, GRID)
    assert values.isfinite().all()
    assert values.abs().max() < 1


def test_gain_and_offset_of_the_pixels_leave_the_normalised_target(video: Tensor) -> None:
    pixels = IMAGENET.restore(video)
    std, mean = torch.tensor(IMAGENET_STD).view(3, 1, 1, 1), torch.tensor(IMAGENET_MEAN).view(3, 1, 1, 1)
    moved = ((0.5 * pixels + 0.2) - mean) / std
    assert torch.allclose(PixelTarget()(moved, GRID), PixelTarget()(video, GRID), atol=1e-3)


def test_predicting_zero_costs_the_biased_variance(video: Tensor) -> None:
    count = GRID.token_pixels
    loss = PixelTarget()(video, GRID).square().mean()
    assert loss.item() == pytest.approx((count - 1) / count, abs=1e-3)


def test_black_clips_have_a_zero_target() -> None:
    black = normalise(torch.zeros(1, 8, 32, 32, 3, dtype=torch.uint8))
    assert PixelTarget(normalise=False)(black, GRID).abs().max() < 1e-6
    assert PixelTarget()(black, GRID).abs().max() < 1


@pytest.mark.parametrize("normalised", [True, False])
def test_to_pixels_inverts_the_target(video: Tensor, normalised: bool) -> None:
    target = PixelTarget(normalised)
    cubes = target.to_pixels(target(video, GRID), video, GRID)
    assert torch.allclose(unpatchify(cubes, GRID), IMAGENET.restore(video), atol=1e-4)
    assert torch.allclose(cubes, patchify(IMAGENET.restore(video), GRID), atol=1e-4)


def test_features_are_normalised_per_clip_and_channel_not_per_token() -> None:
    features = torch.randn(3, 128, 7) * (0.1 + torch.rand(3, 1, 7)) + torch.randn(3, 1, 7)
    values = normalise_over_tokens(features)
    assert values.mean(1).abs().max() < 1e-4
    assert (values.std(1) - 1).abs().max() < 1e-4
    assert not torch.allclose(values, nn.functional.layer_norm(features, (7,)), atol=0.1)
    assert values.square().mean().item() == pytest.approx(127 / 128, abs=1e-4)


def test_equal_features_give_a_finite_target() -> None:
    values = normalise_over_tokens(torch.full((1, 16, 3), 1.7))
    assert values.isfinite().all()


def write_clip_file(path: Path, width: int = 64, layers: int = 2, patch: int = 8, side: int = 32, prefix: str = "") -> None:
    """A tower with random weights under OpenAI's names, with what else their files hold."""
    g = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g) * 0.2

    state = {
        "class_embedding": draw(width),
        "positional_embedding": draw((side // patch) ** 2 + 1, width),
        "conv1.weight": draw(width, 3, patch, patch),
        "proj": draw(width, 16),
    }
    for name in ("ln_pre", "ln_post"):
        state |= {f"{name}.weight": 1 + draw(width), f"{name}.bias": draw(width)}
    for i in range(layers):
        block = f"transformer.resblocks.{i}."
        for name in ("ln_1", "ln_2"):
            state |= {f"{block}{name}.weight": 1 + draw(width), f"{block}{name}.bias": draw(width)}
        state |= {
            f"{block}attn.in_proj_weight": draw(3 * width, width),
            f"{block}attn.in_proj_bias": draw(3 * width),
            f"{block}attn.out_proj.weight": draw(width, width),
            f"{block}attn.out_proj.bias": draw(width),
            f"{block}mlp.c_fc.weight": draw(4 * width, width),
            f"{block}mlp.c_fc.bias": draw(4 * width),
            f"{block}mlp.c_proj.weight": draw(width, 4 * width),
            f"{block}mlp.c_proj.bias": draw(width),
        }
    state = {prefix + key: value for key, value in state.items()}
    if prefix:
        state |= {
            "logit_scale": draw(1),
            "token_embedding.weight": draw(10, 8),
            "transformer.resblocks.0.ln_1.bias": draw(8),
        }
    torch.save(state, path)


@pytest.fixture
def clip_file(tmp_path: Path) -> str:
    path = tmp_path / "tower.pt"
    write_clip_file(path)
    return str(path)


def test_clip_features_are_the_normed_patch_tokens(clip_file: str, video: Tensor) -> None:
    """By hand: last block's output, LayerNorm with ln_post, no class token, no projection."""
    target = ClipTarget(clip_file, heads=2)
    vit = target.tower.vit
    frames = target.frames(video, GRID)
    tokens = vit.norm_pre(vit._pos_embed(vit.patch_embed(frames)))
    for block in vit.blocks:
        tokens = block(tokens)
    mean, var = tokens.mean(-1, keepdim=True), tokens.var(-1, unbiased=False, keepdim=True)
    by_hand = ((tokens - mean) / (var + 1e-5).sqrt() * vit.norm.weight + vit.norm.bias)[:, 1:]
    assert torch.allclose(target.features(video, GRID), by_hand.reshape(2, 64, 64), atol=1e-4)


def test_tower_sees_the_first_frame_of_each_tubelet_clip_major(clip_file: str, video: Tensor) -> None:
    target = ClipTarget(clip_file)
    frames = target.frames(video, GRID)
    assert frames.shape == (8, 3, 32, 32)
    assert torch.equal(frames[5], video[1, :, 2])
    changed = video.clone()
    changed[:, :, 1::2] = 0
    assert torch.equal(target(changed, GRID), target(video, GRID))


def test_quick_gelu_matters(clip_file: str, video: Tensor) -> None:
    target = ClipTarget(clip_file)
    features = target.features(video, GRID).clone()
    for block in target.tower.vit.blocks:
        block.mlp.act = nn.GELU()
    assert not torch.allclose(features, target.features(video, GRID), atol=1e-3)


def test_targets_carry_no_gradient_and_can_be_used_in_a_loss(clip_file: str, video: Tensor) -> None:
    for target in (ClipTarget(clip_file), ClipTarget(clip_file, normalise=False), PixelTarget()):
        values = target(video, GRID)
        assert not values.requires_grad
        assert not values.is_inference()
        scale = torch.ones((), requires_grad=True)
        (gather_tokens(values, torch.tensor([[0, 3], [1, 2]])) * scale).square().mean().backward()
        assert scale.grad is not None


def test_whole_clip_models_and_bare_towers_load_alike(tmp_path: Path, clip_file: str, video: Tensor) -> None:
    whole = tmp_path / "whole.pt"
    write_clip_file(whole, prefix="visual.")
    bare, full = ClipTarget(clip_file), ClipTarget(str(whole))
    assert torch.equal(bare(video, GRID), full(video, GRID))


def test_torchscript_archives_load(tmp_path: Path, clip_file: str) -> None:
    """OpenAI's own file is an archive of this kind."""

    class Holder(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    holder = Holder()
    visual = Holder()
    for key, value in torch.load(clip_file, weights_only=True).items():
        module, parts = visual, key.split(".")
        for name in parts[:-1]:
            if not hasattr(module, name):
                module.add_module(name, Holder())
            module = getattr(module, name)
        module.register_parameter(parts[-1], nn.Parameter(value))
    holder.visual = visual
    path = tmp_path / "script.pt"
    torch.jit.script(holder).save(str(path))
    ours = clip_tower(str(path), None).state_dict()
    expected = clip_tower(clip_file, None).state_dict()
    assert all(torch.equal(ours[key], value) for key, value in expected.items())


@pytest.mark.parametrize("kind", ["missing", "text", "other"])
def test_bad_tower_files_are_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "tower.pt"
    if kind == "text":
        path.write_text("not weights")
    if kind == "other":
        torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(SettingError, match=r"model\.target\.checkpoint"):
        ClipTarget(str(path))


def test_tower_with_a_missing_key_is_refused(clip_file: str) -> None:
    state = torch.load(clip_file, weights_only=True)
    del state["ln_post.bias"]
    torch.save(state, clip_file)
    with pytest.raises(SettingError, match=r"1 missing \(norm\.bias\)"):
        ClipTarget(clip_file)


def test_tower_must_share_the_encoders_grid(clip_file: str) -> None:
    backbone = VideoViT("micro", image_size=64, num_frames=4, patch_size=8)
    with pytest.raises(SettingError, match=r"model\.backbone\.image_size"):
        ClipTarget(clip_file).check(backbone)


def test_dino_target_from_a_file(tmp_path: Path) -> None:
    """DINO's published files carry timm's names; features are the tokens after the final norm, without class token."""
    name = "vit_small_patch16_224.dino"
    tower = timm.create_model(name, pretrained=False, num_classes=0).eval()
    path = tmp_path / "dino.pth"
    torch.save(tower.state_dict(), path)
    target = TimmTarget(name, str(path))
    video = torch.randn(1, 3, 2, 224, 224)
    grid = Grid(1, 14, 14, 2, 16)
    with torch.no_grad():
        expected = tower.forward_features(video[:, :, 0])[:, 1:]
    assert torch.allclose(target.features(video, grid), expected, atol=1e-5)
    assert target.dim(grid) == 384


def test_maps_are_resized_between_the_middles_of_patches() -> None:
    """By hand: the middles of four cells lie at -1/4, 1/4, 3/4 and 5/4 of the two, and nothing is extrapolated."""
    patches = torch.tensor([0.0, 1.0, 10.0, 11.0]).reshape(1, 4, 1)
    along = torch.tensor([0.0, 0.25, 0.75, 1.0])
    assert torch.allclose(resize_patches(patches, 2, (4, 4)).reshape(4, 4), 10 * along[:, None] + along)


@pytest.mark.parametrize("published", [False, True])
def test_dinov2_target_from_a_file(published: bool, tmp_path: Path) -> None:
    """Made for 518 px, shown 224: 16 x 16 patches without class and registers, on the encoder's 14 x 14."""
    name = "vit_small_patch14_reg4_dinov2.lvd142m"
    state = timm.create_model(name, pretrained=False, num_classes=0, depth=1).state_dict()
    g = torch.Generator().manual_seed(0)
    state = {key: torch.randn(value.shape, generator=g) * 0.1 for key, value in state.items()}
    tower = timm.create_model(name, pretrained=False, num_classes=0, depth=1, dynamic_img_size=True).eval()
    tower.load_state_dict(state)
    if published:
        place = torch.ones_like(state["cls_token"])
        state["pos_embed"] = torch.cat([place, state["pos_embed"]], dim=1)
        state |= {"cls_token": state["cls_token"] - place, "register_tokens": state.pop("reg_token")}
        state["mask_token"] = torch.zeros(1, 384)
    path = tmp_path / "dinov2.pth"
    torch.save(state, path)
    target = shallow_target(name, str(path))
    target.check(VideoViT("micro"))
    video = torch.randn(1, 3, 4, 224, 224, generator=g)
    with torch.no_grad():
        tokens = tower.forward_features(video[0].transpose(0, 1)[::2])[:, 5:]
    maps = tokens.transpose(1, 2).reshape(2, 384, 16, 16)
    expected = nn.functional.interpolate(maps, (14, 14), mode="bilinear").flatten(2).transpose(1, 2).reshape(1, 392, 384)
    assert torch.allclose(target.features(video, Grid(2, 14, 14, 2, 16)), expected, atol=1e-4)
    assert target.dim(Grid(2, 14, 14, 2, 16)) == 384


def shallow_target(name: str, path: str) -> TimmTarget:
    """The tower with one block, so that the test is short."""
    whole = timm.create_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timm, "create_model", lambda *words, **settings: whole(*words, **settings, depth=1))
        return TimmTarget(name, path)


def test_towers_of_other_patches_are_resized(clip_file: str, video: Tensor) -> None:
    target = ClipTarget(clip_file)
    target.check(VideoViT("micro", image_size=32, num_frames=4, patch_size=16))
    assert target(video, Grid(4, 2, 2, 2, 16)).shape == (2, 16, 64)


@pytest.mark.parametrize(("name", "said"), [("no_such_model", "is not a timm model"), ("resnet18", "not a plain vision tr")])
def test_wrong_tower_names_are_refused(name: str, said: str, tmp_path: Path) -> None:
    for checkpoint in (None, str(tmp_path / "none.pth")):
        with pytest.raises(SettingError, match=rf"model\.target\.name {name} .*{said}"):
            TimmTarget(name, checkpoint)
