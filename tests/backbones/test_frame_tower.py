"""Vision transformers of images on the frames of clips: what they compute, what they load, and methods that use them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from modules.backbones.encoder import Encoder
from modules.backbones.frame_tower import FrameTower
from modules.backbones.image_towers import clip_tower
from modules.backbones.vit.positions import resample_frame_positions
from modules.convert.frame_tower import CLIP, DINO, DINOV2_REGISTERS
from modules.core.batch import Regions
from modules.core.errors import SettingError
from modules.core.preprocessing import HALF, IMAGENET, Normalisation
from modules.downstream.arrow_of_time import ArrowOfTime
from modules.downstream.classification import Classification
from modules.downstream.counting import RepetitionCounting
from modules.downstream.detection import ActionDetection
from modules.downstream.retrieval import NearestNeighbours
from tests.layers.test_targets import write_clip_file
from tests.registry import FRAMES, OPTIM, SIDE, video_batch

CLIP_PIXELS = Normalisation((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
TINY: dict[str, Any] = {"num_frames": FRAMES, "image_size": SIDE, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1}


def tiny(name: str = DINO, **settings: Any) -> FrameTower:
    """Two blocks of width 64 on 4 frames of 32 px, with random weights that are not symmetric."""
    torch.manual_seed(0)
    tower = FrameTower(name, **TINY | {"checkpoint": None} | settings)
    for value in tower.parameters():
        nn.init.normal_(value, std=0.2)
    return tower.eval()


def write_dino(path: Path, **settings: Any) -> VisionTransformer:
    """A file of DINO's form, and its network."""
    torch.manual_seed(1)
    network = VisionTransformer(SIDE, 8, num_classes=0, embed_dim=64, depth=2, num_heads=1, **settings)
    for value in network.parameters():
        nn.init.normal_(value, std=0.2)
    torch.save(network.state_dict(), path)
    return network.eval()


def clips(frames: int = FRAMES) -> Tensor:
    return torch.randn(2, 3, frames, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize("name", [CLIP, DINO, DINOV2_REGISTERS, "vit_base_patch16_siglip_224.webli"])
def test_features_are_those_of_timm_frame_by_frame(name: str) -> None:
    tower, video = tiny(name, pooling="time"), clips()
    known = timm.create_model(name, num_classes=0, img_size=SIDE, patch_size=8, embed_dim=64, depth=2, num_heads=1)
    known.load_state_dict(tower.vit.state_dict())
    known.eval()
    frames = [known(video[:, :, frame]) for frame in range(FRAMES)]
    assert torch.allclose(tower(video), torch.cat(frames, 1), atol=1e-5)
    tower.pooling = "mean"
    assert torch.allclose(tower(video), torch.stack(frames).mean(0), atol=1e-5)
    tokens = [known.forward_features(video[:, :, frame])[:, known.num_prefix_tokens :] for frame in range(FRAMES)]
    assert torch.allclose(tower.forward_features(video), torch.cat(tokens, 1), atol=1e-5)
    assert torch.allclose(tower.layers(video).through(), torch.cat(tokens, 1), atol=1e-5)
    (block,) = tower.forward_intermediates(video, [0], norm=True, intermediates_only=True)
    (expected,) = known.forward_intermediates(video[:, :, 3], indices=[0], norm=True, intermediates_only=True)
    assert torch.allclose(block[:, :, 3], expected, atol=1e-5)


@torch.no_grad()
def test_frames_do_not_see_each_other_and_their_mean_has_no_order() -> None:
    mean, time, video = tiny(), tiny(pooling="time"), clips()
    order = torch.tensor([2, 0, 3, 1])
    assert torch.allclose(mean(video[:, :, order]), mean(video), atol=1e-5)
    slices = time(video).unflatten(1, (FRAMES, -1))
    assert torch.allclose(time(video[:, :, order]).unflatten(1, (FRAMES, -1)), slices[:, order], atol=1e-5)
    assert not torch.allclose(slices[:, order], slices, atol=1e-2)
    assert (mean.feature_dim, time.feature_dim) == (64, 4 * 64)
    changed = video.clone()
    changed[:, :, 1] = 0
    same = (tiny().forward_features(changed) == tiny().forward_features(video)).all(2)
    assert same.unflatten(1, (FRAMES, -1)).all(2).tolist() == [[True, False, True, True]] * 2


@torch.no_grad()
def test_every_other_frame() -> None:
    tower, all_frames, video = tiny(every=2, pooling="time"), tiny(pooling="time"), clips()
    assert torch.equal(tower(video), all_frames(video[:, :, ::2]))
    assert (tower.grid, tower.feature_dim) == ((2, 4, 4, 2, 8), 2 * 64)
    assert tower.forward_features(video).shape == (2, tower.grid.tokens, 64)
    assert tower.forward_intermediates(video, 1, intermediates_only=True)[0].shape == (2, 64, 2, 4, 4)
    with pytest.raises(SettingError, match=r"Clips have 3 frames .* takes a multiple of 2 frames of 32 x 32 px"):
        tower(video[:, :, :3])
    with pytest.raises(SettingError, match=r"Clips have 4 frames of 12 x 32 px, .* other multiples of 8 px"):
        tower(video[..., :12, :])


@torch.no_grad()
@pytest.mark.parametrize("name", [CLIP, DINO, DINOV2_REGISTERS, "vit_base_patch16_siglip_224.webli"])
def test_frames_of_any_size(name: str) -> None:
    """Position codes are interpolated: of the size of the settings exactly as they are, of other sizes those of the patches."""
    tower, video = tiny(name, pooling="time"), clips()
    wide = torch.cat([video, video[..., :8]], 4)
    tokens = tower.forward_features(wide)
    assert tokens.shape == (2, FRAMES * 4 * 5, 64)
    assert tower.forward_intermediates(wide, [-1], intermediates_only=True)[0].shape == (2, 64, FRAMES, 4, 5)
    assert tower(wide).shape == (2, FRAMES * 64)
    # The network with these codes, and no others, gives the same.
    prefix = 0 if tower.vit.no_embed_class else tower.vit.num_prefix_tokens
    codes = resample_frame_positions(tower.vit.pos_embed, prefix, (4, 4), (4, 5))
    assert torch.equal(codes[:, :prefix], tower.vit.pos_embed[:, :prefix])
    known = timm.create_model(name, num_classes=0, img_size=(32, 40), patch_size=8, embed_dim=64, depth=2, num_heads=1)
    known.load_state_dict(tower.vit.state_dict() | {"pos_embed": codes})
    expected = known.eval().forward_features(wide[:, :, 1])[:, known.num_prefix_tokens :]
    assert torch.allclose(tokens.unflatten(1, (FRAMES, -1))[:, 1], expected, atol=1e-5)


def test_it_is_an_encoder_of_videos() -> None:
    tower = tiny(DINOV2_REGISTERS)
    assert isinstance(tower, Encoder)
    groups = tower.layer_groups()
    assert len(groups) == 2 + 2
    assert sorted(id(value) for group in groups for value in group) == sorted(map(id, tower.parameters()))
    assert {id(tower.vit.reg_token), id(tower.vit.pos_embed)} <= {id(value) for value in groups[0]}
    assert {"vit.cls_token", "vit.pos_embed", "vit.reg_token"} <= tower.no_weight_decay()
    assert tower.compiled_parts() == list(tower.vit.blocks)


# --- Weights ---


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["", "visual."])
def test_clip_loads_with_its_own_normalisation(prefix: str, tmp_path: Path) -> None:
    write_clip_file(tmp_path / "clip.pt", prefix=prefix)
    tower = FrameTower(CLIP, **TINY, checkpoint=str(tmp_path / "clip.pt")).eval()
    assert tower.normalisation == CLIP_PIXELS
    video, known = clips(), clip_tower(str(tmp_path / "clip.pt"), None).eval()
    patches = [known(video[:, :, frame]) for frame in range(FRAMES)]
    assert torch.allclose(tower.forward_features(video), torch.cat(patches, 1), atol=1e-5)
    white = torch.full((1, FRAMES, SIDE, SIDE, 3), 255, dtype=torch.uint8)
    assert tower.preprocess(white)[0, :, 0, 0, 0].tolist() == pytest.approx(
        [(1 - mean) / std for mean, std in zip(CLIP_PIXELS.mean, CLIP_PIXELS.std, strict=True)], abs=1e-4
    )


def test_the_setting_of_the_normalisation_takes_precedence() -> None:
    assert (tiny().normalisation, tiny(CLIP).normalisation, tiny(CLIP, normalisation=HALF).normalisation) == (
        IMAGENET, CLIP_PIXELS, HALF,
    )  # fmt: skip


@pytest.mark.parametrize("lost", ["blocks.1.attn.qkv.bias", "pos_embed", "patch_embed.proj.weight"])
def test_a_missing_tensor_is_named(lost: str, tmp_path: Path) -> None:
    state = write_dino(tmp_path / "dino.pth").state_dict()
    del state[lost]
    torch.save(state, tmp_path / "dino.pth")
    with pytest.raises(SettingError, match=rf"dino\.pth does not fit this VisionTransformer: .*1 missing \({lost}\)"):
        FrameTower(DINO, **TINY, checkpoint=str(tmp_path / "dino.pth"))


def test_other_patches_are_refused_and_other_positions_resampled(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_dino(tmp_path / "dino.pth")
    path = str(tmp_path / "dino.pth")
    with pytest.raises(SettingError, match=r"dino\.pth has patches of 8 x 8 px, but the network 16 x 16"):
        FrameTower(DINO, **TINY | {"patch_size": 16}, checkpoint=path)
    with caplog.at_level("INFO"):
        tower = FrameTower(DINO, **TINY | {"image_size": 48}, checkpoint=path)
    assert tower.vit.pos_embed.shape == (1, 37, 64)
    assert "dino.pth are resampled over rows and columns from frames of 32 px to 48 px" in caplog.text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"every": 3}, r"model\.backbone\.num_frames 4 is not a multiple of model\.backbone\.every 3"),
        ({"image_size": 30}, r"model\.backbone\.image_size 30 is not a multiple of 8"),
        ({"name": "resnet18"}, r"model\.backbone\.name resnet18 is not a plain vision transformer"),
        ({"name": "vit"}, r"model\.backbone\.name vit is not a timm model"),
        ({"num_heads": 7}, r"model\.backbone: .* cannot have the sizes .*'num_heads': 7"),
        ({"depth": 0}, r"model\.backbone\.depth is 0"),
        ({"checkpoint": "none.pth"}, r"model\.backbone\.checkpoint names none\.pth, which does not exist"),
    ],
)
def test_impossible_settings(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        FrameTower(**TINY | {"checkpoint": None} | settings)


def test_without_the_network_the_error_names_the_setting_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", fails)
    with pytest.raises(SettingError, match=r"downloaded \(OSError\); pass a file with model\.backbone\.checkpoint"):
        FrameTower()


# --- Methods ---


def learns(method: Any, batch: Any) -> None:
    """A step has a gradient for everything that is trained."""
    method.step(batch, torch.Generator().manual_seed(0))["loss"].backward()
    trained = [(name, value) for name, value in method.named_parameters() if value.requires_grad]
    assert [name for name, value in trained if value.grad is None or not value.grad.any()] == []


@pytest.mark.parametrize(("mode", "pooling"), [("finetune", "time"), ("linear", "mean"), ("attentive", "time")])
def test_classification(mode: Any, pooling: Any) -> None:
    method = Classification(tiny(pooling=pooling), 2, mode, optim=OPTIM)
    nn.init.normal_(method.classifier.weight)
    learns(method, video_batch())
    assert method.embed(video_batch()).shape == (4, 64 if mode == "attentive" or pooling == "mean" else 256)


def test_arrow_of_time_needs_an_order() -> None:
    learns(ArrowOfTime(tiny(pooling="time"), optim=OPTIM), video_batch())
    with pytest.raises(SettingError, match=r"the same both ways; set model\.backbone\.pooling to time"):
        ArrowOfTime(tiny())


def test_counting_and_neighbours() -> None:
    logits, boxes = RepetitionCounting(tiny(pooling="time"))(clips())
    assert (logits.shape[:3], boxes.shape[:2]) == ((2, 2, 2), (2, 2))
    neighbours = NearestNeighbours(tiny(pooling="time"))
    assert neighbours.encode(video_batch()).shape == (4, 1, 256)


def test_detection_sees_its_boxes_alone() -> None:
    method = ActionDetection(tiny(), 5, flip=0, optim=OPTIM).eval()
    rows = torch.tensor([[0, 0.0, 0, 8, 8], [1, 16.0, 16, 32, 32]])
    batch = replace(video_batch(2), regions=Regions(rows, torch.eye(5)[:2], torch.arange(2)))
    learns(method, batch)
    assert method.stride == 8
    # Of a map that is 1 in the first patch of each frame, a box around it sees this, one at the other end nothing.
    method.backbone.forward_features = lambda video: first_patch(method.backbone)  # type: ignore[method-assign]
    nn.init.ones_(method.head.weight)
    nn.init.zeros_(method.head.bias)
    found = method.logits(clips(), rows)[:, 0]
    assert found[0] > 32
    assert found[1] == 0


def first_patch(tower: FrameTower) -> Tensor:
    tokens = torch.zeros(2, *tower.grid[:3], 64)
    tokens[:, :, 0, 0] = 1
    return tokens.flatten(1, 3)
