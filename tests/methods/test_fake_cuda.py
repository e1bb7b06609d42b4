"""A step on a fake GPU: no host sync, and half precision where intended."""

import pytest
import torch
from torch import Tensor

from benchmarks.fake_cuda import step_cost
from modules.core.batch import Batch
from modules.core.output import StepOutput
from modules.methods.videomae import VideoMAE
from tests.registry import METHODS, Case, tiny_vit

FULL = ("modules/losses/", "modules/layers/heads.py", "modules/methods/sigma.py", "modules/augment/clip_pairs.py")
"""Lines with float32 matrix products: cosines and computations with them, and the blur of pixels."""


@pytest.mark.parametrize("case", METHODS, ids=lambda case: case.name)
def test_a_step_never_waits(case: Case) -> None:
    """No copies between host and device, and no value read by the host."""
    cost = step_cost(case.build(), case.batch())
    assert cost.ops.total() > 100
    assert cost.copies == []
    assert cost.waits == []
    assert [place for place in cost.full_products if not place.startswith(FULL)] == []


class Waits(VideoMAE):
    """Does what no step should do."""

    wrong: str

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        clip: Tensor = self.inputs(batch)
        if self.wrong == "copy":
            clip = clip * torch.tensor([0, 1, 1], device=clip.device)
        if self.wrong == "read":
            assert (clip > 0).any()
        if self.wrong == "index":
            clip = clip[torch.ones(len(clip), dtype=torch.bool, device=clip.device)]
        if self.wrong == "product":
            with torch.autocast("cuda", enabled=False):
                torch.ones(2, 2, device=clip.device) @ torch.ones(2, 2, device=clip.device)
        return super().step(batch, generator)


@pytest.mark.parametrize("wrong", ["copy", "read", "index", "product"])
def test_what_waits_is_seen(wrong: str) -> None:
    case = METHODS[0]
    usual = case.build()
    method = Waits(tiny_vit(), usual.target, usual.mask)  # type: ignore[arg-type]
    method.wrong = wrong
    if wrong in ("read", "index"):
        with pytest.raises(Exception, match=r"_local_scalar_dense|nonzero|data-dependent|index"):
            step_cost(method, case.batch())
        return
    cost = step_cost(method, case.batch())
    assert (len(cost.copies), len(cost.waits), len(cost.full_products)) == (int(wrong == "copy"), 0, int(wrong == "product"))
