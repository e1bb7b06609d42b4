"""Objects whose motion is told, pasted into any clips (LocoMotion, https://arxiv.org/abs/2410.12018)."""

from dataclasses import fields, replace
from typing import NamedTuple

import torch
from torch import Tensor

from modules.motion.appearance import blur_to_size, hsv_to_rgb, premultiplied, shape_alpha
from modules.motion.captioned_scenes import COLOURS, TEXTURE, CaptionSettings, Cast, Stage, training_shapes
from modules.motion.captions import Captioner
from modules.motion.render import paste

STROKE = 0.32


class Told(NamedTuple):
    """Clips and what is said of them."""

    clip: Tensor
    """uint8 [B, T, H, W, 3]"""
    texts: list[str]
    """B captions of what the pasted objects do"""
    signature: Tensor
    """int64 [B], equal where captions say the same"""


def paste_and_tell(clip: Tensor, settings: CaptionSettings, captioner: Captioner, generator: torch.Generator) -> Told:
    """Paste moving shapes into clips and say how they move. The captions are made on the host, the pictures on the device.

    Args:
        clip: uint8 [B, T, S, S, 3]
        settings: what moves.
        captioner: how it is told.
        generator: on the device of `clip`; a clip's objects, motion and words depend on one number that it draws.
    """
    frames, side = clip.shape[1], clip.shape[2]
    number = torch.randint(1 << 62, (len(clip),), generator=generator, device=clip.device)
    stage = Stage(frames, side, "train", seed=0)
    cast = Cast(number.cpu(), stage, settings, training_shapes())
    told = captioner(cast.script, cast.names)
    record = cast.script.at(frames, (side, side))
    record = replace(record, **{entry.name: getattr(record, entry.name).to(clip.device) for entry in fields(record)})
    table = torch.stack([hsv_to_rgb(*torch.tensor(value)) for value in COLOURS.values()])
    alpha = shape_alpha(cast.kind.flatten(), torch.full((cast.kind.numel(),), STROKE), TEXTURE)
    textures = premultiplied(table[cast.colour.flatten()][:, None, None], alpha).unflatten(0, cast.kind.shape).to(clip.device)
    pasted = paste(clip, record, blur_to_size(textures, record.size.mean(2)))
    signature = torch.tensor([caption.signature_id for caption in told], device=clip.device)
    return Told(pasted, [caption.text for caption in told], signature)
