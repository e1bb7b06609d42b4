"""Draws all streams of one generated clip together: several objects that move, hop, occlude each other and make sounds.

python benchmarks/world_pictures.py --out docs/streams
"""

import sys
from pathlib import Path

import torch
from jsonargparse import auto_cli

sys.path.insert(0, str(Path(__file__).parents[1]))

from callbacks.pictures import gif, png
from datamodules.generated.motion import SceneSettings, SyntheticMotion
from datamodules.video.sampling import ClipSettings
from modules.layers.drawing.sheet import film, sheet
from modules.scenes.senses import GeneratedSensor, GeneratedSound
from modules.scenes.streams import WorldStreams
from modules.scenes.world import WorldSettings

STREAMS = ("flow", "occlusion", "depth", "mask", "whole_mask", "track", "skeleton", "text")


def main(out: Path = Path("streams"), sample: int = 2, frames: int = 16, side: int = 64, frame_ms: int = 120) -> None:
    """Draw a sheet and a GIF.

    Args:
        out: files to write, without .png and .gif.
        sample: index of the validation clip.
        frames: frames of the clip, at 16 per second.
        side: side of the clip in pixels.
        frame_ms: milliseconds per frame of the GIF.
    """
    data = SyntheticMotion(
        ClipSettings(frames=frames, size=side),
        batch_size=1,
        train_videos=1,
        val_videos=sample + 1,
        scene=SceneSettings(backgrounds=["texture"]),
        world=WorldSettings(objects=3, smooth=True, contacts=True),
        streams=WorldStreams(**dict.fromkeys(STREAMS, True), sound=GeneratedSound(stereo=True), sensor=GeneratedSensor()),
    )
    batch = data.val_dataloader().read(0, [sample])
    moving = film(batch, frames=frames)
    for suffix, content in (("png", png(sheet(batch))), ("gif", gif(moving[None], frame_ms))):
        path = out.with_suffix(f".{suffix}")
        path.write_bytes(content)
        print(f"{path}: {len(content) / 1000:.0f} kB")


if __name__ == "__main__":
    torch.set_num_threads(1)
    auto_cli(main, as_positional=False)
