"""What the parity tests of CropMAE and SiamMAE share: both are one network in the official code."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from modules.backbones.frame_tower import FrameTower
from modules.backbones.vit.cross_decoder import CrossDecoderSettings
from modules.convert.frame_tower import MAE
from modules.core.loading import load_strictly
from modules.core.tokens import gather_tokens
from modules.layers.siamese_mae import SiameseMAE, patch_target
from modules.weights.names.siamese_mae import our_names, to_official
from tests.parity.cases import assert_close, load_case, part

BOUND = 5e-6
"""At 1e-5, a wrong epsilon of a norm can pass."""


def tower(sizes: dict[str, Any]) -> FrameTower:
    """The image encoder of a case, for clips of one frame, with random weights."""
    assert sizes.get("mlp_ratio", 4) == 4
    assert sizes["layer_norm_eps"] == 1e-6
    return FrameTower(
        MAE,
        1,
        sizes["img_size"],
        patch_size=sizes["patch_size"],
        embed_dim=sizes["embed_dim"],
        depth=sizes["depth"],
        num_heads=sizes["num_heads"],
        checkpoint=None,
    )


def assert_pretraining(folder: str, build: Callable[..., SiameseMAE]) -> None:
    """Features, prediction, target, losses and gradients of the official network, given its weights, images and mask."""
    tensors, about = load_case(folder, "pretrain_forward_loss")
    sizes, state = about["constructor"], part(tensors, "state.")
    decoder = CrossDecoderSettings(
        sizes["decoder_depth"], sizes["decoder_embed_dim"], sizes["decoder_num_heads"], sizes["decoder_feed_forward"]
    )
    assert sizes["norm_pix_loss"]
    method = build(tower(sizes), mask_ratio=about["mask_ratio"], decoder=decoder)
    fresh = method.state_dict()
    for ours, official in (("backbone.vit.pos_embed", "pos_embed"), ("decoder.positions", "decoder_pos_embed")):
        assert_close(fresh[ours], state[official], official, 1e-6)
    load_strictly(method, our_names(state), folder)
    again = to_official(method.state_dict())
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], value) for name, value in state.items())

    first, second = tensors["input.images"].unbind(1)
    visible = tensors["input.noise"].argsort(1)[:, : method.visible]
    assert method.visible == about["visible_tokens"]
    assert torch.equal(visible, tensors["input.ids_keep"])
    # The masks of the method are those of the noise that it draws.
    masked = tensors["output.mask"].argsort(dim=1, stable=True)[:, method.visible :]
    blocks: list[Tensor] = []
    for block in method.decoder.blocks:
        block.register_forward_hook(lambda _, __, output: blocks.append(output))
    method.eval()
    with torch.no_grad():
        assert_close(method.encode(first), tensors["output.encoder_view0"], "view 0", BOUND)
        assert_close(method.encode(second, visible), tensors["output.encoder_view1"], "view 1", BOUND)
        prediction = method.predict(first, second, visible)
    for number, block in enumerate(blocks):
        assert_close(block, tensors[f"output.decoder_block_{number}"], f"decoder block {number}", BOUND)
    assert_close(prediction, tensors["output.prediction"], "prediction", BOUND)
    target = patch_target(second, method.grid, normalise=True)
    assert_close(target, tensors["output.target"], "target", BOUND)
    assert_close(loss_of(prediction, target, masked), tensors["output.loss"], "loss", BOUND)
    raw = patch_target(second, method.grid, normalise=False)
    assert_close(loss_of(prediction, raw, masked), tensors["output.loss_raw_pixels"], "loss of raw pixels", BOUND)

    method.train()
    for module in method.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    loss = loss_of(method.predict(first, second, visible), target, masked)
    assert_close(loss.detach(), tensors["output.loss_train_dropout0"], "loss in training", BOUND)
    loss.backward()
    gradients = to_official({name: value.grad for name, value in method.named_parameters() if value.grad is not None})
    expected = part(tensors, "output.grad.")
    assert gradients.keys() == {name for name in state if "pos_embed" not in name}
    for name, value in expected.items():
        assert_close(gradients[name], value, f"gradient of {name}", 2e-5)
    norm = torch.stack([value.double().square().sum() for value in gradients.values()]).sum().sqrt()
    assert_close(norm, tensors["output.grad_norm_total"].reshape(()), "norm of all gradients", 2e-5)


def loss_of(prediction: Tensor, target: Tensor, masked: Tensor) -> Tensor:
    """Mean squared error over the masked patches."""
    return nn.functional.mse_loss(gather_tokens(prediction, masked), gather_tokens(target, masked))
