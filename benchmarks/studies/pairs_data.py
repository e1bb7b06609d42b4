"""Clips and sequences of the study `masks_and_pairs`: DAVIS-2016, drones, the depth of UTD-MHAD and generated motion.

Ten of the twenty sequences of DAVIS-2016's validation list train (those at even places of the list) and ten are propagated;
for calibration, five of the training ones are propagated and not trained on. Everything is decoded once and kept in files.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.studies.compare_utd import clips_of, grey
from datamodules.base import VideoDataModule
from datamodules.sequences import FrameSize
from datamodules.sets.davis import DAVIS2016Sequences
from datamodules.sets.drone_air import DroneAir
from datamodules.settings import ReadSettings
from datamodules.video.samplers import Segments
from datamodules.video.sampling import ClipSettings
from modules.core.errors import SettingError
from modules.core.files import write_whole
from modules.scenes.objects import make_clips

FRAMES, SIDE = 8, 128
"""Frames and side of the clips that the pairs are cut out of."""
SHORT = 160
"""Shorter side of the frames of a sequence, in pixels."""
MULTIPLE = 8
"""Both sides of them are multiples of this, the side of a token."""
STEP, APART = 4, 8
"""Frames of DAVIS between those of a clip, and between the starts of two clips."""
GENERATED, UNSEEN = 400, 128
"""Generated clips for training and for the test."""


class Sources(NamedTuple):
    """Folders of the data; None leaves a source out."""

    davis: Path
    drones: Path | None
    utd: Path | None


class Sequence(NamedTuple):
    """A complete sequence."""

    name: str
    frames: Tensor
    """uint8 [T, H, W, 3]"""
    masks: Tensor
    """uint8 [T, H0, W0], 1 where the object is"""


def sequences_of(root: Path, part: str) -> list[Sequence]:
    """Sequences of DAVIS-2016.

    Args:
        root: folder of DAVIS-2016.
        part: `train`, `test`, or the two halves of `train`: `fit` and `check`.

    Raises:
        SettingError: if one cannot be read.
    """
    data = DAVIS2016Sequences(str(root), FrameSize(short=SHORT, multiple=MULTIPLE))
    data.setup("test")
    train = data.videos[::2]
    data.videos = {"train": train, "test": data.videos[1::2], "fit": train[::2], "check": train[1::2]}[part]
    names, found = data.sequence_names, []
    for name, batch in zip(names, data.test_dataloader(), strict=True):
        if int(batch.substituted[0]) >= 0:
            raise SettingError(f"--davis {root}: the sequence {name} cannot be read; replace it.")
        found.append(Sequence(name, batch.stream("video").data[0, 0], batch.extra["mask"][0]))
    return found


def windows(frames: Tensor) -> Tensor:
    """Clips of a sequence: uint8 [T, H, W, 3] -> [N, FRAMES, SIDE, SIDE, 3], at its left, centre and right."""
    height, width = frames.shape[1:3]
    top = (height - SIDE) // 2
    starts = range(0, max(1, len(frames) - STEP * (FRAMES - 1)), APART)
    places = sorted({0, (width - SIDE) // 2, width - SIDE})
    cut = frames[:, top : top + SIDE]
    shown = [(torch.arange(FRAMES) * STEP + start).clamp_max(len(frames) - 1) for start in starts]
    return torch.stack([cut[index, :, left : left + SIDE] for index in shown for left in places])


def complete(data: VideoDataModule, train: bool) -> Tensor:
    """All clips of a data module, uint8 [N, T, H, W, 3].

    Raises:
        SettingError: if a file cannot be read.
    """
    data.setup("fit")
    loader = data.train_once() if train else data.val_dataloader()
    assert not isinstance(loader, list)
    batches = list(loader)
    if broken := sum(int((batch.substituted >= 0).sum()) for batch in batches):
        raise SettingError(f"data.root {data.root}: {broken} files cannot be read; replace them.")
    return torch.cat([batch.stream("video").data[:, 0] for batch in batches])


def clips(sources: Sources, calibrate: bool) -> Iterator[tuple[str, Tensor]]:
    """Clips by source and part, `davis/train` and so on, uint8 [N, FRAMES, SIDE, SIDE, 3]."""
    for part, name in (("train", "fit" if calibrate else "train"), ("test", "check" if calibrate else "test")):
        yield f"davis/{part}", torch.cat([windows(one.frames) for one in sequences_of(sources.davis, name)])
        made = make_clips(
            GENERATED if part == "train" else UNSEEN,
            FRAMES,
            SIDE,
            "train" if part == "train" or calibrate else "val",
            seed=0 if part == "train" else 1,
            backgrounds=("texture", "gradient"),
        )
        yield f"generated/{part}", made.video
    clip = ClipSettings(frames=FRAMES, size=SIDE, sampler=Segments())
    if sources.drones is not None:
        drones = DroneAir(str(sources.drones), clip=clip, batch_size=4, reading=ReadSettings(0), seed=0)
        yield "drones/train", complete(drones, True)
        yield "drones/test", complete(drones, False)


def decoded(sources: Sources, out: Path, calibrate: bool) -> Path:
    """The file of all clips, decoded unless it exists."""
    path = out / ("clips_calibrate.pt" if calibrate else "clips.pt")
    if not path.is_file():
        found = dict(clips(sources, calibrate))
        if sources.utd is not None:
            benchmark = "xsub_settings" if calibrate else "xsub"
            depth = clips_of(sources.utd, out / f"{benchmark}.pt", FRAMES, SIDE, benchmark)
            for part in ("train", "test"):
                found[f"depth/{part}"], found[f"depth/{part}_label"] = grey(depth[part]), depth[f"{part}_label"]
        write_whole(path, partial(torch.save, found))
    return path


def smaller(video: Tensor, side: int) -> Tensor:
    """Frames averaged over squares: uint8 [N, T, S, S, 3] -> [N, T, side, side, 3]."""
    parts = []
    for part in video.split(64):
        planes = part.flatten(0, 1).permute(0, 3, 1, 2).float()
        small = F.adaptive_avg_pool2d(planes, side).round().byte()
        parts.append(small.permute(0, 2, 3, 1).unflatten(0, part.shape[:2]))
    return torch.cat(parts)
