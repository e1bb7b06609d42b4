"""The speed report, and whether it distinguishes waiting for data from the work of other callbacks."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.profilers import SimpleProfiler
from torch.utils.data import DataLoader

from callbacks import Throughput
from callbacks.throughput import Stopwatch, diagnose, utilisation
from datamodules.generated.motion import SyntheticMotion
from modules.core.batch import Batch, Reading
from modules.core.errors import SettingError
from modules.training.devices import peak_tflops
from modules.training.flops import step_flops
from tests.callbacks.runs import BATCH, STEPS, Oracle, StopAfter, data, fit, make_trainer, videomae
from tests.registry import video_batch

# Long compared with a step of this network, also on a busy machine.
LONG = 0.2


@pytest.mark.parametrize(
    ("wait", "other", "workers", "device", "words"),
    [
        (
            0.8,
            0.1,
            0,
            "cuda",
            ["80 % of the time is spent", "Data limits this run: set data.reading.num_workers above 0"],
        ),
        (0.8, 0.1, 6, "cuda", ["Data limits this run: raise data.reading.num_workers (now 6)", "12 ms of a worker"]),
        (0.3, 0.5, 6, "cuda", ["50 % goes to callbacks", "They limit this run: call them less often"]),
        (0.1, 0.1, 0, "cpu", ["The network limits this run: a GPU, a smaller model.backbone.size"]),
        (0.1, 0.1, 0, "cuda", ["The network limits this run: trainer.precision bf16-mixed"]),
    ],
)
def test_diagnosis_names_one_cause_and_a_remedy(wait: float, other: float, workers: int, device: str, words: list[str]) -> None:
    line = diagnose(123.45, wait, other, 12.0, workers, device)
    assert line.startswith("123.5 clips/s; ")
    assert all(word in line for word in words)
    assert sum(cause in line for cause in ("Data limits", "They limit", "network limits")) == 1


def test_the_line_tells_utilisation() -> None:
    line = diagnose(123.45, 0.1, 0.1, 12.0, 0, "cuda", utilisation(396.123, 0.4))
    assert line.startswith("123.5 clips/s, 396 TFLOP/s, 40 % of the device's peak (MFU); ")
    assert utilisation(0.0213, None) == "0.0213 TFLOP/s"


@pytest.mark.parametrize(
    ("name", "precision", "peak"),
    [
        ("NVIDIA H200", "bf16-mixed", 989),
        ("NVIDIA H100 80GB HBM3", "bf16-true", 989),
        ("NVIDIA H100 PCIe", "16-mixed", 756),
        ("NVIDIA A100-SXM4-80GB", "32-true", 156),
        ("NVIDIA A10", "bf16-mixed", 125),
        ("NVIDIA L40S", "bf16-mixed", 362),
        ("NVIDIA L4", "bf16-mixed", 121),
        ("NVIDIA GeForce RTX 4090", "bf16-mixed", 165.2),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16-mixed", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bf16-mixed", None),
        ("Tesla V100-SXM2-16GB", "16-mixed", 125),
        ("Tesla V100-PCIE-16GB", "16-mixed", 112),
        ("Tesla V100-SXM2-16GB", "bf16-mixed", None),
        ("Tesla T4", "32-true", 8.1),
        ("NVIDIA T400", "16-mixed", None),
        ("NVIDIA H200", "64-true", None),
        ("Another", "bf16-mixed", None),
    ],
)
def test_peaks(name: str, precision: str, peak: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    # The command line sets it.
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert peak_tflops(name, precision) == peak


def test_all_digits_of_float32_have_another_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "highest")
    assert peak_tflops("NVIDIA A100-SXM4-80GB", "32-true") == 19.5


def test_utilisation_is_what_was_counted_over_time(tmp_path: Path) -> None:
    throughput = Throughput(every_n_steps=2, peak_tflops=1e-3)
    trainer = fit(videomae(), tmp_path, [throughput])
    logged = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("speed/")}
    assert throughput.flops == step_flops(videomae(), video_batch(BATCH))
    assert logged["speed/tflops"] == pytest.approx(throughput.flops * logged["speed/clips_per_second"] / BATCH / 1e12)
    assert logged["speed/mfu"] == pytest.approx(logged["speed/tflops"] / 1e-3)
    assert "% of the device's peak (MFU)" in throughput.line


def test_without_a_peak_there_is_no_share(tmp_path: Path) -> None:
    throughput = Throughput(every_n_steps=2)
    trainer = fit(videomae(), tmp_path, [throughput])
    assert "speed/tflops" in trainer.callback_metrics
    assert "speed/mfu" not in trainer.callback_metrics
    assert " TFLOP/s; " in throughput.line


def test_counting_changes_nothing_that_is_learned(tmp_path: Path) -> None:
    # Stochastic depth draws from the global generator.
    plain, counted = videomae(), videomae()
    fit(plain, tmp_path, [])
    fit(counted, tmp_path, [Throughput(every_n_steps=2)])
    state = counted.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())


def test_a_peak_must_be_positive() -> None:
    with pytest.raises(SettingError, match=r"Throughput\.peak_tflops is 0; it must be a number above 0"):
        Throughput(peak_tflops=0)


def test_diagnosis_without_decode_times() -> None:
    assert "of a worker" not in diagnose(1, 0.9, 0, None, 0, "cpu")
    told = diagnose(1, 0.9, 0, 40.0, 2, "cpu", stream_ms={"audio": 12.0, "depth": 3.0})
    assert "reading a sample takes 40 ms of a worker (audio 12 ms, depth 3 ms of it). Data limits" in told


class SlowData(SyntheticMotion):
    """Every training batch takes long to collate."""

    def _loader(self, name: str) -> DataLoader:
        loader = super()._loader(name)
        join = loader.collate_fn

        def slowly(batch: Any) -> Any:
            time.sleep(LONG)
            return join(batch)

        if name == "train":
            loader.collate_fn = slowly
        return loader


class Slow(lightning.Callback):
    """Is slow in one hook."""

    def __init__(self, hook: str) -> None:
        setattr(self, hook, lambda *_: time.sleep(LONG))


def speeds(folder: Path, callbacks: list[Any], module: SyntheticMotion | None = None, **settings: Any) -> dict[str, float]:
    trainer = fit(Oracle(), folder, callbacks, module, **settings)
    return {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("speed/")}


def test_slow_loader_is_found(tmp_path: Path) -> None:
    throughput = Throughput(every_n_steps=STEPS)
    logged = speeds(tmp_path, [throughput], SlowData(data().clip, 8, train_videos=24, val_videos=8))
    assert logged["speed/data_wait_share"] > 0.5
    assert logged["speed/clips_per_second"] > 0
    assert logged["speed/data_wait_share"] + logged["speed/other_share"] <= 1
    assert "Data limits this run: set data.reading.num_workers above 0" in throughput.line


@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_train_batch_end", "on_validation_epoch_end"])
@pytest.mark.parametrize("first", [True, False])
def test_slow_callback_is_not_taken_for_slow_data(tmp_path: Path, hook: str, first: bool) -> None:
    throughput = Throughput(every_n_steps=STEPS)
    callbacks = [throughput, Slow(hook)] if first else [Slow(hook), throughput]
    # A window over the end of an epoch, so that it includes validation.
    logged = speeds(tmp_path, callbacks, val_check_interval=1)
    assert logged["speed/other_share"] > 0.5
    assert "They limit this run" in throughput.line


def test_first_window_begins_with_the_first_batch(tmp_path: Path) -> None:
    # Work of other callbacks before training, and the start of workers, do not count for the speed.
    class SlowStart(SyntheticMotion):
        def _loader(self, name: str) -> DataLoader:
            loader = super()._loader(name)
            join, calls = loader.collate_fn, []

            def slowly(batch: Any) -> Any:
                calls.append(time.sleep(0 if calls else 10 * LONG))
                return join(batch)

            loader.collate_fn = slowly
            return loader

    throughput = Throughput(every_n_steps=2)
    module = SlowStart(data().clip, 8, train_videos=24, val_videos=8)
    begin = time.perf_counter()
    settings = {"num_sanity_val_steps": 0, "limit_val_batches": 0, "epochs": 1}
    logged = speeds(tmp_path, [throughput, Slow("on_train_start"), StopAfter(2)], module, **settings)
    window = 16 / logged["speed/clips_per_second"]
    assert window < time.perf_counter() - begin - 11 * LONG


def test_metrics_are_logged_and_the_line_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logged = speeds(tmp_path, [Throughput(every_n_steps=1)], epochs=1)
    assert {"speed/clips_per_second", "speed/data_wait_share", "speed/other_share"} <= set(logged)
    lines = [record.getMessage() for record in caplog.records if "clips/s" in record.getMessage()]
    # After the first window and at the end of the epoch, not in each of the three windows.
    assert len(lines) == 2


def test_decode_times_of_the_batch_are_averaged(tmp_path: Path) -> None:
    class Timed(SyntheticMotion):
        def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
            return replace(batch, reading=Reading([1.0, 3.0], stream_ms={"audio": [0.5, 1.0]}))

    module = Timed(data().clip, 8, train_videos=24, val_videos=8)
    logged = speeds(tmp_path, [Throughput(every_n_steps=2)], module)
    assert logged["speed/decode_ms_per_sample"] == pytest.approx(2)
    assert logged["speed/audio_ms_per_sample"] == pytest.approx(0.75)


def test_the_profiler_is_left_as_it_was(tmp_path: Path) -> None:
    profiler = SimpleProfiler()
    trainer = fit(Oracle(), tmp_path, [Throughput(every_n_steps=1)], profiler=profiler)
    assert trainer.profiler is profiler
    # It still received everything.
    assert len(profiler.recorded_durations["run_training_batch"]) == 2 * STEPS


def test_the_profiler_is_left_as_it_was_when_a_run_breaks_off(tmp_path: Path) -> None:
    class Breaks(lightning.Callback):
        def on_train_batch_end(self, trainer: lightning.Trainer, *_: object) -> None:
            assert isinstance(trainer.profiler, Stopwatch)
            raise ZeroDivisionError

    profiler = SimpleProfiler()
    trainer = make_trainer(tmp_path, [Throughput(every_n_steps=1), Breaks()], profiler=profiler)
    with pytest.raises(ZeroDivisionError):
        trainer.fit(Oracle(), datamodule=data())
    assert trainer.profiler is profiler
