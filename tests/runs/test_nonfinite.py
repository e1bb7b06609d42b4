"""Steps with non-finite values are not learned from, are dumped, and can be repeated."""

import json
import math
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor, nn

from main import main
from modules.core.batch import Batch
from modules.core.errors import SettingError
from modules.core.output import StepOutput
from modules.runs.nonfinite import NonFiniteGuard
from modules.training.method import Method
from tests.registry import METHODS, OPTIM, Case
from tests.runs.test_cli import quick

everywhere = pytest.mark.parametrize("case", METHODS, ids=lambda case: case.name)


class Spoil(lightning.Callback):
    """Puts NaN into one gradient of some batches, and records the weights around every step."""

    def __init__(self, batches: set[int], value: float = math.nan) -> None:
        self.batches, self.value = batches, value
        self.weights: list[dict[str, Tensor]] = []

    @staticmethod
    def _copy(method: nn.Module) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in method.state_dict().items()}

    def on_train_start(self, trainer: lightning.Trainer, method: lightning.LightningModule) -> None:
        self.weights.append(self._copy(method))

    def on_after_backward(self, trainer: lightning.Trainer, method: lightning.LightningModule) -> None:
        if trainer.fit_loop.total_batch_idx in self.batches:
            trained = [value for value in method.parameters() if value.grad is not None]
            trained[-1].grad.view(-1)[0] = self.value  # type: ignore[union-attr]

    def on_train_batch_end(self, trainer: lightning.Trainer, method: lightning.LightningModule, *_: Any) -> None:
        self.weights.append(self._copy(method))

    def changed(self) -> list[bool]:
        """Whether each batch changed any tensor of the state."""
        pairs = zip(self.weights, self.weights[1:], strict=False)
        return [any(not torch.equal(one[name], other[name]) for name in one) for one, other in pairs]


class Lagging(NonFiniteGuard):
    """Checks only every few steps, as on a GPU."""

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._waits = False


def fit(
    method: Method, folder: Path, guard: NonFiniteGuard, spoil: Spoil, accumulate: int = 1, case: Case = METHODS[0]
) -> None:
    lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_val_batches=0,
        accumulate_grad_batches=accumulate,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        callbacks=[guard, spoil],
    ).fit(method, datamodule=case.data(batch_size=4, train=24, val=4))


@everywhere
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_skipped_step_changes_nothing_and_training_goes_on(case: Case, value: float, tmp_path: Path) -> None:
    spoil = Spoil({2}, value)
    with pytest.warns(UserWarning, match=r"Step 2 has a gradient that is not finite .* Steps skipped so far: 1 of at most 1"):
        fit(case.build(), tmp_path, NonFiniteGuard(max_skipped=1), spoil, case=case)
    assert spoil.changed() == [True, True, False, True, True, True]
    assert all(value.isfinite().all() for value in spoil.weights[-1].values())
    kept = torch.load(tmp_path / "nonfinite/step_00000002/weights.pt", weights_only=True)
    assert all(torch.equal(kept[name], value) for name, value in spoil.weights[2].items())


@everywhere
def test_one_step_too_many_ends_the_run(case: Case, tmp_path: Path) -> None:
    spoil = Spoil({1, 4})
    with pytest.raises(SettingError, match=r"Step 4 .* Steps skipped so far: 2, but NonFiniteGuard.max_skipped is 1"):
        fit(case.build(), tmp_path, NonFiniteGuard(max_skipped=1), spoil, case=case)
    assert {path.name for path in (tmp_path / "nonfinite").iterdir()} == {"step_00000001", "step_00000004"}


def test_accumulated_batches_are_one_step(tmp_path: Path) -> None:
    spoil = Spoil({2})
    fit(METHODS[0].build(), tmp_path, NonFiniteGuard(max_skipped=1), spoil, accumulate=2)
    assert spoil.changed() == [False, True, False, False, False, True]
    told = json.loads((tmp_path / "nonfinite/step_00000001/batches.rank0.json").read_text())
    assert [batch["batch_idx"] for batch in told] == [2, 3]
    assert all(len(batch["index"]) == 4 for batch in told)


def test_without_waiting_the_weights_are_held_until_the_next_look(tmp_path: Path) -> None:
    spoil = Spoil({1})
    with pytest.warns(UserWarning, match="Step 1 .* Steps skipped so far: 3 of at most 3"):
        fit(METHODS[0].build(), tmp_path, Lagging(max_skipped=3, every_n_steps=4), spoil)
    assert spoil.changed() == [True, False, False, False, True, True]
    kept = torch.load(tmp_path / "nonfinite/step_00000001/weights.pt", weights_only=True)
    assert all(torch.equal(kept[name], value) for name, value in spoil.weights[1].items())


def test_guard_changes_no_bit_of_a_healthy_run(tmp_path: Path) -> None:
    ends = []
    for guard in (NonFiniteGuard(), Lagging(), None):
        torch.manual_seed(0)
        spoil = Spoil(set())
        method = METHODS[1].build()
        if guard is None:
            # A callback without effect instead.
            fit(method, tmp_path, lightning.Callback(), spoil)  # type: ignore[arg-type]
        else:
            fit(method, tmp_path, guard, spoil)
        ends.append(spoil.weights[-1])
    assert all(torch.equal(ends[0][name], ends[1][name]) and torch.equal(ends[0][name], ends[2][name]) for name in ends[0])


class Remembering(Method):
    """Keeps running statistics, as batch norms and queues do; its loss is infinite for some rows, its gradient is not."""

    def __init__(self, bad_row: int) -> None:
        super().__init__(OPTIM)
        self.backbone = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
        self.bad_row = bad_row

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        clip = batch.stream("video").data[:, 0]
        loss = self.backbone(clip.float().mean((1, 2, 3)) / 255).square().mean()
        bad = (batch.index == self.bad_row).any()
        return {"loss": loss + torch.where(bad, math.inf, 0.0), "show": {"clip": clip}}


def test_buffers_are_restored_and_a_bad_loss_counts_without_a_bad_gradient(tmp_path: Path) -> None:
    torch.manual_seed(0)
    spoil = Spoil(set())
    fit(Remembering(bad_row=5), tmp_path, NonFiniteGuard(max_skipped=1), spoil)
    changed = spoil.changed()
    assert changed.count(False) == 1
    told = json.loads(next((tmp_path / "nonfinite").glob("*/batches.rank0.json")).read_text())
    assert told[0]["batch_idx"] == changed.index(False)
    assert 5 in told[0]["index"]
    assert math.isnan(told[0]["loss"])


def test_replay_repeats_the_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SettingError, match=r"Step 1 .*`python main.py replay --dump .*step_00000001`"):
        quick(tmp_path, "--model.optim.base_lr=1e25")
    dump = tmp_path / "nonfinite/step_00000001"
    main(["replay", f"--dump={dump}"])
    said = capsys.readouterr().out
    assert "batch 1 of epoch 0: loss nan, in the run nan: the same" in said
    assert "first output that is not finite: backbone.blocks.0" in said
    assert "(backbone.patch_embed.weight" in said
    # With finite weights, the same batch has a finite loss: the weights were the cause.
    weights = torch.load(dump / "weights.pt", weights_only=True)
    torch.save({name: torch.zeros_like(value) for name, value in weights.items()}, dump / "weights.pt")
    main(["replay", f"--dump={dump}"])
    said = capsys.readouterr().out
    assert "NOT the same" in said
    assert "gradients that are not finite: 0" in said


def test_replay_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"contains no config\.yaml; pass a folder nonfinite/step_<n> of a run"):
        main(["replay", f"--dump={tmp_path}"])
