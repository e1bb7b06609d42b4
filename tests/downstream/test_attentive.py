"""Attentive probes: arithmetic and initial weights, joined clips, encoders of all kinds, official files, wrong settings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, layer_norm, linear

from datamodules.generated.motion import SyntheticMotion
from datamodules.video.sampling import ClipSettings
from modules.augment.clips import Mixing, mix_clips
from modules.backbones.vit.vjepa_vit import VJEPAViT
from modules.core.errors import SettingError
from modules.downstream.classification import Classification
from modules.downstream.classifier_weights import to_probe
from modules.layers.attentive import AttentivePooler, AttentiveSettings, Form, join_clips
from tests.registry import FRAMES, OPTIM, SIDE, tiny_cnn, tiny_spacetime, tiny_tower, tiny_vit, video_batch

CLIPS = 2


def tiny_jepa() -> VJEPAViT:
    """Two blocks of width 32 with rotary positions."""
    return VJEPAViT("micro", SIDE, FRAMES, patch_size=8, embed_dim=32, depth=2, num_heads=2, codes="tiled_rotary")


def probe(form: Form = "vjepa", clips: int = CLIPS, encoder: Callable[[], Any] = tiny_vit, **settings: Any) -> Classification:
    """A probe whose scores differ clearly between classes."""
    torch.manual_seed(0)
    method = Classification(encoder(), 3, "attentive", attention=AttentiveSettings(form, clips=clips), optim=OPTIM, **settings)
    for name, value in method.named_parameters():
        if not name.startswith("backbone."):
            nn.init.normal_(value, std=0.3)
    return method.eval()


def slow_attention(query: Tensor, tokens: Tensor, state: dict[str, Tensor], heads: int) -> Tensor:
    """Cross-attention of one query, one sample and one head at a time."""
    width = query.shape[-1]
    asked = linear(query, state["q.weight"], state["q.bias"])
    key, value = linear(tokens, state["kv.weight"], state["kv.bias"]).split(width, dim=-1)
    found = torch.zeros_like(asked)
    for one in range(len(tokens)):
        for part in torch.arange(width).chunk(heads):
            weights = (key[one][:, part] @ asked[one, 0, part] / len(part) ** 0.5).softmax(0)
            found[one, 0, part] = weights @ value[one][:, part]
    return found


@torch.no_grad()
def test_the_query_is_not_normalised_and_the_tokens_are() -> None:
    torch.manual_seed(0)
    pooler: Any = AttentivePooler(12, 3, "vjepa")
    for value in pooler.parameters():
        nn.init.normal_(value)
    state, tokens = pooler.state_dict(), torch.randn(2, 5, 12)

    def norm(values: Tensor, name: str) -> Tensor:
        return layer_norm(values, (12,), state[f"cross.{name}.weight"], state[f"cross.{name}.bias"], eps=1e-5)

    inner = {key.removeprefix("cross.xattn."): value for key, value in state.items() if key.startswith("cross.xattn.")}
    query = state["query"].expand(2, -1, -1)
    query = query + slow_attention(query, norm(tokens, "norm1"), inner, 3)
    assert torch.allclose(pooler(tokens), (query + pooler.cross.mlp(norm(query, "norm2")))[:, 0], atol=1e-5)
    bare = AttentivePooler(12, 3, "bare")
    bare.load_state_dict({f"cross.{key}": value for key, value in inner.items()} | {"query": state["query"]})
    assert torch.allclose(bare(tokens), slow_attention(state["query"].expand(2, -1, -1), tokens, inner, 3)[:, 0], atol=1e-5)


@torch.no_grad()
def test_further_blocks_act_on_the_query_or_on_the_tokens() -> None:
    torch.manual_seed(0)
    after, before = AttentivePooler(12, 3, "vjepa", 3), AttentivePooler(12, 3, "vjepa2", 3)
    tokens, others = torch.randn(2, 5, 12), torch.randn(2, 5, 12)
    for own in (after, before):
        single = AttentivePooler(12, 3, "vjepa")
        single.load_state_dict({key: value for key, value in own.state_dict().items() if "_blocks" not in key})
        if own is after:
            query = own.query_blocks[1](own.query_blocks[0](single(tokens)[:, None]))
            assert torch.allclose(own(tokens), query[:, 0], atol=1e-6)
        else:
            assert torch.allclose(own(tokens), single(own.token_blocks[1](own.token_blocks[0](tokens))), atol=1e-6)
    # Neither form takes the weights of the other.
    assert not after.state_dict().keys() <= before.state_dict().keys()
    assert not torch.allclose(after(tokens), after(others))


@pytest.mark.parametrize(("form", "cross", "blocks"), [("vjepa", 1, (2, 3, 4)), ("vjepa2", 3, (1, 2, 3))])
def test_initial_weights(form: Form, cross: int, blocks: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    pooler: Any = AttentivePooler(96, 3, form, 4)

    def std(value: Tensor) -> float:
        return value.std().item() / 0.02

    own = [*pooler.token_blocks, *pooler.query_blocks]
    assert std(pooler.query) == pytest.approx(1, rel=0.3)
    assert std(pooler.cross.xattn.kv.weight) == pytest.approx(1, rel=0.03)
    assert std(pooler.cross.mlp.fc2.weight) == pytest.approx((2 * cross) ** -0.5, rel=0.03)
    for number, block in zip(blocks, own, strict=True):
        assert std(block.attn.qkv.weight) == pytest.approx(1, rel=0.03)
        assert std(block.attn.proj.weight) == pytest.approx((2 * number) ** -0.5, rel=0.05)
        assert std(block.mlp.fc2.weight) == pytest.approx((2 * number) ** -0.5, rel=0.05)
    assert not any(value.any() for name, value in pooler.named_parameters() if name.endswith("bias"))
    # The linear layer has PyTorch's initial weights, not those close to zero of fine-tuning.
    method = Classification(tiny_vit(), 3, "attentive", attention=AttentiveSettings(form), optim=OPTIM)
    assert method.classifier.weight.abs().max() > 0.1


def test_clips_are_joined_in_order_and_views_kept_apart() -> None:
    tokens = torch.arange(2 * 6 * 2).view(2, 6, 2, 1)
    joined = join_clips(tokens, 3)
    # Six views are three clips of two crops: those of the first crop are 0, 2 and 4.
    assert joined.shape == (2, 2, 6, 1)
    assert joined[0, 0, :, 0].tolist() == [0, 1, 4, 5, 8, 9]
    assert joined[0, 1, :, 0].tolist() == [2, 3, 6, 7, 10, 11]
    assert join_clips(tokens, 1) is tokens
    with pytest.raises(SettingError, match=r"clips is 4, but a video has 6 view\(s\); set data\.clip\.clips to 4, and"):
        join_clips(tokens, 4)


SLOW = [pytest.param(encoder, marks=pytest.mark.slow) for encoder in (tiny_spacetime, tiny_tower)]


@pytest.mark.parametrize("encoder", [tiny_vit, tiny_jepa, tiny_cnn, *SLOW])
def test_loss_is_averaged_over_views_of_joined_clips(encoder: Callable[[], Any]) -> None:
    """For every kind of encoder: two clips of two copies each."""
    method, batch = probe(encoder=encoder), video_batch(3, clips=4)
    tokens = method.encode(batch)
    losses = []
    for copy in range(2):
        both = torch.cat([tokens[:, copy], tokens[:, 2 + copy]], 1)
        losses.append(cross_entropy(method.classifier(method.attention(both)), batch.label))
    output = method.step(batch, torch.Generator().manual_seed(0))
    assert torch.allclose(output["loss"], torch.stack(losses).mean(), atol=1e-5)
    assert abs(losses[0] - losses[1]) > 1e-4
    output["loss"].backward()
    assert all(value.grad is not None for value in method.attention.parameters())
    logits = method.clip_logits(batch)
    assert logits.shape == (3, 2, 3)
    # Validation leaves the copies out.
    assert torch.allclose(method.clip_logits(batch, every=2), logits[:, :1], atol=1e-5)
    # There are no positions of clips, so their order does not matter.
    turned = batch.stream("video").data.unflatten(1, (2, 2)).flip(1).flatten(1, 2)
    batch.stream("video").data = turned
    assert torch.allclose(method.clip_logits(batch), logits, atol=1e-4)


def test_mixed_clips_of_a_video_have_one_target() -> None:
    method = probe(mixing=Mixing(cutmix=0))
    batch, g = video_batch(4, clips=2), torch.Generator().manual_seed(0)
    found = method.step(batch, torch.Generator().manual_seed(0))["loss"]
    clips = method.normalise(batch.stream("video").data.flatten(0, 1))
    targets = method.labels.targets(batch.label, 3).repeat_interleave(2, 0)
    assert method.mixing is not None
    clips, targets = mix_clips(clips, targets, method.mixing, g, torch.ones(8, dtype=torch.bool))
    first, second = targets.unflatten(0, (4, 2)).unbind(1)
    assert torch.equal(first, second)
    assert ((first > 0) & (first < 1)).any()
    tokens = method.features(clips).unflatten(0, (4, 2)).flatten(1, 2)
    assert torch.allclose(found, cross_entropy(method.logits(tokens), first), atol=1e-5)


def official(method: Classification, path: Path, version: Any, **more: Any) -> str:
    """The probe as V-JEPA's (1) or V-JEPA 2's (2) code saves it."""
    state = {f"module.{key}": value for key, value in to_probe(method.state_dict(), version).items()}
    content = {"classifier": state} if version == 1 else {"classifiers": [state]}
    torch.save(content | {"opt": [{"state": {}, "param_groups": []}], "scaler": None, "epoch": 20} | more, path)
    return str(path)


@torch.no_grad()
@pytest.mark.parametrize(("form", "version"), [("vjepa", 1), ("vjepa2", 2)])
def test_official_probes_are_loaded_onto_an_encoder(form: Form, version: int, tmp_path: Path) -> None:
    trained: Any = probe(form)
    nn.init.normal_(trained.backbone.norm.bias)
    path, batch = official(trained, tmp_path / "probe.pt", version), video_batch(2, clips=CLIPS)
    encoder = tiny_vit()
    encoder.load_state_dict(trained.backbone.state_dict())
    settings = AttentiveSettings(form, clips=CLIPS)
    again = Classification(encoder, 3, "attentive", attention=settings, init_from=path, optim=OPTIM).eval()
    assert torch.equal(again.clip_logits(batch), trained.clip_logits(batch))
    with pytest.raises(SettingError, match=r"a probe without its encoder; set model\.backbone\.checkpoint to the encoder"):
        Classification(tiny_vit(), 3, "attentive", attention=settings, init_from=path, optim=OPTIM)
    with pytest.raises(SettingError, match="has 3 classes, but there are 4 here"):
        Classification(encoder, 4, "attentive", attention=settings, init_from=path, optim=OPTIM)
    with pytest.raises(SettingError, match="does not fit this Classification"):
        Classification(encoder, 3, "attentive", init_from=path, optim=OPTIM)


def test_wrong_files(tmp_path: Path) -> None:
    trained: Any = probe("vjepa2")
    nn.init.normal_(trained.backbone.norm.bias)
    settings: dict[str, Any] = {"attention": AttentiveSettings("vjepa2"), "optim": OPTIM}
    state = {"module.pooler.query_tokens": torch.zeros(1, 1, 32)}
    several = official(trained, tmp_path / "several.pt", 2, classifiers=[state, state])
    with pytest.raises(SettingError, match=r"contains 2 probes; save the weights of one of them in a separate file"):
        Classification(trained.backbone, 3, "attentive", init_from=several, **settings)
    with pytest.raises(SettingError, match="are not those of V-JEPA 1; choose the other version"):
        to_probe(trained.state_dict(), 1)
    # Of a run, the config states the heads.
    run = tmp_path / "run.ckpt"
    config = "model: {init_args: {attention: {form: vjepa2, heads: 4}}}"
    torch.save({"state_dict": trained.state_dict(), "record": {"config": config}}, run)
    with pytest.raises(SettingError, match=r"attention has 4 heads, but there are 16 here; set model\.attention\.heads to 4"):
        Classification(tiny_vit(), 3, "attentive", init_from=str(run), **settings)


def test_wrong_settings(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"model\.attention is for model\.mode attentive, not linear"):
        Classification(tiny_vit(), 3, "linear", attention=AttentiveSettings("vjepa"), optim=OPTIM)
    with pytest.raises(SettingError, match=r"blocks is 2, but form bare has a single block"):
        AttentiveSettings("bare", 2)
    with pytest.raises(SettingError, match=r"model\.attention\.clips is 0"):
        AttentiveSettings(clips=0)
    with pytest.raises(SettingError, match=r"width 32 cannot be divided among the 3 heads"):
        Classification(tiny_vit(), 3, "attentive", attention=AttentiveSettings("vjepa", heads=3), optim=OPTIM)
    data = SyntheticMotion(ClipSettings(frames=FRAMES, size=SIDE, clips=2), 4, train_videos=4, val_videos=4)
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(accelerator="cpu", default_root_dir=tmp_path, **quiet)
    with pytest.raises(SettingError, match=r"data\.clip\.clips is 2, but model\.attention\.clips is 3; make them equal"):
        trainer.test(Classification(tiny_vit(), 13, "attentive", attention=AttentiveSettings(clips=3), optim=OPTIM), data)


@pytest.mark.parametrize(("form", "expected"), [("vjepa", torch.bfloat16), ("single", torch.float32)])
def test_probes_have_the_precision_of_the_run(form: Form, expected: torch.dtype) -> None:
    """Their products are in bfloat16, as published; those of the default pooler, and all scores, are in float32."""
    method = probe(form)
    layer: nn.Module = method.get_submodule("attention.cross.xattn.kv" if form == "vjepa" else "attention.kv")
    found = []
    layer.register_forward_hook(lambda *made: found.append(made[2].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert method.clip_logits(video_batch(2, clips=CLIPS)).dtype == torch.float32
    assert found == [expected]
