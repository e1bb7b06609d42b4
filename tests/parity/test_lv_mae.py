"""LVMAE against tensors of the official code: pretraining with random and important segments, and both probes."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modules.backbones.sequence.transformer import SequenceTransformer, step_positions, valid_steps
from modules.backbones.vit.decoder import DecoderSettings
from modules.core.batch import Batch, Stream
from modules.core.loading import load_strictly
from modules.core.tokens import gather_tokens
from modules.downstream.classification import Classification
from modules.layers.heads import ClassTokenAttention
from modules.masks.base import Mask
from modules.masks.sequences import ImportantSteps, RandomSteps, SequenceMask, neighbour_similarity
from modules.methods.lvmae import LVMAE, Loss
from modules.weights.names.lvmae import encoder_weights, is_official, our_names, to_official, trained_steps
from tests.parity.cases import assert_close, load_case, part

BOUND, GRADIENT_BOUND = 5e-6, 2e-5
every_case = pytest.mark.parametrize("case", ["pretrain_random_mask", "pretrain_importance_mask"])


class Given(SequenceMask):
    """The steps with the lowest of given scores are visible."""

    def __init__(self, ratio: float, noise: Tensor) -> None:
        super().__init__(ratio)
        self.noise = noise

    def scores(self, sequence: Tensor, longest: int, generator: torch.Generator) -> Tensor:
        return self.noise


def build_backbone(sizes: dict) -> SequenceTransformer:
    width, depth, heads = sizes["embed_dim"], sizes["depth"], sizes["num_heads"]
    return SequenceTransformer(width, depth, heads, sizes.get("mlp_ratio", 4), sizes["num_patches"])


def load_method(case: str, loss: Loss = "squared") -> tuple[dict, dict, LVMAE, Batch]:
    """The method in evaluation mode, where sequences are not cut at random, and its batch."""
    tensors, info = load_case("lv_mae", case)
    sizes = info["constructor"]
    settings = DecoderSettings(sizes["decoder_depth"], sizes["decoder_embed_dim"], sizes["decoder_num_heads"])
    ratio = info["mask_ratio"]
    mask = Given(ratio, tensors["input.noise"]) if "input.noise" in tensors else ImportantSteps(ratio)
    method = LVMAE(build_backbone(sizes), mask, settings, loss).eval()
    load_strictly(method, our_names(part(tensors, "state.")), case)
    stream = Stream("feature", tensors["input.embeddings"][:, None], length=tensors["input.length"])
    index = torch.arange(len(tensors["input.length"]))
    return tensors, info, method, Batch(index, index, {"feature": stream})


@every_case
def test_a_step(case: str) -> None:
    tensors, _, method, batch = load_method(case)
    output = method.step(batch, torch.Generator())
    mask: Mask = output["show"]["mask"]
    hidden = torch.zeros_like(tensors["input.mask"]).scatter(1, mask.targets, mask.valid.float())
    assert torch.equal(hidden, tensors["input.mask"])
    assert torch.equal(mask.valid_visible.sum(1), tensors["output.kept_count"])
    expected = gather_tokens(tensors["output.prediction"], mask.targets)
    there = mask.valid[..., None]
    assert_close(output["show"]["prediction"] * there, expected * there, "prediction", BOUND)
    assert_close(output["loss"].detach(), tensors["output.loss"], "loss", BOUND)
    output["loss"].backward()
    gradients = to_official({name: value.grad for name, value in method.named_parameters() if value.grad is not None}, {})
    expected_gradients = part(tensors, "output.grad.")
    assert expected_gradients
    for name, value in expected_gradients.items():
        assert_close(gradients[name], value, f"gradient of {name}", GRADIENT_BOUND)


@every_case
@pytest.mark.parametrize(("kind", "name"), [("cosine", "loss_cosine"), ("standardised", "loss_norm_pix")])
def test_other_losses(case: str, kind: Loss, name: str) -> None:
    tensors, _, method, batch = load_method(case, kind)
    loss = method.step(batch, torch.Generator())["loss"]
    assert_close(loss.detach(), tensors[f"output.{name}"], name, BOUND)
    loss.backward()
    for key, value in part(tensors, f"output.grad_{kind}.").items():
        gradients = to_official({key: one.grad for key, one in method.named_parameters() if one.grad is not None}, {})
        assert_close(gradients[key], value, f"gradient of {key}", GRADIENT_BOUND)


@every_case
def test_encoder_and_decoder(case: str) -> None:
    tensors, _, method, batch = load_method(case)
    sequence, length = method.sequences(batch)
    assert_close(sequence, tensors["input.embeddings"], "normalised", BOUND)
    seen = tensors["input.ids_keep"] >= 0
    visible = tensors["input.ids_keep"].clamp(min=0)
    tokens = method.backbone.encode(sequence, seen, visible)
    assert_close(tokens.detach(), tensors["output.encoder_tokens"][:, : tokens.shape[1]], "encoder", BOUND)
    assert not tensors["output.encoder_tokens"][:, tokens.shape[1] :].any()
    steps = torch.arange(sequence.shape[1]).expand(len(sequence), -1)
    valid = steps < length[:, None]
    predicted = method.decoder(tokens, visible, seen, steps, valid) * valid[..., None]
    assert_close(predicted.detach(), tensors["output.prediction"], "prediction", BOUND)
    if "output.similarity" in tensors:
        similarity = neighbour_similarity(sequence) * valid
        assert_close(similarity, tensors["output.similarity"], "similarity", BOUND)


@every_case
def test_lengths_of_the_official_loader(case: str) -> None:
    """Files longer than the maximum are cut, those of fewer than five segments are repeated three times."""
    tensors, info, method, _ = load_method(case)
    found = torch.tensor(info["segments_in_file"])
    sequence = torch.randn(len(found), int(found.max()), method.backbone.input_dim)
    for training in (False, True):
        made, length = method.train(training).cut(sequence, found, torch.Generator().manual_seed(0))
        assert length.tolist() == info["lengths"]
        for row, number in enumerate(found.tolist()):
            if number < 5:
                assert torch.equal(made[row, : 3 * number], sequence[row, :number].repeat(3, 1)[: made.shape[1]])
    counts = RandomSteps(info["mask_ratio"]).counts(int(length.max()))
    assert torch.equal(counts[length], tensors["output.kept_count"])


@every_case
def test_names_come_back(case: str) -> None:
    tensors, _, method, _ = load_method(case)
    official = part(tensors, "state.")
    assert is_official(official)
    steps = trained_steps(official)
    assert steps == method.backbone.max_steps
    positions = {"pos_embed": method.backbone.positions, "decoder_pos_embed": method.decoder.positions}
    back = to_official(method.state_dict(), positions)
    assert back.keys() == official.keys()
    for name, value in official.items():
        assert torch.equal(back[name], value), name
    assert torch.equal(step_positions(steps, method.backbone.embed_dim), official["pos_embed"])


def load_probe(mode: str) -> tuple[dict, Classification, Batch]:
    tensors, info = load_case("lv_mae", "probes")
    sizes = info["constructor"]
    backbone = build_backbone(sizes)
    load_strictly(backbone, encoder_weights(part(tensors, "state.encoder."))[0], "probes")
    method = Classification(backbone, sizes["classes"], mode)
    if mode == "attentive":
        method.attention = ClassTokenAttention(sizes["embed_dim"], sizes["probe_heads"])
        probe = part(tensors, "state.attentive.")
        own = {name: value for name, value in probe.items() if not name.startswith("linear.")}
        load_strictly(method.attention, own, "probe")
    else:
        probe = part(tensors, "state.linear.")
    load_strictly(method.classifier, part(probe, "linear."), "head")
    data = tensors["input.embeddings_normalised"]
    steps = torch.arange(data.shape[1]) < tensors["input.length"][:, None]
    data = data * steps[..., None]
    stream = Stream("feature", data[:, None], length=tensors["input.length"])
    return tensors, method, Batch(torch.arange(len(data)), tensors["input.label"], {"feature": stream})


@pytest.mark.parametrize("mode", ["linear", "attentive"])
def test_probes(mode: str) -> None:
    tensors, method, batch = load_probe(mode)
    assert_close(method.clip_logits(batch)[:, 0].detach(), tensors[f"output.{mode}_logits_correct_mask"], "logits", BOUND)
    sequence = method.normalise(batch.stream("feature").data[:, 0])
    assert torch.equal(valid_steps(sequence).sum(1), tensors["input.length"])
    tokens = method.backbone.forward_features(sequence)
    there = F.pad(valid_steps(sequence), (1, 0), value=True)[..., None]
    assert_close(tokens, tensors["output.tokens_correct_mask"] * there, "tokens", BOUND)


@pytest.mark.parametrize("mode", ["linear", "attentive"])
def test_probes_with_the_official_mask(mode: str) -> None:
    """The official evaluation also hides the last segment as a key. Its gradients are of this form."""
    tensors, method, batch = load_probe(mode)
    sequence, length = method.normalise(batch.stream("feature").data[:, 0]), tensors["input.length"]
    steps = torch.arange(sequence.shape[1])
    valid, fewer = steps < length[:, None], steps < length[:, None] - 1
    assert torch.equal(~F.pad(fewer, (1, 0), value=True), tensors["input.attn_mask"])
    backbone = method.backbone
    hidden, keys = backbone.embed(sequence), F.pad(fewer, (1, 0), value=True)[:, None, None]
    for block in backbone.blocks:
        hidden = block(hidden, attn_mask=keys)
    tokens = backbone.norm(hidden).detach()
    there = F.pad(valid, (1, 0), value=True)[..., None]
    assert_close(tokens * there, tensors["output.tokens"] * there, "tokens", BOUND)
    if mode == "attentive":
        attended = method.attention(tokens * F.pad(fewer, (1, 0), value=True)[..., None])
    else:
        attended = (tokens[:, 1:] * valid[..., None]).sum(1) / length[:, None]
    logits = method.classifier(attended)
    assert_close(logits.detach(), tensors[f"output.{mode}_logits"], "logits", BOUND)
    loss = F.cross_entropy(logits, batch.label)
    assert_close(loss.detach(), tensors[f"output.{mode}_loss"], "loss", BOUND)
    loss.backward()
    parts = {f"{mode}.linear.{name}": value.grad for name, value in method.classifier.named_parameters()}
    parts |= {f"{mode}.{name}": value.grad for name, value in method.attention.named_parameters()}
    expected = part(tensors, "output.grad.")
    compared = [name for name in expected if name.startswith(f"{mode}.")]
    assert compared
    for name in compared:
        assert_close(parts[name], expected[name], f"gradient of {name}", GRADIENT_BOUND)
