"""VJEPA against tensors of the official code of V-JEPA and V-JEPA 2: encoder, masks, pretraining, schedules."""

import json
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modules.backbones.vit.predictor import PredictorSettings
from modules.backbones.vit.vjepa_vit import VJEPAViT, position_table
from modules.core.batch import unlabelled
from modules.core.loading import load_strictly
from modules.core.tokens import Grid
from modules.layers.contrast.momentum import follow
from modules.masks.base import Mask
from modules.masks.blocks import MultiBlockMask
from modules.masks.tokens import TubeMask
from modules.methods.vjepa import VJEPA
from modules.training.optim import PhasedSettings
from modules.training.schedules import Schedule
from modules.weights.names.vjepa import Codes, bare, from_vjepa, is_vjepa, to_vjepa
from tests.parity.cases import PARITY_DIR, as_clips, assert_close, load_case, part

BOUND, GRADIENT_BOUND = 5e-6, 2e-5


def build_backbone(sizes: dict, codes: Codes | None = None) -> VJEPAViT:
    kind: Codes = "tiled_rotary" if sizes.get("use_rope") else "sincos" if sizes.get("uniform_power") else "sincos_half"
    return VJEPAViT(
        image_size=sizes["img_size"],
        num_frames=sizes["num_frames"],
        patch_size=sizes["patch_size"],
        tubelet_size=sizes.get("tubelet_size", 2),
        embed_dim=sizes["embed_dim"],
        depth=sizes["depth"],
        num_heads=sizes["num_heads"],
        mlp_ratio=sizes.get("mlp_ratio", 4),
        codes=codes or kind,
    )


def load_encoder() -> tuple[dict[str, Tensor], dict, VJEPAViT]:
    tensors, info = load_case("vjepa", "encoder_forward")
    backbone = build_backbone(info["constructor"])
    weights = {name.removeprefix("backbone."): value for name, value in from_vjepa(part(tensors, "state.")).items()}
    load_strictly(backbone, weights, "case", ("code_number",))
    return tensors, info, backbone.eval()


@torch.no_grad()
def test_clips_of_several_sizes() -> None:
    tensors, info, backbone = load_encoder()
    assert_close(backbone.positions, tensors["state.pos_embed"], "stored positions", BOUND)
    for number, _ in enumerate(info["sizes_T_H_W"]):
        video = tensors[f"input.video_{number}"]
        positions = backbone.positions_of(backbone.clip_grid(video))
        assert_close(positions, tensors[f"output.pos_embed_{number}"], f"positions {number}", BOUND)
        assert_close(backbone.forward_features(video), tensors[f"output.tokens_{number}"], f"tokens {number}", BOUND)


@torch.no_grad()
def test_every_layer() -> None:
    tensors, info, backbone = load_encoder()
    video = tensors["input.video_0"]
    layers = backbone.forward_intermediates(video, norm=True, output_fmt="NLC", intermediates_only=True)
    assert isinstance(layers, list)
    assert len(layers) == info["constructor"]["depth"]
    for number, tokens in enumerate(layers):
        assert_close(tokens, tensors[f"output.layer_{number}"], f"layer {number}", BOUND)


def test_positions_with_half_of_the_channels_for_time() -> None:
    tensors, info, _ = load_encoder()
    backbone = build_backbone(info["constructor"], "sincos_half")
    assert_close(backbone.positions, tensors["output.pos_embed_not_uniform"], "positions", BOUND)


# --- Masks ---


def corners_of(draws: Tensor, blocks: int) -> np.ndarray:
    """Recorded draws [n, 3, 2] of top, left and start, as places of blocks [n / blocks, blocks, 3]."""
    return draws[:, :, 0].reshape(-1, blocks, 3).numpy()


def mask_of(settings: dict) -> MultiBlockMask:
    return MultiBlockMask(
        settings["npred"],
        tuple(settings["spatial_pred_mask_scale"]),
        tuple(settings["temporal_pred_mask_scale"]),
        tuple(settings["aspect_ratio"]),
        settings.get("max_context_frames_ratio", 1.0),
        settings.get("max_keep"),
    )


def test_block_sizes_of_steps() -> None:
    tensors, info = load_case("vjepa", "multiblock_masks")
    first, end = info["statistics_224"]["block_size_iterations"]
    for name, expected in part(tensors, "output.block_size_224_").items():
        one = mask_of(info["settings"]["configs"][name])
        sizes = [one.block_size(step, Grid(8, 14, 14, 2, 16)) for step in range(first, end)]
        assert torch.equal(torch.tensor(sizes), expected), name


def test_masks_of_recorded_places() -> None:
    tensors, info = load_case("vjepa", "multiblock_masks")
    settings = info["settings"]
    grid = Grid(*settings["grid"], settings["frames"] // settings["grid"][0], settings["patch"])
    compared = 0
    for name, config in settings["configs"].items():
        one = mask_of(config)
        for step in range(100):
            draws = tensors.get(f"input.{name}_{step}_draws")
            if draws is None:
                break
            size = t, h, w = one.block_size(step, grid)
            bounds = torch.tensor([grid.h - h + 1, grid.w - w + 1, grid.t - t + 1])
            assert torch.equal(draws[:, :, 1], bounds.expand(len(draws), 3)), (name, step)
            rows = [one.covered(corners, size, grid) for corners in corners_of(draws, one.blocks)]
            mask = one.collect(np.stack([row for row in rows if not row.all()]), "cut")
            assert torch.equal(mask.visible, tensors[f"output.{name}_{step}_context"]), (name, step)
            assert torch.equal(mask.targets, tensors[f"output.{name}_{step}_predict"]), (name, step)
            compared += 1
    assert compared >= len(settings["configs"])


def test_random_tubes_have_the_numbers_of_ours() -> None:
    """The official draws are not recorded. Both masks are complements, and the same in all slices."""
    tensors, info = load_case("vjepa", "multiblock_masks")
    grid = Grid(*info["settings"]["grid"], 2, 8)
    context, predicted = tensors["output.tube_context"], tensors["output.tube_predict"]
    ours = TubeMask(predicted.shape[1] / grid.tokens).draw(len(context), grid, torch.Generator())
    for visible, targets in ((context, predicted), (ours.visible, ours.targets)):
        assert visible.shape == context.shape
        assert torch.equal(torch.cat([visible, targets], 1).sort(1).values, torch.arange(grid.tokens).expand(len(context), -1))
        places = visible.unflatten(1, (grid.t, -1)) - torch.arange(grid.t)[:, None] * grid.slice_tokens
        assert (places == places[:, :1]).all()


# --- Pretraining ---

STEPS = ("pretrain_forward_loss", "vjepa2_pretrain_forward_loss")
every_step = pytest.mark.parametrize("case", STEPS)
CODE_NUMBERS = ("online.code_number", "backbone.code_number")


def load_method(case: str) -> tuple[dict[str, Tensor], dict, VJEPA, list[Mask]]:
    tensors, info = load_case("vjepa", case)
    sizes = info["constructor"]
    masks = [
        Mask(tensors[f"input.mask_context_{number}"], tensors[f"input.mask_predict_{number}"])
        for number in range(sum(name.startswith("input.mask_context_") for name in tensors))
    ]
    settings = PredictorSettings(
        sizes["predictor_depth"],
        sizes["predictor_embed_dim"],
        sizes["predictor_num_heads"],
        "length" if sizes.get("use_rope") else "mask",
        sizes["num_mask_tokens"],
    )
    # The masks are given; these blocks are not used.
    method = VJEPA(build_backbone({"uniform_power": True} | sizes), [MultiBlockMask(1, (0.3, 0.3))] * len(masks), settings)
    load_strictly(method, from_vjepa(part(tensors, "state.")), case, CODE_NUMBERS)
    return tensors, info, method.eval(), masks


def official(values: dict[str, Tensor], grid: Grid) -> dict[str, Tensor]:
    """Values by our names under the official ones, without wrappers."""
    entries = to_vjepa(values, grid, {})
    return {f"{entry}.{bare(name)[1]}": value for entry, state in entries.items() for name, value in state.items()}


@every_step
def test_a_step(case: str) -> None:
    tensors, info, method, masks = load_method(case)
    grid, video = method.backbone.grid, tensors["input.video"]
    with torch.no_grad():
        assert_close(method.backbone.forward_features(video), tensors["output.target_tokens"], "targets", BOUND)
        for number, mask in enumerate(masks):
            context = method.online.forward_features(video, mask.visible)
            assert_close(context, tensors[f"output.context_{number}"], f"context {number}", BOUND)
    batch = unlabelled(as_clips(video))
    batch.prepared = masks
    output = method.step(batch, torch.Generator())
    show = output["show"]
    for number in range(len(masks)):
        assert_close(show["predictions"][number], tensors[f"output.prediction_{number}"], f"prediction {number}", BOUND)
        if f"output.target_{number}" in tensors:
            assert_close(show["targets"][number], tensors[f"output.target_{number}"], f"target {number}", BOUND)
    assert_close(output["loss"].detach(), tensors["output.loss"].reshape(()), "loss", BOUND)
    if "output.loss_exp2" in tensors:
        pairs = zip(show["predictions"], show["targets"], strict=True)
        squared = torch.stack([F.mse_loss(*pair) / 2 for pair in pairs]).mean()
        assert_close(squared, tensors["output.loss_exp2"].reshape(()), "squared loss", BOUND)
    if "output.reg_loss" in tensors:
        assert_close(output["log"]["reg_loss"], tensors["output.reg_loss"].reshape(()), "penalty", BOUND)
    output["loss"].backward()
    own = official({name: value.grad for name, value in method.named_parameters() if value.grad is not None}, grid)
    expected = part(tensors, "output.grad.")
    assert expected
    for name, value in expected.items():
        assert_close(own[name], value, f"gradient of {name}", GRADIENT_BOUND)
    if info["constructor"].get("use_rope"):
        assert [token.grad is not None for token in method.predictor.mask_tokens] == [True, False]


@every_step
def test_the_momentum_copy_follows(case: str) -> None:
    tensors, _, method, _ = load_method(case)
    updates = part(tensors, "output.ema_")
    assert updates
    momentum = re.match(r"[0-9.]*[0-9]", next(iter(updates)))
    assert momentum is not None
    follow(method.backbone, method.online, float(momentum[0]))
    own = official(dict(method.state_dict()), method.backbone.grid)
    for name, value in part(updates, f"{momentum[0]}.").items():
        assert_close(own[f"target_encoder.{name}"], value, name, BOUND)


@every_step
def test_names_come_back(case: str) -> None:
    tensors, _, method, _ = load_method(case)
    state = part(tensors, "state.")
    assert is_vjepa(state)
    backbone, tables = method.backbone, {}
    if "encoder.pos_embed" in state:
        widths = {"online": backbone.embed_dim, "backbone": backbone.embed_dim, "predictor": method.predictor.embed_dim}
        tables = {name: position_table("sincos", backbone.grid, backbone.grid, dim) for name, dim in widths.items()}
    entries = to_vjepa(method.state_dict(), backbone.grid, tables)
    back = {f"{entry}.{bare(name)[1]}": value for entry, weights in entries.items() for name, value in weights.items()}
    assert back.keys() == state.keys()
    for name, value in state.items():
        assert torch.allclose(back[name], value, rtol=0, atol=1e-6 if "pos_embed" in name else 0), name


def test_the_corrected_rotation_differs_from_the_released_one() -> None:
    tensors, info, _, _ = load_method(STEPS[1])
    backbone = build_backbone(info["constructor"], "rotary")
    weights = {key.removeprefix("backbone."): value for key, value in from_vjepa(part(tensors, "state.")).items()}
    load_strictly(backbone, weights, "case", ("code_number",), ("online.", "predictor."))
    with torch.no_grad():
        tokens = backbone.forward_features(tensors["input.video"])
    expected = tensors["output.target_tokens"]
    assert (tokens - expected).abs().max() > 0.1 * expected.abs().max()


# --- Schedules ---


def test_schedules() -> None:
    """The rates, weight decays and momenta at the positions of a run's steps."""
    path = PARITY_DIR / "vjepa/schedules.json"
    if not path.is_file():
        pytest.skip(f"no official numbers at {path}; set PARITY_DIR to the folder that holds them")
    info = json.loads(path.read_text())
    sizes = info["settings"]
    total = sizes["epochs"] * sizes["scale"]
    rates = PhasedSettings(
        sizes["lr"],
        sizes["final"],
        sizes["warm"],
        total,
        warmup_lr=sizes["start"],
        weight_decay=sizes["wd"],
        final_weight_decay=sizes["fwd"],
    )
    factor, momentum = rates.factor(sizes["warm"], total, sizes["final"] / sizes["lr"]), Schedule(*sizes["ema"], "linear")
    for step, rate, decay, copied in info["rows_iteration_lr_wd_momentum"]:
        # Steps are counted from 1, and the rates are one step ahead.
        done = (step - 1 + rates.ahead) / sizes["ipe"]
        assert sizes["lr"] * factor(done) == pytest.approx(rate, rel=1e-12, abs=0)
        assert sizes["wd"] * rates.decay_factor(done, total) == pytest.approx(decay, rel=1e-12, abs=0)
        assert momentum.at((step - 1) / sizes["ipe"], total) == pytest.approx(copied, rel=1e-12, abs=0)
