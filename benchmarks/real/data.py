"""Clips of the benchmark `real_motion`: the depth of UTD-MHAD as grey videos, and further clips for pretraining.

32 frames of 52 px are spread over each recording. What pretrains sees one of every few frames at random and a random crop;
probes see every second frame and the centre: 16 x 48 x 48. Videos have one channel, uint8 [N, 32, 52, 52], so that all of them
fit in 40 MB. Flips would change labels here (swipe left, swipe right), so there are none.

Search and measurement are two files: `xsub_settings.pt` has subjects 1, 3, 5 against 7, and `xsub.pt` 1, 3, 5, 7 against 2, 4,
6, 8. The search never opens the second one.
"""

from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.studies.compare_utd import clips_of, grey
from benchmarks.studies.jobs import kept
from benchmarks.studies.pairs_data import complete
from datamodules.sets.drone_air import DroneAir
from datamodules.settings import ReadSettings
from datamodules.video.samplers import Segments
from datamodules.video.sampling import ClipSettings
from modules.scenes.objects import make_clips

Split = Literal["xsub_settings", "xsub"]
LENGTH, STORED = 32, 52
"""Frames of a stored video, and their side in pixels."""
FRAMES, SIDE = 16, 48
"""Frames and side of a clip."""
GENERATED = 1024
"""Generated videos, the same for all rows."""


class Labelled(NamedTuple):
    """Recordings and their classes."""

    video: Tensor
    """uint8 [N, 32, 52, 52]"""
    label: Tensor
    """int64 [N]"""

    def at(self, rows: Tensor) -> "Labelled":
        """Some of the recordings."""
        return Labelled(self.video[rows], self.label[rows])


class Data(NamedTuple):
    """Clips of one split."""

    train: Labelled
    test: Labelled
    generated: Tensor
    """uint8 [N, 32, 52, 52], for pretraining; empty unless a trial uses them"""
    drones: Tensor
    """see `generated`"""


class Draw(NamedTuple):
    """How clips are cut out of videos.

    Args:
        span: frames of the video, of 32, among which the 16 of a clip are; their start is random.
        scale: smallest side of the crop as a fraction of the picture; 1 cuts 48 px out of 52 without resizing.
    """

    span: int = LENGTH
    scale: float = 1.0


def decode(utd: Path, split: Split, work: Path) -> None:
    """Decode the recordings of a split, unless that is done."""
    clips_of(utd, work / f"{split}.pt", LENGTH, STORED, split)


def one_channel(video: Tensor) -> Tensor:
    """uint8 [N, T, H, W, 3] -> [N, T, H, W], the mean of the channels."""
    return torch.cat([part.float().mean(-1).round().byte() for part in video.split(64)])


def generated() -> dict[str, Any]:
    """Videos of objects that move over textures and gradients."""
    made = make_clips(GENERATED, LENGTH, STORED, "train", 0, ("texture", "gradient"))
    return {"video": one_channel(made.video)}


def drones(root: Path) -> dict[str, Any]:
    """Training windows around flying objects."""
    clip = ClipSettings(frames=LENGTH, size=STORED, sampler=Segments())
    return {"video": one_channel(complete(DroneAir(str(root), clip=clip, batch_size=4, reading=ReadSettings(0), seed=0), True))}


def prepare(work: Path, drone_root: Path | None) -> None:
    """Make the further clips for pretraining, unless that is done."""
    kept(work / "generated.pt", {"count": GENERATED}, generated)
    if drone_root is not None:
        kept(work / "drones.pt", {}, partial(drones, drone_root))


@lru_cache(maxsize=2)
def load(work: Path, split: Split) -> Data:
    """All clips of a split, decoded before."""
    found = torch.load(work / f"{split}.pt", weights_only=True)
    train, test = (Labelled(grey(found[name])[..., 0].contiguous(), found[f"{name}_label"]) for name in ("train", "test"))
    none = train.video[:0]
    more = {}
    for name in ("generated", "drones"):
        path = work / f"{name}.pt"
        more[name] = torch.load(path, weights_only=True)["video"] if path.is_file() else none
    return Data(train, test, **more)


def shown(video: Tensor, shift: int = 0) -> Tensor:
    """What probes see of videos uint8 [N, 32, 52, 52]: every second frame and the centre, uint8 [N, 16, 48, 48].

    Args:
        video: the videos.
        shift: of the crop to the lower right, in pixels, at most 2 either way.
    """
    corner = (STORED - SIDE) // 2 + shift
    return video[:, :: LENGTH // FRAMES, corner : corner + SIDE, corner : corner + SIDE].contiguous()


def cut(video: Tensor, draw: Draw, generator: torch.Generator) -> Tensor:
    """Random clips of videos: uint8 [B, 32, 52, 52] -> [B, 16, 48, 48]."""
    count = len(video)
    start = torch.randint(LENGTH - draw.span + 1, (count, 1), generator=generator)
    place = (torch.arange(FRAMES) + torch.rand(count, FRAMES, generator=generator)) * (draw.span / FRAMES)
    frames = video[torch.arange(count)[:, None], start + place.long().clamp_max(draw.span - 1)]
    if draw.scale >= 1:
        corner = torch.randint(STORED - SIDE + 1, (count, 2, 1), generator=generator)
        row, column = (corner + torch.arange(SIDE)).unbind(1)
        batch, time = torch.arange(count)[:, None, None, None], torch.arange(FRAMES)[:, None, None]
        return frames[batch, time, row[:, None, :, None], column[:, None, None, :]]
    side = draw.scale + (1 - draw.scale) * torch.rand(count, generator=generator)
    middle = (1 - side)[:, None] * (2 * torch.rand(count, 2, generator=generator) - 1)
    theta = torch.cat([torch.diag_embed(side[:, None].expand(-1, 2)), middle[..., None]], 2)
    grid = F.affine_grid(theta, [count, FRAMES, SIDE, SIDE], align_corners=False)
    return F.grid_sample(frames.float(), grid, align_corners=False, padding_mode="border").round().byte()


def colour(video: Tensor) -> Tensor:
    """One channel as three: uint8 [..., H, W] -> [..., H, W, 3]."""
    return video[..., None].expand(*video.shape, 3)
