"""Retrieval of videos and sentences: scores of a plain loop, correct answers, multiple choice, and kept features."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from callbacks import ResultFile
from datamodules.generated.motion import SyntheticMotion
from datamodules.video.sampling import ClipSettings
from modules.backbones.text.bert import TextSettings
from modules.backbones.vit.beit_video import BEiTVideo
from modules.core.batch import Batch, Text, unlabelled
from modules.core.errors import SettingError
from modules.downstream.metrics.retrieval import NOT_RANKED, as_numbers, ranks, right_answers
from modules.downstream.video_text_retrieval import RerankSettings, VideoTextRetrieval
from modules.language.tokenizers import TokenizerSettings
from modules.losses.video_text import TextContrastSettings
from modules.scenes.captioned import CaptionSettings
from tests.callbacks.runs import make_trainer
from tests.registry import FRAMES, OPTIM, SIDE, tiny_locomotion, video_batch

PAIRS = 5


def tiny(**settings: Any) -> VideoTextRetrieval:
    """As `tiny_locomotion`, with noise instead of small initial weights, so that scores differ."""
    torch.manual_seed(0)
    backbone = BEiTVideo("micro", SIDE, FRAMES, patch_size=8, embed_dim=32, depth=2, num_heads=2, drop_path=0)
    text = TextSettings(32, 3, 1, 2, mlp_ratio=2, positions=40, dropout=0)
    method = VideoTextRetrieval(
        backbone, text, TokenizerSettings(max_tokens=40), contrast=TextContrastSettings(16), optim=OPTIM, **settings
    )
    for value in method.parameters():
        torch.nn.init.normal_(value, std=0.3) if value.ndim > 1 else None
    return method.eval()


def motion(pairs: int = PAIRS, **settings: Any) -> SyntheticMotion:
    captions = CaptionSettings(primitives=("T",), phases=(1, 0, 0), relations=0, together=0, test_pairs=pairs, **settings)
    return SyntheticMotion(ClipSettings(frames=FRAMES, size=SIDE), 4, train_videos=8, val_videos=6, captions=captions)


@torch.no_grad()
def test_scores_are_those_of_a_loop(tmp_path: Path) -> None:
    method, data, best = tiny(rerank=RerankSettings(3, 7)), motion(), 3
    (found,) = make_trainer(tmp_path, [ResultFile("retrieval")]).test(method, datamodule=data, verbose=False)
    pool = data._pools["test"]
    texts = pool.clips.texts[0]
    assert method.retrieved is not None
    assert method.retrieved.texts == texts
    dual, match = torch.zeros(2 * PAIRS, 2 * PAIRS), torch.zeros(2 * PAIRS, 2 * PAIRS)
    for video in range(2 * PAIRS):
        clip = pool.video[video, :1]
        tokens = method.backbone.encode(method.normalise(clip))[0].flatten(1, 2)
        for text in range(2 * PAIRS):
            words = method.tokenizer([texts[text]])
            there = words != method.tokenizer.pad
            fused = method.text.fuse(method.text.encode(words, there), there, tokens)
            match[video, text] = method.match_head(fused[:, 0])[0, 1]
        dual[video] = method.score(clip, texts)
    for scores, expected, own in (
        (method.retrieved.video_to_text, match, dual),
        (method.retrieved.text_to_video, match.T, dual.T),
    ):
        kept = scores != NOT_RANKED
        assert (kept.sum(1) == best).all()
        assert torch.equal(kept.nonzero()[:, 1].view(-1, best), own.topk(best).indices.sort().values)
        assert torch.allclose(scores[kept], expected[kept], atol=1e-5)
    right = torch.arange(2 * PAIRS)[:, None]
    assert found["test/dual_v2t_r5"] == pytest.approx(100 * float((ranks(dual, right) <= 4).float().mean()))
    assert found["test/dual_t2v_median"] == pytest.approx(float(ranks(dual.T, right).quantile(0.5)) + 1)
    assert found["test/rerank_t2v_r1"] == pytest.approx(
        100 * float((ranks(method.retrieved.text_to_video, right) == 0).float().mean())
    )
    result = json.loads((tmp_path / "results/syntheticmotion_retrieval-000.json").read_text())
    assert (result["videos"], result["sentences"], result["missed"], result["best"]) == (2 * PAIRS, 2 * PAIRS, [], best)
    assert result["metrics"] == found


def test_all_candidates_are_ranked_again_where_there_are_few(tmp_path: Path) -> None:
    method = tiny(rerank=RerankSettings(100))
    make_trainer(tmp_path, []).test(method, datamodule=motion(3), verbose=False)
    assert method.retrieved is not None
    assert (method.retrieved.video_to_text != NOT_RANKED).all()
    # If all pairs are re-ranked, both directions have the same logits.
    assert torch.equal(method.retrieved.video_to_text.T, method.retrieved.text_to_video)


def test_half_precision_scores_nearly_the_same(tmp_path: Path) -> None:
    scores = []
    for precision in ("32-true", "bf16-mixed"):
        method = tiny(rerank=RerankSettings(100))
        make_trainer(tmp_path, [], precision=precision).test(method, datamodule=motion(3), verbose=False)
        assert method.retrieved is not None
        assert method.retrieved.text_to_video.dtype == torch.float32
        scores.append(method.retrieved.text_to_video)
    assert not torch.equal(*scores)
    assert torch.allclose(*scores, atol=0.05 * float(scores[0].abs().max()))


@pytest.mark.parametrize("held_out", ["verbs", "objects"])
def test_held_out_words_and_objects(held_out: Any, tmp_path: Path) -> None:
    method = tiny(rerank=RerankSettings(0))
    (found,) = make_trainer(tmp_path, []).test(method, datamodule=motion(held_out=held_out), verbose=False)
    assert set(found) == {f"test/dual_{way}_{name}" for way in ("t2v", "v2t") for name in ("r1", "r5", "r10", "median")} | {
        "test/dual_mean"
    }
    assert found["test/dual_t2v_r10"] == 100


def test_right_answers_are_those_with_the_same_words_or_the_same_meaning() -> None:
    texts, right = right_answers([["A cat.", "a dog"], ["a cat"], ["a-bird"], ["a cat!"]], [None] * 4)
    assert texts == ["A cat.", "a dog", "a-bird"]
    assert right.tolist() == [[True, True, False], [True, False, False], [False, False, True], [True, False, False]]
    assert as_numbers(right).tolist() == [[0, 1], [0, -1], [2, -1], [0, -1]]
    texts, right = right_answers([["it goes up"], ["it rises"], ["it falls"]], [5, 5, 6])
    assert right.tolist() == [[True, True, False], [True, True, False], [False, False, True]]


def test_substitutes_do_not_count(tmp_path: Path) -> None:
    class Broken(SyntheticMotion):
        def test_dataloader(self) -> Any:
            loader = super().test_dataloader()

            def spoil(batch: Batch) -> None:
                batch.substituted = torch.where(batch.index == 2, 2, -1)

            loader.on_batch = spoil
            return loader

    data = motion()
    data.__class__ = Broken
    method = tiny(rerank=RerankSettings(2))
    make_trainer(tmp_path, []).test(method, datamodule=data, verbose=False)
    assert (method.test_record["videos"], method.test_record["missed"]) == (2 * PAIRS - 1, [2])
    assert method.test_record["sentences"] == 2 * PAIRS - 1


def choice_batch(answers: list[int]) -> Batch:
    options = ["a red arrow moves up", "a flag falls", "a blue ring grows", "a cross rolls to the left", "a star spins"]
    turned = [options[number:] + options[:number] for number in range(len(answers))]
    batch = video_batch(len(answers))
    return replace(batch, label=torch.tensor(answers), streams=batch.streams | {"text": Text(turned)})


@torch.no_grad()
def test_multiple_choice_mixes_matching_and_similarity() -> None:
    method, batch = tiny(task="choice", rerank=RerankSettings(pairs_at_once=4)), choice_batch([0, 1, 2, 3])
    scores = method.options(batch)
    for row, own in enumerate(batch.text().sentences):
        clip = batch.stream("video").data[row]
        similarity = method.score(clip, own)[0] / method.temperature
        words = method.tokenizer(own)
        tokens = method.backbone.encode(method.normalise(clip))[0].flatten(1, 2)
        there = words != method.tokenizer.pad
        fused = method.text.fuse(method.text.encode(words, there), there, tokens.expand(5, -1, -1))
        expected = 0.7 * method.match_head(fused[:, 0]).softmax(1)[:, 1] + 0.3 * similarity.softmax(0)
        assert torch.allclose(scores[row], expected, atol=1e-5)


def test_accuracy_of_multiple_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = tiny(task="choice")

    def scores(batch: Batch) -> Tensor:
        # The first option, except for sample 0, where all are equal.
        chosen = torch.tensor([[1.0, 0, 0]]).repeat(len(batch.index), 1)
        return chosen.masked_fill((batch.index == 0)[:, None], 0.5)

    monkeypatch.setattr(method, "options", scores)
    data = motion()
    data.setup("test")
    data._pools["test"].label = torch.tensor([0, 0, 1, 2, 0, 1, 0, 0, 0, 0])
    (found,) = make_trainer(tmp_path, []).test(method, datamodule=data, verbose=False)
    assert found == {"test/accuracy": pytest.approx(60.0)}
    assert method.test_record == {"videos": 10, "missed": [], "frames": FRAMES}


def test_several_clips_of_a_video_are_one_long_clip() -> None:
    method, batch = tiny(), video_batch(2, clips=3)
    frames, tokens = method.see(batch)
    alone = [method.see(unlabelled(batch.stream("video").data[:, clip : clip + 1])) for clip in range(3)]
    assert torch.allclose(frames, torch.cat([one[0] for one in alone], dim=1), atol=1e-5)
    assert torch.allclose(tokens, torch.cat([one[1] for one in alone], dim=1), atol=1e-5)


def test_fine_tuning_starts_from_pretraining_and_learns_contrast_and_matching(tmp_path: Path) -> None:
    pretrained = tiny_locomotion()
    torch.save({"state_dict": pretrained.state_dict()}, tmp_path / "last.ckpt")
    method = tiny(init_from=str(tmp_path / "last.ckpt"))
    start = tiny_locomotion().state_dict().keys()
    assert method.state_dict().keys() == start
    torch.manual_seed(0)
    trainer = make_trainer(tmp_path / "run", [], epochs=1)
    trainer.fit(method, datamodule=motion())
    logged = trainer.callback_metrics
    assert {"train/loss_contrast", "train/loss_match", "val/t2v_r1", "val/v2t_median", "val/mean"} <= set(logged)
    assert float(logged["train/loss_words"]) == 0
    trained = {name: value.requires_grad for name, value in method.named_parameters()}
    assert [name for name, needs in trained.items() if not needs] == [name for name in trained if name.startswith("text.head")]
    moved = [n for n, value in method.named_parameters() if trained[n] and not torch.equal(value, pretrained.state_dict()[n])]
    assert len(moved) > 0.9 * sum(trained.values())


def test_weights_of_another_vocabulary_ask_for_it(tmp_path: Path) -> None:
    weights = tiny_locomotion().state_dict()
    torch.save({"state_dict": weights | {"text.words.weight": torch.zeros(48, 32)}}, tmp_path / "last.ckpt")
    with pytest.raises(SettingError, match=r"has 48 words, but the tokenizer has \d+; pass the vocabulary .* model\.tokenizer"):
        tiny(init_from=str(tmp_path / "last.ckpt"))


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    for wrong, least in (({"best": -1}, 0), ({"pairs_at_once": 0}, 1)):
        with pytest.raises(SettingError, match=rf"model\.rerank\.{next(iter(wrong))} is .* whole number of at least {least}"):
            RerankSettings(**wrong)
    with pytest.raises(SettingError, match=r"model\.match_weight is -1"):
        tiny(match_weight=-1.0)
    wordless = SyntheticMotion(ClipSettings(frames=FRAMES, size=SIDE), 4, train_videos=4, val_videos=4)
    with pytest.raises(SettingError, match=r"stream text, but the data have the stream\(s\) video; choose --data of"):
        make_trainer(tmp_path, []).test(tiny(), datamodule=wordless, verbose=False)
    with pytest.raises(SettingError, match="reads the stream text"):
        tiny(task="choice").options(video_batch())
    uneven = choice_batch([0, 1])
    uneven.text().sentences[1] = uneven.text().sentences[1][:3]
    with pytest.raises(SettingError, match="different numbers of sentences"):
        tiny(task="choice").options(uneven)
    with pytest.raises(SettingError, match="have no correct answers"):
        tiny(task="choice").test_step(choice_batch([0, 5]), 0)
    captions = CaptionSettings(primitives=("T",), test_pairs=2)
    other = SyntheticMotion(ClipSettings(frames=8, size=SIDE), 4, train_videos=4, val_videos=4, captions=captions)
    with pytest.raises(SettingError, match=r"data\.clip\.frames is 8 but model\.backbone\.num_frames is 4"):
        make_trainer(tmp_path, []).test(tiny(), datamodule=other, verbose=False)
