"""Speed of BiGRU compared with the official implementation of the same network.

    python benchmarks/gru.py                  # published size, batch 8, CPU or the first GPU
    python benchmarks/gru.py --batch 64

The official network feeds a bidirectional GRU one frame at a time, appends each output to the earlier ones and uses the last
of every clip; ours runs each layer over the whole sequence. Both have the same weights and give the same features. Forward
and backward passes are timed in turns on the same clips, in changing order; the figure is the median over pairs of theirs /
ours. With larger batches, reading the weights once per frame takes a smaller part of the time, so the gain on a CPU is smaller.
Run it on a quiet machine.
"""

import json
import platform
import statistics
import sys
from pathlib import Path

import torch
from jsonargparse import auto_cli
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.pairs import seconds
from modules.backbones.skeleton.base import JOINTS, PERSONS
from modules.backbones.skeleton.gru import BiGRU, to_sequence
from modules.weights.names.skeleton_contrast import gru_to_official


class StepByStep(nn.Module):
    """The official implementation, with the weights of ours.

    Args:
        network: network whose weights are copied.
    """

    def __init__(self, network: BiGRU) -> None:
        super().__init__()
        hidden, layers = network.embed_dim // 2, len(network.first)
        self.gru = nn.GRU(JOINTS * 3 * PERSONS, hidden, layers, batch_first=True, bidirectional=True)
        official = gru_to_official(network.state_dict())
        self.gru.load_state_dict({key.removeprefix("encoder.gru."): value for key, value in official.items()})

    def forward(self, skeleton: Tensor) -> Tensor:
        """float [B, 3, T, J, M] -> [B, D]"""
        frames = to_sequence(skeleton).split(1, dim=1)
        outputs, state = self.gru(frames[0])
        for frame in frames[1:]:
            output, state = self.gru(frame, state)
            outputs = torch.cat([outputs, output], dim=1)
        return torch.stack([clip[-1] for clip in outputs])


def main(
    batch: int = 8, frames: int = 64, hidden: int = 1024, layers: int = 3, pairs: int = 7, out: Path | None = None
) -> None:
    """Time both forms.

    Args:
        batch: clips per pass.
        frames: frames per clip.
        hidden: length of a state of each GRU.
        layers: layers of two GRUs.
        pairs: measurements of each, after a warm-up.
        out: JSON file to write.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ours = BiGRU(hidden, layers).to(device)
    theirs = StepByStep(ours).to(device)
    clips = torch.randn(batch, 3, frames, JOINTS, PERSONS, device=device)
    with torch.no_grad():
        difference = float((ours(clips) - theirs(clips)).abs().max())
    taken: dict[str, list[float]] = {"ours": [], "theirs": []}

    def measure(name: str, network: nn.Module) -> None:
        network.zero_grad()
        taken[name].append(seconds(lambda: network(clips).square().mean().backward(), device))

    for number in range(pairs + 1):
        both = [("ours", ours), ("theirs", theirs)]
        for name, network in both if number % 2 else reversed(both):
            measure(name, network)
    ratios = [theirs / ours for ours, theirs in zip(taken["ours"][1:], taken["theirs"][1:], strict=True)]
    ratio = statistics.median(ratios)
    mine, other = (1e3 * statistics.median(taken[name][1:]) for name in ("ours", "theirs"))
    print(f"{batch} clips of {frames} frames, {layers} layers of 2 x {hidden}, forward and backward, on {device.type}:")
    print(f"ours {mine:.0f} ms, step by step {other:.0f} ms; median of {pairs} pairs: {ratio:.2f} times as fast")
    print(f"largest difference of a feature: {difference:.1e}")
    if out is not None:
        machine = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
        about = {"batch": batch, "frames": frames, "hidden": hidden, "layers": layers, "machine": machine}
        about |= {"threads": torch.get_num_threads(), "difference": difference}
        out.write_text(json.dumps({"ratio": ratio, "ratios": ratios, "seconds": taken} | about, indent=1))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
