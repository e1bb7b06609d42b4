"""Videos, and features of them."""

from pathlib import Path

import pytest
import torch

from datamodules.prepare.synthesise import write_videos
from tests.feature_map.collections import EVIL, NOISE, write_features


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight videos of 32 frames at 12 frames per second."""
    folder = tmp_path_factory.mktemp("videos")
    write_videos(folder / "motion", 6, 2, 32, 48)
    return folder


@pytest.fixture(scope="module")
def features(folder: Path) -> Path:
    """Features of them, and of a missing file with an unusual name."""
    videos = sorted(path.relative_to(folder / "motion") for path in (folder / "motion").rglob("*.mp4"))
    rows = [(str(path), path.parent.name) for path in videos]
    time = torch.tensor([[0.5, 1.5]]).expand(9, 2).contiguous()
    return write_features(folder / "all", NOISE, [*rows, (EVIL, "<b>")], folder / "motion", time=time)
