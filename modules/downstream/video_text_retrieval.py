"""Retrieval of videos by sentences and of sentences by videos, and multiple choice: zero-shot, or fine-tuned.

Protocol of VindLU (https://arxiv.org/abs/2212.05051, official code) and Singularity (https://arxiv.org/abs/2206.03428), which
defined retrieval on Something-Something v2. Dual scores are the mean cosine of a sentence with the frames of a video. The
`best` candidates of each query by dual score are scored again by the fusion network, all others get -100; each direction has
its own candidates. Fine-tuning uses the contrastive and matching losses, without masked words.

Differences from the official code:

* all videos with the same caption are correct answers for it, in every data set; the best of them is used.
* the rank of a query is the number of wrong candidates with a higher score, plus half of those with the same score.
* a pair that is among the best in both directions goes through the fusion network once.
* several clips of a video are treated as one long clip: the cosines of all frames are averaged, and the fusion network sees all
  of them.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from modules.backbones.text.bert import TextSettings
from modules.backbones.text.clip_text import ClipTextSettings
from modules.backbones.vit.beit_video import BEiTVideo
from modules.core.batch import Batch
from modules.core.device import full_float32
from modules.core.distributed import gather_lists, gather_once
from modules.core.errors import SettingError, check_range, check_whole
from modules.core.output import Answers, Columns, Predicted
from modules.downstream.metrics.retrieval import NOT_RANKED, as_numbers, best_candidates, ranks, recalls, rerank, right_answers
from modules.language.tokenizers import TokenizerSettings
from modules.layers.heads import linear_in_float32
from modules.losses.video_text import TextContrastSettings, cosines
from modules.methods.locomotion import LocoMotion, LossSettings
from modules.training.optim import AdamWSettings

MATCH_SHARE = 0.7
"""Weight of matching in multiple choice; the remaining weight is for similarity (VindLU, official code)."""
VIDEOS_AT_ONCE, TEXTS_AT_ONCE = 64, 256
SHOWN = 5
"""Number of best candidates in predictions."""


class Known(NamedTuple):
    """A video of an evaluation, in the process that encoded it."""

    number: int
    """index of the sample"""
    captions: list[str]
    meaning: int | None
    """number shared by captions with the same meaning, if the data has such annotations"""
    frames: Tensor
    """float32 [T, d], projected features of the frames"""
    tokens: Tensor | None
    """[M, D] on the host, tokens for the fusion network; None without re-ranking"""


class Sentences(NamedTuple):
    """All sentences of an evaluation, encoded, on the host."""

    texts: list[str]
    tokens: Tensor
    """[S, L, D]"""
    there: Tensor
    """bool [S, L], False at padding"""
    projected: Tensor
    """[S, d]"""


@dataclass
class Retrieved:
    """Results of a retrieval test, for metrics and pictures.

    Args:
        video_to_text: float [N, S], scores of the sentences for each video.
        text_to_video: float [S, N], scores of the videos for each sentence.
        right: bool [N, S], pairs that belong together.
        texts: S sentences.
        numbers: indices of the N samples.
    """

    video_to_text: Tensor
    text_to_video: Tensor
    right: Tensor
    texts: list[str]
    numbers: list[int]


@dataclass
class RerankSettings:
    """Re-ranking by the fusion network in evaluation.

    Args:
        best: candidates of each query that are re-ranked; 0 disables re-ranking.
        pairs_at_once: pairs per forward pass.

    Raises:
        SettingError: if a value is out of range.
    """

    best: int = 128
    pairs_at_once: int = 64

    def __post_init__(self) -> None:
        check_whole("model.rerank", 0, best=self.best)
        check_whole("model.rerank", 1, pairs_at_once=self.pairs_at_once)


class VideoTextRetrieval(LocoMotion):
    """Finds videos by sentences and sentences by videos, with the networks of `LocoMotion` and the captions of the data.

    `test` logs for the dual scores (`test/dual_*`) and the re-ranked ones (`test/rerank_*`): `t2v_r1`, 5 and 10 and `v2t_*` in
    percent, `t2v_median` and `v2t_median` (median rank from 1), and `mean` of the six recalls. Validation logs those of the
    dual scores. Every video is encoded once, by one process, which also re-ranks it; its tokens are
    kept in host memory. Zero-shot is `test` with `init_from`; `fit` fine-tunes.

    Args:
        backbone: video encoder.
        text: sizes of the text encoder, and its initial weights.
        tokenizer: tokenizer of the sentences; must be the one of the text encoder's weights.
        clip: CLIP's text encoder with its own tokenizer, used instead of `text` and `tokenizer`; it has no fusion layers, so
            `match_weight` and `rerank.best` must be 0, and the task retrieval.
        contrast: how clips and sentences are compared.
        match_weight: weight of matching in fine-tuning.
        task: `retrieval`; or `choice`, multiple choice between several sentences for a video: `test/accuracy` in percent.
        rerank: re-ranking by the fusion network in evaluation.
        init_from: file with the weights of the complete method: ours, or VindLU's .pth.
        optim: optimiser and schedule of fine-tuning.

    Raises:
        SettingError: if a value is out of range, or a file does not match.
    """

    other_streams = "choose --data of videos with captions"
    predicts_by_encoder = False

    def __init__(
        self,
        backbone: BEiTVideo,
        text: TextSettings = TextSettings(),  # noqa: B008  (never mutated; shows the defaults in --help)
        tokenizer: TokenizerSettings = TokenizerSettings(),  # noqa: B008
        clip: ClipTextSettings | None = None,
        contrast: TextContrastSettings = TextContrastSettings(),  # noqa: B008
        match_weight: float = 1.0,
        task: Literal["retrieval", "choice"] = "retrieval",
        rerank: RerankSettings = RerankSettings(),  # noqa: B008
        init_from: str | None = None,
        optim: AdamWSettings = AdamWSettings(),  # noqa: B008
    ) -> None:
        check_range("model", 0, match_weight=match_weight)
        if clip is not None and (match_weight or rerank.best or task == "choice"):
            raise SettingError(
                "model.clip is a text encoder without fusion layers; set model.match_weight and model.rerank.best to 0 and "
                "model.task to retrieval, or model.clip to null."
            )
        super().__init__(
            backbone,
            text,
            tokenizer,
            clip,
            paste=None,
            contrast=contrast,
            losses=LossSettings(match_weight, word_weight=0.0),
            init_from=init_from,
            optim=optim,
        )
        self.task, self.best, self.pairs_at_once = task, rerank.best, rerank.pairs_at_once
        self.test_record: dict[str, Any] = {}
        """Record of the last test: `videos` (used), `missed` (indices of unreadable ones), `frames`, and
        for retrieval `sentences` and `best`."""
        self.retrieved: Retrieved | None = None
        """Results of the last retrieval test."""
        self._known: list[Known] = []
        self._missed: list[int] = []
        self._chosen: list[tuple[int, bool]] = []
        self._said: list[tuple[int, tuple[str, float]]] = []

    # --- One batch ---

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Keep the features of a batch of videos."""
        self._keep(batch, rerank=False)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Keep features and tokens of a batch of videos, or choose a sentence for each."""
        if self.task == "choice":
            self._choose(batch)
        else:
            self._keep(batch, rerank=self.best > 0)

    @torch.no_grad()
    def see(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Encode videos for comparison and fusion.

        Args:
            batch: batch of B videos with V clips each.

        Returns:
            projected features of the frames [B, V * T, d] and tokens [B, V * T * (1 + N), D]
        """
        clips = self.inputs(batch)
        tokens, frames = self.backbone.encode(self.normalise(clips.flatten(0, 1)))
        parts = (
            part.unflatten(0, clips.shape[:2])
            for part in (linear_in_float32(self.video_projection, frames), tokens.flatten(1, 2))
        )
        frames, tokens = (part.flatten(1, 2) for part in parts)
        # With autocast, the fusion network converts them to its type anyway.
        kind = tokens.device.type
        return frames.float(), tokens.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else tokens

    def _keep(self, batch: Batch, rerank: bool) -> None:
        frames, tokens = self.see(batch)
        tokens = tokens.cpu() if rerank else tokens
        captions, meaning = batch.text().sentences, batch.extra.get("signature")
        meanings = meaning.tolist() if meaning is not None else [None] * len(frames)
        for row, (number, usable) in enumerate(self._usable(batch)):
            if usable:
                # A copy, so that the memory of the other videos of the batch can be freed.
                own = tokens[row].clone() if rerank else None
                self._known.append(Known(number, captions[row], meanings[row], frames[row], own))

    def _usable(self, batch: Batch) -> list[tuple[int, bool]]:
        """Index of each sample, and whether its own video could be read; other samples are recorded as missed."""
        numbers, substituted = batch.index.tolist(), batch.substituted.tolist()
        self._missed += [number for number, other in zip(numbers, substituted, strict=True) if other >= 0]
        return [(number, other < 0) for number, other in zip(numbers, substituted, strict=True)]

    @torch.no_grad()
    def options(self, batch: Batch) -> Tensor:
        """Scores of the sentences of each video in multiple choice: float32 [B, options].

        Raises:
            SettingError: if videos have different numbers of sentences.
        """
        captions = batch.text().sentences
        count = len(captions[0])
        if any(len(own) != count for own in captions):
            raise SettingError("model.task is choice, but videos have different numbers of sentences; use data with options.")
        frames, tokens = self.see(batch)
        sentences = self.read_sentences([text for own in captions for text in own])
        own = torch.arange(len(frames), device=frames.device).repeat_interleave(count)
        with full_float32(frames.device):
            every = cosines(frames, sentences.projected.to(frames.device), self.vote)
        similarity = every[own, torch.arange(len(own), device=own.device)].view(-1, count) / self.temperature.float()
        chunks = zip(own.split(self.pairs_at_once), torch.arange(len(own)).split(self.pairs_at_once), strict=True)
        match = torch.cat([self._match(sentences, rows, tokens, which) for which, rows in chunks])
        return MATCH_SHARE * match.softmax(1)[:, 1].view(-1, count) + (1 - MATCH_SHARE) * similarity.softmax(1)

    def _choose(self, batch: Batch) -> None:
        scores = self.options(batch)
        label = batch.label
        if label.ndim != 1 or int(label.min()) < 0 or int(label.max()) >= scores.shape[1]:
            raise SettingError("model.task is choice, but the data have no correct answers; choose data with answers.")
        hits = (ranks(scores, label[:, None]) == 0).tolist()
        self._chosen += [(number, hit) for (number, usable), hit in zip(self._usable(batch), hits, strict=True) if usable]

    # --- All of them ---

    def on_predict_epoch_start(self) -> None:
        """Reset the collected results."""
        self.on_validation_epoch_start()

    def predict_step(self, batch: Batch, batch_idx: int) -> Predicted:
        """Keep a batch of videos as in a test. Returns the mean frame feature [B, d], or the scores of the sentences."""
        if self.task == "choice":
            scores = self.options(batch)
            best = scores.max(1)
            told = zip(self._usable(batch), batch.text().sentences, best.indices.tolist(), best.values.tolist(), strict=True)
            self._said += [(number, (own[place], value)) for (number, usable), own, place, value in told if usable]
            return Predicted(batch.index, batch.substituted >= 0, scores)
        before = len(self._known)
        self._keep(batch, rerank=self.best > 0)
        kept = iter(self._known[before:])
        missed = batch.substituted >= 0
        width = self.video_projection.out_features
        rows = [torch.zeros(width, device=missed.device) if gone else next(kept).frames.mean(0) for gone in missed.tolist()]
        return Predicted(batch.index, missed, torch.stack(rows))

    def answers(self, paths: list[str], value: Tensor) -> Answers:
        """The best sentences of each video and, in the table `sentences`, the best videos of each sentence; or, in multiple
        choice, the chosen sentence."""
        if self.task == "choice":
            said = [one for _, one in sorted(dict(gather_lists(self._said)).items())]
            return Answers({"sentence": [text for text, _ in said], "probability": [value for _, value in said]})
        found = self._retrieve(self.best)
        self._known = []
        best = found.get("rerank", found.get("dual"))
        if best is None:
            return Answers({})
        of_sentences: Columns = {"sentence": best.texts} | _best(best.text_to_video, paths, "path")
        facts = {"reranked": self.best if "rerank" in found else 0}
        return Answers(_best(best.video_to_text, best.texts, "sentence"), facts, {"sentences": of_sentences})

    def on_test_start(self) -> None:
        """Compare the data's clips with the backbone's, as before training."""
        self.on_fit_start()

    def on_validation_epoch_start(self) -> None:
        """Reset the collected results."""
        self._known, self._missed, self._chosen, self._said = [], [], [], []

    def on_test_epoch_start(self) -> None:
        """Reset the collected results."""
        self.on_validation_epoch_start()
        self.test_record, self.retrieved = {}, None

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the dual scores as `val/*`."""
        for found in self._retrieve(0).values():
            self.log_dict({f"val/{name}": value for name, value in worth(found).items()}, sync_dist=True)
        self._known = []

    def on_test_epoch_end(self) -> None:
        """Log the metrics as `test/*`, and keep the results.

        Raises:
            SettingError: if no video could be read.
        """
        missed = sorted(set(gather_lists(self._missed)))
        self.test_record = {"missed": missed, "frames": self.backbone.num_frames}
        if self.task == "choice":
            chosen = dict(gather_lists(self._chosen))
            metrics, used = {"accuracy": 100 * sum(chosen.values()) / max(1, len(chosen))}, len(chosen)
        else:
            every = self._retrieve(self.best)
            metrics = {f"{name}_{key}": value for name, found in every.items() for key, value in worth(found).items()}
            self.retrieved = every.get("rerank", every.get("dual"))
            used = 0 if self.retrieved is None else len(self.retrieved.numbers)
            if self.retrieved is not None:
                self.test_record |= {"sentences": len(self.retrieved.texts), "best": self.best}
        if not used:
            raise SettingError("No test video could be read; check data.root and data.lists.test.")
        self.test_record["videos"] = used
        self.log_dict({f"test/{name}": value for name, value in metrics.items()}, sync_dist=True)
        self._known = []

    @torch.no_grad()
    def _retrieve(self, best: int) -> dict[str, Retrieved]:
        """Results of all processes: `dual` and, if `best` is positive, `rerank`; empty without videos."""
        told = dict(gather_lists([(known.number, (known.captions, known.meaning)) for known in self._known]))
        if not told:
            return {}
        numbers = sorted(told)
        texts, right = right_answers([told[number][0] for number in numbers], [told[number][1] for number in numbers])
        right = right.to(self.device)
        # Hooks run outside of autocast.
        with self.trainer.precision_plugin.forward_context():
            sentences = self.read_sentences(texts)
            dual = self._compare(sentences)
            found = {"dual": Retrieved(dual, dual.T, right, texts, numbers)}
            if best:
                match = self._ask(sentences, dual, best, numbers)
                ways = (rerank(dual, lambda v, s: match[v, s], best), rerank(dual.T, lambda s, v: match[v, s], best))
                found["rerank"] = Retrieved(*ways, right, texts, numbers)
        return found

    def _join(self, rows: Tensor) -> Tensor:
        """Gather the rows [n, S] of the videos of all processes, in the order of the samples: [N, S]."""
        numbers = torch.tensor([known.number for known in self._known], dtype=torch.int64, device=rows.device)
        return gather_once(self.trainer, rows, torch.zeros_like(numbers), numbers)[0]

    def _compare(self, sentences: Sentences) -> Tensor:
        """Dual scores of all videos and sentences, float32 [N, S]."""
        texts, frames = sentences.projected.to(self.device), [known.frames for known in self._known]
        parts = (frames[start : start + VIDEOS_AT_ONCE] for start in range(0, len(frames), VIDEOS_AT_ONCE))
        with full_float32(self.device):
            rows = [cosines(torch.stack(part), texts, self.vote) for part in parts]
        return self._join(torch.cat([texts.new_empty(0, len(texts)), *rows]))

    def _ask(self, sentences: Sentences, dual: Tensor, best: int, numbers: list[int]) -> Tensor:
        """Match logits of the pairs that are among the best in any direction, float32 [N, S]; others are -100.

        Every process computes those of its own videos, a few pairs at a time, in the order of the videos.
        """
        asked = torch.zeros_like(dual, dtype=torch.bool).scatter(1, best_candidates(dual, best), True)
        asked |= torch.zeros_like(dual.T, dtype=torch.bool).scatter(1, best_candidates(dual.T, best), True).T
        place = {number: row for row, number in enumerate(numbers)}
        own = torch.tensor([place[known.number] for known in self._known], dtype=torch.int64, device=dual.device)
        match = dual.new_full((len(own), dual.shape[1]), NOT_RANKED)
        for pairs in asked[own].nonzero().split(self.pairs_at_once) if len(own) else ():
            video, text = pairs.unbind(1)
            shown, which = video.unique(return_inverse=True)
            tokens = torch.stack([self._tokens(row) for row in shown.tolist()]).to(dual.device)
            match[video, text] = self._match(sentences, text.cpu(), tokens, which)[:, 1]
        return self._join(match)

    def _tokens(self, row: int) -> Tensor:
        tokens = self._known[row].tokens
        assert tokens is not None, "tokens are kept in a test that re-ranks"
        return tokens

    @torch.no_grad()
    def read_sentences(self, texts: list[str]) -> Sentences:
        """Encode sentences in batches."""
        words = self.tokenizer(texts)
        there = words != self.tokenizer.pad
        tokens, projected = [], []
        for ids, mask in zip(words.split(TEXTS_AT_ONCE), there.split(TEXTS_AT_ONCE), strict=True):
            encoded = self.text.encode(ids.to(self.device), mask.to(self.device))
            tokens.append(encoded.cpu())
            projected.append(linear_in_float32(self.text_projection, encoded[:, 0]).cpu())
        return Sentences(texts, torch.cat(tokens), there, torch.cat(projected))

    def _match(self, sentences: Sentences, rows: Tensor, videos: Tensor, which: Tensor) -> Tensor:
        """Logits [P, 2] of pairs of a sentence (its row, on the host) and a video (its row in `videos`, on the device)."""
        tokens, there = sentences.tokens[rows].to(videos.device), sentences.there[rows].to(videos.device)
        return linear_in_float32(self.match_head, self.fusion.fuse(tokens, there, videos, which)[:, 0])


def worth(found: Retrieved) -> dict[str, float]:
    """The metrics of `recalls` for these results."""
    ways = ((found.video_to_text, found.right), (found.text_to_video, found.right.T))
    return recalls(*(ranks(scores, as_numbers(right)) for scores, right in ways))


def _best(scores: Tensor, names: list[str], name: str) -> Columns:
    """Columns of the best candidates of each query [Q, N] and their scores: `<name>_1`, `score_1` and so on."""
    best = scores.topk(min(SHOWN, scores.shape[1]), 1)
    columns: Columns = {}
    for place, (numbers, values) in enumerate(zip(best.indices.T.tolist(), best.values.T.tolist(), strict=True), 1):
        columns |= {f"{name}_{place}": [names[number] for number in numbers], f"score_{place}": values}
    return columns
