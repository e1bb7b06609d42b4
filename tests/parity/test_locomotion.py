"""Video-language parts against tensors of the official code of VindLU and of SMILE's copy of it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modules.backbones.text.bert import TextEncoder, TextSettings
from modules.backbones.vit.beit_video import BEiTVideo
from modules.core.loading import load_strictly
from modules.downstream.metrics.retrieval import DEPTHS, NOT_RANKED, dual_softmax, ranks, recalls, rerank
from modules.language.tokenizers import TokenizerSettings
from modules.losses.video_text import (
    MaskDraws,
    Negatives,
    TextContrastSettings,
    contrast_loss,
    contrast_targets,
    cosines,
    draw_negatives,
    mask_words,
    match_loss,
    negative_weights,
)
from modules.methods.locomotion import LocoMotion, Wrong
from modules.weights.names.bert import from_official as text_from_official
from modules.weights.names.vindlu import from_vindlu
from tests.parity.cases import assert_close, load_case, part

GRADIENT_BOUND = 1e-4


def build_text(tensors: dict[str, Tensor], sizes: dict[str, int]) -> TextEncoder:
    """The text encoder of a case that has no head for words."""
    weights = text_from_official(part(tensors, "state."))
    weights = {name: value for name, value in weights.items() if not name.startswith("itm_head.")}
    settings = TextSettings(
        sizes["tw"], sizes["tl"], sizes["tl"] - sizes["fl"], sizes["th"], sizes["ti"] / sizes["tw"], len(weights["positions"])
    )
    encoder = TextEncoder(settings, len(weights["words.weight"]), sizes["vw"])
    load_strictly(encoder, weights, "case", may_miss=("head.",))
    return encoder.eval()


def build_match(tensors: dict[str, Tensor]) -> nn.Linear:
    weight = tensors["state.itm_head.weight"]
    head = nn.Linear(weight.shape[1], 2)
    head.load_state_dict(part(tensors, "state.itm_head."))
    return head


@pytest.mark.parametrize("vote", ["mean", "max"])
@pytest.mark.parametrize("ids", ["noidx", "unique", "duplicates"])
def test_contrast(ids: str, vote: str) -> None:
    tensors, _ = load_case("locomotion", "vtc_loss")
    video, text, temperature = (tensors[f"input.{name}"].requires_grad_() for name in ("vision_proj", "text_proj", "temp"))
    numbers = torch.arange(len(video)) if ids == "noidx" else tensors[f"input.idx_{ids}"]
    similarity = cosines(video, text, vote) / temperature
    assert_close(similarity.detach(), tensors[f"output.sim_v2t.{vote}"], "video to text")
    assert_close(similarity.detach().T, tensors[f"output.sim_t2v.{vote}"], "text to video")
    loss = contrast_loss(similarity, numbers)
    assert_close(loss.detach(), tensors[f"output.{ids}.{vote}.loss"].reshape(()), "loss")
    loss.backward()
    for name, value in (("vision", video), ("text", text), ("temp", temperature)):
        assert_close(value.grad, tensors[f"output.{ids}.{vote}.grad_{name}"], f"gradient of {name}", GRADIENT_BOUND)


def test_other_contrasts() -> None:
    tensors, _ = load_case("locomotion", "vtc_loss")
    video, text, temperature = (tensors[f"input.{name}"] for name in ("vision_proj", "text_proj", "temp"))
    assert_close(contrast_targets(tensors["input.idx_duplicates"]), tensors["output.targets_duplicates"], "targets")
    pooled = video.mean(dim=1, keepdim=True)
    similarity = cosines(pooled, text) / temperature
    assert_close(similarity, tensors["output.sim_v2t.pooled2d"], "similarity of pooled videos")
    loss = contrast_loss(similarity, tensors["input.idx_duplicates"])
    assert_close(loss, tensors["output.pooled2d.duplicates.loss"].reshape(()), "loss of pooled videos")
    for vote in ("mean", "max"):
        several = cosines(pooled, tensors["input.text_proj_multi"], vote) / temperature
        assert_close(several, tensors[f"output.multi_text.sim_v2t.{vote}"], f"{vote} over sentences")
        assert_close(several.T, tensors[f"output.multi_text.sim_t2v.{vote}"], f"{vote} over sentences, turned")


@pytest.mark.parametrize("variant", ["floor_after", "eps_inside"])
def test_matching(variant: str) -> None:
    tensors, info = load_case("locomotion", "vtm_loss")
    text_encoder, head = build_text(tensors, info["constructor"]["bert"]), build_match(tensors)
    video, text = (tensors[f"input.{name}_embeds"].requires_grad_() for name in ("vision", "text"))
    ids, mask = tensors["input.idx"], tensors["input.text_atts"].bool()
    similarity = cosines(tensors["input.vision_proj"], tensors["input.text_proj"]) / tensors["input.temp"]
    floor = 1e-4 if variant == "floor_after" else 0.0
    for name, rows in (("t2v", similarity.T), ("v2t", similarity)):
        assert_close(negative_weights(rows, ids, floor), tensors[f"output.{variant}.weights_{name}"], f"weights {name}")
    own, valid = torch.arange(len(ids)), torch.ones(len(ids), dtype=torch.bool)
    wrong_video, wrong_text = (tensors[f"output.{variant}.{name}_neg_indices"] for name in ("vision", "text"))
    sentences, which = torch.cat([own, own, wrong_text]), torch.cat([own, wrong_video, own])
    fused = text_encoder.fuse(text[sentences], mask[sentences], video, which)
    logits = head(fused[:, 0])
    assert_close(logits.detach(), tensors[f"output.{variant}.logits"], "logits")
    loss = match_loss(logits, Negatives(wrong_video, valid), Negatives(wrong_text, valid))
    assert_close(loss.detach(), tensors[f"output.{variant}.loss"].reshape(()), "loss")
    loss.backward()
    for name, value in (("vision_embeds", video), ("text_embeds", text), ("head_weight", head.weight)):
        assert_close(value.grad, tensors[f"output.{variant}.grad_{name}"], f"gradient of {name}", GRADIENT_BOUND)
    drawn = draw_negatives(similarity, ids, torch.Generator().manual_seed(0))
    assert drawn.valid.all()
    assert (ids[drawn.row] != ids).all()


def test_reranked_scores() -> None:
    tensors, info = load_case("locomotion", "rerank_scores")
    sizes = info["constructor"]
    text_encoder, head = build_text(tensors, sizes["bert"]), build_match(tensors)
    mask, videos = tensors["input.attention_mask"].bool(), tensors["input.vision_embeds"].flatten(1, 2)
    text = text_encoder.encode(tensors["input.input_ids"], mask)
    projections = []
    for name, features in (("vision", tensors["input.pooled_vision_embeds"]), ("text", text[:, 0])):
        projections.append(nn.functional.linear(features, *(tensors[f"state.{name}_proj.{one}"] for one in ("weight", "bias"))))
    dual = cosines(*projections).detach()
    assert_close(dual, tensors["output.v2t_dual"], "dual scores of videos")
    assert_close(dual.T, tensors["output.t2v_dual"], "dual scores of sentences")

    def match(video: Tensor, sentence: Tensor) -> Tensor:
        return head(text_encoder.fuse(text[sentence], mask[sentence], videos[video])[:, 0])[:, 1]

    best = sizes["k_test"]
    # Five pairs per call divide neither direction's number of pairs evenly.
    turned = rerank(dual.T, lambda sentence, video: match(video, sentence), best, 5)
    for found, way in ((rerank(dual, match, best, 5), "v2t"), (turned, "t2v")):
        official = tensors[f"output.{way}_rerank"]
        assert torch.equal(found == NOT_RANKED, official == NOT_RANKED)
        # The others alone: beside -100 any of their errors would be small.
        assert_close(found.where(found != NOT_RANKED, 0), official.where(official != NOT_RANKED, 0), f"re-ranked scores {way}")


@pytest.mark.parametrize("case", ["multi_video", "multi_text", "one_to_one"])
def test_retrieval_metrics(case: str) -> None:
    tensors, info = load_case("locomotion", "retrieval_metrics")
    given, expected = part(tensors, f"input.{case}."), part(tensors, f"output.{case}.")
    found = {}
    for direction, right in (("v2t", "video_to_text"), ("t2v", "text_to_video")):
        found[direction] = ranks(given[f"scores_{direction}"], given[right])
        assert torch.equal(found[direction].long(), expected[f"ranks_{direction}"])
    values = recalls(found["v2t"], found["t2v"])
    official = dict(zip(info["metric_order"], expected["metrics"].tolist(), strict=True))
    for direction, name in (("v2t", "txt"), ("t2v", "img")):
        for depth in DEPTHS:
            assert values[f"{direction}_r{depth}"] == pytest.approx(official[f"{name}_r{depth}"], abs=6e-3)
    assert values["mean"] == pytest.approx(official["r_mean"], abs=6e-3)
    assert [values["v2t_median"], values["t2v_median"]] == expected["median_rank"].tolist()


def test_dual_softmax() -> None:
    tensors, _ = load_case("locomotion", "retrieval_metrics")
    similarity = cosines(tensors["input.dsl.vision_feats"][:, None], tensors["input.dsl.text_feats"])
    assert_close(similarity, tensors["output.dsl.sim_v2t"], "similarity")
    assert_close(dual_softmax(similarity), tensors["output.dsl.dsl_v2t"], "videos")
    assert_close(dual_softmax(similarity.T), tensors["output.dsl.dsl_t2v"], "sentences")


def build_method(tensors: dict[str, Tensor], sizes: dict[str, Any]) -> LocoMotion:
    """The whole method with the weights of the case, and its negatives."""
    backbone = BEiTVideo(
        "micro", sizes["img"], sizes["T"], sizes["patch"], sizes["vw"], sizes["vl"], sizes["vh"], sizes["vi"] / sizes["vw"]
    )
    settings = TextSettings(
        sizes["tw"], sizes["tl"], sizes["tl"] - sizes["fl"], sizes["th"], sizes["ti"] / sizes["tw"], sizes["maxpos"]
    )
    method = LocoMotion(
        backbone, settings, TokenizerSettings(max_tokens=sizes["maxpos"]), contrast=TextContrastSettings(sizes["ed"])
    )
    method.text = TextEncoder(settings, sizes["vocab"], sizes["vw"])
    load_strictly(method, from_vindlu(part(tensors, "state.")), "case")
    everyone = torch.ones(len(tensors["input.idx"]), dtype=torch.bool)
    wrong = Wrong(*(Negatives(tensors[f"input.{name}_neg_indices"], everyone) for name in ("vision", "text")))
    method.negatives = lambda *_: wrong
    return method.eval()


def test_step() -> None:
    tensors, info = load_case("locomotion", "vindlu_forward")
    method, special = build_method(tensors, info["constructor"]["tiny"]), info["constructor"]["special_ids"]
    video, words, ids = tensors["input.image"].transpose(1, 2), tensors["input.input_ids"], tensors["input.idx"]
    tokenizer = method.tokenizer
    tokenizer.pad, tokenizer.cls, tokenizer.sep, tokenizer.mask = (special[name] for name in ("PAD", "CLS", "SEP", "MASK"))
    there = tensors["input.attention_mask"].bool()
    assert torch.equal(there, words != tokenizer.pad)
    for name, clip in (("", video), ("_1frame", video[:, :, :1])):
        tokens, frames = method.backbone.encode(clip)
        assert_close(tokens, tensors[f"output.vision_embeds{name}"], "clip tokens")
        assert_close(frames, tensors[f"output.pooled_vision{name or '_embeds'}"], "frames")
    text = method.text.encode(words, there)
    # What stands at padding is never read.
    assert_close(text[there], tensors["output.text_embeds"][there], "text")
    fused = method.text.fuse(text, there, method.backbone.encode(video)[0].flatten(1, 2))
    assert_close(fused[there], tensors["output.fusion_hidden"][there], "fused text")
    drawn = (tensors[f"input.mlm_draw_{name}"].bool() for name in ("masked", "replace", "random"))
    draws = MaskDraws(*drawn, tensors["input.mlm_random_words"])
    gapped, labels = mask_words(words, tokenizer.maskable(words), tokenizer.mask, draws)
    assert torch.equal(gapped, tensors["output.mlm_input_ids"])
    assert torch.equal(labels, tensors["output.mlm_labels"])
    losses = method.losses(video, words, ids, draws, torch.Generator())
    for name, value in (("vtc", losses.contrast), ("vtm", losses.match), ("mlm", losses.words)):
        assert_close(value.detach(), tensors[f"output.loss_{name}"].reshape(()), name)
    (losses.contrast + losses.match + losses.words).backward()
    gradients = {
        "temp": method.temperature,
        "vision_proj.weight": method.video_projection.weight,
        "text_proj.weight": method.text_projection.weight,
        "itm_head.weight": method.match_head.weight,
        "vision_encoder.embeddings.temporal_position_embeddings": method.backbone.frame_positions,
        "vision_encoder.encoder.layer.0.temp_model.scale": method.backbone.temporal[0].scale,
        "text_encoder.cls.predictions.bias": method.text.head.bias,
        "text_encoder.bert.encoder.layer.0.attention.self.query.weight": method.text.layers[0].attention.query.weight,
    }
    assert {f"output.grad.{name}" for name in gradients} == {name for name in tensors if name.startswith("output.grad.")}
    for name, value in gradients.items():
        expected = tensors[f"output.grad.{name}"]
        assert_close(value.grad.reshape(expected.shape), expected, f"gradient of {name}", GRADIENT_BOUND)
