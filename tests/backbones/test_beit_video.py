"""Files of BEiT in the video tower: names of its authors, of timm and of `transformers`, against timm's own network."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.models.beit import Beit
from torch import Tensor, nn

from modules.backbones.vit.beit_video import BEiTVideo, layer_norm
from modules.core.errors import SettingError

SIDE, PATCH, WIDTH, DEPTH, HEADS = 16, 8, 32, 2, 2


def tower(checkpoint: Path, **sizes: Any) -> BEiTVideo:
    return BEiTVideo("micro", SIDE, 3, PATCH, WIDTH, DEPTH, HEADS, checkpoint=str(checkpoint), **sizes).eval()


def noisy(network: nn.Module) -> Any:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


def timm_beit(shared: bool) -> Beit:
    """As timm makes beit_base_patch16_224, tiny; or with the one table of BEiT's pretraining."""
    torch.manual_seed(0)
    tables = {"use_shared_rel_pos_bias": True} if shared else {"use_rel_pos_bias": True}
    # BEiT's own LayerNorms have an eps of 1e-12; timm's have 1e-6.
    sizes = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, "init_values": 0.1, "norm_layer": layer_norm}
    return noisy(Beit(SIDE, PATCH, num_classes=5, use_abs_pos_emb=False, **sizes, **tables))


def names_of(form: str, network: Beit) -> dict[str, Tensor]:
    """Weights as timm writes them, or as BEiT's authors do."""
    state = dict(network.state_dict())
    if form == "authors":
        state |= {f"blocks.{block}.attn.relative_position_index": torch.zeros(5, 5).long() for block in range(DEPTH)}
    if form == "pretraining":
        # The network that predicts tokens has a norm where the fine-tuned one pools.
        state = {key.replace("fc_norm.", "norm.").replace("head.", "lm_head."): value for key, value in state.items()}
        state |= {"mask_token": torch.zeros(1, 1, WIDTH), "rel_pos_bias.relative_position_index": torch.zeros(5, 5).long()}
    return state


@torch.no_grad()
@pytest.mark.parametrize("form", ["timm", "authors", "pretraining"])
def test_file_of_timm_and_of_the_authors(form: str, tmp_path: Path) -> None:
    network = timm_beit(shared=form == "pretraining")
    torch.save({"model": names_of(form, network)}, tmp_path / "beit.pth")
    video = torch.randn(2, 3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    tokens, frames = tower(tmp_path / "beit.pth").encode(video)
    pictures = video.transpose(1, 2).flatten(0, 1)
    if form == "pretraining":
        expected = network.fc_norm(network.forward_features(pictures))
        assert torch.allclose(tokens.flatten(0, 1), expected, atol=2e-5)
    else:
        expected = network.forward_head(network.forward_features(pictures), pre_logits=True)
        assert torch.allclose(frames.flatten(0, 1), expected, atol=2e-5)
        assert float(expected.std()) > 0.3


@torch.no_grad()
def test_file_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS, "intermediate_size": 4 * WIDTH}
    config = transformers.BeitConfig(
        vocab_size=10, image_size=SIDE, patch_size=PATCH, use_relative_position_bias=True, use_mask_token=False, **sizes
    )
    network = noisy(transformers.BeitForImageClassification(config))
    network.save_pretrained(tmp_path)
    video = torch.randn(1, 3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    expected = network.beit(video[0].transpose(0, 1)).pooler_output
    assert torch.allclose(tower(tmp_path / "model.safetensors").encode(video)[1][0], expected, atol=2e-5)


def test_files_that_do_not_fit_are_told(tmp_path: Path) -> None:
    state = names_of("timm", timm_beit(shared=False))
    save_file(state, tmp_path / "beit.safetensors")
    with pytest.raises(SettingError, match=r"does not fit this BEiTVideo: .*relative_position_bias_table"):
        BEiTVideo("micro", SIDE, 3, PATCH, WIDTH, DEPTH, 2 * HEADS, checkpoint=str(tmp_path / "beit.safetensors"))
    save_file({key: value for key, value in state.items() if not key.endswith("q_bias")}, tmp_path / "part.safetensors")
    with pytest.raises(SettingError, match=r"missing \(frame_positions, blocks\.0\.attn\.q_bias, blocks\.1\.attn\.q_bias"):
        tower(tmp_path / "part.safetensors")
    with pytest.raises(SettingError, match=r"model\.backbone\.checkpoint names .*none\.pth, which does not exist"):
        tower(tmp_path / "none.pth")
