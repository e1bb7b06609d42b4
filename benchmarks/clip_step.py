"""Time of a training step of VCOP, RSPNet and CVRL, compared with the same step in plain PyTorch and torchvision.

    python benchmarks/clip_step.py                               # published sizes, 2 videos; minutes on two quiet CPU cores
    python benchmarks/clip_step.py --methods "[RSPNet]" --batch 8
    python benchmarks/clip_step.py --share 0.0625 --side 32      # small, only to see that it runs

The peers are in `benchmarks/clip_peers.py`. Before the timing, ours and the peer get the same weights, clips and random
numbers; if their losses differ by more than a thousandth, the script ends with an error. A step contains all that happens to
decoded and cropped clips: random numbers, colours, mirroring, all forward passes, the backward pass and the optimiser. Steps of
both are timed in turns, in changing order; the figure is the median over pairs of ours / peer. Run it on a quiet machine.
"""

import json
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import auto_cli
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.clip_peers import Changes, Draws, PlainCVRL, PlainPeer, PlainRSPNet, PlainVCOP
from benchmarks.methods import Job, machine
from benchmarks.pairs import seconds
from modules.backbones.cnn.c3d import C3D
from modules.backbones.cnn.resnet3d import ResNet3D
from modules.backbones.cnn.slow_only import SlowOnly
from modules.core.batch import unlabelled
from modules.core.preprocessing import TO_ONE
from modules.methods.cvrl import CVRL
from modules.methods.rspnet import RSPNet
from modules.methods.vcop import VCOP
from modules.training.method import Method

Name = Literal["VCOP", "RSPNet", "CVRL"]
CLIPS: dict[Name, tuple[int, int, int]] = {"VCOP": (3, 16, 112), "RSPNet": (2, 32, 112), "CVRL": (2, 16, 224)}
"""Clips of a video, their frames and their side."""
SEED = 3


def build(name: Name, share: float) -> tuple[Method, PlainPeer]:
    """Ours and the peer, with the same weights.

    Args:
        name: the method.
        share: width of the networks relative to the published ones.
    """
    width, hidden = max(1, int(64 * share)), max(1, int(2048 * share))
    if name == "VCOP":
        ours = VCOP(C3D(width, normalisation=TO_ONE))
        vcop = PlainVCOP(width)
        copy_weights(ours.backbone, vcop.network)
        copy_weights(ours.head, nn.ModuleList([vcop.fc7, vcop.fc8]))
        return ours, vcop
    if name == "RSPNet":
        speed = RSPNet(ResNet3D(width))
        rspnet, parts = PlainRSPNet(width), speed.contrast
        copy_weights(nn.ModuleList([speed.backbone, parts.head, parts.speed_head]), rspnet.encoder_q)
        copy_weights(nn.ModuleList([parts.key_backbone, parts.key_head, parts.key_speed_head]), rspnet.encoder_k)
        assert parts.queue is not None
        rspnet.queue.copy_(parts.queue.keys.T)
        return speed, rspnet
    pair = CVRL(SlowOnly(width), hidden)
    cvrl = PlainCVRL(width, hidden)
    copy_weights(pair.backbone, cvrl.network)
    copy_weights(pair.projection, cvrl.projection)
    return pair, cvrl


@torch.no_grad()
def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Copy weights and statistics between networks whose layers are created in the same order."""
    for own, other in zip(source.state_dict().values(), target.state_dict().values(), strict=True):
        if own.shape != other.shape:
            raise SystemExit(f"the networks differ: {tuple(own.shape)} and {tuple(other.shape)}.")
        other.copy_(own)


# --- Random numbers of a step of ours, for the peer ---


def draws_of(method: Method, count: int, generator: torch.Generator) -> Any:
    """What the step of a method draws from this generator, in the form of its peer."""
    if isinstance(method, VCOP):
        return torch.randint(len(method.orders), (count,), generator=generator).tolist()
    if isinstance(method, RSPNet):
        first, second = speed_changes(method, count, generator), speed_changes(method, count, generator)
        return Draws(first, second, torch.randperm(count, generator=generator).tolist())
    assert isinstance(method, CVRL)
    looks = method.augmentation.draw(count, generator)
    mirrored = [(torch.rand(count, generator=generator) < method.flip.probability).tolist() for _ in range(2)]
    return [
        [
            Changes(list(look.jitter), look.grey, flip, look.sigma, look.solarise)
            for look, flip in zip(looks[view], mirrored[view], strict=True)
        ]
        for view in range(2)
    ]


def speed_changes(method: RSPNet, count: int, generator: torch.Generator) -> list[Changes]:
    """Changes of one window of each video of RSPNet."""
    drawn = method.colour.draw(count, generator)
    mirrored = (torch.rand(count, generator=generator) < method.flip.probability).tolist()
    names = ("brightness", "contrast", "saturation", "hue")
    rows = zip(drawn.order.tolist(), drawn.factors.tolist(), drawn.grey.tolist(), mirrored, strict=True)
    return [Changes([(names[i], factors[i]) for i in order], grey, flip) for order, factors, grey, flip in rows]


def losses(ours: Method, peer: PlainPeer, video: Tensor) -> tuple[float, float]:
    """Loss of both for the same weights, clips and random numbers. Statistics, queue and key branch change as in a step."""
    drawn = draws_of(ours, len(video), torch.Generator().manual_seed(SEED))
    # Dropout draws from the global generator.
    torch.manual_seed(SEED)
    mine = ours.step(unlabelled(video), torch.Generator().manual_seed(SEED))["loss"]
    torch.manual_seed(SEED)
    return float(mine.detach()), float(peer.loss(video, drawn).detach())


def measure(steps: dict[str, Callable[[], None]], pairs: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of both steps in turns, `pairs` of each after a warm-up."""
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for pair in range(pairs + 1):
        for name in steps if pair % 2 else reversed(steps):
            taken[name].append(seconds(steps[name], device))
    return {name: values[1:] for name, values in taken.items()}


def main(
    share: float = 1.0,
    batch: int = 2,
    side: int | None = None,
    pairs: int = 5,
    methods: list[Name] | None = None,
    out: Path | None = None,
) -> None:
    """Time training steps of both.

    Args:
        share: Width of the networks relative to the published ones.
        batch: Videos per step.
        side: Height and width of the clips; null takes the published ones.
        pairs: Interleaved pairs to time, after a warm-up.
        methods: Names of the methods; null takes all.
        out: JSON file to write.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows: dict[str, dict[str, Any]] = {}
    print(f"{'method':10} {'ours s':>8} {'plain s':>8} {'ratio':>7} {'difference of the losses':>26}")
    for name in CLIPS if methods is None else methods:
        torch.manual_seed(0)
        clips, frames, usual = CLIPS[name]
        length = side or usual
        video = torch.randint(0, 256, (batch, clips, frames, length, length, 3), dtype=torch.uint8)
        ours, peer = build(name, share)
        mine, theirs = losses(ours.train(), peer.train(), video)
        difference = abs(mine - theirs) / abs(theirs)
        if not difference < 1e-3:
            raise SystemExit(f"{name}: the loss of ours is {mine:g}, that of the peer {theirs:g}; they do not do the same.")
        optimiser = ours.to(device).optim_settings.build(ours, 1e-4, ours.no_weight_decay())
        shown = video.to(device)
        work = Job(ours, unlabelled(shown), optimiser, "32")
        taken = measure({"ours": work.step, "plain": partial(peer.to(device).step, shown)}, pairs, device)
        ratio = statistics.median(a / b for a, b in zip(taken["ours"], taken["plain"], strict=True))
        own, other = (statistics.median(values) for values in taken.values())
        rows[name] = {"ratio": ratio, "losses": [mine, theirs], "seconds": taken}
        print(f"{name:10} {own:8.3f} {other:8.3f} {ratio:7.3f} {difference:26.1e}", flush=True)
    print(f"medians of {pairs} pairs; networks of {share:g} of the published width, {batch} videos")
    if out is not None:
        about = {"share": share, "batch": batch, "side": side, "pairs": pairs} | machine(device)
        out.write_text(json.dumps(about | {"methods": rows}, indent=1))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
