"""STMAE against tensors of the official code of MAE-ST and of a child's perspective: pretraining, its masks, fine-tuning."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modules.backbones.vit.decoder import DecoderSettings
from modules.backbones.vit.spacetime_vit import GREY, SpacetimeViT
from modules.core.batch import unlabelled
from modules.core.loading import load_strictly
from modules.core.tokens import gather_tokens
from modules.downstream.classification import Classification, HeadSettings
from modules.layers.targets import InputPixelTarget
from modules.masks.base import mask_from_bool
from modules.masks.clip import CenterMask, ClipMask, TemporalMask, UniformMask
from modules.methods.stmae import STMAE
from modules.weights.names.spacetime import from_spacetime, is_spacetime, to_spacetime
from tests.parity.cases import assert_close, load_case, part
from tests.parity.test_masked_methods import FixedMask

BOUND, GRADIENT_BOUND = 5e-6, 2e-5
PRETRAINING = ("pretrain_forward_loss", "mae_st_official_joint_pos", "mae_st_official_norm_pix")
every_case = pytest.mark.parametrize("case", PRETRAINING)


def as_clips(video: Tensor) -> Tensor:
    """Normalised videos [B, 3, T, H, W] as the pixels that they come from: float64 [B, 1, T, H, W, 3], from 0 to 255."""
    return 255 * GREY.restore(video.double()).permute(0, 2, 3, 4, 1)[:, None]


def build_backbone(sizes: dict, **more: object) -> SpacetimeViT:
    return SpacetimeViT(
        image_size=sizes["img_size"],
        num_frames=sizes["num_frames"],
        patch_size=sizes["patch_size"],
        tubelet_size=sizes["t_patch_size"],
        embed_dim=sizes["embed_dim"],
        depth=sizes["depth"],
        num_heads=sizes["num_heads"],
        mlp_ratio=sizes.get("mlp_ratio", 4),
        learned="separable" if sizes.get("sep_pos_embed", True) else "joint",
        class_token=sizes.get("cls_embed", True),
        **more,
    )


def load_method(case: str) -> tuple[dict, dict, STMAE]:
    tensors, info = load_case("st_mae", case)
    sizes = info["constructor"]
    settings = DecoderSettings(sizes["decoder_depth"], sizes["decoder_embed_dim"], sizes["decoder_num_heads"])
    target = InputPixelTarget(sizes["norm_pix_loss"], sizes["pred_t_dim"])
    mask = FixedMask(mask_from_bool(tensors["output.mask"]))
    method = STMAE(build_backbone(sizes), target, mask, settings)
    load_strictly(method, from_spacetime(part(tensors, "state.")), case)
    return tensors, info, method.eval()


def check_gradients(method: torch.nn.Module, loss: Tensor, expected: dict[str, Tensor], backbone: SpacetimeViT) -> None:
    loss.backward()
    gradients = {name: value.grad for name, value in method.named_parameters() if value.grad is not None}
    official = to_spacetime(gradients, backbone.grid)
    assert expected
    for name, value in expected.items():
        assert_close(official[name], value, f"gradient of {name}", GRADIENT_BOUND)


@every_case
def test_a_step(case: str) -> None:
    tensors, _, method = load_method(case)
    video, seen, grid = tensors["input.video"], tensors["input.ids_keep"], method.backbone.grid
    assert_close(method.backbone.forward_features(video, seen), tensors["output.encoder_tokens"], "encoder", BOUND)
    output = method.step(unlabelled(as_clips(video)), torch.Generator())
    mask = method.mask.mask
    expected = gather_tokens(tensors["output.prediction"], mask.targets)
    assert_close(output["show"]["prediction"], expected, "prediction", BOUND)
    assert_close(output["loss"].detach(), tensors["output.loss"].reshape(()), "loss", BOUND)
    raw = InputPixelTarget(False, method.target.frames)(video, grid)
    assert_close(raw, tensors["output.target"], "raw target", BOUND)
    if "output.loss_raw_pixels" in tensors:
        raw_loss = F.mse_loss(output["show"]["prediction"], gather_tokens(raw, mask.targets))
        assert_close(raw_loss, tensors["output.loss_raw_pixels"].reshape(()), "loss of raw pixels", BOUND)
    check_gradients(method, output["loss"], part(tensors, "output.grad."), method.backbone)


@every_case
def test_the_decoder_at_every_token(case: str) -> None:
    tensors, _, method = load_method(case)
    mask, decoder = method.mask.mask, method.decoder
    tokens = method.backbone.forward_features(tensors["input.video"], mask.visible)
    predicted = decoder.head(decoder.norm(decoder.sequence(tokens, mask.visible, mask.targets)))
    expected = gather_tokens(tensors["output.prediction"], torch.cat([mask.visible, mask.targets], dim=1))
    assert_close(predicted.detach(), expected, "prediction", BOUND)


@every_case
def test_tokens_with_the_smallest_noise_are_kept(case: str) -> None:
    tensors, info, method = load_method(case)
    grid = method.backbone.grid
    assert grid.tokens == info["tokens"]
    assert grid.tokens - UniformMask(info["mask_ratio"]).masked_count(grid) == info["kept"]
    # The largest scores are visible: ours for a noise are those of the official code for its negative.
    mask = Scored(info["mask_ratio"], -tensors["input.noise"]).draw(len(tensors["input.noise"]), grid, torch.Generator())
    assert torch.equal(mask.visible, tensors["input.ids_keep"].sort(1).values)


class Scored(ClipMask):
    """With given scores."""

    def __init__(self, ratio: float, scores: Tensor) -> None:
        super().__init__(ratio)
        self.given = scores

    def scores(self, *_: object) -> Tensor:
        return self.given


def test_masks_of_late_and_middle_parts() -> None:
    tensors, info, method = load_method("pretrain_forward_loss")
    grid, compared = method.backbone.grid, 0
    for kind, name in ((TemporalMask, "temporal"), (CenterMask, "center")):
        for key, expected in part(tensors, f"output.{name}_").items():
            percent = key.removesuffix("_mask")
            if not percent.isdecimal():
                continue
            if name == "center" and not info["even_kept_counts"].get(percent, True):
                continue  # undefined in the official code
            mask = kind(int(percent) / 100).draw(1, grid, torch.Generator())
            hidden = torch.zeros(grid.tokens, dtype=expected.dtype).scatter_(0, mask.targets[0], 1)
            assert torch.equal(hidden, expected.flatten()), key
            compared += 1
        method.mask = kind(0.5)
        loss = method.step(unlabelled(as_clips(tensors["input.video"])), torch.Generator())["loss"]
        assert_close(loss.detach(), tensors[f"output.{name}_loss_at_50"].reshape(()), f"loss with {name} mask", BOUND)
    assert compared > 2


@every_case
def test_names_come_back(case: str) -> None:
    tensors, _, method = load_method(case)
    official = part(tensors, "state.")
    assert is_spacetime(official)
    back = to_spacetime(method.state_dict(), method.backbone.grid)
    assert back.keys() == official.keys()
    for name, value in official.items():
        assert torch.equal(back[name], value), name


def load_classifier() -> tuple[dict, dict, Classification]:
    tensors, info = load_case("st_mae", "finetune_vit")
    sizes = info["constructor"]
    backbone = build_backbone(sizes, drop_path=sizes["drop_path_rate"], pooling="class")
    method = Classification(backbone, sizes["classes"], head=HeadSettings(dropout=sizes["dropout"]))
    load_strictly(method, from_spacetime(part(tensors, "state.")), "case")
    return tensors, info, method.eval()


def test_finetuning_of_the_class_token() -> None:
    tensors, _, method = load_classifier()
    video = tensors["input.video"]
    logits = method.logits(method.features(video))
    assert_close(logits.detach(), tensors["output.logits"], "logits", BOUND)
    loss = F.cross_entropy(logits, tensors["input.label"])
    assert_close(loss.detach(), tensors["output.loss"].reshape(()), "loss", BOUND)
    check_gradients(method, loss, part(tensors, "output.grad."), method.backbone)
    batch = replace(unlabelled(as_clips(video)), label=tensors["input.label"])
    step = method.step(batch, torch.Generator())
    assert_close(step["loss"].detach(), tensors["output.loss"].reshape(()), "loss of a step", BOUND)


def test_attention_of_the_class_token() -> None:
    tensors, _, method = load_classifier()
    attention = method.backbone.blocks[-1].attn
    inputs: list[Tensor] = []
    attention.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    method.features(tensors["input.video"])
    query, key, _ = attention.qkv(inputs[0]).unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    weights = (query[:, :, :1] @ key.transpose(2, 3) * query.shape[-1] ** -0.5).softmax(-1)[:, :, 0]
    assert_close(weights.detach(), tensors["output.cls_attention_last"], "attention", BOUND)


def test_finetuning_starts_from_pretraining() -> None:
    """Exactly the head is fresh, and exactly the decoder's part is unused."""
    _, info = load_case("st_mae", "finetune_vit")
    pretrained, _ = load_case("st_mae", "pretrain_forward_loss")
    sizes = info["constructor"]
    method = Classification(build_backbone(sizes, pooling="class"), sizes["classes"])
    weights = from_spacetime(part(pretrained, "state."))
    if weights["backbone.pos_embed.spatial"].shape != method.backbone.pos_embed.spatial.shape:
        pytest.skip("the cases have networks of different sizes")
    report = load_strictly(method, weights, "case", may_miss=("head.",), may_leave=("decoder.",))
    assert sorted(report.missing) == info["loading_from_mae"]["missing"]
    assert info["loading_from_mae"]["unexpected_are_decoder_keys"]
    assert all(name.startswith("decoder.") for name in report.left_over)
