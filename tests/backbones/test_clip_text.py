"""CLIP's text tower instead of ours: outputs of open_clip, contrast only, and the message if it is not installed."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from modules.backbones.text.clip_text import ClipText, ClipTextSettings, ClipTokenizer
from modules.backbones.vit.beit_video import BEiTVideo
from modules.core.errors import SettingError
from modules.downstream.video_text_retrieval import RerankSettings, VideoTextRetrieval
from modules.losses.video_text import TextContrastSettings
from modules.methods.locomotion import LocoMotion, LossSettings
from tests.registry import FRAMES, OPTIM, SIDE, video_batch, with_sentences

TEXTS = ["a red arrow moves up", "An arrow, rising!", "it isn't here " * 40]


@pytest.fixture
def open_clip() -> Any:
    return pytest.importorskip("open_clip", reason="needs open_clip: pip install open_clip_torch")


def tower() -> BEiTVideo:
    return BEiTVideo("micro", SIDE, FRAMES, patch_size=8, embed_dim=32, depth=1, num_heads=2, drop_path=0)


def tiny(**settings: Any) -> ClipTextSettings:
    return ClipTextSettings(width=32, depth=2, num_heads=2, out_dim=16, **settings)


def clip_state(open_clip: Any, form: str) -> tuple[Any, dict[str, Tensor]]:
    """A tiny CLIP and its weights as in a file of `form`."""
    torch.manual_seed(0)
    vision = open_clip.CLIPVisionCfg(layers=1, width=32, head_width=16, patch_size=8, image_size=16)
    text = open_clip.CLIPTextCfg(width=32, heads=2, layers=2)
    kind = open_clip.CustomTextCLIP if form == "custom" else open_clip.CLIP
    network = kind(16, vision, text, quick_gelu=form == "openai").eval()
    state = dict(network.state_dict())
    if form == "openai":
        state |= {name: torch.tensor(1) for name in ("input_resolution", "context_length", "vocab_size")}
    return network, state


@torch.no_grad()
@pytest.mark.parametrize("form", ["clip", "custom", "openai"])
def test_sentences_of_a_clip(form: str, open_clip: Any, tmp_path: Path) -> None:
    network, state = clip_state(open_clip, form)
    path = tmp_path / "clip.pt"
    torch.save(state, path)
    tokenizer = ClipTokenizer()
    ids = tokenizer(TEXTS)
    assert torch.equal(ids, open_clip.tokenize(TEXTS))
    assert (ids.shape, len(tokenizer)) == ((3, 77), 49408)
    text = ClipText(tiny(quick_gelu=form == "openai", checkpoint=str(path)), len(tokenizer)).eval()
    found = text.encode(ids, ids != tokenizer.pad)
    assert found.shape == (3, 1, 16)
    assert torch.equal(found[:, 0], network.encode_text(ids))
    if form == "openai":
        with pytest.raises(SettingError, match=r"is a file from OpenAI; set model\.clip\.quick_gelu to true"):
            ClipText(tiny(checkpoint=str(path)), len(tokenizer))


def test_contrast_learns_alone(open_clip: Any) -> None:
    torch.manual_seed(0)
    method = LocoMotion(
        tower(), clip=tiny(), contrast=TextContrastSettings(8), losses=LossSettings(0, 0), paste=None, optim=OPTIM
    )
    batch = with_sentences(video_batch(3), TEXTS)
    output = method.step(batch, torch.Generator().manual_seed(0))
    assert torch.equal(output["loss"].detach(), output["log"]["loss_contrast"])
    output["loss"].backward()
    lacking = [name for name, value in method.named_parameters() if value.requires_grad and value.grad is None]
    assert not lacking
    assert method.text.tower.token_embedding.weight.grad.abs().sum() > 0
    assert "text.tower.positional_embedding" in method.no_weight_decay()
    retrieval = VideoTextRetrieval(
        tower(), clip=tiny(), contrast=TextContrastSettings(8), match_weight=0, rerank=RerankSettings(0)
    )
    retrieval.load_state_dict(method.state_dict())
    scores = method.eval().score(batch.stream("video").data[:, 0], TEXTS)
    sentences = retrieval.eval().read_sentences(TEXTS)
    frames = torch.nn.functional.normalize(retrieval.see(batch)[0], dim=2)
    again = (frames @ torch.nn.functional.normalize(sentences.projected, dim=1).T).mean(dim=1)
    assert torch.allclose(again, scores, atol=1e-6)


def test_what_needs_fusion_is_refused() -> None:
    with pytest.raises(SettingError, match=r"set model\.losses\.match_weight and model\.losses\.word_weight to 0"):
        LocoMotion(tower(), clip=tiny(), losses=LossSettings(word_weight=0))
    for settings in ({}, {"rerank": RerankSettings(0), "task": "choice"}):
        with pytest.raises(
            SettingError, match=r"set model\.match_weight and model\.rerank\.best to 0 and model\.task to retrieval"
        ):
            VideoTextRetrieval(tower(), clip=tiny(), match_weight=0, **settings)
    with pytest.raises(SettingError, match=r"model\.clip\.width 30 is not a multiple of model\.clip\.num_heads 8"):
        ClipText(ClipTextSettings(width=30), 10)


def test_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(SettingError, match=r"needs the package open_clip_torch; install it \(pip install open_clip_torch\)"):
        LocoMotion(tower(), clip=tiny(), losses=LossSettings(0, 0))
