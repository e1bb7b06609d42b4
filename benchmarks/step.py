"""How long a VideoMAE training step takes here, over the same step with `transformers`.

    python benchmarks/step.py                       # ViT-B, 16 x 224 x 224, batch 2, CPU or the first GPU
    python benchmarks/step.py --precision bf16      # under autocast
    python benchmarks/step.py --size small --batch 4

Both networks have the same sizes, see the same clips and masks and take the same AdamW step. Pairs are interleaved and
their order alternates, because a machine's speed drifts; the figure is the median over pairs of ours / theirs. Run it on
a quiet machine.
"""

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from jsonargparse import auto_cli
from torch import Tensor, nn

from modules.core.batch import unlabelled

sys.path.insert(0, str(Path(__file__).parents[1]))

from modules.backbones.vit.video_vit import VideoViT
from modules.core.preprocessing import IMAGENET
from modules.layers.targets import PixelTarget
from modules.masks.tokens import TubeMask
from modules.methods.videomae import VideoMAE
from modules.weights.sizes import PRESETS


def our_step(size: str, device: torch.device, ratio: float, clip: Tensor) -> tuple[Callable[[], None], torch.nn.Module]:
    """A training step of this project: normalise, mask, forward, loss, backward, AdamW."""
    method = VideoMAE(VideoViT(size), PixelTarget(), TubeMask(ratio)).to(device)  # type: ignore[arg-type]
    optimiser = torch.optim.AdamW(method.parameters(), lr=1e-4, fused=True)
    generator = torch.Generator(device).manual_seed(0)
    batch = unlabelled(clip[:, None])

    def step() -> None:
        loss = method.step(batch, generator)["loss"]
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step, method


def their_step(size: str, device: torch.device, ratio: float, clip: Tensor) -> Callable[[], None]:
    """The same step with `transformers.VideoMAEForPreTraining`, on normalised clips and boolean masks as it wants them."""
    from transformers import VideoMAEConfig, VideoMAEForPreTraining

    preset = PRESETS[size]
    config = VideoMAEConfig(
        hidden_size=preset.embed_dim,
        num_hidden_layers=preset.depth,
        num_attention_heads=preset.num_heads,
        intermediate_size=4 * preset.embed_dim,
        decoder_hidden_size=preset.embed_dim // 2,
        decoder_num_attention_heads=preset.num_heads // 2,
        decoder_intermediate_size=2 * preset.embed_dim,
        decoder_num_hidden_layers=4,
        norm_pix_loss=True,
    )
    network: nn.Module = VideoMAEForPreTraining(config)
    network.to(device)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    generator = torch.Generator(device).manual_seed(0)
    grid = VideoViT("micro", depth=1).grid

    def step() -> None:
        video = IMAGENET.apply(clip).transpose(1, 2)
        masked = TubeMask(ratio).draw(len(clip), grid, generator).targets
        hidden = torch.zeros(len(clip), grid.tokens, dtype=torch.bool, device=device).scatter_(1, masked, True)
        network(video, bool_masked_pos=hidden).loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def timed(step: Callable[[], None], device: torch.device, precision: str) -> float:
    """Seconds of one step."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main(
    size: Literal["micro", "tiny", "small", "base", "large"] = "base",
    batch: int = 2,
    pairs: int = 9,
    ratio: float = 0.9,
    precision: Literal["32", "bf16"] = "32",
    out: Path | None = None,
) -> None:
    """Compare training steps.

    Args:
        size: encoder preset.
        batch: clips per step.
        pairs: interleaved pairs to time, after one warm-up each.
        ratio: mask ratio.
        precision: float32, or bf16 under autocast.
        out: JSON file to write.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    clip = torch.randint(0, 256, (batch, 16, 224, 224, 3), dtype=torch.uint8, device=device)
    ours, _ = our_step(size, device, ratio, clip)
    theirs = their_step(size, device, ratio, clip)
    for step in (ours, theirs):
        timed(step, device, precision)
    rows = []
    print(f"{'pair':>4} {'ours s':>9} {'theirs s':>9} {'ratio':>7}")
    for pair in range(pairs):
        order = (ours, theirs) if pair % 2 == 0 else (theirs, ours)
        seconds = {step: timed(step, device, precision) for step in order}
        rows.append((seconds[ours], seconds[theirs]))
        print(f"{pair:>4} {rows[-1][0]:>9.3f} {rows[-1][1]:>9.3f} {rows[-1][0] / rows[-1][1]:>7.3f}", flush=True)
    median = statistics.median(a / b for a, b in rows)
    machine = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.processor() or platform.machine()}"
    print(
        f"median of {pairs} pairs: ours / transformers = {median:.3f} "
        f"(ViT-{size}, batch {batch}, {precision}, {machine}, {torch.get_num_threads()} threads)"
    )
    if out is not None:
        result = {"median_ratio": median, "pairs": rows, "size": size, "batch": batch, "precision": precision}
        out.write_text(json.dumps(result | {"machine": machine, "threads": torch.get_num_threads()}, indent=1))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
