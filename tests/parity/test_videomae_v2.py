"""Dual masking of VideoMAE V2 agrees with the official code: decoder masks, and a step with and without them."""

import pytest
import torch

from modules.backbones.vit.decoder import DecoderSettings
from modules.core.batch import unlabelled
from modules.core.loading import load_strictly
from modules.core.tokens import Grid
from modules.layers.targets import PixelTarget
from modules.masks.base import mask_from_bool
from modules.masks.tokens import RunningCellMask
from modules.methods.videomae import VideoMAE
from modules.weights.names.videomae import from_official
from tests.parity.cases import as_clips, assert_close, load_case, part
from tests.parity.test_masked_methods import FixedMask, build_backbone, check_gradients


@pytest.mark.parametrize("case", ["pretrain_dual_mask", "pretrain_no_decoder_mask"])
def test_a_step(case: str) -> None:
    tensors, info = load_case("videomae_v2", case)
    sizes, video = info["constructor"], tensors["input.video"]
    method = VideoMAE(
        build_backbone(sizes),
        PixelTarget(),
        FixedMask(mask_from_bool(tensors["input.mask"])),
        decoder=DecoderSettings(sizes["decoder_depth"], sizes["decoder_embed_dim"], sizes["decoder_num_heads"]),
        decoder_mask=FixedMask(mask_from_bool(tensors["input.decode_mask"])),
    )
    load_strictly(method, from_official(part(tensors, "state.")), case)
    output = method.step(unlabelled(as_clips(video)), None)
    visible = method.mask.mask.visible
    assert_close(method.backbone.forward_features(video, visible), tensors["output.encoder_tokens"], "encoder")
    assert_close(output["show"]["prediction"], tensors["output.prediction"], "prediction")
    assert_close(output["loss"].detach(), tensors["output.loss_normalised"].reshape(()), "loss")
    check_gradients(method, output["loss"], part(tensors, "output.grad."), method.backbone.grid)


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
