"""Two processes encode each video once, score their own videos, and report the same as one."""

from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.generated.motion import SyntheticMotion
from modules.core.batch import Batch
from modules.downstream.video_text_retrieval import RerankSettings, VideoTextRetrieval
from tests.distributed.evaluation import by_two, trainer_for
from tests.downstream.test_video_text_retrieval import motion, tiny

PAIRS = 3


class Odd(SyntheticMotion):
    """Five test clips, which cannot be divided equally between two processes."""

    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        pool = self._pools["test"]
        pool.video = pool.video[: 2 * PAIRS - 1]


def measure(folder: Path, world: int) -> dict[str, Any]:
    method, data = tiny(rerank=RerankSettings(2, 3)), motion(PAIRS)
    data.__class__ = Odd
    encoded: list[int] = []
    see = VideoTextRetrieval.see

    def note(batch: Batch) -> Any:
        encoded.extend(batch.index.tolist())
        return see(method, batch)

    method.see = note  # type: ignore[method-assign]
    (found,) = trainer_for(folder, world).test(method, datamodule=data, verbose=False)
    assert method.retrieved is not None
    scores = {"v2t": method.retrieved.video_to_text, "t2v": method.retrieved.text_to_video}
    return {"found": found, "record": method.test_record, "texts": method.retrieved.texts, "encoded": encoded, **scores}


@pytest.mark.slow
def test_each_video_is_encoded_once_over_processes(tmp_path: Path) -> None:
    alone = measure(tmp_path, 1)
    assert alone["record"]["videos"] == 2 * PAIRS - 1
    told = by_two(measure, tmp_path)
    assert sorted(told[0]["encoded"] + told[1]["encoded"]) == alone["encoded"] == list(range(2 * PAIRS - 1))
    for one in told:
        assert one["record"] == alone["record"]
        assert one["texts"] == alone["texts"]
        assert one["found"] == pytest.approx(alone["found"])
        for way in ("v2t", "t2v"):
            assert torch.allclose(one[way], alone[way], atol=1e-4), way
