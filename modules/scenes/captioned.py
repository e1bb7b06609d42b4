"""Clips of captioned motion over still backgrounds, and sets of clip pairs to test retrieval.

Objects are the shapes of `modules.motion.appearance` in one of the named plain colours. Nothing wraps around: objects that
leave the frame disappear, as the captions state. Axis letters: `N` clips, `K` = 2 objects.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch import Tensor

from modules.core.errors import SettingError
from modules.language.captions import Caption, Captioner, Name, stable_hash, tell
from modules.language.grammar import with_article
from modules.motion.appearance import COLOURS, SHAPES, blur_to_size, hsv_to_rgb, premultiplied, shape_alpha
from modules.motion.choreography import NUMBERS, OBJECTS, ScriptSettings, draw_scripts, drawable
from modules.motion.primitives import PRIMITIVES, RECIPES, REVERSIBLE
from modules.motion.render import paste
from modules.motion.scripts import Script
from modules.scenes.backgrounds import Background, make_backgrounds
from modules.scenes.classes import Draws, Split
from modules.scenes.objects import CHUNK_PIXELS

HeldOut = Literal["none", "verbs", "objects"]


HELD_OUT_SHAPES = ("half_disc", "flag")
"""Shapes that only appear in tests with held-out objects."""
TEXTURE = 96
CANDIDATES = 8
"""Number of candidates drawn per pair of a retrieval set, so that enough of them have unique captions."""


@dataclass
class CaptionSettings(ScriptSettings):
    """Captioned motion instead of labelled motion.

    Args:
        primitives: see `ScriptSettings`.
        phases: see `ScriptSettings`.
        relations: see `ScriptSettings`.
        together: see `ScriptSettings`.
        object_size: see `ScriptSettings`.
        text: content of the captions: the motion, or only the objects ('a red arrow'), as a baseline.
        verbs: one plain verb per meaning, or the complete lexicon without the held-out verbs.
        paraphrases: file of further wordings (JSON lines), or null.
        wordings: number of wordings per training clip, which alternate between epochs.
        test_pairs: pairs of clips in the test set; the two clips have the same frames in opposite order.
        held_out: content of the test set that is not in training: none, verbs or objects.
    """

    text: Literal["motion", "object"] = "motion"
    verbs: Literal["plain", "lexicon"] = "lexicon"
    paraphrases: str | None = None
    wordings: int = 4
    test_pairs: int = 50
    held_out: HeldOut = "none"

    def check(self, frames: int) -> None:
        """Raise a SettingError if no clips can be made with these settings."""
        names = set(self.chosen()) & set(drawable(frames))
        if not names:
            raise SettingError(f"data.captions.primitives: none of {list(self.primitives)} can be seen in {frames} frames.")
        if self.wordings < 1 or self.test_pairs < 1:
            raise SettingError("data.captions.wordings and data.captions.test_pairs must be at least 1.")
        if not names & set(REVERSIBLE):
            raise SettingError(
                f"data.captions.primitives: {list(self.primitives)} look the same backwards, so no pairs can be made to test "
                "retrieval; add others, for example T."
            )


@dataclass
class CaptionedClips:
    """Clips with their captions and annotations.

    Args:
        video: uint8 [N, T, H, W, 3].
        captions: one per clip, in the first wording.
        texts: all wordings of each clip, [wordings][N].
        signature: int64 [N], equal for clips whose captions have the same meaning.
        script: the motion.
        names: names of the objects of each clip.
        motion: int64 [N], index into `PRIMITIVES` of the first object's first motion, or of the relation.
        object: int64 [N], shape of object 0, index into `SHAPES`.
        background: int64 [N], index into the given backgrounds.
    """

    video: Tensor
    captions: list[Caption]
    texts: list[list[str]]
    signature: Tensor
    script: Script
    names: list[list[Name]]
    motion: Tensor
    object: Tensor
    background: Tensor


@dataclass
class Stage:
    """Settings of the clips other than their moving objects.

    Args:
        frames: T.
        size: side in pixels.
        split: split, which determines the random numbers.
        seed: seed of the data set.
        backgrounds: kinds of background, equally frequent.
        images: uint8 [M, S, S, 3], images for the background "images".
    """

    frames: int
    size: int
    split: Split
    seed: int
    backgrounds: Sequence[Background] = ("black",)
    images: Tensor | None = None


def _looks(draws: Draws, shapes: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Shapes and colours of both objects, int64 [N, K]; the colours of one clip differ."""
    known = torch.tensor([SHAPES.index(name) for name in shapes], device=draws.index.device)
    kind = torch.stack([known[draws.integer(f"shape {k}", len(known))] for k in range(OBJECTS)], dim=1)
    first, step = draws.integer("colour", len(COLOURS)), 1 + draws.integer("other colour", len(COLOURS) - 1)
    return kind, torch.stack([first, (first + step) % len(COLOURS)], dim=1)


def _textures(draws: Draws, kind: Tensor, colour: Tensor) -> Tensor:
    """uint8 [N, K, s, s, 4]."""
    table = torch.stack([hsv_to_rgb(*torch.tensor(value)) for value in COLOURS.values()]).to(kind.device)
    stroke = draws.many("stroke", OBJECTS, 0.25, 0.4).float()
    alpha = shape_alpha(kind.flatten(), stroke.flatten(), TEXTURE)
    return premultiplied(table[colour.flatten()][:, None, None], alpha).unflatten(0, kind.shape)


def _film(draws: Draws, script: Script, kind: Tensor, colour: Tensor, stage: Stage) -> tuple[Tensor, Tensor]:
    """Clips uint8 [N, T, H, W, 3], and their backgrounds int64 [N]."""
    background = draws.integer("background", len(stage.backgrounds))
    picture = make_backgrounds(draws, background, stage.backgrounds, stage.size, stage.images)
    record = script.at(stage.frames, (stage.size, stage.size))
    textures = blur_to_size(_textures(draws, kind, colour), record.size.mean(2))
    return paste(picture[:, None].expand(-1, stage.frames, -1, -1, -1), record, textures), background


def _choose(old: Script, new: Script, where: Tensor) -> Script:
    """The new script for some clips, where bool [N], and the old one for the others."""
    values = {}
    for entry in fields(old):
        one, other = getattr(old, entry.name), getattr(new, entry.name)
        values[entry.name] = torch.where(where.view((-1,) + (1,) * (one.ndim - 1)), other, one)
    return Script(**values)


class Cast:
    """Everything about some clips except their pixels.

    Args:
        index: int64 [N], indices of the clips; a clip is a function of (seed, split, index, version).
        stage: settings of the clips.
        settings: settings of the motion.
        shapes: names of the objects to choose from.
        topics: names of the primitives to choose from, one per clip; None uses the settings' mixture.
        backwards: bool [N], which clips run backwards.
        version: version of the random numbers.
    """

    def __init__(
        self,
        index: Tensor,
        stage: Stage,
        settings: CaptionSettings,
        shapes: Sequence[str],
        topics: Sequence[str] | None = None,
        backwards: Tensor | None = None,
        version: int = 0,
    ) -> None:
        self.draws = Draws(stage.seed, stage.split, index, version)
        topic = None
        if topics is not None:
            numbers = torch.tensor([PRIMITIVES.index(name) for name in topics], device=index.device)
            topic = numbers[self.draws.integer("topic", len(topics))]
        self.script = draw_scripts(self.draws.many("script", NUMBERS), stage.frames, (1, 1), settings, topic)
        self.backwards = torch.zeros_like(index, dtype=torch.bool) if backwards is None else backwards
        self.script = _choose(self.script, self.script.reverse(), self.backwards)
        self.kind, self.colour = _looks(self.draws, shapes)
        colours = list(COLOURS)
        pairs = zip(self.kind.tolist(), self.colour.tolist(), self.script.objects.tolist(), strict=True)
        self.names = [[Name(SHAPES[s], colours[c]) for s, c in zip(k[:n], o[:n], strict=True)] for k, o, n in pairs]

    def clips(self, stage: Stage, settings: CaptionSettings, captioner: Captioner, wordings: int) -> CaptionedClips:
        """Render the clips and write their captions."""
        told = tell(self.script)
        all_captions = [captioner(self.script, self.names, wording, told) for wording in range(wordings)]
        if settings.text == "object":
            all_captions = [[_object_caption(own) for own in self.names]] * wordings
        videos, backgrounds = [], []
        chunk = max(1, CHUNK_PIXELS // (stage.frames * stage.size**2))
        rows = torch.arange(len(self.names), device=self.kind.device)
        for part in rows.split(chunk):
            # Reverse the rendered frames instead of rendering reversed motion, so that frames are identical except for order.
            forwards = _choose(self.script.select(part), self.script.select(part).reverse(), self.backwards[part])
            video, background = _film(self.draws.at(part), forwards, self.kind[part], self.colour[part], stage)
            turned = self.backwards[part][:, None, None, None, None]
            videos.append(torch.where(turned, video.flip(1), video))
            backgrounds.append(background)
        first = self.script.topic.clamp_min(-1)[:, 0].amax(1)
        start = torch.where(self.script.topic[:, 0, 0] >= 0, self.script.topic[:, 0, 0], first)
        related = self.script.relation + len(RECIPES)
        return CaptionedClips(
            torch.cat(videos),
            all_captions[0],
            [[caption.text for caption in captions] for captions in all_captions],
            torch.tensor([caption.signature_id for caption in all_captions[0]]),
            self.script,
            self.names,
            torch.where(self.script.relation >= 0, related, start),
            self.kind[:, 0],
            torch.cat(backgrounds),
        )


def _object_caption(names: list[Name]) -> Caption:
    """A caption of only the objects."""
    text = " and ".join(with_article(name.full()) for name in names)
    return Caption(text, "objects", stable_hash(text), [])


def training_shapes() -> list[str]:
    """Shapes that may appear in training."""
    return [name for name in SHAPES if name not in HELD_OUT_SHAPES]


def captioned_clips(count: int, stage: Stage, settings: CaptionSettings, wordings: int = 1) -> CaptionedClips:
    """Clips 0 .. count - 1 of a split, with captions. Clip n only depends on (seed, split, n)."""
    captioner = Captioner(settings.verbs, settings.paraphrases)
    cast = Cast(torch.arange(count), stage, settings, training_shapes())
    return cast.clips(stage, settings, captioner, wordings)


def retrieval_clips(stage: Stage, settings: CaptionSettings) -> CaptionedClips:
    """Pairs of clips that only differ in their motion: clip 2n + 1 has the frames of clip 2n in opposite order.

    Each clip has one correct caption: no two clips show the same object with the same motion, not even at another speed,
    distance or position. Each clip shows one primitive whose reverse is another primitive, such as up and down, enter and
    leave, clockwise and anticlockwise. Captions describe the motion and name colour and noun of the objects, independent of
    `text`.

    Raises:
        SettingError: if the primitives do not allow this number of different captions.
    """
    names = set(settings.chosen()) & set(drawable(stage.frames))
    topics = [name for name in REVERSIBLE if name in names]
    shapes = HELD_OUT_SHAPES if settings.held_out == "objects" else training_shapes()
    captioner = Captioner("held_out" if settings.held_out == "verbs" else settings.verbs, full_names=True)
    number = torch.arange(CANDIDATES * settings.test_pairs)
    cast = Cast(number, stage, settings, shapes, topics, version=1)
    taken: set[str] = set()
    pairs: list[int] = []
    captions = [captioner(script, cast.names) for script in (cast.script, cast.script.reverse())]
    for row, both in enumerate(zip(*captions, strict=True)):
        ids = {f"{_gist(caption)} of {cast.names[row]}" for caption in both}
        if len(ids) == 2 and not ids & taken and len(pairs) < settings.test_pairs:
            taken |= ids
            pairs.append(row)
    if len(pairs) < settings.test_pairs:
        raise SettingError(
            f"data.captions.test_pairs is {settings.test_pairs}, but the primitives only allow {len(pairs)} pairs with "
            "unique captions; lower it, or use more primitives."
        )
    index = number[torch.tensor(pairs)].repeat_interleave(2)
    turned = torch.arange(len(index)) % 2 == 1
    chosen = Cast(index, stage, settings, shapes, topics, turned, version=1)
    return chosen.clips(stage, replace(settings, text="motion"), captioner, 1)


def _gist(caption: Caption) -> str:
    """The meaning of a caption without speed, distance, place and straightness."""
    parts = caption.signature.split("+")
    return "+".join(part for part in parts if not part.startswith(("S.", "D.", "G.", "P.start", "P.stop", "C.straight")))
