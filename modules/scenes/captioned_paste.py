"""Objects whose motion is told, pasted into any clips (LocoMotion, https://arxiv.org/abs/2410.12018).

Objects are shapes of one plain colour, or cut-outs of a folder that are called by their category. Rotation must be seen where
it is told: no shape looks the same turned, and cut-outs are taken as having an orientation (of a ball that need not be so).

A cut-out keeps its own aspect ratio (SMILE's official code does not) inside the box that was drawn for it, so that it never
reaches further than was planned, and is smaller where it is long. Its motion is measured and told after that.

Axis letters: `B` clips, `K` = 2 objects, `M` moments, `s` texels per side.
"""

import re
from dataclasses import dataclass, field, fields, replace
from typing import NamedTuple

import torch
from torch import Tensor

from modules.core.errors import SettingError
from modules.language.captions import Captioner, Name
from modules.motion.appearance import COLOURS, ObjectBank, blur_to_size, hsv_to_rgb, premultiplied, shape_alpha
from modules.motion.render import paste
from modules.motion.scripts import Script
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


class Told(NamedTuple):
    """Clips and what is said of them."""

    clip: Tensor
    """uint8 [B, T, H, W, 3]"""
    texts: list[str]
    """B captions of what the pasted objects do"""
    signature: Tensor
    """int64 [B], equal where captions say the same"""


class Players(NamedTuple):
    """Who moves in some clips, and how."""

    script: Script
    names: list[list[Name]]
    """of the objects that there are, 1 or 2 per clip"""
    textures: Tensor
    """uint8 [B, K, s, s, 4], not blurred"""


def noun_of(category: str) -> str:
    """What captions call a category, in lower case and without punctuation: 'Aerosol-can' -> 'aerosol can'.

    Remarks in brackets, which LVIS has, are no part of a name: 'bow_(weapon)' -> 'bow'.
    """
    words = re.sub(r"\(.*?\)|[\W_]", " ", category.lower().replace("'", ""))
    return " ".join(words.split()) or "object"


class CutOuts:
    """The pictures of a bank, each with its noun. The two objects of a clip have different nouns.

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
        self.bank = bank
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
        """Numbers of the pictures of some clips, int64 [B, K]: the first any, the second any with another noun."""
        first = draws.integer("cut-out", len(self.bank))
        step = (draws.uniform("other cut-out") * self._others[first]).long()
        return self._order[torch.stack([first, (self._next[first] + step) % len(self.bank)], dim=1)]

    def players(self, cast: Cast, device: torch.device) -> Players:
        """Cut-outs in the place of the shapes of a cast.

        Args:
            cast: on the host.
            device: of the textures.
        """
        index = self.draw(cast.draws)
        names = [[Name(self.nouns[k]) for k in own[: len(old)]] for own, old in zip(index.tolist(), cast.names, strict=True)]
        script = replace(cast.script, size=inside(cast.script.size, self.bank.aspect[index]))
        return Players(script, names, self.bank.pick(index.to(device)))


def inside(size: Tensor, aspect: Tensor) -> Tensor:
    """The largest sizes of given aspect ratios inside boxes.

    Args:
        size: float [B, K, M, 2], width and height of the boxes.
        aspect: float [B, K], width over height.

    Returns:
        float [B, K, M, 2]
    """
    ratio = aspect[:, :, None]
    width = torch.minimum(size[..., 0], size[..., 1] * ratio)
    return torch.stack([width, width / ratio], dim=-1)


def _shapes(cast: Cast, device: torch.device) -> Players:
    """The shapes of a cast."""
    table = torch.stack([hsv_to_rgb(*torch.tensor(value)) for value in COLOURS.values()])
    alpha = shape_alpha(cast.kind.flatten(), torch.full((cast.kind.numel(),), STROKE), TEXTURE)
    textures = premultiplied(table[cast.colour.flatten()][:, None, None], alpha).unflatten(0, cast.kind.shape)
    return Players(cast.script, cast.names, textures.to(device))


def paste_and_tell(
    clip: Tensor,
    settings: CaptionSettings,
    captioner: Captioner,
    generator: torch.Generator,
    cut_outs: CutOuts | None = None,
) -> Told:
    """Paste moving objects into clips and say how they move. The captions are made on the host, the pictures on the device.

    Args:
        clip: uint8 [B, T, S, S, 3]
        settings: what moves.
        captioner: how it is told.
        generator: on the device of `clip`; a clip's objects, motion and words depend on one number that it draws.
        cut_outs: what is pasted; None draws shapes.
    """
    frames, side = clip.shape[1], clip.shape[2]
    number = torch.randint(1 << 62, (len(clip),), generator=generator, device=clip.device)
    stage = Stage(frames, side, "train", seed=0)
    cast = Cast(number.cpu(), stage, settings, training_shapes())
    players = _shapes(cast, clip.device) if cut_outs is None else cut_outs.players(cast, clip.device)
    told = captioner(players.script, players.names)
    record = players.script.at(frames, (side, side))
    record = replace(record, **{entry.name: getattr(record, entry.name).to(clip.device) for entry in fields(record)})
    pasted = paste(clip, record, blur_to_size(players.textures, record.size.mean(2)))
    signature = torch.tensor([caption.signature_id for caption in told], device=clip.device)
    return Told(pasted, [caption.text for caption in told], signature)
