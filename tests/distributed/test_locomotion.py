"""Contrast of videos and sentences in two real processes equals one process with the joined batch."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from modules.backbones.text.bert import TextSettings
from modules.backbones.vit.beit_video import BEiTVideo
from modules.language.tokenizers import TokenizerSettings
from modules.losses.video_text import GatherGradient, TextContrastSettings
from modules.methods.locomotion import LocoMotion, LossSettings
from tests.registry import FRAMES, SIDE, rows_of, video_batch, with_sentences
from tests.resume.runs import as_torchrun_does, together

WORLD, BATCH = 2, 3
JOINED = WORLD * BATCH
GRADIENTS: tuple[GatherGradient, ...] = ("true", "vindlu")
CAPTIONS = ["a red tee moves up", "a cup falls", "a flag moves to the right", "a red tee rises", "a cup spins", "a star grows"]
SIGNATURES = torch.tensor([4, 1, 7, 4, 2, 3])


class Contrasting(nn.Module):
    """LocoMotion with its contrastive loss only, on some rows of one batch."""

    def __init__(self, gradient: GatherGradient) -> None:
        super().__init__()
        torch.manual_seed(0)
        backbone = BEiTVideo("micro", SIDE, FRAMES, patch_size=8, embed_dim=32, depth=1, num_heads=2, drop_path=0)
        text = TextSettings(32, 2, 1, 2, mlp_ratio=2, positions=16, dropout=0)
        tokenizer, alone = TokenizerSettings(max_tokens=16), {"losses": LossSettings(0, 0), "paste": None}
        self.method = LocoMotion(backbone, text, tokenizer, contrast=TextContrastSettings(8, gather_gradient=gradient), **alone)

    def forward(self, rows: slice) -> Tensor:
        batch = with_sentences(rows_of(video_batch(JOINED), rows), CAPTIONS[rows])
        batch.extra["signature"] = SIGNATURES[rows]
        return self.method.step(batch, torch.Generator().manual_seed(1))["loss"]


def run(module: nn.Module, contrasting: Contrasting, rows: slice) -> dict[str, Any]:
    """Loss and gradients with those rows of the joined batch."""
    loss = module(rows)
    loss.backward()
    gradients = {name: value.grad for name, value in contrasting.method.named_parameters() if value.grad is not None}
    return {"loss": loss.detach(), "gradients": gradients}


def one_process(folder: Path, rank: int, port: int) -> None:
    """One of two processes."""
    torch.set_num_threads(1)
    os.environ |= as_torchrun_does(rank, WORLD, port)
    distributed.init_process_group("gloo")
    rows, found = slice(rank * BATCH, (rank + 1) * BATCH), {}
    for gradient in GRADIENTS:
        contrasting = Contrasting(gradient)
        found[gradient] = run(DistributedDataParallel(contrasting), contrasting, rows)
    torch.save(found, folder / f"rank{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Records of both processes."""
    folder = tmp_path_factory.mktemp("video_text")
    assert together(one_process, [(folder,)] * WORLD) == [0] * WORLD
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(WORLD)]


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_two_processes_equal_one_with_the_joined_batch(gradient: GatherGradient, told: list[dict[str, Any]]) -> None:
    contrasting = Contrasting(gradient)
    joined = run(contrasting, contrasting, slice(None))
    towers = {name.split(".")[0] for name in joined["gradients"]}
    assert towers == {"temperature", "backbone", "text", "video_projection", "text_projection"}
    for process in told:
        assert torch.allclose(process[gradient]["loss"], joined["loss"], rtol=1e-5)
        assert process[gradient]["gradients"].keys() == joined["gradients"].keys()
        for name, value in joined["gradients"].items():
            # With the official gather, weights get a fraction of the gradient, but the temperature, which is not gathered, all
            # of it.
            share = 1 / WORLD if gradient == "vindlu" and name != "temperature" else 1
            close = 1e-5 * float(value.abs().max()) + 1e-8
            assert torch.allclose(process[gradient]["gradients"][name], share * value, rtol=0, atol=close), name
