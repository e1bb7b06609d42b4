"""Two processes report the same accuracy as one, with every video counted once."""

from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.generated.motion import SyntheticMotion
from datamodules.video.sampling import ClipSettings
from modules.downstream.classification import Classification, HeadSettings
from tests.distributed.evaluation import by_two, trainer_for
from tests.registry import FRAMES, OPTIM, SIDE, tiny_vit

VIDEOS = 7


def measure(folder: Path, world: int) -> dict[str, Any]:
    torch.manual_seed(0)
    method = Classification(tiny_vit(), head=HeadSettings(std=1.0), optim=OPTIM)
    data = SyntheticMotion(ClipSettings(frames=FRAMES, size=SIDE, clips=2), 4, train_videos=8, val_videos=VIDEOS)
    (found,) = trainer_for(folder, world).test(method, datamodule=data, verbose=False)
    return {**found, **method.test_record}


@pytest.mark.slow
def test_each_video_counts_once_over_processes(tmp_path: Path) -> None:
    alone = measure(tmp_path, 1)
    assert alone["videos"] == VIDEOS
    for told in by_two(measure, tmp_path):
        assert told.keys() == alone.keys()
        for name, value in alone.items():
            assert told[name] == pytest.approx(value, rel=1e-6), name
