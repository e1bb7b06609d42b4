"""Captions of motion against captions of objects, and many verbs against one per meaning.

The paper's claims: a video-language model trained with captions of motion learns what one trained with captions of objects does
not, and captions in many verbs teach more than one wording. All trained rows are LocoMotion with its contrastive loss
(`match_weight` and `word_weight` enable its other losses), on the same clips, from the same random weights; they only differ in
the sentences. The readout, written before any run, is retrieval among 100 clips with the cosines of the two towers: 50 pairs,
of which one clip shows the other's frames in the opposite order, so that they only differ in motion, and one correct sentence
for each clip. `own order` is how often a clip is more similar to its own sentence than to its partner's; chance is 50 %. Three
tests: verbs of the training with many verbs, verbs that do not occur in training, and the single wording of the training with
    one verb.

A second table shows the losses over the first and last tenth of the steps.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from benchmarks.studies.harness import Budget, Row, Study, random_rows, train
from modules.backbones.text.bert import TextSettings
from modules.backbones.vit.beit_video import BEiTVideo
from modules.core.batch import Batch, Stream
from modules.core.batch import Text as Sentences
from modules.downstream.metrics.retrieval import ranks
from modules.language.tokenizers import TokenizerSettings
from modules.losses.video_text import TextContrastSettings
from modules.methods.locomotion import LocoMotion, LossSettings
from modules.scenes.captioned import CaptionedClips, CaptionSettings, HeldOut, Stage, captioned_clips, retrieval_clips
from modules.scenes.classes import Split

MAX_TOKENS = 40
Text = Literal["motion", "object"]
Vocabulary = Literal["plain", "lexicon"]
TESTS: dict[str, tuple[HeldOut, Vocabulary]] = {
    "": ("none", "lexicon"),
    ", new verbs": ("verbs", "lexicon"),
    ", plain words": ("none", "plain"),
}


@dataclass
class Size(Budget):
    """Networks, clips and length of training.

    Args:
        side: side of the frames in pixels.
        patch: side of a patch; by default the whole frame: this tower only has relative positions of patches,
            and with several patches, such a short run learns colours, but no motion.
        embed_dim: width of both towers.
        depth: layers of each tower; the last layer of the text tower also attends to the clip.
        joint_dim: width of the compared features.
        primitives: motions in clips and captions.
        object_size: smallest and largest side of an object, as a fraction of the frame.
        match_weight: weight of matching.
        word_weight: weight of masked-word prediction.
        wordings: number of wordings per training clip.
        test_pairs: number of pairs of test clips.
    """

    frames: int = 4
    steps: int = 1600
    lr: float = 2e-3
    side: int = 24
    patch: int = 24
    embed_dim: int = 96
    depth: int = 3
    joint_dim: int = 64
    primitives: tuple[str, ...] = ("T.left", "T.right", "T.up", "T.down")
    object_size: tuple[float, float] = (0.3, 0.5)
    match_weight: float = 0.0
    word_weight: float = 0.0
    wordings: int = 4
    test_pairs: int = 50

    def captions(self, held_out: HeldOut = "none", text: Text = "motion", verbs: Vocabulary = "lexicon") -> CaptionSettings:
        """One object with one motion."""
        return CaptionSettings(
            primitives=self.primitives, phases=(1, 0, 0), relations=0, together=0, object_size=self.object_size,
            text=text, verbs=verbs, wordings=self.wordings, test_pairs=self.test_pairs, held_out=held_out,
        )  # fmt: skip

    def stage(self, split: Split, seed: int) -> Stage:
        """Clips over black."""
        return Stage(self.frames, self.side, split, seed)


def network(size: Size, seed: int) -> LocoMotion:
    """Both towers with the seed's initial weights."""
    torch.manual_seed(seed)
    video = BEiTVideo(
        "micro", size.side, size.frames, size.patch, size.embed_dim, size.depth, num_heads=4,
        drop_path=0.0, layer_scale=1.0, temporal_scale=1.0,
    )  # fmt: skip
    text = TextSettings(size.embed_dim, size.depth, fusion_depth=1, num_heads=4, positions=MAX_TOKENS, dropout=0.0)
    return LocoMotion(
        video,
        text,
        TokenizerSettings(max_tokens=MAX_TOKENS),
        paste=None,
        contrast=TextContrastSettings(size.joint_dim),
        losses=LossSettings(size.match_weight, size.word_weight),
    )


def train_row(name: str, method: LocoMotion, clips: CaptionedClips, size: Size, seed: int) -> dict[str, float]:
    """Train on clips and their sentences; returns the values of the second table."""
    logged: dict[str, list[Tensor]] = {}

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        rows = random_rows(len(clips.video), size.batch, generator)
        texts = clips.texts[step % size.wordings]
        video, told = Stream("video", clips.video[rows][:, None]), Sentences([[texts[row]] for row in rows.tolist()])
        signature = {"signature": clips.signature[rows]}
        batch = Batch(rows, torch.full_like(rows, -1), {"video": video, "text": told}, extra=signature)
        output = method.step(batch, generator)
        for what, value in output["log"].items():
            logged.setdefault(what, []).append(value)
        return output["loss"]

    train(method, loss_of, size.steps, size.lr, seed)
    tenth = max(1, size.steps // 10)
    facts = {}
    names = {"contrast": "loss_contrast", "own sentence nearest, %": "video_to_text_top1"}
    names |= {"matching": "loss_match"} if size.match_weight else {}
    names |= {"words": "loss_words"} if size.word_weight else {}
    for column, what in names.items():
        for when, part in (("first", logged[what][:tenth]), ("last", logged[what][-tenth:])):
            facts[f"{column}, {when} tenth"] = (100 if "%" in column else 1) * torch.stack(part).mean().item()
    print(f"  seed {seed}: {name}: " + ", ".join(f"{what} {value:.2f}" for what, value in facts.items()), flush=True)
    return facts


@torch.no_grad()
def scores(method: LocoMotion, tests: Mapping[str, CaptionedClips]) -> dict[str, float]:
    """The fixed readout: recall at 1 in both directions, and how often the frame order of a clip is recognised, in percent."""
    method.eval()
    found = {}
    for what, clips in tests.items():
        similar = torch.cat([method.score(part, clips.texts[0]) for part in clips.video.split(50)])
        own = torch.arange(len(similar), device=similar.device)
        found[f"sentence of a clip{what}"] = 100 * (ranks(similar, own[:, None]) < 0.5).float().mean().item()
        found[f"clip of a sentence{what}"] = 100 * (ranks(similar.T, own[:, None]) < 0.5).float().mean().item()
        # Partners are neighbours: 0 and 1, 2 and 3.
        found[f"own order{what}"] = 100 * (similar[own, own] > similar[own, own ^ 1]).float().mean().item()
    return found


def locomotion(size: Size = Size(), seeds: int = 3, out: Path | None = None) -> None:  # noqa: B008  (never mutated)
    """Captions of motion, in many verbs or one, against captions of objects. Under an hour on two CPU cores.

    Args:
        size: networks, clips and budget.
        seeds: number of repetitions; data, weights and batches change with the seed.
        out: JSON file to write.
    """
    study = Study(seeds)
    sentences = {
        "object": size.captions(text="object"),
        "plain": size.captions(verbs="plain"),
        "lexicon": size.captions(),
    }
    rows = {
        "untrained": Row("untrained"),
        "object": Row("captions of objects"),
        "plain": Row("captions of motion, one verb per meaning"),
        "lexicon": Row("captions of motion, many verbs"),
    }
    losses = {key: Row(rows[key].name) for key in sentences}
    for seed in range(seeds):
        tests: dict[str, CaptionedClips] = {}
        for what, (held_out, verbs) in TESTS.items():
            settings = size.captions(held_out, verbs=verbs)
            tests[what] = on(study.device, retrieval_clips(size.stage("val", seed), settings))
        rows["untrained"].add(scores(network(size, seed).to(study.device), tests))
        for key, settings in sentences.items():
            clips = on(study.device, captioned_clips(size.pool, size.stage("train", seed), settings, size.wordings))
            method = network(size, seed).to(study.device)
            losses[key].add(train_row(rows[key].name, method, clips, size, seed))
            rows[key].add(scores(method, tests))
        print(f"seed {seed} done after {study.minutes:.1f} min", flush=True)
    chance = Row("chance")
    chance.add({column: 50.0 if column.startswith("own") else 50 / size.test_pairs for column in rows["lexicon"].scores})
    study.finish({"rows": [chance, *rows.values()], "The losses": list(losses.values())}, asdict(size), out)


def on(device: torch.device, clips: CaptionedClips) -> CaptionedClips:
    """The clips with their pixels and signatures on a device."""
    return replace(clips, video=clips.video.to(device), signature=clips.signature.to(device))
