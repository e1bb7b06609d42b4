"""LocoMotion: videos and sentences about how things move in them.

Paper: LocoMotion, https://arxiv.org/abs/2410.12018. Objects whose motion is known are pasted into clips, captions
describe the motion in varied wordings, and a video-language model learns which clip and caption
belong together. Unlike in web video, a single frame is not enough to match them.

Neither the paper's code nor most of its settings are public: this is a re-implementation, not a reproduction. The grammar of
the captions and the ranges of the motions are ours (modules/motion). The network and the losses are those of VindLU
(https://arxiv.org/abs/2212.05051, official code), and are compared with its tensors in tests/parity/test_locomotion.py; whether
the paper uses the same network is not verified. Three losses, each of weight 1:

    contrast   cosine similarities of all clips and sentences of all processes, divided by a learned temperature
    matching   the fusion network tells true pairs from pairs with a hard negative clip or sentence of the same process
    words      half of the words of a sentence are masked or replaced, and predicted from the sentence and the clip

Shapes for BEiT-B at 8 x 224 x 224: 8 x 197 clip tokens [B, 8, 197, 768], sentence [B, L, 768] with L at most 32, both
projected to 256; the fusion network sees all 1576 clip tokens of the 4B pairs at once.

With several processes, each draws its own negatives and masked words, and these losses are averaged; the contrastive loss
equals that of one process with the joined batch.

Differences from the official code of VindLU:

* clips whose captions have the same meaning are positives of each other (`positives`), not only a clip and its own caption.
* the negatives' weights and the gradient of gathered features, see modules/losses/video_text.py.
* no weight decay for positions, the temperature and the scale of the temporal attention.
* the pairs of all losses go through the fusion network in one pass; sentences are padded to the longest one of the batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer

from modules.backbones.text.bert import TextEncoder, TextSettings, check_words
from modules.backbones.text.clip_text import ClipText, ClipTextSettings, ClipTokenizer
from modules.backbones.vit.beit_video import BEiTVideo, fit_positions
from modules.core.batch import Batch, Kind, Preparation
from modules.core.distributed import gather_rows
from modules.core.errors import SettingError, check_range
from modules.core.loading import load_strictly
from modules.core.output import StepOutput
from modules.core.randomness import worker_rng
from modules.language.captions import Captioner, stable_hash
from modules.language.tokenizers import Tokenizer, TokenizerSettings, clean
from modules.layers.drawing.clips import captioned
from modules.layers.heads import linear_in_float32
from modules.losses.video_text import (
    GatherGradient,
    MaskDraws,
    Negatives,
    TextContrastSettings,
    contrast_loss,
    cosines,
    draw_masks,
    draw_negatives,
    gather_rows_with_gradient,
    mask_words,
    match_loss,
    word_loss,
)
from modules.scenes.captioned import CaptionSettings
from modules.scenes.captioned_paste import (
    CaptionedPasteSettings,
    CutOuts,
    PastePlan,
    Pictures,
    ShapePictures,
    paste_plan,
    plan_and_tell,
)
from modules.training.method import Method
from modules.training.optim import AdamWSettings
from modules.weights.files import Checkpoint, read_checkpoint
from modules.weights.names.vindlu import from_vindlu, is_vindlu
from modules.weights.origin import origin_of

Positives = Literal["instance", "caption", "signature"]
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.001, 0.5
TRAIN_CAPTIONS, VAL_CAPTIONS, STEP_CAPTIONS = 4, 5, 6
"""Streams of random numbers."""
NUMBERS = 1 << 62
"""Each clip draws one number below this; its objects, motion and words are a function of that number."""


@dataclass(eq=False)
class Sentences:
    """Sentences and pasted objects of the N = B x V clips of a batch."""

    texts: list[str]
    """N sentences"""
    words: Tensor
    """int64 [N, L] token ids"""
    ids: Tensor
    """int64 [N], clips with equal numbers are not negatives of each other"""
    plan: PastePlan | None
    """of the pasted objects"""


class CaptionWriter:
    """Writes the captions of batches and plans the pasted objects, on the host.

    Args:
        tokenizer: tokenizer of the text encoder.
        positives: see `LocoMotion`.
        captions: settings of the pasted objects; None uses the sentences of the data.
        cut_outs: see `plan_and_tell`.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | ClipTokenizer,
        positives: Positives,
        captions: CaptionSettings | None,
        cut_outs: CutOuts | None,
    ) -> None:
        self.tokenizer, self.positives, self.captions, self.cut_outs = tokenizer, positives, captions, cut_outs
        self.captioner = Captioner(captions.verbs, captions.paraphrases) if captions is not None else None

    def prepare(self, seed: int, batch: Batch, epoch: int | None) -> None:
        """See `Preparation`. A clip is a function of the run's seed, the epoch, its row and its place in the row."""
        views = batch.stream("video", "video").data.shape[1]
        key = (VAL_CAPTIONS, seed, 0) if epoch is None else (TRAIN_CAPTIONS, seed, epoch)
        numbers = [worker_rng(*key, row, 0).integers(NUMBERS, size=views) for row in batch.index.tolist()]
        batch.prepared = self.write(batch, np.concatenate(numbers))

    def write(self, batch: Batch, number: np.ndarray) -> Sentences:
        """Choose the sentences and the pasted objects.

        Args:
            batch: on any device; its pixels are not read.
            number: int64 [N], one random number per clip; the clip's objects and words are a function of it.

        Raises:
            SettingError: if nothing is pasted and the data has no captions.
        """
        _, clips, frames, side = batch.stream("video", "video").data.shape[:4]
        plan, meaning = None, batch.extra.get("signature")
        ids: Tensor | None
        if self.captions is not None and self.captioner is not None:
            plan = plan_and_tell(torch.from_numpy(number), frames, side, self.captions, self.captioner, self.cut_outs)
            texts, ids = plan.texts, plan.signature
        else:
            texts = [text for text in batch.text().first for _ in range(clips)]
            ids = meaning.repeat_interleave(clips) if meaning is not None else None
        if self.positives == "instance":
            ids = batch.index.repeat_interleave(clips)
        elif self.positives == "caption" or ids is None:
            ids = torch.tensor([stable_hash(text) for text in texts])
        return Sentences(texts, self.tokenizer(texts), ids, plan)


class Pairs(NamedTuple):
    """Inputs of the losses: clips and sentences, one row per pair."""

    clip: Tensor
    """uint8 [N, T, H, W, 3]"""
    sentences: Sentences


class Wrong(NamedTuple):
    """Hard negatives for the sentence and for the clip of each pair."""

    video: Negatives
    text: Negatives


class Losses(NamedTuple):
    """What `LocoMotion.losses` returns, as scalars."""

    contrast: Tensor
    match: Tensor
    words: Tensor
    log: dict[str, Tensor]
    """detached accuracies, from 0 to 1"""


def check_nouns(nouns: list[str], tokenizer: Tokenizer) -> None:
    """Refuse names of objects that the tokenizer does not know and would split into letters.

    Raises:
        SettingError: if there is such a word; the message names the first.
    """
    lexicon = tokenizer.settings.vocabulary is None
    for word in dict.fromkeys(word for noun in nouns for word in clean(noun)):
        # Unknown words are split into letters, and such a sentence would be truncated.
        known = word in tokenizer.numbers if lexicon else not bool((tokenizer([word]) == tokenizer.unknown).any())
        if not known:
            raise SettingError(
                f"The tokenizer does not know the word {word!r} of a category in model.paste.objects.root; pass the vocab.txt "
                "of bert-base-uncased as model.tokenizer.vocabulary."
            )


@dataclass
class LossSettings:
    """The losses of the fusion network, in addition to the contrastive loss.

    Args:
        match_weight: weight of matching; 0 leaves it out.
        word_weight: weight of masked-word prediction; 0 leaves it out.
        masked_words: probability that a word is masked.

    Raises:
        SettingError: if a value is out of range.
    """

    match_weight: float = 1.0
    word_weight: float = 1.0
    masked_words: float = 0.5

    def __post_init__(self) -> None:
        check_range("model.losses", 0, match_weight=self.match_weight, word_weight=self.word_weight)
        if not 0 < self.masked_words < 1:
            raise SettingError(f"model.losses.masked_words is {self.masked_words}; it must be between 0 and 1.")


class LocoMotion(Method):
    """Video-language pretraining on motion captions (https://arxiv.org/abs/2410.12018, re-implemented).

    Args:
        backbone: video encoder, kept after pretraining.
        text: sizes of the text encoder, and its initial weights.
        tokenizer: tokenizer of the sentences; must be the one of the text encoder's weights.
        clip: CLIP's text encoder with its own tokenizer, used instead of `text` and `tokenizer`; it has no fusion layers, so
            `match_weight` and `word_weight` of the losses must be 0.
        paste: moving objects that are pasted into the clips, and their captions; null uses the captions of the data.
        positives: which pairs are not negatives of each other: none (`instance`), those with the same caption (`caption`), or
            those whose captions have the same meaning (`signature`; like `caption` if the data has no such annotation).
        contrast: how clips and sentences are compared.
        losses: weights of matching and masked-word prediction.
        init_from: file with the weights of the whole method to start from, loaded strictly: our .ckpt or .safetensors, or
            VindLU's .pth.
        optim: optimiser and schedule.
    """

    other_streams = "choose --data of videos with captions, or, for videos alone, do not set model.paste to null"

    def __init__(
        self,
        backbone: BEiTVideo,
        text: TextSettings = TextSettings(),  # noqa: B008  (never mutated; shows the defaults in --help)
        tokenizer: TokenizerSettings = TokenizerSettings(),  # noqa: B008
        clip: ClipTextSettings | None = None,
        paste: CaptionedPasteSettings | None = CaptionedPasteSettings(),  # noqa: B008
        positives: Positives = "signature",
        contrast: TextContrastSettings = TextContrastSettings(),  # noqa: B008
        losses: LossSettings = LossSettings(),  # noqa: B008
        init_from: str | None = None,
        optim: AdamWSettings = AdamWSettings(),  # noqa: B008
    ) -> None:
        super().__init__(optim)
        if clip is not None and (losses.match_weight or losses.word_weight):
            raise SettingError(
                "model.clip is a text encoder without fusion layers; set model.losses.match_weight and "
                "model.losses.word_weight to 0, or model.clip to null."
            )
        if text.positions < tokenizer.max_tokens:
            raise SettingError(
                f"model.tokenizer.max_tokens {tokenizer.max_tokens} is more than model.text.positions {text.positions}; lower "
                "the first or raise the second."
            )
        if paste is not None:
            paste.captions.check(backbone.num_frames)
        self.backbone: BEiTVideo = backbone
        self.tokenizer: Tokenizer | ClipTokenizer
        self.text: TextEncoder | ClipText
        if clip is not None:
            self.tokenizer = ClipTokenizer()
            self.text = ClipText(clip, len(self.tokenizer))
        else:
            self.tokenizer = Tokenizer(tokenizer)
            self.text = TextEncoder(text, len(self.tokenizer), backbone.embed_dim)
        captions, objects = (paste.captions, paste.objects) if paste is not None else (None, None)
        cut_outs = CutOuts(objects) if objects is not None else None
        if cut_outs is not None and isinstance(self.tokenizer, Tokenizer):
            check_nouns(cut_outs.nouns, self.tokenizer)
        self.objects: Pictures = objects if objects is not None else ShapePictures()
        self.writer = CaptionWriter(self.tokenizer, positives, captions, cut_outs)
        self.video_projection = nn.Linear(backbone.embed_dim, contrast.joint_dim)
        self.text_projection = nn.Linear(self.text.embed_dim, contrast.joint_dim)
        self.match_head = nn.Linear(self.text.embed_dim, 2)
        self.temperature = nn.Parameter(torch.tensor(contrast.temperature))
        self.vote = contrast.vote
        self.match_weight, self.word_weight, self.masked_words = losses.match_weight, losses.word_weight, losses.masked_words
        self.gather_gradient: GatherGradient = contrast.gather_gradient
        self.freeze_unused()
        if init_from is not None:
            content = read_checkpoint(init_from, "model.init_from")
            load_strictly(self, self.own_weights(content, init_from), init_from)
            self.adopt(origin_of(init_from, content))

    def freeze_unused(self) -> None:
        """Freeze parts that no loss uses, because the optimiser and DDP expect a gradient for all others."""
        if not self.match_weight:
            self.match_head.requires_grad_(False)
        if isinstance(self.text, TextEncoder) and not self.word_weight:
            self.text.head.requires_grad_(False)
        if not (self.match_weight or self.word_weight):
            self.backbone.norm.requires_grad_(False)
            if isinstance(self.text, TextEncoder):
                self.text.layers[self.text.alone :].requires_grad_(False)

    @property
    def fusion(self) -> TextEncoder:
        """The text encoder, which must have fusion layers."""
        assert isinstance(self.text, TextEncoder), "settings that need fusion layers are refused without them"
        return self.text

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Lightning's step. The temperature is clamped afterwards, so that checkpoints never contain one out of range."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.limit_temperature()

    @torch.no_grad()
    def limit_temperature(self) -> None:
        """Keep the temperature between 0.001 and 0.5."""
        self.temperature.clamp_(LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE)

    def own_weights(self, content: Checkpoint, path: str) -> dict[str, Tensor]:
        """Weights of the whole method under our names, with positions resized for our clips.

        Args:
            content: content of the file.
            path: value of model.init_from.
        """
        weights = from_vindlu(content.weights) if is_vindlu(content.weights) else content.weights
        check_words(weights.get("text.words.weight"), len(self.tokenizer), path)
        inner = {key.removeprefix("backbone."): value for key, value in weights.items() if key.startswith("backbone.")}
        fitted = fit_positions(inner, self.backbone, path)
        return weights | {f"backbone.{key}": value for key, value in fitted.items()}

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        """Paste, encode, compare. Videos are [B, V, T, H, W, 3]; each clip counts as a sample."""
        clip, sentences = self.pair(batch, generator)
        draws = draw_masks(sentences.words, self.masked_words, len(self.tokenizer), generator)
        losses = self.losses(self.normalise(clip), sentences.words, sentences.ids, draws, generator)
        log = {"loss_contrast": losses.contrast, "loss_match": losses.match, "loss_words": losses.words}
        return {
            "loss": losses.contrast + self.match_weight * losses.match + self.word_weight * losses.words,
            "log": {name: value.detach() for name, value in log.items()} | losses.log,
            "show": {"clip": clip, "texts": sentences.texts},
        }

    def reads(self) -> dict[str, tuple[Kind, ...]]:
        """Clips, and their sentences if nothing is pasted; see `Method.reads`."""
        return super().reads() | ({} if self.writer.captions is not None else {"text": ("text",)})

    def preparation(self) -> Preparation:
        """Captions are written and tokenised, and motion is sampled, in the loader workers; see `Method.preparation`."""
        return partial(self.writer.prepare, self.seed)

    def pair(self, batch: Batch, generator: torch.Generator) -> Pairs:
        """The clips of a batch with their sentences.

        Raises:
            SettingError: if nothing is pasted and the data has no captions.
        """
        clip = self.inputs(batch).flatten(0, 1)
        sentences = batch.prepared
        if sentences is None:
            number = worker_rng(generator.initial_seed(), STEP_CAPTIONS).integers(NUMBERS, size=len(clip))
            sentences = move_data_to_device(self.writer.write(batch, number), clip.device)
        plan = sentences.plan
        return Pairs(clip if plan is None else paste_plan(clip, plan, self.objects), sentences)

    def losses(self, video: Tensor, words: Tensor, ids: Tensor, draws: MaskDraws, generator: torch.Generator) -> Losses:
        """Compute the three losses.

        Args:
            video: float [B, 3, T, H, W], normalised.
            words: int64 [B, L], token ids.
            ids: int64 [B]; pairs with equal ids are not negatives of each other.
            draws: random numbers for the masked words.
            generator: source of randomness for the negatives.
        """
        self.limit_temperature()
        there = words != self.tokenizer.pad
        tokens, frames = self.backbone.encode(video)
        text = self.text.encode(words, there)
        projected = self.project(frames, text[:, 0])
        similarity = cosines(*projected, self.vote) / self.temperature
        contrast = contrast_loss(*self.everyone(similarity, projected, ids))
        wrong = self.negatives(similarity.detach(), ids, generator)
        # All pairs go through the fusion network at once: their sentences, and the clip of each.
        own = torch.arange(len(ids), device=ids.device)
        sentences, masks, which = [], [], []
        if self.match_weight:
            chosen = torch.cat([own, own, wrong.text.row])
            sentences, masks, which = [text.index_select(0, chosen)], [there[chosen]], [own, wrong.video.row, own]
        if self.word_weight:
            assert isinstance(self.tokenizer, Tokenizer), "CLIP's text encoder has no masked-word head"
            gapped, labels = mask_words(words, self.tokenizer.maskable(words), self.tokenizer.mask, draws)
            sentences, masks, which = [*sentences, self.text.encode(gapped, there)], [*masks, there], [*which, own]
        match = named = contrast.new_zeros(())
        log = self.monitor(similarity, ids)
        if sentences:
            fused = self.fusion.fuse(torch.cat(sentences), torch.cat(masks), tokens.flatten(1, 2), torch.cat(which))
            if self.match_weight:
                logits = linear_in_float32(self.match_head, fused[: 3 * len(own), 0])
                match = match_loss(logits, wrong.video, wrong.text)
                found = logits.detach().argmax(dim=1).view(3, -1)
                log |= {"pairs_found": found[0].float().mean(), "wrong_pairs_refused": 1 - found[1:].float().mean()}
            if self.word_weight:
                named = word_loss(self.fusion.name_words(fused[-len(own) :]), labels)
        return Losses(contrast, match, named, log)

    def project(self, frames: Tensor, sentences: Tensor) -> tuple[Tensor, Tensor]:
        """Project frame features [B, T, D] and sentence features [C, D] to the joint space: float32 [B, T, d] and [C, d]."""
        return linear_in_float32(self.video_projection, frames), linear_in_float32(self.text_projection, sentences)

    def negatives(self, similarity: Tensor, ids: Tensor, generator: torch.Generator) -> Wrong:
        """A hard negative clip and a hard negative sentence for each pair of this process.

        Args:
            similarity: float32 [B, B], clips x sentences, divided by the temperature.
            ids: int64 [B]
            generator: source of randomness.
        """
        return Wrong(draw_negatives(similarity.T, ids, generator), draw_negatives(similarity, ids, generator))

    def everyone(self, similarity: Tensor, projected: tuple[Tensor, Tensor], ids: Tensor) -> tuple[Tensor, Tensor]:
        """Similarities and ids of the pairs of all processes; in validation, only those of this process."""
        rows = gather_rows(ids) if self.training else ids
        if len(rows) == len(ids):
            return similarity, ids
        gathered = [gather_rows_with_gradient(features.float(), self.gather_gradient) for features in projected]
        return cosines(gathered[0], gathered[1], self.vote) / self.temperature, rows

    @torch.no_grad()
    def monitor(self, similarity: Tensor, ids: Tensor) -> dict[str, Tensor]:
        """Top-1 retrieval accuracy within this process's batch, in both directions, and the temperature."""
        right = {"video_to_text": similarity.argmax(dim=1), "text_to_video": similarity.argmax(dim=0)}
        log = {f"{name}_top1": (ids[found] == ids).float().mean() for name, found in right.items()}
        return log | {"temperature": self.temperature.detach().clone()}

    @torch.no_grad()
    def score(self, clip: Tensor, texts: list[str]) -> Tensor:
        """Scores of clips and sentences by the two encoders alone: cosines [B, C], without temperature.

        Args:
            clip: uint8 [B, T, H, W, 3]
            texts: C sentences.
        """
        ids = self.tokenizer(texts).to(clip.device)
        text = self.text.encode(ids, ids != self.tokenizer.pad)[:, 0]
        frames = self.backbone.encode(self.normalise(clip))[1]
        return cosines(*self.project(frames, text), self.vote)

    @torch.no_grad()
    def pictures(self, output: StepOutput) -> dict[str, Tensor]:
        """The clip, and an enlarged copy with its caption below."""
        clip = output["show"]["clip"]
        return {"clip": clip, "captioned": captioned(clip, output["show"]["texts"])}
