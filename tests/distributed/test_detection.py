"""Two processes report the same frame mAP as one, with every key frame counted once."""

from pathlib import Path
from typing import Any

import pytest
import torch

from modules.downstream.detection import ActionDetection
from tests.datamodules.sets.ava_files import small_ava, write_ava
from tests.distributed.evaluation import by_two, trainer_for
from tests.registry import SGD, tiny_cnn


def measure(folder: Path, world: int) -> dict[str, Any]:
    torch.manual_seed(0)
    method = ActionDetection(tiny_cnn(), optim=SGD)
    (found,) = trainer_for(folder, world).test(
        method, datamodule=small_ava(folder / "ava", benchmark="true_boxes"), verbose=False
    )
    return {**found, **method.test_record}


@pytest.mark.slow
def test_each_key_frame_counts_once_over_processes(tmp_path: Path) -> None:
    write_ava(tmp_path / "ava")
    # Three key frames, so that one process has two; one of them cannot be read.
    (tmp_path / "ava/val2.mkv").unlink()
    (tmp_path / "ava/val2.mkv").write_bytes(b"broken")
    alone = measure(tmp_path, 1)
    assert (alone["key_frames"], alone["missed"], alone["boxes"]) == (2, [2], 3)
    for told in by_two(measure, tmp_path):
        for name, value in alone["average_precision"].items():
            assert told["average_precision"][name] == (value if value is None else pytest.approx(value, rel=1e-6)), name
        assert told["test/map"] == pytest.approx(alone["test/map"], rel=1e-6)
        assert (told["key_frames"], told["missed"], told["boxes"]) == (2, [2], 3)
