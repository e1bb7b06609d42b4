"""Reported values are not computed in TF32, even if training is."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from callbacks import OnlineLinear
from modules.downstream.metrics.probes import knn_accuracy, linear_accuracy, nearest
from modules.downstream.retrieval import neighbour_scores
from modules.downstream.video_text_retrieval import Known, Sentences, VideoTextRetrieval
from modules.layers.heads import linear_in_float32
from tests.callbacks.runs import Oracle, data, fit

HAS_PARTS = hasattr(torch.backends.mkldnn, "matmul")
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv")


def precisions() -> set[str]:
    """The current precision of float32 products, by library."""
    if HAS_PARTS:
        return {torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision}
    return {torch.get_float32_matmul_precision()}


EXACT, TRAINING = ({"ieee"}, {"tf32"}) if HAS_PARTS else ({"highest"}, {"high"})


class Products(TorchDispatchMode):
    """Records precision and data type of every float32 product."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[set[str], torch.dtype]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name.removeprefix("aten::") in PRODUCTS:
            self.seen.append((precisions(), args[0].dtype))
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def _as_the_command_line_has_it() -> Iterator[None]:
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision("highest")


def rows(count: int, seed: int) -> Tensor:
    """Features with a mean much larger than their spread."""
    return 100 + torch.randn(count, 16, generator=torch.Generator().manual_seed(seed))


def watched(run: Callable[[], Any]) -> list[tuple[set[str], torch.dtype]]:
    with Products() as products:
        run()
    assert precisions() == TRAINING
    return products.seen


def probe_of_wide_features() -> None:
    # Enough features to be fitted in single precision.
    label = torch.arange(400) % 2
    x = torch.randn(400, 10_001, generator=torch.Generator().manual_seed(0))
    linear_accuracy(x, label, x[:8], label[:8], iterations=2)


@pytest.mark.parametrize(
    "run",
    [
        lambda: nearest(rows(30, 0), rows(9, 1), 3),
        lambda: knn_accuracy(rows(30, 0), torch.arange(30) % 3, rows(9, 1), torch.arange(9) % 3),
        lambda: neighbour_scores(rows(30, 0), torch.arange(30) % 3, rows(9, 1), torch.arange(9) % 3, [1], [1], 0.07),
        probe_of_wide_features,
        lambda: linear_in_float32(nn.Linear(16, 3), rows(4, 0)),
    ],
    ids=["nearest", "kNN", "retrieval", "linear", "classifier"],
)
@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
def test_neighbours_and_probes_have_all_digits(run: Callable[[], Any], autocast: bool) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        seen = watched(run)
    assert seen
    assert all(precision == EXACT and dtype == torch.float32 for precision, dtype in seen)


def test_cosines_of_videos_and_sentences_have_all_digits() -> None:
    known = [Known(number, [], None, rows(4, number), None) for number in range(3)]
    method: Any = SimpleNamespace(device=torch.device("cpu"), vote="mean", _known=known, _join=lambda found: found)
    sentences = Sentences([], torch.empty(0), torch.empty(0), rows(5, 9))
    seen = watched(lambda: VideoTextRetrieval._compare(method, sentences))
    assert seen
    assert all(precision == EXACT for precision, _ in seen)


def test_online_linear_probe_has_all_digits(tmp_path: Path) -> None:
    seen = watched(lambda: fit(Oracle(), tmp_path, [OnlineLinear()], data(), epochs=1))
    # The method itself has no product; the probe learns and is read.
    assert len(seen) > 3
    assert all(precision == EXACT for precision, _ in seen)


def test_precision_is_what_it_was_after_an_error() -> None:
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        nearest(rows(4, 0), rows(3, 0)[:, :2], 1)
    assert precisions() == TRAINING


@pytest.mark.skipif(not HAS_PARTS, reason="PyTorch before 2.9 has one setting for all libraries")
def test_settings_that_differ_are_kept() -> None:
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    nearest(rows(4, 0), rows(3, 0), 1)
    assert torch.backends.cuda.matmul.fp32_precision == "ieee"
    assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
