"""Frozen features of the depth of UTD-MHAD: a linear classifier, nearest neighbours, and a linear classifier on few labels.

Subjects 1, 3, 5, 7 train and 2, 4, 6, 8 test. A recording is one clip of 16 frames of 32 px spread over all of it. Distances
of 1.5 m to 3.5 m become grey values (configs/utd_mhad/depth.yaml). The feature of VideoViT is the mean of the tokens of each
time slice, one after the other; that of other networks is their pooled feature.
"""

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.studies.compare_rows import Job
from datamodules.sets.utd_mhad import UTDMHAD
from datamodules.settings import ReadSettings
from datamodules.streams.settings import StreamSettings
from datamodules.video.samplers import Segments
from datamodules.video.sampling import ClipSettings
from modules.backbones.depth import Depth
from modules.convert.load import load_backbone
from modules.core.errors import SettingError
from modules.core.files import write_json, write_whole
from modules.downstream.metrics.probes import knn_accuracy, linear_accuracy

FRAMES, SIDE = 16, 32
NEAR, FAR = 1500, 3500
SHARE = 0.1
BATCH = 4


def clips_of(root: Path, out: Path, frames: int = FRAMES, side: int = SIDE, benchmark: str = "xsub") -> dict[str, Tensor]:
    """All clips and labels, decoded once and kept in a file.

    Args:
        root: folder of UTD-MHAD.
        out: file to keep them in.
        frames: frames of each clip, spread over its recording.
        side: of the frames in pixels.
        benchmark: split of the subjects, see `UTDMHAD`.

    Returns:
        `train` and `test`, uint16 [N, T, H, W, 1] in millimetres, and `train_label` and `test_label`, int64 [N].

    Raises:
        SettingError: if a recording cannot be read.
    """
    if not out.is_file():
        clip, streams = ClipSettings(frames=frames, size=side, sampler=Segments()), StreamSettings(names=["depth"])
        data = UTDMHAD(
            str(root), clip=clip, batch_size=BATCH, reading=ReadSettings(0), benchmark=benchmark, seed=0, streams=streams
        )
        data.setup("fit")
        validation = data.val_dataloader()
        assert not isinstance(validation, list)
        found = {}
        for name, loader in (("train", data.train_once()), ("test", validation)):
            batches = list(loader)
            if broken := sum(int((batch.substituted >= 0).sum()) for batch in batches):
                raise SettingError(f"--utd {root}: {broken} recordings of {name} cannot be read; replace them.")
            found[name] = torch.cat([batch.stream("depth").data[:, 0] for batch in batches])
            found[f"{name}_label"] = torch.cat([batch.label for batch in batches])
        write_whole(out, lambda part: torch.save(found, part))
    content: dict[str, Tensor] = torch.load(out, weights_only=True)
    return content


def grey(depth: Tensor) -> Tensor:
    """Millimetres uint16 [N, L, S, S, 1] -> grey values uint8 [N, L, S, S, 3]; far is bright, 0 is not measured."""
    far = depth.float()
    share = torch.where(far > 0, ((far - NEAR) / (FAR - NEAR)).clamp(0, 1), 0)
    return (255 * share).round().byte().expand(*depth.shape[:-1], 3).contiguous()


def few(label: Tensor, share: float, seed: int = 0) -> Tensor:
    """Rows of a share of the samples, as many of each class as can be, or one more.

    Args:
        label: int64 [N], classes from 0.
        share: of all samples.
        seed: of the choice.

    Returns:
        int64 [round(share * N)], at least one.
    """
    order = torch.randperm(len(label), generator=torch.Generator().manual_seed(seed))
    same = label[order][:, None] == label[order][None]
    place_in_class = same.tril(-1).sum(1)
    return order[place_in_class.argsort(stable=True)[: max(1, round(share * len(label)))]].sort().values


@torch.no_grad()
def features(checkpoint: Path, clips: Tensor) -> Tensor:
    """Features of the frozen encoder of a file, float32 [N, D]."""
    network: Any = load_backbone(checkpoint, FRAMES, SIDE, pooling="time")
    encoder = Depth(network, NEAR, FAR).eval()
    return torch.cat([encoder(encoder.preprocess(chunk)).float() for chunk in clips.split(32)])


def utd_mhad(job: Job, clips: dict[str, Tensor]) -> None:
    """Measure a row on depth, unless that is done.

    Args:
        job: row and seed, pretrained.
        clips: see `clips_of`.
    """
    path = job.folder / "utd_mhad.json"
    if path.is_file():
        return
    start = time.perf_counter()
    known, new = (features(job.checkpoint, clips[name]) for name in ("train", "test"))
    label, truth = clips["train_label"], clips["test_label"]
    rows = few(label, SHARE)
    content = {
        "linear": 100 * linear_accuracy(known, label, new, truth),
        "knn": 100 * knn_accuracy(known, label, new, truth),
        "linear_few": 100 * linear_accuracy(known[rows], label[rows], new, truth),
        "recordings": [len(label), len(truth), len(rows)],
        "seconds": round(time.perf_counter() - start, 1),
    }
    write_whole(path, lambda part: write_json(part, content))
