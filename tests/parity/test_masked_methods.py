"""VideoMAE and SMILE against tensors of their official code: outputs, targets, losses and gradients."""

import pytest
import torch
from torch import Tensor

from modules.backbones.vit.decoder import DecoderSettings
from modules.backbones.vit.positions import sincos_positions
from modules.backbones.vit.video_vit import VideoViT
from modules.core.batch import unlabelled
from modules.core.errors import SettingError
from modules.core.loading import load_strictly
from modules.core.tokens import gather_tokens
from modules.layers.heads import VideoClassifier
from modules.layers.targets import ClipTarget, PixelTarget, TowerTarget, normalise_over_tokens
from modules.masks.base import Mask, mask_from_bool
from modules.methods.smile import SMILE
from modules.methods.videomae import VideoMAE
from modules.weights.names.videomae import from_official, to_official
from tests.parity.cases import RELATIVE_BOUND, as_clips, assert_close, load_case, part


def build_backbone(sizes: dict) -> VideoViT:
    return VideoViT(
        image_size=sizes["img_size"],
        num_frames=sizes.get("num_frames", sizes.get("all_frames")),
        patch_size=sizes["patch_size"],
        tubelet_size=sizes["tubelet_size"],
        embed_dim=sizes.get("encoder_embed_dim", sizes.get("embed_dim")),
        depth=sizes.get("encoder_depth", sizes.get("depth")),
        num_heads=sizes.get("encoder_num_heads", sizes.get("num_heads")),
        mlp_ratio=sizes["mlp_ratio"],
        cosine_attention=sizes.get("cos_attn", False),
    )


class FixedMask:
    """Stands in for a generator: the mask of the case."""

    ratio = 0.5

    def __init__(self, mask: Mask) -> None:
        self.mask = mask

    def check(self, grid: object, setting: str = "model.mask") -> None:
        pass

    def draw(self, *_: object) -> Mask:
        return self.mask


def check_gradients(
    method: torch.nn.Module, loss: Tensor, expected: dict[str, Tensor], grid: object, bound: float = RELATIVE_BOUND
) -> None:
    loss.backward()
    gradients = {name: value.grad for name, value in method.named_parameters() if value.grad is not None}
    official = to_official(gradients, grid)
    assert expected
    for name, value in expected.items():
        assert_close(official[name], value, f"gradient of {name}", bound)


@pytest.fixture
def videomae_case() -> tuple[dict, dict, VideoMAE]:
    tensors, info = load_case("videomae", "pretrain_forward_loss")
    sizes = info["constructor"]
    method = VideoMAE(
        build_backbone(sizes),
        PixelTarget(),
        FixedMask(mask_from_bool(tensors["input.mask"])),
        decoder=DecoderSettings(sizes["decoder_depth"], sizes["decoder_embed_dim"], sizes["decoder_num_heads"]),
    )
    load_strictly(method, from_official(part(tensors, "state.")), "case")
    return tensors, info, method


def test_videomae_step(videomae_case: tuple[dict, dict, VideoMAE]) -> None:
    tensors, _, method = videomae_case
    video, mask, grid = tensors["input.video"], method.mask.mask, method.backbone.grid
    assert_close(method.backbone.forward_features(video, mask.visible), tensors["output.encoder_tokens"], "encoder")
    output = method.step(unlabelled(as_clips(video)), None)
    assert_close(output["show"]["prediction"], tensors["output.prediction"], "prediction")
    assert_close(output["show"]["target"], tensors["output.target_normalised"], "target")
    assert_close(output["loss"].detach(), tensors["output.loss_normalised"].reshape(()), "loss")
    raw = gather_tokens(PixelTarget(normalise=False)(video, grid), mask.targets)
    assert_close(raw, tensors["output.target_raw"], "raw target")
    raw_loss = torch.nn.functional.mse_loss(output["show"]["prediction"], raw)
    assert_close(raw_loss, tensors["output.loss_raw"].reshape(()), "raw loss")
    check_gradients(method, output["loss"], part(tensors, "output.grad."), grid)


def test_videomae_positions(videomae_case: tuple[dict, dict, VideoMAE]) -> None:
    tensors, info, method = videomae_case
    for name, dim in (("encoder", "encoder_embed_dim"), ("decoder", "decoder_embed_dim")):
        table = sincos_positions(method.backbone.grid.tokens, info["constructor"][dim])
        assert_close(table, tensors[f"output.{name}_pos_embed"].reshape(table.shape), f"{name} positions")


def test_videomae_names_come_back(videomae_case: tuple[dict, dict, VideoMAE]) -> None:
    tensors, _, method = videomae_case
    official = part(tensors, "state.")
    back = to_official(method.state_dict(), method.backbone.grid)
    assert back.keys() == official.keys()
    for name, value in official.items():
        assert torch.equal(back[name], value), name


def load_classifier(info: dict, backbone_state: dict[str, Tensor], head_state: dict[str, Tensor]) -> VideoClassifier:
    sizes = info["constructor"]
    network = VideoClassifier(build_backbone(sizes), sizes["num_classes"], init_scale=sizes["init_scale"])
    weights = from_official(backbone_state) | head_state
    load_strictly(network, weights, "case", may_miss=("backbone.norm.",), may_leave=("decoder.",))
    return network.eval()


def test_finetune_forward() -> None:
    tensors, info = load_case("videomae", "finetune_forward")
    network = load_classifier(info, part(tensors, "state."), {})
    video = tensors["input.video"]
    assert_close(
        network.backbone.forward_features(video, norm=False),
        tensors["output.tokens_last_block"],
        "tokens of last block",
    )
    assert_close(network.pool(video), tensors["output.pooled_features"], "pooled features")
    assert_close(network(video), tensors["output.logits"], "logits")
    table = network.backbone.positions
    assert_close(table, tensors["output.pos_embed"].reshape(table.shape), "positions")


def test_pretrain_to_finetune() -> None:
    tensors, info = load_case("videomae", "pretrain_to_finetune")
    network = load_classifier(info, part(tensors, "state."), part(tensors, "init."))
    expected = part(tensors, "output.")
    video = tensors["input.video"]
    outputs = {
        "tokens_last_block": lambda: network.backbone.forward_features(video, norm=False),
        "pooled_features": lambda: network.pool(video),
        "logits": lambda: network(video),
    }
    compared = 0
    for name, value in expected.items():
        if name in outputs:
            assert_close(outputs[name](), value, name)
            compared += 1
    assert compared, f"the case has none of {list(outputs)}: {list(expected)}"


def test_pretrain_to_finetune_key_report() -> None:
    """Exactly fc_norm and head are fresh; exactly the decoder's part and the final norm go unused."""
    tensors, info = load_case("videomae", "pretrain_to_finetune")
    sizes = info["constructor"]
    network = VideoClassifier(build_backbone(sizes), sizes["num_classes"])
    official = part(tensors, "state.")
    with pytest.raises(SettingError, match=r"4 missing \(fc_norm.weight, fc_norm.bias, head.weight, head.bias\)"):
        load_strictly(network, from_official(official), "case", may_leave=("decoder.",))
    report = load_strictly(network, from_official(official), "case", may_miss=("fc_norm.", "head."), may_leave=("decoder.",))
    # Our encoder always has its final norm, so that one is loaded, and bypassed in fine-tuning.
    unused = {name for name in info["keys_after_renaming_that_are_not_used"] if not name.startswith("norm.")}
    weights = from_official(official)
    left_over = to_official({name: weights[name] for name in report.left_over}, network.backbone.grid)
    assert left_over.keys() == unused


def smile_method(info: dict, target: TowerTarget, mask: Mask) -> SMILE:
    sizes = info["constructor"]
    return SMILE(
        build_backbone(sizes),
        target,
        FixedMask(mask),
        paste=None,
        decoder=DecoderSettings(sizes["decoder_depth"], sizes["decoder_embed_dim"], sizes["decoder_num_heads"]),
    )


class FakeTower(torch.nn.Module):
    """Returns the features of the case and keeps the frames that it was given."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.features = features
        self.frames: Tensor | None = None

    def forward(self, frames: Tensor) -> Tensor:
        self.frames = frames
        return self.features * self.scale


@pytest.mark.parametrize("case", ["pretrain_forward_loss_fake_teacher", "pretrain_loss_tiny_clip_teacher"])
@pytest.mark.parametrize("two_masks", [False, True])
def test_smile_step(case: str, two_masks: bool, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, info = load_case("smile", case)
    sizes, video = info["constructor"], tensors["input.video"]
    student = part(tensors, "state.student.") or part(tensors, "state.")
    if "teacher_constructor" in info:
        path = tmp_path / "tower.pt"
        torch.save(part(tensors, "state.teacher.vision_encoder."), path)
        target: TowerTarget = ClipTarget(str(path), heads=info["teacher_constructor"]["heads"])
    else:
        features = tensors["input.teacher_features"]
        target = TowerTarget(FakeTower(features), features.shape[-1], sizes["img_size"], sizes["patch_size"])
    method = smile_method(info, target, mask_from_bool(tensors["input.mask"]))
    grid = method.backbone.grid
    load_strictly(method, from_official(student), "case")
    method.views_per_clip = 2 if two_masks else 1
    permutation = tensors["input.mask_permutation"].long()
    monkeypatch.setattr(torch, "randperm", lambda *_, **__: permutation)
    output = method.step(unlabelled(as_clips(video)), torch.Generator().manual_seed(0))
    if "output.teacher_input" in tensors:
        assert_close(target.frames(video, grid), tensors["output.teacher_input"], "frames for the tower")
    if "output.teacher_features" in tensors:
        features = target.features(video, grid)
        expected = tensors["output.teacher_features"].reshape(features.shape)
        assert_close(features, expected, "features of the tower")
    suffix = "_two_masks" if two_masks else ""
    compared = set()
    for name in ("prediction", "target", "loss"):
        key = f"output.{name}{suffix}"
        if key in tensors:
            assert_close(
                (output["loss"] if name == "loss" else output["show"][name]).detach().reshape(tensors[key].shape),
                tensors[key],
                name,
            )
            compared.add(name)
    assert "loss" in compared, sorted(tensors)
    if not two_masks:
        check_gradients(method, output["loss"], part(tensors, "output.grad."), grid)


def test_target_does_not_depend_on_common_feature_or_scale() -> None:
    features = torch.randn(2, 24, 5)
    moved = normalise_over_tokens(features * torch.tensor([1.0, 2, 3, 4, 5]) + torch.randn(2, 1, 5))
    assert_close(moved, normalise_over_tokens(features), "normalised features", 1e-4)
