"""Objects with captioned motion, pasted into arbitrary clips (LocoMotion, https://arxiv.org/abs/2410.12018).

Objects are shapes in one plain colour, or cut-outs in a folder that are named by their category. A captioned rotation must be
visible: no shape looks the same after a rotation, and cut-outs are assumed to have an orientation (which is not true of a
ball).

A cut-out keeps its aspect ratio (unlike in SMILE's official code) inside the box that was drawn for it, so it never exceeds
the planned extent, and elongated cut-outs are smaller. Its motion is measured and described after that.

Axis letters: `N` clips, `K` = 2 objects, `M` moments, `s` texels per side.
"""

import re
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from modules.core.errors import SettingError
from modules.language.captions import Captioner, Name
from modules.motion.appearance import COLOURS, SHAPES, ObjectBank, blur_to_size, hsv_to_rgb, premultiplied, shape_alpha
from modules.motion.render import paste
from modules.motion.scripts import Script
from modules.motion.trajectory import MotionRecord
from modules.scenes.captioned import TEXTURE, CaptionSettings, Cast, Stage, training_shapes
from modules.scenes.classes import Draws

STROKE = 0.32


@dataclass
class CaptionedPasteSettings:
    """Settings of pasted objects and their captions.

    Args:
        objects: cut-outs to paste, named by their category; null pastes shapes in one plain colour.
        captions: settings of motion and captions; those of a data set (wordings, test_pairs, held_out) have no effect here.
    """

    objects: ObjectBank | None = None
    captions: CaptionSettings = field(default_factory=CaptionSettings)


@dataclass(eq=False)
class PastePlan:
    """Pasted objects and their captions, without pixels. Made on the host."""

    record: MotionRecord
    """motion in N clips, in pixels"""
    picture: Tensor
    """int64 [N, K], index into the `Pictures`"""
    texts: list[str]
    """N captions of the motion of the pasted objects"""
    signature: Tensor
    """int64 [N], equal for captions with the same meaning"""


class Pictures(Protocol):
    """Pictures of the objects that can be pasted, by index."""

    def pick(self, index: Tensor) -> Tensor:
        """Textures, not blurred: int64 [N, K], on the device for rendering -> uint8 [N, K, s, s, 4]."""
        ...


class Players(NamedTuple):
    """The moving objects of some clips, and their motion."""

    script: Script
    names: list[list[Name]]
    """names of the objects, 1 or 2 per clip"""
    picture: Tensor
    """int64 [N, K], index into the `Pictures`"""


def noun_of(category: str) -> str:
    """The noun for a category, in lower case and without punctuation: 'Aerosol-can' -> 'aerosol can'.

    Remarks in brackets, as in LVIS, are removed: 'bow_(weapon)' -> 'bow'.
    """
    words = re.sub(r"\(.*?\)|[\W_]", " ", category.lower().replace("'", ""))
    return " ".join(words.split()) or "object"


class CutOuts:
    """The nouns of the pictures of a bank, without the pictures. The two objects of a clip have different nouns.

    Args:
        bank: cut-outs in a folder. If all have the same noun, both objects of a clip have it.

    Raises:
        SettingError: if the bank has no folder, because its shapes have no colour that a caption could name.
    """

    def __init__(self, bank: ObjectBank) -> None:
        if bank.root is None:
            raise SettingError(
                "model.paste.objects.root is null; set it to the folder of cut-outs, or model.paste.objects to null for shapes."
            )
        self.aspect = bank.aspect
        self.nouns = [noun_of(category) for category in bank.names]
        # In this order, the pictures with another noun than a given picture are contiguous (cyclically), starting at `_next`.
        order = sorted(range(len(bank)), key=lambda number: self.nouns[number])
        number = {noun: n for n, noun in enumerate(sorted(set(self.nouns)))}
        count = torch.tensor([number[self.nouns[k]] for k in order]).bincount()
        self._order = torch.tensor(order)
        self._next = count.cumsum(0).repeat_interleave(count)
        others = len(bank) - count.repeat_interleave(count)
        self._others = torch.where(others > 0, others, len(bank))

    def draw(self, draws: Draws) -> Tensor:
        """Indices of the pictures of some clips, int64 [N, K]: the first is arbitrary, the second has another noun."""
        first = draws.integer("cut-out", len(self.nouns))
        step = (draws.uniform("other cut-out") * self._others[first]).long()
        return self._order[torch.stack([first, (self._next[first] + step) % len(self.nouns)], dim=1)]

    def players(self, cast: Cast) -> Players:
        """The cast with cut-outs instead of shapes."""
        index = self.draw(cast.draws)
        names = [[Name(self.nouns[k]) for k in own[: len(old)]] for own, old in zip(index.tolist(), cast.names, strict=True)]
        script = replace(cast.script, size=inside(cast.script.size, self.aspect[index]))
        return Players(script, names, index)


def inside(size: Tensor, aspect: Tensor) -> Tensor:
    """The largest sizes of given aspect ratios inside boxes.

    Args:
        size: float [N, K, M, 2], width and height of the boxes.
        aspect: float [N, K], width over height.

    Returns:
        float [N, K, M, 2]
    """
    ratio = aspect[:, :, None]
    width = torch.minimum(size[..., 0], size[..., 1] * ratio)
    return torch.stack([width, width / ratio], dim=-1)


class ShapePictures:
    """Every shape in every colour."""

    def __init__(self) -> None:
        colours = torch.stack([hsv_to_rgb(*torch.tensor(value)) for value in COLOURS.values()])
        alpha = shape_alpha(torch.arange(len(SHAPES)), torch.full((len(SHAPES),), STROKE), TEXTURE)
        painted = [premultiplied(colours[:, None, None], one.expand(len(colours), -1, -1)) for one in alpha]
        self._textures = torch.cat(painted)

    @staticmethod
    def players(cast: Cast) -> Players:
        """The shapes of a cast."""
        return Players(cast.script, cast.names, cast.kind * len(COLOURS) + cast.colour)

    def pick(self, index: Tensor) -> Tensor:
        """See `Pictures`."""
        if self._textures.device != index.device:
            self._textures = self._textures.to(index.device)
        return self._textures[index]


def plan_and_tell(
    number: Tensor, frames: int, side: int, settings: CaptionSettings, captioner: Captioner, cut_outs: CutOuts | None = None
) -> PastePlan:
    """Draw the objects, motion and captions of some clips.

    Args:
        number: int64 [N], on the host; the objects, motion and words of a clip only depend on its number.
        frames: frames per clip.
        side: side of a frame in pixels.
        settings: settings of the motion.
        captioner: writer of the captions.
        cut_outs: cut-outs to paste; None uses shapes.
    """
    cast = Cast(number, Stage(frames, side, "train", seed=0), settings, training_shapes())
    players = ShapePictures.players(cast) if cut_outs is None else cut_outs.players(cast)
    told = captioner(players.script, players.names)
    signature = torch.tensor([caption.signature_id for caption in told])
    record = players.script.at(frames, (side, side))
    return PastePlan(record, players.picture, [caption.text for caption in told], signature)


def paste_plan(clip: Tensor, plan: PastePlan, pictures: Pictures) -> Tensor:
    """Paste the objects of a plan: uint8 [N, T, S, S, 3] -> the same shape. All tensors are on one device."""
    return paste(clip, plan.record, blur_to_size(pictures.pick(plan.picture), plan.record.size.mean(2)))
