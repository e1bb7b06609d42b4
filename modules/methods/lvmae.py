"""LVMAE: hide half of the segments of a long video, and predict their features from the others.

Paper: LV-MAE, https://arxiv.org/abs/2504.03501. A frozen encoder has turned each segment of 5 s into a feature, so that a video
of up to 21 minutes is a sequence of up to 256 tokens. A transformer encodes the visible half, with a class token and the
positions of the original indices; a narrow decoder fills in mask tokens and predicts the features of the hidden half, divided
by their length. Either random segments are visible, or those that differ most from the one before (`ImportantSteps`, the
paper's recommendation). After training, the encoder is frozen and gets complete sequences; a classifier takes the mean of its
tokens (linear) or one block of attention with the class token (attentive), see `Classification`.

Shapes at the published size: sequences [B, 256, 1024], 128 visible, encoder 32 blocks, decoder 512 wide with 8 blocks,
prediction [B, 128, 1024]. Sequences of a batch have different lengths: everything is batched over padded ones, and the numbers
of visible and hidden segments of each sequence are exact.

`python main.py embed --every 5` makes such sequences with any encoder of this project, `FeatureSequences` reads them. With
`captions`, `predict` ranks sentences for each hidden segment, by the cosine of its predicted feature and the sentence's, both
by the same CLIP (features of its image tower are those of `FrameTower`, before the projection).

Outputs, losses and gradients agree with the official code, given its tensors (tests/parity/test_lv_mae.py). Differences:

* padding is hidden from attention in evaluation exactly; the official evaluation also hides the last segment of every video,
  and cannot take videos of the maximum length;
* the official loader replaces a video of which nothing would be visible (one segment; at ratio 0.7, fewer than four) by
  another; here at least one segment is visible;
* ties of the importance mask keep the earlier segment; in the official code they have no order;
* one padded batch in place of loops over samples; bf16 with the loss in float32 in place of fp16 with a scaler;
* with several processes, the mean is over the hidden segments of all of them.

The paper's videos have random lengths of 10 s to 1280 s. The official loader reads complete files, and cuts only those that
are longer than the maximum, at a random place; `shortest` also draws random lengths (parts of fewer than five segments are
repeated like short files). Where the paper draws them could not be verified.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.backbones.sequence.decoder import SequenceDecoder
from modules.backbones.sequence.transformer import SequenceTransformer
from modules.backbones.text.clip_text import ClipText, ClipTextSettings, ClipTokenizer
from modules.backbones.vit.decoder import DecoderSettings
from modules.core.batch import Batch, Kind
from modules.core.distributed import gather_rows
from modules.core.errors import SettingError, check_whole, given
from modules.core.loading import load_strictly
from modules.core.output import Answers, Predicted, StepOutput
from modules.core.randomness import device_generator
from modules.core.tokens import gather_tokens
from modules.layers.drawing.sequences import draw_bars, draw_similarity
from modules.masks.base import Mask
from modules.masks.sequences import SequenceMask
from modules.training.method import VAL_STREAM, Method
from modules.training.optim import AdamWSettings
from modules.weights.files import read_checkpoint, read_weights
from modules.weights.names.lvmae import our_names
from modules.weights.passport import check_heads

FEWEST, COPIES = 5, 3
"""Sequences with fewer segments than `FEWEST` are repeated `COPIES` times (official code)."""
Loss = Literal["squared", "cosine", "standardised"]


@dataclass
class CaptionSettings:
    """Sentences that `predict` ranks for hidden segments.

    Args:
        file: text file with one sentence per line.
        clip: CLIP's text tower. Its checkpoint must be the CLIP whose image tower computed the features, by `FrameTower` before
            the projection, or elsewhere after it.
    """

    file: str
    clip: ClipTextSettings


class Aligned(NamedTuple):
    """Sentences that features of segments are compared with."""

    sentences: Tensor
    """float32 [K, E], of length 1"""
    projection: Tensor
    """float32 [F, E], from features of segments"""

    def best(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and index of the best sentence: float32 [B, N, F] -> float32 and int64 [B, N]."""
        found = (F.normalize(features @ self.projection, dim=2) @ self.sentences.T).max(2)
        return found.values, found.indices


class LVMAE(Method):
    """Masked autoencoder of sequences of features (https://arxiv.org/abs/2504.03501).

    Args:
        backbone: encoder, kept after pretraining.
        mask: which segments are hidden: ImportantSteps, as the paper recommends, or RandomSteps, with ratio 0.5.
        decoder: size of the decoder; the paper's is 512 wide with 8 blocks of 16 heads.
        loss: `squared` error of features divided by their length; `cosine`, 1 minus the cosine; or `standardised`, squared
            error of features with mean 0 and standard deviation 1 each.
        shortest: length of the shortest random part of a training sequence; the part's length is then drawn uniformly, and so
            is its start. Null takes complete sequences. Those longer than `backbone.max_steps` are cut at a random place.
        captions: sentences that `predict` ranks for hidden segments; null predicts features of sequences.
        init_from: file with the weights of the whole method (encoder and decoder) to start from, loaded strictly: our
            .ckpt or .safetensors, or an official .pth. Optimiser and schedule start afresh.
        optim: optimiser and schedule.

    Raises:
        SettingError: if settings contradict each other, or a file does not match.
    """

    backbone: SequenceTransformer
    stream = "feature"
    kinds: tuple[Kind, ...] = ("feature",)
    other_streams = "compute features with python main.py embed --every 5, and choose --data FeatureSequences"

    def __init__(
        self,
        backbone: SequenceTransformer,
        mask: SequenceMask,
        decoder: DecoderSettings = DecoderSettings(),  # noqa: B008  (never mutated; shows the defaults in --help)
        loss: Loss = "squared",
        shortest: int | None = None,
        captions: CaptionSettings | None = None,
        init_from: str | None = None,
        optim: AdamWSettings = AdamWSettings(),  # noqa: B008
    ) -> None:
        super().__init__(optim)
        check_whole("model", 2, backbone.max_steps, **given(shortest=shortest))
        self.backbone, self.mask, self.loss_kind, self.shortest = backbone, mask, loss, shortest
        self.decoder = SequenceDecoder(backbone, decoder)
        self.register_buffer("counts", mask.counts(max(backbone.max_steps, COPIES * FEWEST)), persistent=False)
        self.counts: Tensor
        """visible segments by length"""
        self.captions, self.init_from = captions, init_from
        self.sentences: list[str] = read_sentences(captions.file) if captions is not None else []
        self.aligned: Aligned | None = None
        """made when `predict` starts"""
        if init_from is not None:
            load_strictly(self, our_names(read_checkpoint(init_from, "model.init_from").weights), init_from)
            check_heads(init_from, "model.init_from", backbone.num_heads, self.decoder.num_heads)

    # --- Training ---

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        """Cut, mask, encode, decode, compare. Sequences are [B, V, S, F]; each view counts as a sample."""
        sequence, length = self.sequences(batch)
        sequence, length = self.cut(sequence, length, generator)
        valid = torch.arange(sequence.shape[1], device=length.device) < length[:, None]
        mask = self.mask.draw(sequence, valid, self.counts, generator)
        prediction = self.predict_steps(sequence, valid, mask).float()
        target, counts = gather_tokens(sequence, mask.targets), valid_targets(mask)
        detached, copied = prediction.detach(), copies_of_the_nearest(sequence, mask)
        cosine, of_copies = (F.cosine_similarity(one, target, dim=2) for one in (detached, copied))
        return {
            "loss": self.loss(prediction, target, counts),
            # How well hidden segments are known, and how well by copying the nearest visible one.
            "log": {"cosine": weighted_mean(cosine, counts), "copied_cosine": weighted_mean(of_copies, counts)},
            "show": {"feature": sequence, "valid": valid, "mask": mask, "prediction": detached, "copied": copied},
        }

    def sequences(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Normalised sequences float32 [B * V, S, F], 0 behind their ends, and their lengths int64 [B * V]."""
        stream = batch.stream(self.stream, *self.kinds)
        if stream.data.ndim != 4:
            raise SettingError(
                "LVMAE needs sequences [B, V, S, F], but the data have one feature per recording; compute them with "
                "python main.py embed --every 5."
            )
        views, steps = stream.data.shape[1:3]
        if stream.length is None:
            length = torch.full((len(stream.data) * views,), steps, device=stream.data.device)
        else:
            length = stream.length.expand(views, -1).T if stream.length.ndim == 1 else stream.length
            length = length.flatten()
        return self.normalise(stream.data.flatten(0, 1)), length

    def cut(self, sequence: Tensor, length: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Random parts of sequences in training, and their first part otherwise; short ones are repeated.

        Args:
            sequence: float [B, S, F]
            length: int64 [B]
            generator: source of randomness.

        Returns:
            [B, S', F] with at most `backbone.max_steps` steps, and their lengths int64 [B].
        """
        longest, steps = self.backbone.max_steps, sequence.shape[1]
        part = length.clamp(max=longest)
        start = torch.zeros_like(part)
        if self.training:
            length_draw, start_draw = torch.rand(len(length), 2, generator=generator, device=length.device).unbind(1)
            if self.shortest is not None:
                least = part.clamp(max=self.shortest)
                part = least + (length_draw * (part - least + 1)).long().minimum(part - least)
            start = (start_draw * (length - part + 1)).long().minimum(length - part)
        repeated = torch.where(part < FEWEST, COPIES * part, part).clamp(max=longest)
        width = min(longest, max(steps, COPIES * (FEWEST - 1)))
        place = torch.arange(width, device=length.device).expand(len(length), -1)
        index = (start[:, None] + place % part.clamp(min=1)[:, None]).clamp(max=steps - 1)
        return gather_tokens(sequence, index) * (place < repeated[:, None])[..., None], repeated

    def predict_steps(self, sequence: Tensor, valid: Tensor, mask: Mask) -> Tensor:
        """Features of hidden steps.

        Args:
            sequence: float32 [B, S, F], normalised.
            valid: bool [B, S], which steps are no padding.
            mask: visible steps, and the steps to predict.

        Returns:
            [B, Nt, F]
        """
        assert mask.valid_visible is not None
        tokens = self.backbone.encode(sequence, mask.valid_visible, mask.visible)
        result: Tensor = self.decoder(tokens, mask.visible, mask.valid_visible, mask.targets, valid)
        return result

    def loss(self, prediction: Tensor, target: Tensor, counts: Tensor) -> Tensor:
        """Mean over the hidden segments of all processes.

        Args:
            prediction: float32 [B, Nt, F]
            target: float32 [B, Nt, F], normalised.
            counts: float32 [B, Nt], 1 for hidden segments, 0 for padding.
        """
        if self.loss_kind == "cosine":
            error = 1 - F.cosine_similarity(prediction, target, dim=2, eps=1e-6)
        else:
            if self.loss_kind == "standardised":
                target = (target - target.mean(2, keepdim=True)) / (target.var(2, keepdim=True) + 1e-6).sqrt()
            error = F.mse_loss(prediction, target, reduction="none").mean(2)
        # Processes count different numbers of segments. In validation they run different numbers of steps, so they cannot
        # communicate.
        total = gather_rows(counts.sum()[None]).mean() if self.training else counts.sum()
        return (error * counts).sum() / total.clamp_min(1)

    def no_weight_decay(self) -> set[str]:
        """Nothing besides biases and one-dimensional parameters: in pretraining, both tokens decay (MAE, official code)."""
        return set()

    @torch.no_grad()
    def pictures(self, output: StepOutput) -> dict[str, Tensor]:
        """Similarity of all segments; of the hidden ones as predicted; and how similar each prediction is to its segment."""
        show = output["show"]
        sequence, valid, mask = show["feature"], show["valid"], show["mask"]
        filled, copied = (fill(sequence, mask, show[name]) for name in ("prediction", "copied"))
        hidden = torch.zeros_like(valid).scatter(1, mask.targets, mask.valid)
        return {
            "segments": draw_similarity(sequence, sequence, valid, hidden),
            "predicted_segments": draw_similarity(filled, sequence, valid, hidden),
            "cosines": draw_bars(
                F.cosine_similarity(filled, sequence, dim=2), F.cosine_similarity(copied, sequence, dim=2), valid, hidden
            ),
        }

    def picture_notes(self) -> dict[str, str]:
        """How to read the pictures; see `Method.picture_notes`."""
        hidden = "orange at the edge: hidden"
        return {
            "segments": f"cosine of every two segments; {hidden}",
            "predicted_segments": f"rows: hidden segments as predicted, columns: true ones; {hidden}",
            "cosines": "bars: cosine of prediction and segment; line: of the nearest visible one",
        }

    # --- Captions of hidden segments ---

    def on_predict_start(self) -> None:
        """Encode the sentences; see `Method.on_predict_start`.

        Raises:
            SettingError: if the decoder has no trained weights, or the features are not those of the text tower's CLIP.
        """
        super().on_predict_start()
        if self.captions is not None:
            if self.init_from is None and self.trainer.ckpt_path is None:
                raise SettingError("model.captions needs a trained decoder; pass --ckpt_path or --model.init_from.")
            self.aligned = encode_sentences(self.captions.clip, self.sentences, self.backbone.input_dim, self.device)

    def predict_step(self, batch: Batch, batch_idx: int) -> Predicted:
        """Features of sequences, or with `captions` for each step [3 * max_steps]: the best sentence of a hidden step by its
        predicted feature, the cosine, and the best sentence by its true feature; -1 for visible steps and padding."""
        if self.aligned is None:
            return super().predict_step(batch, batch_idx)
        longest = self.backbone.max_steps
        sequence, length = self.sequences(batch)
        sequence, length = sequence[:, :longest], length.clamp(max=longest)
        valid = torch.arange(sequence.shape[1], device=length.device) < length[:, None]
        generator = device_generator(self.device, VAL_STREAM, self.seed, batch_idx, self.global_rank)
        mask = self.mask.draw(sequence, valid, self.counts, generator)
        assert mask.valid is not None
        prediction = self.predict_steps(sequence, valid, mask).float()
        score, best = self.aligned.best(prediction)
        _, of_truth = self.aligned.best(gather_tokens(sequence, mask.targets))
        columns = []
        for value in (best.float(), score, of_truth.float()):
            empty = value.new_full((len(value), longest + 1), -1)
            place = mask.targets.masked_fill(~mask.valid, longest)
            columns.append(empty.scatter(1, place, value)[:, :longest])
        views = len(sequence) // len(batch.index)
        value = torch.cat(columns, 1).unflatten(0, (-1, views))[:, 0]
        return Predicted(batch.index, batch.substituted >= 0, value)

    def answers(self, paths: list[str], value: Tensor) -> Answers | None:
        """With `captions`, the sentences of the hidden steps; see `Method.answers`."""
        if self.aligned is None:
            return None
        best, score, of_truth = value.unflatten(1, (3, -1)).unbind(1)
        rows: dict[str, list[Any]] = {"path": [], "step": [], "predicted": [], "cosine": [], "of_the_segment": []}
        agree = list[float]()
        for path, own, cosine, true in zip(paths, best.long().tolist(), score.tolist(), of_truth.long().tolist(), strict=True):
            steps = [step for step, number in enumerate(own) if number >= 0]
            agree.append(sum(own[step] == true[step] for step in steps) / max(1, len(steps)))
            for step in steps:
                rows["path"].append(path)
                rows["step"].append(step)
                rows["predicted"].append(self.sentences[own[step]])
                rows["cosine"].append(cosine[step])
                rows["of_the_segment"].append(self.sentences[true[step]])
        assert self.captions is not None
        facts = {
            "captions": self.captions.file,
            "columns": "agreement: share of the hidden steps with the sentence of the segment",
        }
        return Answers({"agreement": agree}, facts, {"segments": rows})


def valid_targets(mask: Mask) -> Tensor:
    """1 for the hidden steps of a sequence mask, 0 for padding: float32 [B, Nt]."""
    assert mask.valid is not None
    return mask.valid.float()


def weighted_mean(values: Tensor, counts: Tensor) -> Tensor:
    """Mean of values [B, Nt] with the weights `counts`."""
    return (values * counts).sum() / counts.sum().clamp_min(1)


def copies_of_the_nearest(sequence: Tensor, mask: Mask) -> Tensor:
    """For each hidden step the nearest visible one, of two the earlier: float [B, S, F] -> [B, Nt, F]."""
    assert mask.valid_visible is not None
    distance = (mask.targets[..., None] - mask.visible[:, None]).abs()
    nearest = distance.masked_fill(~mask.valid_visible[:, None], sequence.shape[1]).argmin(2)
    return gather_tokens(sequence, mask.visible.gather(1, nearest))


def fill(sequence: Tensor, mask: Mask, values: Tensor) -> Tensor:
    """The sequences [B, S, F] with `values` [B, Nt, F] in place of their hidden steps."""
    assert mask.valid is not None
    place = mask.targets.masked_fill(~mask.valid, sequence.shape[1])[..., None].expand_as(values)
    return F.pad(sequence, (0, 0, 0, 1)).scatter(1, place, values)[:, :-1]


def read_sentences(file: str) -> list[str]:
    """The lines of a text file.

    Raises:
        SettingError: if it cannot be read, or has no lines.
    """
    try:
        lines = [line.strip() for line in Path(file).read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"model.captions.file is {file}, which cannot be read ({error}); pass a text file.") from error
    if not (found := [line for line in lines if line]):
        raise SettingError(f"model.captions.file is {file}, which is empty; write one sentence per line.")
    return found


@torch.no_grad()
def encode_sentences(settings: ClipTextSettings, sentences: list[str], width: int, device: torch.device) -> Aligned:
    """Sentences by CLIP's text tower, and the projection of features to them.

    Args:
        settings: the text tower.
        sentences: K sentences.
        width: width of the features, F.
        device: where to put the result.

    Raises:
        SettingError: if the checkpoint is missing, or features of this width are not aligned with it.
    """
    if settings.checkpoint is None:
        raise SettingError("model.captions.clip.checkpoint is null; pass the CLIP whose image tower computed the features.")
    weights = read_weights(settings.checkpoint, "model.captions.clip.checkpoint")
    projection = projection_of(weights.get("visual.proj"), settings.out_dim, width)
    tokenizer = ClipTokenizer()
    tower = ClipText(settings, len(tokenizer)).eval().to(device)
    parts = [tokenizer(sentences[start : start + 64]).to(device) for start in range(0, len(sentences), 64)]
    found = torch.cat([tower.encode(ids, ids != tokenizer.pad)[:, 0].float() for ids in parts])
    return Aligned(F.normalize(found, dim=1), projection.to(device))


def projection_of(image: Tensor | None, out_dim: int, width: int) -> Tensor:
    """From features to the space of sentences: float32 [F, E].

    Args:
        image: float [Di, E], the projection of CLIP's image tower, for features before it; None if the file has none.
        out_dim: length of a sentence's feature, E.
        width: width of the features, F.

    Raises:
        SettingError: if it is neither that of features before the projection nor of those after it.
    """
    if image is not None and len(image) == width:
        return image.float()
    if out_dim == width:
        return torch.eye(width)
    raise SettingError(
        f"Features have {width} values, but those of CLIP's image tower in model.captions.clip.checkpoint "
        f"{len(image) if image is not None else out_dim}; pass the CLIP whose image tower computed the features."
    )
