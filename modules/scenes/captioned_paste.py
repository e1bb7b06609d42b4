"""Objects whose motion is told, pasted into any clips (LocoMotion, https://arxiv.org/abs/2410.12018).

Objects are shapes of one plain colour, or cut-outs of a folder that are called by their category. Rotation must be seen where
it is told: no shape looks the same turned, and cut-outs are taken as having an orientation (of a ball that need not be so).

A cut-out keeps its own aspect ratio (SMILE's official code does not) inside the box that was drawn for it, so that it never
reaches further than was planned, and is smaller where it is long. Its motion is measured and told after that.

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
    """What is pasted into clips and told of.

    Args:
        objects: cut-outs to paste, named by their category; null pastes shapes of one plain colour.
        captions: how the objects move and how it is told; the settings of a data set (wordings, test_pairs, held_out) say
            nothing here.
    """

    objects: ObjectBank | None = None
    captions: CaptionSettings = field(default_factory=CaptionSettings)


@dataclass(eq=False)
class PastePlan:
    """What is pasted into clips and said of it: all that needs no pixels. Made on the host."""

    record: MotionRecord
    """of N clips, in pixels"""
    picture: Tensor
    """int64 [N, K], which of the `Pictures`"""
    texts: list[str]
    """N captions of what the pasted objects do"""
    signature: Tensor
    """int64 [N], equal where captions say the same"""


class Pictures(Protocol):
    """What can be pasted, by number."""

    def pick(self, index: Tensor) -> Tensor:
        """Textures, not blurred: int64 [N, K], on the device to draw on -> uint8 [N, K, s, s, 4]."""
        ...


class Players(NamedTuple):
    """Who moves in some clips, and how."""

    script: Script
    names: list[list[Name]]
    """of the objects that there are, 1 or 2 per clip"""
    picture: Tensor
    """int64 [N, K], which of the `Pictures`"""


def noun_of(category: str) -> str:
    """What captions call a category, in lower case and without punctuation: 'Aerosol-can' -> 'aerosol can'.

    Remarks in brackets, which LVIS has, are no part of a name: 'bow_(weapon)' -> 'bow'.
    """
    words = re.sub(r"\(.*?\)|[\W_]", " ", category.lower().replace("'", ""))
    return " ".join(words.split()) or "object"


class CutOuts:
    """The nouns of the pictures of a bank, without the pictures. The two objects of a clip have different nouns.

    Args:
        bank: cut-outs of a folder. If all have one noun, a clip shows such a thing and another one.

    Raises:
        SettingError: if the bank has no folder; its shapes have no colour that a caption could name.
    """

    def __init__(self, bank: ObjectBank) -> None:
        if bank.root is None:
            raise SettingError(
                "model.paste.objects.root is null; name the folder of cut-outs, or set model.paste.objects to null for shapes."
            )
        self.aspect = bank.aspect
        self.nouns = [noun_of(category) for category in bank.names]
        # In this order the pictures with another noun than a picture's own follow each other, from `_next` on, cyclically.
        order = sorted(range(len(bank)), key=lambda number: self.nouns[number])
        number = {noun: n for n, noun in enumerate(sorted(set(self.nouns)))}
        count = torch.tensor([number[self.nouns[k]] for k in order]).bincount()
        self._order = torch.tensor(order)
        self._next = count.cumsum(0).repeat_interleave(count)
        others = len(bank) - count.repeat_interleave(count)
        self._others = torch.where(others > 0, others, len(bank))

    def draw(self, draws: Draws) -> Tensor:
        """Numbers of the pictures of some clips, int64 [N, K]: the first any, the second any with another noun."""
        first = draws.integer("cut-out", len(self.nouns))
        step = (draws.uniform("other cut-out") * self._others[first]).long()
        return self._order[torch.stack([first, (self._next[first] + step) % len(self.nouns)], dim=1)]

    def players(self, cast: Cast) -> Players:
        """Cut-outs in the place of the shapes of a cast."""
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
    """Let objects move, and say how they do.

    Args:
        number: int64 [N], on the host; a clip's objects, motion and words depend on its number alone.
        frames: of a clip.
        side: of a frame in pixels.
        settings: what moves.
        captioner: how it is told.
        cut_outs: what moves; None takes shapes.
    """
    cast = Cast(number, Stage(frames, side, "train", seed=0), settings, training_shapes())
    players = ShapePictures.players(cast) if cut_outs is None else cut_outs.players(cast)
    told = captioner(players.script, players.names)
    signature = torch.tensor([caption.signature_id for caption in told])
    record = players.script.at(frames, (side, side))
    return PastePlan(record, players.picture, [caption.text for caption in told], signature)


def paste_plan(clip: Tensor, plan: PastePlan, pictures: Pictures) -> Tensor:
    """Paste what was planned: uint8 [N, T, S, S, 3] -> the same. All tensors are on one device."""
    return paste(clip, plan.record, blur_to_size(pictures.pick(plan.picture), plan.record.size.mean(2)))
