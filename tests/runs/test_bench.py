"""The command bench: the bottleneck that it reports, files that it leaves, and its estimates."""

import json
import os
import time
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from jsonargparse import Namespace
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from callbacks.pictures import Pictures
from datamodules.generated.motion import SyntheticMotion
from main import main
from modules.bench import command, ledger
from modules.bench.advice import explain_limit, limit_of, proposals, workers_needed
from modules.bench.ledger import AUGMENTATION, BACKWARD, CALLBACKS, FORWARD, OPTIMISER, REST, TRANSFER, WAITING, Ledger, part_of
from modules.bench.measure import Measured, measure
from modules.bench.outlook import checkpoints_kept, devices_here, largest_batch, look_ahead
from modules.bench.report import render, render_tried
from modules.core.batch import Batch
from modules.core.errors import SettingError
from modules.core.output import StepOutput
from modules.core.undocumented import FETCH, STEP
from modules.methods.smile import SMILE
from modules.runs.last_checkpoint import LastCheckpoint

ROOT = Path(__file__).parents[2]
QUICK = ["--config", str(ROOT / "configs/quickstart.yaml")]
SMALL = ["--data.batch_size=4", "--data.train_videos=16", "--data.val_videos=4", "--data.probe_samples=4"]
# A network with hardly any computation.
IDLE = ["--model=tests.callbacks.runs.Oracle", "--trainer.accelerator=cpu", "--trainer.max_epochs=3"]
IDLE += ["--data=SyntheticMotion", "--data.clip.frames=4", "--data.clip.size=32", *SMALL]
LONG = 0.2
"""Seconds: long compared with a step of this network, also on a busy machine."""


class SlowMotion(SyntheticMotion):
    """Every batch takes long to collate."""

    def _loader(self, name: str) -> DataLoader:
        loader = super()._loader(name)
        join = loader.collate_fn

        def slowly(batch: Any) -> Any:
            time.sleep(LONG)
            batch.reading.decode_ms = [1000 * LONG / len(batch.index)] * len(batch.index)
            batch.reading.stream_ms = {"audio": [5.0] * len(batch.index)}
            return join(batch)

        loader.collate_fn = slowly
        return loader


def slow_step(method: SMILE, batch: Batch, generator: torch.Generator, step: Any = SMILE.step) -> StepOutput:
    """Much computation, after augmentation has ended."""
    output = step(method, batch, generator)
    time.sleep(LONG)
    return output


class Dawdler(lightning.Callback):
    """Is slow after each step."""

    def on_train_batch_end(self, *_: object) -> None:
        time.sleep(LONG)


# --- The command ---


def test_the_quickstart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "ROUNDS", 1)
    monkeypatch.setattr(SMILE, "step", slow_step)
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    states, digits = (torch.get_rng_state(), os.environ.get("PL_SEED_WORKERS")), torch.get_float32_matmul_precision()
    main(["bench", *QUICK, *SMALL, "--seconds=1", "--try=true", "--out=bench.json"])
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (os.environ["PL_GLOBAL_SEED"], os.environ.get("PL_SEED_WORKERS")) == ("5", states[1])
    assert torch.get_float32_matmul_precision() == digits
    # No run folder is created, neither the recipe's nor another.
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]
    text = capsys.readouterr().out
    for words in (
        "Where the time goes",
        "waiting for data",
        "What limits this run\n  The network itself.",
        "16 epochs, 64 steps",
    ):
        assert words in text
    numbers = json.loads((tmp_path / "bench.json").read_text())
    assert numbers["limit"] == "network"
    assert numbers["method"] == "SMILE"
    assert sum(numbers["shares"].values()) == pytest.approx(1)
    assert {WAITING, TRANSFER, AUGMENTATION, FORWARD, BACKWARD, OPTIMISER, CALLBACKS, REST} == set(numbers["shares"])
    assert numbers["shares"][AUGMENTATION] > 0
    assert numbers["tflops"] > 0
    assert numbers["mfu"] is None
    assert numbers["clips_per_second"] == pytest.approx(4 / numbers["step_seconds"])
    assert numbers["memory_bytes"] < numbers["memory_there_bytes"]
    assert numbers["checkpoint_bytes"] > 1e6
    assert set(numbers["left_out"]) == {"LastCheckpoint", "ProbeReport"}
    # The unchanged run is among the tried ones.
    assert [] in [one["settings"] for one in numbers["tried"]]
    assert len(numbers["tried"]) > 1
    assert numbers["fastest"] == numbers["tried"][0]["settings"]
    assert numbers["tried"][0]["ratio"] >= 1
    assert "The fastest: " in text


def test_slow_data_are_named(tmp_path: Path) -> None:
    words = [*IDLE, "--data=tests.runs.test_bench.SlowMotion", f"--trainer.default_root_dir={tmp_path / 'run'}"]
    seen = measure(words, 1.5)
    assert limit_of(seen) == "data"
    assert explain_limit(seen).startswith("Reading the data. ")
    assert seen.decode_ms == pytest.approx(1000 * LONG / 4)
    assert seen.stream_ms == {"audio": 5.0}
    assert proposals(seen, None)[0].settings[0].startswith("--data.reading.num_workers=")
    assert not (tmp_path / "run").exists()


def test_slow_callbacks_are_named() -> None:
    seen = measure([*IDLE, "--trainer.callbacks+=tests.runs.test_bench.Dawdler"], 1.5)
    assert limit_of(seen) == "callbacks"
    assert explain_limit(seen).startswith("Work outside of training. ")


def test_a_folder_with_a_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.ckpt").write_bytes(b"of a run")
    (tmp_path / "config.yaml").write_text("a: 1")
    seen = measure([*IDLE, f"--trainer.default_root_dir={tmp_path}"], 0.2)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["checkpoints", "config.yaml", "last.ckpt"]
    assert seen.settings.trainer.max_epochs == 3


@pytest.mark.slow
def test_skeletons_on_several_devices() -> None:
    words = [
        "--config",
        str(ROOT / "configs/skeleton_contrast.yaml"),
        "--config",
        str(ROOT / "configs/debug/tiny_skeleton.yaml"),
    ]
    words += ["--config", str(ROOT / "configs/data/synthetic_skeleton.yaml"), "--model.backbone.hidden=8"]
    words += ["--model.partner.width=4", "--data.train_clips=16", "--data.val_clips=4", "--data.probe_samples=4"]
    words += ["--data.batch_size=4", "--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.precision=32-true"]
    seen = measure([*words, "--trainer.limit_train_batches=1.0", "--trainer.max_epochs=10", "--trainer.max_steps=-1"], 1)
    outlook = look_ahead(seen)
    assert (seen.method, outlook.devices, outlook.batches) == ("SkeletonContrast", 2, 10 * 2)
    assert seen.batches_per_epoch == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "bench needs the settings of a run; add those of fit"),
        (["--seconds=0", *QUICK], "--seconds is 0"),
        (["--seconds=x", *QUICK], "invalid float value"),
        (["--try=maybe", *QUICK], "invalid choice"),
        ([f"--out={ROOT}/README.md/x.json", *QUICK], f"--out {ROOT}/README.md cannot be written"),
        ([f"--out={ROOT}", *QUICK], "is a folder; pass a file"),
        ([*QUICK, "--data.batch_sise=4"], "batch_sise"),
        (["--config=none.yaml"], "none.yaml"),
        ([*IDLE, "--trainer.callbacks+=tests.runs.test_bench.Ends"], "The run ended before it could be measured"),
    ],
)
def test_wrong_input_is_one_sentence(words: list[str], message: str) -> None:
    with pytest.raises(SettingError) as told:
        main(["bench", *words])
    assert message in str(told.value)


class Ends(lightning.Callback):
    """Ends a run at once."""

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: object) -> None:
        trainer.should_stop = True


def test_what_cannot_be_run_is_left_out_of_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "ROUNDS", 1)
    # More than the number of videos.
    too_large = command.Proposal("", ["--data.batch_size=64"])
    tried = command.in_turns(IDLE, [too_large], 0.2)
    assert [one.settings for one in tried] == [[]]
    assert "not possible: data.batch_size is 64" in capsys.readouterr().out


# --- Text about the time ---


def test_time_within_another_action_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(ledger.time, "perf_counter", lambda: now[0])
    book = Ledger()

    def step(*script: tuple[str, float]) -> None:
        for action, seconds in script:
            now[0] += seconds
            if action == "mark":
                book.mark()
            elif action == "end":
                book.stop("")
            else:
                book.start(action)

    step((FETCH, 0), ("end", 1), ("[Strategy]S.batch_to_device", 0), ("[LightningModule]M.on_after_batch_transfer", 0.5))
    step(("end", 0.5), ("end", 1), (STEP, 0), ("[LightningModule]M.optimizer_step", 0), ("[Strategy]S.training_step", 0))
    step(("mark", 3), ("mark", 1), ("end", 4), ("[Strategy]S.backward", 0), ("[Callback]C.on_after_backward", 7))
    step(("end", 2), ("end", 1), ("end", 0.25), ("end", 0.25))
    assert dict(book.seconds) == {
        WAITING: 1,
        TRANSFER: 2,
        AUGMENTATION: 3,
        FORWARD: 5,
        BACKWARD: 8,
        CALLBACKS: 2,
        OPTIMISER: 0.5,
    }
    assert book.marked == 1


def test_marks_outside_of_a_step_do_not_count() -> None:
    book = Ledger()
    book.start("[Callback]C.on_train_batch_end")
    book.mark()
    assert book.marked == 0


@pytest.mark.parametrize(
    ("action", "part"),
    [
        ("[LightningModule]M.lr_scheduler_step", OPTIMISER),
        ("[LightningModule]M.optimizer_zero_grad", OPTIMISER),
        ("[LightningModule]M.configure_gradient_clipping", OPTIMISER),
        ("[Callback]C.on_before_optimizer_step", CALLBACKS),
        ("[LightningModule]M.transfer_batch_to_device", TRANSFER),
        ("[LightningModule]M.on_train_batch_end", REST),
    ],
)
def test_parts(action: str, part: str) -> None:
    assert part_of(action) == part


@pytest.mark.parametrize(
    ("shares", "limit", "words"),
    [
        ({WAITING: 0.6, FORWARD: 0.4}, "data", "60 % of the time the network only waits"),
        ({WAITING: 0.3, CALLBACKS: 0.2, REST: 0.2, FORWARD: 0.3}, "callbacks", "40 % of the time goes to callbacks"),
        ({WAITING: 0.1, TRANSFER: 0.2, FORWARD: 0.7}, "transfer", "20 % of the time goes to moving batches"),
        ({WAITING: 0.1, AUGMENTATION: 0.5, FORWARD: 0.2, BACKWARD: 0.2}, "augmentation", "more than the network itself needs"),
        ({WAITING: 0.1, FORWARD: 0.3, BACKWARD: 0.5, OPTIMISER: 0.1}, "network", "90 % of the time goes to its forward pass"),
        ({AUGMENTATION: 0.45, WAITING: 0.05, FORWARD: 0.5}, "network", "next comes augmentation with 45 %"),
    ],
)
def test_the_limit_in_words(shares: dict[str, float], limit: str, words: str) -> None:
    assert limit_of(made(shares=shares)) == limit
    assert words in explain_limit(made(shares=shares))


def test_batches_in_store_do_not_hide_slow_workers() -> None:
    # Two workers need 1 s for a batch that takes 0.5 s to train on.
    seen = made(shares={WAITING: 0.0, FORWARD: 1.0}, decode_ms=250.0)
    assert (seen.reading_seconds, seen.busy_seconds, seen.step_seconds) == (1, 0.5, 1)
    assert (seen.waiting, seen.clips_per_second) == (0.5, 8)
    assert limit_of(seen) == "data"
    assert "Prefetched batches have hidden this so far; in a long run 50 % of the time" in explain_limit(seen)
    assert look_ahead(seen).seconds == 2000
    # In the main process, reading is waiting.
    assert limit_of(made(shares={WAITING: 0.0, FORWARD: 1.0}, decode_ms=250.0, workers=0)) == "network"


def made(**fields: Any) -> Measured:
    """A measurement: 10 steps of 8 clips in 5 s."""
    trainer = Namespace(
        accelerator="cpu",
        accumulate_grad_batches=1,
        benchmark=None,
        devices=1,
        enable_checkpointing=None,
        limit_train_batches=None,
        max_epochs=20,
        max_steps=-1,
        num_nodes=1,
    )
    for name in trainer.keys() & fields.keys():
        trainer[name] = fields.pop(name)
    usual: dict[str, Any] = {
        "shares": {WAITING: 0.5, FORWARD: 0.5},
        "settings": Namespace(trainer=trainer, compile="none"),
        "batches_per_epoch": 100,
    }
    return Measured("M", "D", **({"device": "cpu", "precision": "32-true"} | FIELDS | usual | fields))


FIELDS: dict[str, Any] = {"batch_size": 8, "workers": 2, "steps": 10, "seconds": 5.0, "clips": 80, "checkpoint_bytes": 10**6}


# --- Proposals ---


def test_as_many_workers_as_keep_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modules.bench.advice.cores", lambda: 16)
    # A step computes for 0.25 s, in which 8 samples of 250 ms are needed.
    seen = made(decode_ms=250.0)
    assert workers_needed(seen) == 8
    advice = proposals(seen, None)
    assert [one.settings for one in advice[:2]] == [["--data.reading.num_workers=8"], ["--data.reading.num_workers=16"]]
    assert "prepare videos" in advice[2].why


def test_no_more_workers_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modules.bench.advice.cores", lambda: 2)
    assert not any("num_workers" in " ".join(one.settings) for one in proposals(made(decode_ms=250.0), None))


def test_a_gpu_is_told_of_half_precision_compilation_and_batches_that_fit() -> None:
    seen = made(shares={WAITING: 0.0, FORWARD: 1.0}, device="NVIDIA H200", workers=0)
    settings = [one.settings for one in proposals(seen, 100)]
    assert settings == [
        ["--trainer.precision=bf16-mixed"],
        ["--compile=blocks"],
        ["--trainer.benchmark=true"],
        ["--data.batch_size=16"],
    ]
    assert ["--data.batch_size=16"] not in [one.settings for one in proposals(seen, 12)]


# --- The complete run ---


def test_time_and_steps() -> None:
    outlook = look_ahead(made())
    assert (outlook.epochs, outlook.batches, outlook.seconds, outlook.devices) == (20, 2000, 1000, 1)
    assert look_ahead(made(max_steps=30, accumulate_grad_batches=4)).batches == 120
    assert look_ahead(made(max_epochs=None, max_steps=30)).batches == 30
    assert look_ahead(made(devices=4, num_nodes=2)).batches == 20 * (100 // 8)
    assert look_ahead(made(devices=4, limit_train_batches=100)).batches == 2000


def test_a_run_without_an_end_is_told_of_by_one_epoch() -> None:
    seen = made(max_epochs=-1)
    outlook = look_ahead(seen)
    assert (outlook.endless, outlook.epochs, outlook.batches, outlook.seconds) == (True, 1, 100, 50)
    text = render(seen, outlook, [])
    assert "time     not limited by epochs or steps; one epoch takes about 50.0 s, 100 steps" in text
    assert "disk     about 2.0 MB after it" in text
    assert not look_ahead(made(max_epochs=-1, max_steps=7)).endless
    assert not look_ahead(made(max_epochs=None)).endless


def test_steps_are_those_of_the_optimiser() -> None:
    seen = made(max_steps=30, accumulate_grad_batches=4)
    assert "1.2 epochs, 30 steps of 4 batches" in render(seen, look_ahead(seen), [])


def test_a_network_that_waits_is_not_praised() -> None:
    waits = made(shares={WAITING: 0.2, FORWARD: 0.8})
    assert "next comes waiting for data with 20 %" in explain_limit(waits)
    assert "the ideal case" not in explain_limit(waits)
    assert "data arrive in time" in explain_limit(made(shares={WAITING: 0.02, FORWARD: 0.98}))


def test_reading_without_worker_processes() -> None:
    seen = made(workers=0, decode_ms=3.0)
    assert "Reading a sample takes 3 ms, while the network waits: there are no worker processes." in render(
        seen, look_ahead(seen), []
    )


@pytest.mark.parametrize(("devices", "count"), [(1, 1), ("2", 2), ([0, 3], 2), ("0,1,2", 3), ("auto", 1), (-1, 1)])
def test_devices(devices: Any, count: int) -> None:
    assert devices_here(Namespace(accelerator="cpu", devices=devices, num_nodes=1)) == count


def test_checkpoints_that_are_kept(tmp_path: Path) -> None:
    # The command line adds the best one, and the last one.
    assert checkpoints_kept(made(), 20) == 2
    assert checkpoints_kept(made(given=[LastCheckpoint()]), 20) == 1
    assert checkpoints_kept(made(given=[ModelCheckpoint(save_top_k=-1)]), 20) == 21
    assert checkpoints_kept(made(given=[ModelCheckpoint(save_last=True), LastCheckpoint()]), 20) == 3
    assert checkpoints_kept(made(enable_checkpointing=False), 20) == 0


def test_disk() -> None:
    seen = made(given=[LastCheckpoint(), Pictures(every_n_steps=500)], written_bytes=1000, steps_run=20)
    # Drawn at the first step, and at 500, 1000, 1500 and 2000.
    assert look_ahead(seen).disk_bytes == 10**6 + 5000
    assert look_ahead(made(given=[LastCheckpoint()], written_bytes=1000, steps_run=20)).disk_bytes == 10**6 + 100 * 1000


def test_the_largest_batch_lies_on_a_line() -> None:
    # 1 GB, and 0.5 GB for each sample.
    large, small = (made(batch_size=size, memory=int((1 + size / 2) * 1e9), memory_there=int(20e9)) for size in (8, 4))
    assert largest_batch(large, small) == 34
    assert largest_batch(made(batch_size=8, memory=10**9), made(batch_size=4, memory=10**9)) is None
    direct = made(memory=int(5e9), memory_of_batch=int(4e9), memory_there=int(20e9))
    assert largest_batch(direct, None) == 34
    # At most the number of videos.
    assert largest_batch(made(memory=10**6, memory_of_batch=8, memory_there=10**12), None) == 800


def test_the_text_names_what_is_not_known() -> None:
    known = {"left_out": ["ProbeReport"], "flops": 10**12, "peak_tflops": 4.0, "decode_ms": 3.0, "stream_ms": {"audio": 0.75}}
    seen = made(memory=10**9, memory_there=2 * 10**9, **known)
    text = render(seen, look_ahead(seen), [])
    for words in (
        "16.0 clips/s, 500 ms for a step, 2 TFLOP/s, 50 % of the device's peak (MFU)",
        "augmentation        ?",
        "Reading a sample takes 3 ms of a worker process; there are 2.",
        "of it audio       0.8 ms    25 %",
        "time     about 16.7 min: 20 epochs, 2000 steps",
        "memory   1.0 GB of 2.0 GB",
        "2 checkpoint(s) of 1.0 MB are kept",
        "without validation, ProbeReport",
    ):
        assert words in text


def test_few_steps_are_no_measurement() -> None:
    few, many = made(steps=4), made(steps=5)
    assert "Only 4 step(s) fitted into the time" in render(few, look_ahead(few), [])
    assert "fitted into the time" not in render(many, look_ahead(many), [])


def test_the_table_of_what_was_tried() -> None:
    tried = [command.Tried(["--data.batch_size=16"], 20.0, 1.25, True), command.Tried([], 16.0, 1.0)]
    text = render_tried(tried)
    assert "The fastest: add --data.batch_size=16" in text
    assert "(changes what is learned)" in text
    assert render_tried(tried[1:]).endswith("The fastest: the run as it is.")


def test_what_helped_is_tried_together(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {(): 10.0, ("--a=1",): 12.0, ("--a=2",): 13.0, ("--b=1",): 11.0, ("--c=1",): 9.0, ("--a=2", "--b=1"): 15.0}

    def quick(words: list[str], seconds: float) -> Measured:
        return made(clips=int(5 * speeds[tuple(words)]))

    monkeypatch.setattr(command, "measure", quick)
    advice = [command.Proposal("", [word]) for word in ("--a=1", "--a=2", "--b=1", "--c=1")]
    tried = command.try_all([], advice, 1)
    assert [one.settings for one in tried][:2] == [["--a=2", "--b=1"], ["--a=2"]]
    assert tried[0].ratio == 1.5
    assert len(tried) == 6
