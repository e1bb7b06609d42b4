"""Attentive probes of V-JEPA and V-JEPA 2, and their evaluation with several clips, against tensors of the official code."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from modules.backbones.vit.vjepa_vit import VJEPAViT
from modules.core.loading import load_strictly
from modules.downstream.classification import Classification
from modules.downstream.classifier_weights import from_probe, to_probe
from modules.layers.attentive import AttentiveSettings, Form, join_clips
from modules.weights.names.vjepa import encoder_weights
from tests.parity.cases import assert_close, load_case, part

BOUND, GRADIENT_BOUND = 5e-6, 2e-5


def build_probe(state: dict[str, Tensor], form: Form, heads: int) -> nn.ModuleDict:
    """Pooler and linear layer with the weights of a case."""
    blocks = 1 + len({key.split(".")[2] for key in state if key.startswith("pooler.blocks.")})
    classes, width = state["linear.weight"].shape
    settings = AttentiveSettings(form, None if form == "bare" else blocks, heads)
    probe = nn.ModuleDict({"attention": settings.make(width, None), "head": nn.Linear(width, classes)})
    load_strictly(probe, from_probe(state), "case")
    return probe


def check_probe(tensors: dict[str, Tensor], state: dict[str, Tensor], form: Form, heads: int, name: str = "") -> None:
    """Compare logits, loss, pooled query and gradients."""
    probe = build_probe(state, form, heads)
    pooled = probe["attention"](tensors["input.tokens"])
    logits = probe["head"](pooled)
    loss = cross_entropy(logits, tensors["input.labels"])
    assert_close(logits.detach(), tensors[f"output.{name}logits"], f"{name}logits", BOUND)
    assert_close(loss.detach(), tensors[f"output.{name}loss"], f"{name}loss", BOUND)
    if f"output.{name}pooled" in tensors:
        assert_close(pooled.detach(), tensors[f"output.{name}pooled"][:, 0], f"{name}pooled", BOUND)
    loss.backward()
    ours = from_probe(state)
    gradients = part(tensors, f"output.grad.{name}")
    assert gradients
    for official, expected in gradients.items():
        (key,) = (key for key, value in ours.items() if value is state[official])
        found = probe.get_parameter(key).grad
        assert found is not None
        assert_close(found, expected, f"gradient of {name}{official}", GRADIENT_BOUND)


def check_round_trip(state: dict[str, Tensor], version: Literal[1, 2]) -> None:
    """Written under the official names, all weights are the same, except for those that V-JEPA does not use."""
    written = to_probe(from_probe(state), version)
    assert written.keys() == state.keys()
    for key, value in state.items():
        unused = "cross_attention_block" in key and ".proj." in key
        assert torch.equal(written[key], torch.zeros_like(value) if unused else value), key


def test_probe_of_vjepa() -> None:
    tensors, info = load_case("vjepa", "attentive_probe")
    variants = {key.split(".")[1] for key in tensors if key.startswith("output.") and key.endswith(".logits")}
    assert variants == {"block", "two_layers", "no_block"}
    for name in variants:
        state = part(tensors, f"state.{name}.")
        form: Form = "bare" if name == "no_block" else "vjepa"
        check_probe(tensors, state, form, info["settings"]["num_heads"], f"{name}.")
        check_round_trip(state, 1)


def test_probe_of_vjepa2() -> None:
    tensors, info = load_case("vjepa", "vjepa2_attentive_probe")
    state, settings = part(tensors, "state."), info["settings"]
    pooler: Any = build_probe(state, "vjepa2", settings["num_heads"])["attention"]
    assert len(pooler.token_blocks) == settings["depth"] - 1
    check_probe(tensors, state, "vjepa2", settings["num_heads"])
    check_round_trip(state, 2)


def build_classifier(tensors: dict[str, Tensor], sizes: dict[str, Any], clips: int) -> Classification:
    """Encoder and probe of the case, for so many joined clips."""
    backbone = VJEPAViT(
        image_size=sizes["img_size"],
        num_frames=sizes["num_frames"],
        patch_size=sizes["patch_size"],
        tubelet_size=sizes["tubelet_size"],
        embed_dim=sizes["embed_dim"],
        depth=sizes["depth"],
        num_heads=sizes["num_heads"],
        mlp_ratio=4,
        codes="sincos" if sizes["uniform_power"] else "sincos_half",
    )
    load_strictly(backbone, encoder_weights(part(tensors, "state.encoder.")), "case", ("code_number",))
    classifier = Classification(
        backbone, sizes["classes"], "attentive", attention=AttentiveSettings("vjepa", clips=clips)
    ).eval()
    load_strictly(classifier, from_probe(part(tensors, "state.probe.")), "case", may_miss=("backbone.",))
    return classifier


@torch.no_grad()
def test_evaluation_with_several_clips() -> None:
    tensors, info = load_case("vjepa", "multi_clip_evaluation")
    # [clip, view, B, ...] -> [B, clip * view, ...], as data modules give them.
    given = tensors["input.clips"]
    clips, views = given.shape[:2]
    batch = given.permute(2, 0, 1, *range(3, given.ndim)).flatten(1, 2)
    for name, joined in (("across", clips), ("separate", 1)):
        classifier = build_classifier(tensors, info["constructor"], joined)
        tokens = classifier.features(batch.flatten(0, 1)).unflatten(0, batch.shape[:2])
        features = join_clips(tokens, joined)
        logits = classifier.logits(features.flatten(0, 1)).unflatten(0, features.shape[:2])
        if name == "across":
            assert_close(features[:, 0], tensors["output.across.tokens_view0"], "tokens", BOUND)
            expected = tensors["output.across.logits"].transpose(0, 1)
        else:
            expected = tensors["output.separate.logits"].permute(2, 1, 0, 3).flatten(1, 2)
        assert logits.shape[1] == views * clips // joined
        assert_close(logits, expected, f"{name} logits", BOUND)
        probability = classifier.labels.merged(logits, classifier.merge)
        assert_close(probability, tensors[f"output.{name}.probability"], f"{name} probability", BOUND)
