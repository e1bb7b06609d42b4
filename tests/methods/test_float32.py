"""Under bfloat16 autocast, pooled features, logits and cosines are in float32."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor

from datamodules.generated.motion import SyntheticMotion
from datamodules.video.sampling import ClipSettings
from modules.backbones.skeleton.gcn import AGCN
from modules.core.errors import SettingError
from modules.downstream.classification import Classification, HeadSettings
from modules.downstream.counting import RepetitionCounting
from modules.downstream.detection import ActionDetection
from modules.downstream.retrieval import NearestNeighbours
from modules.layers.heads import VideoClassifier
from modules.training.method import Method
from tests.registry import DOWNSTREAM, FRAMES, METHODS, OPTIM, SGD, SIDE, Case, tiny_cnn, tiny_locomotion, tiny_vit, video_batch


def low() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


def is_exact(found: Tensor) -> bool:
    """Whether values have more digits than bfloat16."""
    assert found.dtype == torch.float32
    return not torch.equal(found, found.bfloat16().float())


def video() -> Tensor:
    return torch.randn(2, 3, FRAMES, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


BACKBONES = {"cnn": tiny_cnn, "vit": tiny_vit, "beit": lambda: tiny_locomotion().backbone}


@pytest.mark.parametrize("mode", ["finetune", "linear", "attentive"])
@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_logits_of_a_classifier(name: str, mode: Any) -> None:
    torch.manual_seed(0)
    method = Classification(BACKBONES[name](), 400, mode, head=HeadSettings(std=0.1), optim=OPTIM).eval()
    with low():
        features = method.features(video())
        logits = method.logits(features)
    assert is_exact(logits)
    # Computations after the features equal those without autocast.
    assert torch.equal(logits, method.logits(features.float()))
    if mode != "attentive":
        assert is_exact(features)


@torch.no_grad()
def test_logits_of_the_network_of_official_files() -> None:
    network = VideoClassifier(tiny_vit(), 5, init_scale=1.0).eval()
    with low():
        assert is_exact(network(video()))


@pytest.mark.parametrize("build", [tiny_cnn, tiny_vit])
@torch.no_grad()
def test_scores_of_boxes_and_cycles(build: Callable[[], Any]) -> None:
    detection, counting = ActionDetection(build(), 5, optim=SGD).eval(), RepetitionCounting(build()).eval()
    boxes = torch.tensor([[0, 2.0, 3, 20, 30], [1, 0, 0, 32, 32]])
    with low():
        assert is_exact(detection.logits(video(), boxes))
        logits, cycles = counting(video())
    assert is_exact(logits)
    assert is_exact(cycles)
    plain, plain_cycles = counting(video())
    assert (logits - plain).abs().max() < 0.1
    assert logits.shape == plain.shape
    assert cycles.shape == plain_cycles.shape


@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_features_for_neighbours_and_probes(name: str) -> None:
    torch.manual_seed(0)
    for method in (NearestNeighbours(BACKBONES[name]()), Classification(BACKBONES[name](), 3, "linear", optim=OPTIM)):
        with low():
            assert is_exact(method.eval().embed(video_batch(2)))


@torch.no_grad()
def test_pooled_map_of_skeletons() -> None:
    torch.manual_seed(0)
    with low():
        assert is_exact(AGCN(8).eval()(torch.randn(2, 3, 8, 25, 2)))


@torch.no_grad()
def test_what_videos_and_sentences_are_compared_by() -> None:
    method = tiny_locomotion().eval()
    frames, sentences = torch.randn(2, 4, 32), torch.randn(3, 32)
    with low():
        found = method.project(frames, sentences)
    for one, plain in zip(found, method.project(frames, sentences), strict=True):
        assert is_exact(one)
        assert torch.equal(one, plain)


# --- Precision of a whole run ---


def trainer(folder: Path, precision: Any) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="cpu", devices=1, default_root_dir=folder, max_steps=1, limit_val_batches=1, num_sanity_val_steps=0,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, logger=False,
        use_distributed_sampler=False, precision=precision,
    )  # fmt: skip


@pytest.mark.parametrize("case", [case for case in METHODS + DOWNSTREAM if not case.variant], ids=lambda case: case.name)
def test_weights_in_half_precision_are_refused_in_one_sentence(case: Case, tmp_path: Path) -> None:
    method: Method = case.build()
    with pytest.raises(
        SettingError, match=r"^trainer\.precision is bf16-true, .* set it to bf16-mixed, .* or pass plugins=BFloat16Weights\(\)"
    ):
        trainer(tmp_path, "bf16-true").fit(method, datamodule=case.data(4, 8, 4))


def test_other_tasks_refuse_them_too(tmp_path: Path) -> None:
    data = SyntheticMotion(ClipSettings(frames=FRAMES, size=SIDE), 4, train_videos=4, val_videos=4)
    with pytest.raises(SettingError, match=r"^trainer\.precision is 64-true"):
        trainer(tmp_path, "64-true").test(NearestNeighbours(tiny_cnn()), datamodule=data)


def test_lightning_would_draw_random_numbers_in_half_precision(tmp_path: Path) -> None:
    """Why it is refused: two thirds of a mask's 1568 random numbers would be ties."""
    with trainer(tmp_path, "bf16-true").precision_plugin.forward_context():
        numbers = torch.rand(1568, generator=torch.Generator().manual_seed(0))
    assert numbers.dtype == torch.bfloat16
    assert len(numbers.unique()) < 600
