"""Counting of repetitions: the walk over states, training with several steps per batch, and results."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import yaml
from torch import Tensor

from benchmarks.counting import count_slowly, guessing
from benchmarks.fake_cuda import step_cost
from callbacks import Pictures
from datamodules import SyntheticRepetitions, UCFRep, VideoFolder
from datamodules.settings import LoadSettings, ReadSettings
from datamodules.video.sampling import ClipSettings
from main import main
from modules.core.batch import Batch, Stream
from modules.core.errors import SettingError
from modules.core.preprocessing import IMAGENET_MEAN
from modules.downstream.counting import RepetitionCounting, cycle_loss, draw_cycles
from modules.downstream.cycles import SAME, CycleTargets, anchors, count_cycles, cycle_targets, first_states
from modules.runs.last_checkpoint import LAST, LastCheckpoint
from modules.runs.nonfinite import NonFiniteGuard
from modules.training.optim import AdamSettings
from tests.datamodules.sets.repetitions import write_ucfrep
from tests.distributed.evaluation import by_two
from tests.registry import SIDE, tiny_cnn, tiny_vit
from tests.resume.bits import differences

ROOT = Path(__file__).parents[2]
STEPS = 3


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ucfrep(tmp_path_factory.mktemp("ucfrep"), train=4)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Clips are tiny, and evaluation takes many: threads that block each other cost most of the time on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def counting() -> RepetitionCounting:
    torch.manual_seed(0)
    return RepetitionCounting(tiny_vit(), STEPS, optim=AdamSettings(1e-3, milestones=[]))


def data(root: Path) -> UCFRep:
    clip = ClipSettings(frames=20, size=32)
    return UCFRep(str(root), clip=clip, segments=2, batch_size=4, reading=ReadSettings(0), seed=1)


def one_batch(root: Path) -> dict[str, Any]:
    source = data(root)
    source.setup("fit")
    return next(iter(source.train_dataloader()))


def trainer(folder: Path, **settings: Any) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
        default_root_dir=folder, num_sanity_val_steps=0, **{"max_epochs": 2, "devices": 1} | settings,
    )  # fmt: skip


# --- The walk ---


def seeing(period: float) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """A network that knows the length of all cycles."""

    def answer(states: Tensor) -> tuple[Tensor, Tensor]:
        left, middle, right = states.unbind(-1)
        proposed = torch.stack([middle - left + 1, right - middle], -1)[..., None].clamp_min(1e-9) * anchors(states)
        return torch.minimum(proposed, period / proposed * period), (period / proposed).log()

    return answer


@pytest.mark.parametrize(("frames", "period"), [(60, 10), (300, 20), (84, 21), (200, 50), (583, 12.5), (97, 9.7)])
def test_true_lengths_give_the_true_count(frames: int, period: float) -> None:
    counted = count_cycles(seeing(period), torch.tensor([frames]))
    assert counted.counts.item() == pytest.approx(frames / period, rel=0.08)
    left, middle, right = counted.states[counted.inside].unbind(-1)
    assert ((middle - left + 1 - period).abs() <= 2).all()
    assert ((right - middle - period).abs() <= 2).all()


def test_counting_all_at_once_equals_the_walk() -> None:
    frames = [17, 24, 31, 40, 57, 64, 93, 120, 151, 200, 333, 584]
    counted = count_cycles(guessing, torch.tensor(frames))
    expected = [count_slowly(guessing, number) for number in frames]
    assert counted.counts.tolist() == pytest.approx(expected, rel=1e-12)
    # Not all of them by the way out for videos without any usable point.
    assert counted.inside.any(1).sum() >= 6
    assert len({round(value, 3) for value in expected}) >= 10


def test_first_states_lie_in_the_clip() -> None:
    generator = torch.Generator().manual_seed(0)
    length = torch.randint(8, 301, (4000,), generator=generator)
    count = torch.randint(2, 20, (4000,), generator=generator).clamp_max(length // 4)
    label = torch.where(torch.rand(4000, generator=generator) < 0.3, -1, length // count)
    left, middle, right = first_states(length, count, label, generator).unbind(-1)
    assert (left >= 0).all()
    assert (left <= middle).all()
    assert (right == 2 * middle - left + 1).all()
    assert (right < length).all()
    # Lengths around the true one, and quite other ones.
    ratio = (middle - left + 1) / (length / count)
    assert 0.1 < (ratio - 1).abs().lt(0.05).float().mean() < 0.5
    assert (ratio < 0.6).float().mean() > 0.05
    assert (ratio > 1.6).float().mean() > 0.05


def test_anchors_of_half_the_length_are_positive_and_unknown_ones_are_left_out() -> None:
    targets = cycle_targets(torch.tensor([15, 15, -1]), torch.tensor([16.0, 8.0, 16.0], dtype=torch.float64))
    assert targets.positive.tolist() == [[1] * 7, [0, 0, 0, 1, 1, 1, 1], [-1] * 7]
    assert targets.box[0, SAME] == 0
    assert targets.box[1, 3].item() == pytest.approx(math.log(2))
    assert not targets.box[2].any()


def test_loss_of_known_cycles_alone() -> None:
    logits, box = torch.randn(2, 2, 2, 7, requires_grad=True), torch.randn(2, 2, 7, requires_grad=True)
    known = CycleTargets(torch.tensor([[1, 1, 0, 0, 0, 0, 0], [-1] * 7]), torch.full((2, 7), 0.3, dtype=torch.float64))
    unknown = CycleTargets(torch.full((2, 7), -1), torch.zeros(2, 7, dtype=torch.float64))
    cls_loss, box_loss = cycle_loss(logits, box, (known, unknown))
    log = logits[0, 0].log_softmax(0)
    assert cls_loss.item() == pytest.approx(-(log[1, :2].sum() + log[0, 2:].sum()).item() / 7, rel=1e-5)
    off = (box[0, 0, :2] - 0.3).abs()
    expected = torch.where(off < 1, 0.5 * off**2, off - 0.5).sum() / 14
    assert box_loss.item() == pytest.approx(expected.item(), rel=1e-5)
    (cls_loss + box_loss).backward()
    assert logits.grad is not None
    assert logits.grad[0, 0].ne(0).all()
    assert not logits.grad[1].any()
    assert not logits.grad[:, 1].any()


def test_frames_outside_a_video_are_the_mean_after_normalisation() -> None:
    method = RepetitionCounting(tiny_cnn())
    video = torch.full((1, 12, 16, 16, 3), 255, dtype=torch.uint8)
    clips, outside = method.cut(video, torch.tensor([10]), torch.tensor([[[0.0, 4, 9]]], dtype=torch.float64))
    prepared = method.prepare(clips, outside)
    assert outside.any()
    assert not outside.all()
    for channel, mean in enumerate(IMAGENET_MEAN):
        assert prepared[0, channel, outside[0]].eq(torch.tensor(mean)).all()
        assert prepared[0, channel, ~outside[0]].gt(2).all()


# --- Training ---


def test_several_steps_per_batch_that_move_on(root: Path, tmp_path: Path) -> None:
    class Noting(RepetitionCounting):
        """Keeps the states of all steps."""

        noted: list[Tensor] = []  # noqa: RUF012

        def step(self, batch: Any, generator: torch.Generator) -> Any:
            output = super().step(batch, generator)
            self.noted.append(self._shown[2])
            return output

    torch.manual_seed(0)
    method = Noting(tiny_vit(), STEPS, optim=AdamSettings(1e-3, milestones=[]))
    before = {name: value.clone() for name, value in method.named_parameters()}
    run = trainer(tmp_path, max_steps=1, limit_val_batches=0, callbacks=[Pictures(), NonFiniteGuard()])
    run.fit(method, datamodule=data(root))
    assert run.global_step == 1
    (steps,) = {int(state["step"]) for state in run.optimizers[0].state.values()}
    assert steps == STEPS
    assert len(method.noted) == STEPS
    assert not torch.equal(method.noted[0], method.noted[1])
    for one, other in zip(method.noted, method.noted[1:], strict=False):
        # A clip of 12 to 20 frames moves on by at most a fifth, or starts again.
        step = other[:, 1] - one[:, 1]
        assert ((step >= 1) & (step <= 4) | (other[:, 2] == 2 * other[:, 1] - other[:, 0] + 1)).all()
    assert all(not torch.equal(before[name], value) for name, value in method.named_parameters())
    names = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert {"0000001_clip.png", "0000001_clip_video.gif", "0000001_cycles.png"} <= names


def test_a_loss_that_is_no_number_in_the_middle_of_a_batch_spoils_nothing(root: Path, tmp_path: Path) -> None:
    class Failing(RepetitionCounting):
        """Fails at the second step."""

        def step(self, batch: Any, generator: torch.Generator) -> Any:
            output = super().step(batch, generator)
            assert self._walk is not None
            return output | {"loss": output["loss"] * (math.nan if self._walk.number == 1 else 1)}

    torch.manual_seed(0)
    method = Failing(tiny_vit(), STEPS, optim=AdamSettings(1e-3, milestones=[]))
    before = method.fc_cls_1.bias.detach().clone()
    with pytest.raises(SettingError, match=r"Step 0 has a gradient that is not finite .*Steps skipped so far: 2"):
        trainer(tmp_path, limit_val_batches=0, callbacks=[NonFiniteGuard()]).fit(method, datamodule=data(root))
    # The first step counts, and those from the bad one on do not.
    assert (method.fc_cls_1.bias - before).abs().max() <= 1.01e-3
    assert not torch.equal(method.fc_cls_1.bias, before)
    assert all(value.isfinite().all() for value in method.parameters())


def test_a_step_is_a_function_of_weights_batch_and_generator(root: Path) -> None:
    method, batch = counting().eval(), one_batch(root)
    losses = [method.step(batch, torch.Generator().manual_seed(seed))["loss"].item() for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    output = method.step(batch, torch.Generator().manual_seed(0))
    output["loss"].backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in method.parameters())
    assert output["show"]["clip"].shape == (4, 4, 32, 32, 3)
    assert method.embed(batch).shape == (4, 32)


def test_a_run_that_goes_on_equals_one_that_was_not_stopped(root: Path, tmp_path: Path) -> None:
    class Stop(lightning.Callback):
        """Ends the run in the middle of an epoch."""

        def on_train_batch_end(self, trainer: lightning.Trainer, *_: object) -> None:
            if trainer.global_step == 1:
                trainer.save_checkpoint(tmp_path / "middle.ckpt")

    settings = {"limit_val_batches": 0}
    trainer(tmp_path / "whole", callbacks=[LastCheckpoint(), Stop()], **settings).fit(counting(), datamodule=data(root))
    again = trainer(tmp_path / "again", callbacks=[LastCheckpoint()], **settings)
    again.fit(counting(), datamodule=data(root), ckpt_path=tmp_path / "middle.ckpt", weights_only=True)
    assert again.global_step == 4
    whole, other = (torch.load(tmp_path / name / LAST, weights_only=True) for name in ("whole", "again"))
    for part in ("state_dict", "optimizer_states"):
        assert differences(whole[part], other[part]) == []


def test_pictures_show_borders_and_cycles() -> None:
    states = torch.tensor([[0.0, 3, 7]], dtype=torch.float64)
    strip = draw_cycles(torch.tensor([9]), torch.tensor([[0, 4, 8, -1]]), states, states + 1)
    assert strip.shape == (1, 1, 24, 9, 3)
    green, yellow, red = strip[0, 0, 0], strip[0, 0, 8], strip[0, 0, 16]
    assert [place for place in range(9) if green[place, 0] == 0] == [0, 4, 8]
    assert [place for place in range(9) if yellow[place, 0] == 255] == [0, 3, 7]
    assert [place for place in range(9) if red[place, 0] == 230] == [1, 4, 8]


# --- Results ---


def test_the_recipe_goes_from_official_files_to_a_file_of_results(root: Path, tmp_path: Path) -> None:
    words = ["--config", str(ROOT / "configs/counting/ucfrep.yaml"), f"--data.root={root}", "--data.reading.num_workers=0"]
    words += ["--data.batch_size=4", "--data.segments=1", "--data.clip.size=16", "--model.backbone.width=2"]
    words += ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.max_epochs=1", "--model.steps_per_batch=2"]
    words += ["--trainer.num_sanity_val_steps=0"]
    main(["fit", *words, "--trainer.enable_progress_bar=false", f"--trainer.default_root_dir={tmp_path}"])
    (path,) = (tmp_path / "results").glob("ucfrep_counting-*.json")
    result = json.loads(path.read_text())
    assert result["metrics"].keys() == {f"test/{name}" for name in ("MAE", "MAE_std", "MAE_over", "MAE_under", "OBO")}
    assert (result["videos"], result["missed"], result["data"]) == (3, [], "UCFRep")
    off = [round(entry["predicted"]) - entry["true"] for entry in result["counts"].values()]
    true = [entry["true"] for entry in result["counts"].values()]
    assert sorted(true) == [3, 3, 4]
    assert result["metrics"]["test/MAE"] == pytest.approx(sum(abs(a) / b for a, b in zip(off, true, strict=True)) / 3)
    assert result["metrics"]["test/OBO"] == pytest.approx(sum(abs(value) <= 1 for value in off) / 3)
    head = (ROOT / "configs/counting/ucfrep.yaml").read_text().split("seed_everything")[0]
    assert "paper" in head
    assert "python main.py fit" in head


ENCODERS = {
    "vit": {"class_path": "VideoViT", "init_args": {"depth": 1}},
    "cnn": {"class_path": "VideoResNet", "init_args": {"name": "r3d_18", "width": 2}},
}


@pytest.mark.parametrize("kind", ENCODERS)
def test_the_recipe_of_mini_severe_takes_both_kinds_of_encoders(kind: str, tmp_path: Path) -> None:
    recipe, encoder = ROOT / "configs/severe/mini/counting.yaml", tmp_path / "encoder.yaml"
    encoder.write_text(yaml.safe_dump({"model": {"init_args": {"backbone": ENCODERS[kind]}}}))
    words = ["--config", str(recipe), "--config", str(encoder), f"--trainer.default_root_dir={tmp_path}"]
    words += ["--data.batch_size=2", "--data.train_videos=2", "--data.val_videos=2", "--model.steps_per_batch=2"]
    main(["fit", *words, "--trainer.enable_progress_bar=false"])
    (path,) = (tmp_path / "results").glob("*_severe_mini-*.json")
    result = json.loads(path.read_text())
    assert {"test/MAE", "test/OBO"} <= result["metrics"].keys()
    assert (result["videos"], result["missed"]) == (2, [])
    off = [abs(round(entry["predicted"]) - entry["true"]) / entry["true"] for entry in result["counts"].values()]
    assert result["metrics"]["test/MAE"] == pytest.approx(sum(off) / 2)


def test_a_frozen_encoder_stays_as_it_is(tmp_path: Path) -> None:
    torch.manual_seed(0)
    method = RepetitionCounting(tiny_cnn(), STEPS, frozen=True, frames=8, optim=AdamSettings(1e-2, milestones=[]))
    before = {name: value.clone() for name, value in method.state_dict().items()}
    source = SyntheticRepetitions(ClipSettings(frames=60, size=32), 2, LoadSettings(0), train_videos=4, val_videos=2)
    run = trainer(tmp_path, limit_val_batches=0, max_epochs=1)
    run.fit(method, datamodule=source)
    assert run.global_step == 2
    assert method.fc_box_1.training
    assert not any(part.training for part in method.backbone.modules())
    assert all(value.grad is None for value in method.backbone.parameters())
    # Running means of batch normalisation, too.
    changed = {name.split(".")[0] for name, value in method.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"fc_cls_1", "fc_box_1", "fc_cls_2", "fc_box_2", "standardise"}


def test_videos_that_cannot_be_read_are_missed(tmp_path: Path) -> None:
    folder = write_ucfrep(tmp_path, train=4)
    next(folder.glob("*/*_g06_c01.mp4")).write_bytes(b"no video")
    method = counting()
    trainer(tmp_path / "run").test(method, datamodule=data(folder), verbose=False)
    assert method.test_record["videos"] == 2
    assert method.test_record["missed"] == [0]
    assert len(method.test_record["counts"]) == 2


def test_wrong_settings_give_one_sentence(root: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"model\.steps_per_batch is 0; set it to 1 or more"):
        RepetitionCounting(tiny_cnn(), 0)
    with pytest.raises(SettingError, match=r"model\.frames is 5; counting needs an even number"):
        RepetitionCounting(tiny_cnn(), frames=5)
    with pytest.raises(SettingError, match=r"model\.frames is 8 but model\.backbone\.num_frames is 4; make them equal"):
        RepetitionCounting(tiny_vit(), frames=8)
    with pytest.raises(SettingError, match=r"accumulate_grad_batches must be 1"):
        trainer(tmp_path, accumulate_grad_batches=2).fit(counting(), datamodule=data(root))
    with pytest.raises(SettingError, match=r"data\.clip\.size is 16 but model\.backbone\.image_size is 32"):
        trainer(tmp_path).fit(counting(), datamodule=UCFRep(str(root), clip=ClipSettings(size=16), batch_size=4))
    plain = VideoFolder(str(root / "YoYo"), clip=ClipSettings(frames=4, size=32), batch_size=2, reading=ReadSettings(0))
    with pytest.raises(SettingError, match=r"have no annotated cycles .*counting needs --data UCFRep"):
        trainer(tmp_path).fit(counting(), datamodule=plain)


def measure(folder: Path, world: int) -> dict[str, Any]:
    method = counting()
    strategy = "ddp" if world > 1 else "auto"
    run = trainer(folder, devices=world, strategy=strategy, max_epochs=1)
    source = data(folder / "data")
    source.batch_size = 4 // world
    run.fit(method, datamodule=source)
    (found,) = run.test(method, datamodule=source, verbose=False)
    weights = sum(value.double().abs().sum().item() for value in method.parameters())
    return {**found, "videos": method.test_record["videos"], "weights": weights}


@pytest.mark.slow
def test_two_processes_train_and_count_each_video_once(tmp_path: Path) -> None:
    write_ucfrep(tmp_path / "data", train=4)
    told = by_two(measure, tmp_path)
    assert told[0] == told[1]
    assert told[0]["videos"] == 3


def test_a_step_neither_copies_nor_waits() -> None:
    video = torch.zeros(2, 1, 40, SIDE, SIDE, 3, dtype=torch.uint8)
    cycle = torch.full((2, 40), 8)
    extra = {"count": torch.tensor([3, 4]), "borders": torch.zeros(2, 8, dtype=torch.long), "previous": cycle, "next": cycle}
    stream = Stream("video", video, length=torch.tensor([40, 30]))
    cost = step_cost(counting(), Batch(torch.arange(2), torch.arange(2), {"video": stream}, extra=extra))
    assert cost.copies == cost.waits == []
