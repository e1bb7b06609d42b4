"""Trees of small video files."""

from pathlib import Path

import pytest

from tests.datamodules.sets.trees import put
from tests.datamodules.video_files import write_video


@pytest.fixture(scope="session")
def one_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "one.mp4", frames=40)


@pytest.fixture
def tree(tmp_path: Path, one_video: Path) -> Path:
    """Six training videos of three classes, three for validation."""
    for split, count in (("train", 6), ("val", 3)):
        for number in range(count):
            put(one_video, tmp_path / split / f"class {number % 3}" / f"{split}{number}.mp4")
    return tmp_path
