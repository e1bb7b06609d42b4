"""VideoMAE V2 agrees with the official code: decoder masks, and a step with and without them, also with cosine attention."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modules.backbones.vit.decoder import DecoderSettings
from modules.backbones.vit.positions import sincos_positions
from modules.core.batch import unlabelled
from modules.core.loading import load_strictly
from modules.core.tokens import Grid, gather_tokens
from modules.layers.targets import PixelTarget
from modules.masks.base import is_among, mask_from_bool
from modules.masks.tokens import RunningCellMask, TubeMask
from modules.methods.videomae import VideoMAE
from modules.weights.names.videomae import from_official, to_official
from tests.parity.cases import as_clips, assert_close, load_case, part
from tests.parity.test_masked_methods import FixedMask, build_backbone, check_gradients

BOUND, GRADIENT_BOUND = 5e-6, 2e-5
every_step = pytest.mark.parametrize("case", ["pretrain_dual_mask", "pretrain_dual_mask_cos_attn", "pretrain_no_decoder_mask"])


def load_method(case: str) -> tuple[dict[str, Tensor], dict, VideoMAE]:
    tensors, info = load_case("videomae_v2", case)
    sizes = info["constructor"]
    method = VideoMAE(
        build_backbone(sizes),
        PixelTarget(),
        FixedMask(mask_from_bool(tensors["input.mask"])),
        decoder=DecoderSettings(sizes["decoder_depth"], sizes["decoder_embed_dim"], sizes["decoder_num_heads"]),
        decoder_mask=FixedMask(mask_from_bool(tensors["input.decode_mask"])),
    )
    load_strictly(method, from_official(part(tensors, "state.")), case)
    return tensors, info, method


@every_step
def test_a_step(case: str) -> None:
    tensors, info, method = load_method(case)
    video, mask, decoded = tensors["input.video"], method.mask.mask, method.decoder_mask.mask.visible
    grid, counts = method.backbone.grid, info["counts"]
    inputs: list[Tensor] = []
    hook = method.decoder.blocks[0].register_forward_pre_hook(lambda _, given: inputs.append(given[0].detach()))
    output = method.step(unlabelled(as_clips(video)), None)
    hook.remove()
    assert (grid.tokens, mask.visible.shape[1]) == (counts["tokens"], counts["visible_per_sample"])
    tokens = method.backbone.forward_features(video, mask.visible)
    assert_close(tokens.detach(), tensors["output.encoder_tokens"], "encoder", BOUND)
    assert_close(inputs[0], tensors["output.decoder_input"], "input of the decoder", BOUND)
    prediction = output["show"]["prediction"]
    assert_close(prediction, tensors["output.prediction"], "prediction", BOUND)
    counted = is_among(decoded, mask.targets, grid.tokens)
    assert torch.equal(counted, tensors["output.loss_token_mask"].bool())
    each = (prediction - output["show"]["target"]).square().mean(2)
    assert_close(each, tensors["output.loss_per_token"], "loss of each token", BOUND)
    assert_close(output["loss"].detach(), tensors["output.loss_normalised"].reshape(()), "loss", BOUND)
    plain = gather_tokens(PixelTarget(normalise=False)(video, grid), decoded)
    raw = method.loss(prediction, plain, counted.float())
    assert_close(raw, tensors["output.loss_raw"].reshape(()), "loss of plain pixels", BOUND)
    check_gradients(method, output["loss"], part(tensors, "output.grad."), grid, GRADIENT_BOUND)
    # Of the official parameters; ours have key biases, whose gradient is zero.
    norm = torch.stack([value.grad.norm() for value in method.parameters() if value.grad is not None]).norm()
    assert_close(norm, tensors["output.grad_norm_total"].reshape(()), "norm of all gradients", GRADIENT_BOUND)


@every_step
def test_positions_and_names(case: str) -> None:
    tensors, info, method = load_method(case)
    for name, dim in (("encoder", "encoder_embed_dim"), ("decoder", "decoder_embed_dim")):
        table = sincos_positions(method.backbone.grid.tokens, info["constructor"][dim])
        assert_close(table, tensors[f"output.{name}_pos_embed"].reshape(table.shape), f"{name} positions", BOUND)
    official = part(tensors, "state.")
    back = to_official(method.state_dict(), method.backbone.grid)
    assert back.keys() == official.keys()
    for name, value in official.items():
        assert torch.equal(back[name], value), name


def test_cosine_attention_is_that_of_its_definition() -> None:
    """In float64, head by head; the scale is cut at its maximum."""
    tensors, info, method = load_method("pretrain_dual_mask_cos_attn")
    attention = method.backbone.blocks[0].attn.double()
    with torch.no_grad():
        attention.scale[0] = 5.0
    tokens = tensors["output.encoder_tokens"].double()
    weight, bias = attention.qkv.weight.chunk(3), attention.qkv.bias.chunk(3)
    query, key, value = tokens @ weight[0].T + bias[0], tokens @ weight[1].T, tokens @ weight[2].T + bias[2]
    heads, mixed = info["constructor"]["encoder_num_heads"], []
    for head, one in enumerate(zip(*(part_.chunk(heads, 2) for part_ in (query, key, value)), strict=True)):
        cosine = F.normalize(one[0], dim=-1) @ F.normalize(one[1], dim=-1).transpose(1, 2)
        mixed.append((cosine * attention.scale[head].clamp(max=4.6052).exp()).softmax(-1) @ one[2])
    expected = torch.cat(mixed, dim=2) @ attention.proj.weight.T + attention.proj.bias
    assert_close(attention(tokens), expected, "attention", 1e-12)


def test_decoder_masks() -> None:
    tensors, info = load_case("videomae_v2", "running_cell_masks")
    maps = part(tensors, "output.running_cell_maps_")
    assert maps
    for name, expected in maps.items():
        number, _, percent = name.partition("_ratio_")
        grid = Grid(*info["windows"][number]["window"], 2, 16)
        drawn = RunningCellMask(int(percent or 50) / 100).draw(64, grid, torch.Generator().manual_seed(0))
        hidden = torch.zeros(64, grid.tokens, dtype=torch.uint8).scatter_(1, drawn.targets, 1)
        ours, theirs = ({tuple(row) for row in found.flatten(1).tolist()} for found in (hidden, expected))
        assert ours == theirs, name
        hidden_per_slice = info["windows"][number].get("tube_0.9_masked_per_frame")
        assert TubeMask(0.9).masked_count(grid) == grid.t * hidden_per_slice
