"""A folder of generated videos, and encoders for them."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from datamodules.prepare.synthesise import write_videos
from modules.convert.command import convert
from tests.embed.helpers import BROKEN
from tests.registry import FRAMES, SIDE, tiny_cnn, tiny_vit


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight intact videos of 32 frames at 12 frames per second, and a broken one."""
    folder = tmp_path_factory.mktemp("videos")
    write_videos(folder / "motion", 6, 2, 32, 48)
    (folder / "motion/train/down").mkdir(exist_ok=True)
    (folder / "motion" / BROKEN).write_bytes(b"no video")
    torch.manual_seed(0)
    for name, network in (("vit", tiny_vit()), ("cnn", tiny_cnn())):
        state = {f"backbone.{key}": value.contiguous() for key, value in network.state_dict().items()}
        save_file(state, folder / f"{name}.raw.safetensors")
        sizes = {"heads": 2, "image_size": SIDE, "num_frames": FRAMES, "stride": 3} if name == "vit" else {"num_frames": FRAMES}
        convert(folder / f"{name}.raw.safetensors", folder / f"{name}.safetensors", **sizes)  # type: ignore[arg-type]
    return folder
