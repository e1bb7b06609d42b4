"""Skeleton contrast between two forms of a skeleton, against contrast within one form.

The paper's claim: queries of one form with keys of another form learn more than queries and keys of one form. All rows are
evaluated alike, by a protocol written before any run: the encoder's pooled feature of a recording's middle, a linear probe and
a kNN probe on the action. Training and test share actions, but no body. Next to the trained rows are chance, the joints of one
frame, how much each coordinate varies over time, the untrained encoders, and a supervised network of the same size and budget.
Negatives are the other keys of the batch: a queue needs a slow key branch, which learns less in such a short run.

A second table shows the pretext tasks, from the step on at which the queues have been filled once: loss of one direction,
and how often a query is nearer to its own key than to all negatives.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.studies.harness import Budget, Row, Study, chance, random_rows, train
from datamodules.generated.skeleton import SyntheticSkeleton
from datamodules.loading.loader import SampleKey
from datamodules.skeleton.clips import SkeletonClipSettings, SkeletonDataset
from datamodules.skeleton.store import Recordings
from modules.backbones.skeleton.base import SkeletonEncoder
from modules.backbones.skeleton.gcn import AGCN
from modules.backbones.skeleton.gru import BiGRU
from modules.core.batch import Batch, unlabelled
from modules.downstream.metrics.probes import knn_accuracy, linear_accuracy
from modules.layers.contrast.momentum_contrast import ContrastSettings
from modules.methods.skeleton_contrast import SkeletonContrast
from modules.scenes.skeletons import ACTIONS


@dataclass
class Size(Budget):
    """Networks, clips and length of training.

    Args:
        hidden: length of a state of the BiGRU; 1024 is the published network.
        layers: layers of the BiGRU; 3 is the published network.
        width: width of the A-GCN; 64 is the published network.
        queue_size: number of keys that are kept as negatives; 0 uses those of the batch.
        momentum: momentum of the key branches.
        temperature: temperature of the loss.
    """

    frames: int = 32
    lr: float = 3e-3
    pool: int = 4096
    probe_clips: int = 2048
    hidden: int = 128
    layers: int = 2
    width: int = 8
    queue_size: int = 0
    momentum: float = 0.99
    temperature: float = 0.07


@dataclass
class Data:
    """Clips of one run."""

    training: SkeletonDataset
    """two random crops of each unlabelled recording"""
    probe: Batch
    test: Batch


def make_data(size: Size, seed: int) -> Data:
    """Generate all recordings of a seed. Pretraining, probes and test use different bodies."""
    made = SyntheticSkeleton(seed=seed, train_clips=size.pool + size.probe_clips, val_clips=size.test_clips).load()
    views, middle = SkeletonClipSettings(size.frames, clips=2), SkeletonClipSettings(size.frames)

    def whole(recordings: Recordings, rows: Tensor) -> Batch:
        dataset = SkeletonDataset(recordings, rows.numpy(), middle, seed, train=False)
        return dataset.__getitems__([SampleKey(0, row) for row in range(len(rows))])

    train_rows = torch.from_numpy(made.train)
    return Data(
        SkeletonDataset(made.recordings, made.train[: size.pool], views, seed, train=True),
        whole(made.recordings, train_rows[size.pool :]),
        whole(made.recordings, torch.from_numpy(made.val)),
    )


def sequence(size: Size, seed: int) -> BiGRU:
    """The recurrent encoder, with the seed's initial weights."""
    torch.manual_seed(seed)
    return BiGRU(size.hidden, size.layers)


def graph(size: Size, seed: int) -> AGCN:
    """The graph encoder, with the seed's initial weights."""
    torch.manual_seed(seed)
    return AGCN(size.width)


@torch.no_grad()
def features(encoder: SkeletonEncoder, skeleton: Tensor) -> Tensor:
    """The fixed readout of a frozen encoder: float [N, 3, T, J, M] -> [N, D]."""
    encoder.eval()
    return torch.cat([encoder(clips).float() for clips in skeleton.split(256)])


def scores(readout: Callable[[Tensor], Tensor], data: Data, device: torch.device) -> dict[str, float]:
    """A linear and a kNN probe on the action, in percent."""
    known, new = (readout(batch.stream("skeleton").data[:, 0].to(device)) for batch in (data.probe, data.test))
    labels, truth = (batch.label.to(device) for batch in (data.probe, data.test))
    return {
        "action linear": 100 * linear_accuracy(known, labels, new, truth),
        "action kNN": 100 * knn_accuracy(known, labels, new, truth),
    }


def train_contrast(name: str, method: SkeletonContrast, data: Data, size: Size, seed: int) -> dict[str, float]:
    """Train on unlabelled recordings; returns the values of the second table."""
    device = method.device
    losses, nearest = [], []
    directions = 1 if method.partner is None else 2

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        rows = random_rows(len(data.training), size.batch, generator).tolist()
        batch = data.training.__getitems__([SampleKey(step, row) for row in rows])
        output = method.step(unlabelled(batch.stream("skeleton").data.to(device), "skeleton"), generator)
        losses.append(output["loss"].detach() / directions)
        nearest.append(output["log"]["top1"])
        return output["loss"]

    train(method, loss_of, size.steps, size.lr, seed)
    tenth = max(1, size.steps // 10)
    filled = min(-(-size.queue_size // size.batch), size.steps - tenth)
    facts = {}
    for what, values, factor in (("loss", losses, 1), ("own key nearest, %", nearest, 100)):
        for when, part in (("first", values[filled : filled + tenth]), ("last", values[-tenth:])):
            facts[f"{what}, {when} tenth"] = factor * torch.stack(part).mean().item()
    print(f"  seed {seed}: {name}: " + ", ".join(f"{what} {value:.2f}" for what, value in facts.items()), flush=True)
    return facts


def train_supervised(data: Data, size: Size, seed: int, device: torch.device) -> BiGRU:
    """The recurrent encoder trained on the probe's labelled clips to classify the action."""
    encoder = sequence(size, seed)
    head = nn.Linear(encoder.embed_dim, len(ACTIONS))
    network = nn.ModuleList([encoder, head]).to(device)
    clips, labels = data.probe.stream("skeleton").data[:, 0].to(device), data.probe.label.to(device)

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        rows = random_rows(len(clips), size.batch, generator)
        return F.cross_entropy(head(encoder(clips[rows])), labels[rows])

    losses = train(network, loss_of, size.steps, size.lr, seed)
    print(f"  seed {seed}: supervised: loss {losses[0]:.2f} to {losses[-1]:.2f}", flush=True)
    return encoder


def skeleton_contrast(size: Size = Size(), seeds: int = 3, out: Path | None = None) -> None:  # noqa: B008  (never mutated)
    """Contrast between two forms of a skeleton against contrast within one.

    Args:
        size: networks, clips and budget.
        seeds: number of repetitions; data, weights and batches change with the seed.
        out: JSON file to write.
    """
    study = Study(seeds)
    pretext = {
        "inter": Row("sequence and graph"),
        "intra sequence": Row("sequence alone"),
    }
    rows = {
        "frame": Row("one frame (raw joints)"),
        "spread": Row("how much each coordinate varies over time"),
        "untrained sequence": Row("sequence, untrained"),
        "intra sequence": Row("sequence, contrast within sequences"),
        "inter sequence": Row("sequence, contrast with graphs"),
        "untrained graph": Row("graph, untrained"),
        "inter graph": Row("graph, contrast with sequences"),
        "supervised": Row("sequence, supervised"),
    }
    contrast = ContrastSettings(
        out_dim=64, queue_size=size.queue_size, momentum=size.momentum, temperature=size.temperature, shuffle=False
    )
    for seed in range(seeds):
        data = make_data(size, seed)
        networks: dict[str, SkeletonEncoder] = {
            **{f"{kind} sequence": sequence(size, seed) for kind in ("untrained", "intra", "inter")},
            **{f"{kind} graph": graph(size, seed) for kind in ("untrained", "inter")},
        }
        methods = {
            "inter": SkeletonContrast(networks["inter sequence"], networks["inter graph"], contrast=contrast),
            "intra sequence": SkeletonContrast(networks["intra sequence"], contrast=contrast),
        }
        for key, method in methods.items():
            pretext[key].add(train_contrast(pretext[key].name, method.to(study.device), data, size, seed))
        networks["supervised"] = train_supervised(data, size, seed, study.device)
        rows["frame"].add(scores(lambda clips: clips[:, :, clips.shape[2] // 2].flatten(1), data, study.device))
        rows["spread"].add(scores(lambda clips: clips.std(2).flatten(1), data, study.device))
        for key, encoder in networks.items():
            encoder.to(study.device)
            rows[key].add(scores(partial(features, encoder), data, study.device))
        print(f"seed {seed} done after {study.minutes:.1f} min", flush=True)
    everything = [chance(rows["supervised"], {"action": len(ACTIONS)}), *rows.values()]
    study.finish({"rows": everything, "The pretexts": list(pretext.values())}, asdict(size), out)
