"""VJEPA against tensors of the official code of V-JEPA and V-JEPA 2: encoder, masks, pretraining, schedules."""

import torch
from torch import Tensor

from modules.backbones.vit.vjepa_vit import Codes, VJEPAViT
from modules.core.loading import load_strictly
from modules.weights.names.vjepa import from_vjepa
from tests.parity.cases import assert_close, load_case, part

BOUND, GRADIENT_BOUND = 5e-6, 2e-5


def build_backbone(sizes: dict, codes: Codes | None = None) -> VJEPAViT:
    kind: Codes = "tiled_rotary" if sizes.get("use_rope") else "sincos" if sizes.get("uniform_power") else "sincos_half"
    return VJEPAViT(
        image_size=sizes["img_size"],
        num_frames=sizes["num_frames"],
        patch_size=sizes["patch_size"],
        tubelet_size=sizes["tubelet_size"],
        embed_dim=sizes["embed_dim"],
        depth=sizes["depth"],
        num_heads=sizes["num_heads"],
        mlp_ratio=sizes.get("mlp_ratio", 4),
        codes=codes or kind,
    )


def load_encoder() -> tuple[dict[str, Tensor], dict, VJEPAViT]:
    tensors, info = load_case("vjepa", "encoder_forward")
    backbone = build_backbone(info["constructor"])
    weights = from_vjepa(part(tensors, "state."))
    load_strictly(
        backbone, {name.removeprefix("backbone."): value for name, value in weights.items()}, "case", ("code_number",)
    )
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
