"""mini-SEVERE: the command on generated clips, and its report."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from main import main
from modules.backbones.vit.video_vit import VideoViT
from modules.core.errors import SettingError
from modules.severe import command
from modules.severe.experiments import MINI
from modules.severe.report import as_markdown, read_report
from modules.severe.results import all_results

LAYER = """
trainer: {accelerator: cpu, devices: 1, max_epochs: 1}
data: {init_args: {batch_size: 8, data: {init_args: {train_videos: 52, val_videos: 52, batch_size: 26}}}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder and a layer for short runs."""
    folder = tmp_path_factory.mktemp("mini")
    torch.manual_seed(0)
    network = VideoViT("micro", 32, 16, 16, embed_dim=64, depth=1, num_heads=1)
    weights = {f"backbone.{name}": value.contiguous() for name, value in network.state_dict().items()}
    save_file(weights, folder / "encoder.safetensors")
    (folder / "tiny.yaml").write_text(LAYER)
    return folder


def words(folder: Path, out: str, *more: str) -> list[str]:
    """The command without a folder of data."""
    return ["severe", "--preset=mini", f"--checkpoint={folder}/encoder.safetensors", f"--out={folder / out}", *more]


def test_it_needs_no_data_and_repeats_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--only=[speed, labels]", f"--layers=[{folder}/tiny.yaml]")
    main(words(folder, "out", *more))
    found = {one["experiment"]: one for one in all_results(folder / "out")}
    assert found.keys() == {"speed", "labels"}
    assert found["speed"]["videos"] == {split: {"used": 52, "missed": 0} for split in ("train", "val", "test")}
    assert found["speed"]["job"]["encoder"]["init_args"]["pooling"] == "time"
    text = (folder / "out/report.md").read_text()
    assert "mini-SEVERE" in text
    assert f"| Speed | actions | 25.0 | {found['speed']['value']:.1f} |" in text
    assert "There is no mean: it needs all 15 experiments" in text
    # What the experiments print is not repeated.
    assert "Test metric" not in capsys.readouterr().out

    monkeypatch.setattr(command, "CLI", lambda **_: pytest.fail("a finished experiment is run again"))
    before = {path: path.read_bytes() for path in (folder / "out/results").iterdir()}
    main(words(folder, "out", *more))
    assert before == {path: path.read_bytes() for path in (folder / "out/results").iterdir()}


@pytest.mark.slow
def test_all_experiments_make_a_mean(folder: Path) -> None:
    main(words(folder, "all"))
    assert {one["experiment"] for one in all_results(folder / "all")} == {one.name for one in MINI}
    text = (folder / "all/report.md").read_text()
    assert "There is no mean" not in text
    assert "Missing" not in text


def test_a_failing_experiment_does_not_stop_the_others(folder: Path) -> None:
    # One of the two has no features whose batch could be set.
    more = ("--only=[speed, arrow]", f"--layers=[{folder}/tiny.yaml]")
    with pytest.raises(SettingError, match=r"arrow \(seed 100\) failed"):
        main(words(folder, "failing", *more))
    assert [one["experiment"] for one in all_results(folder / "failing")] == ["speed"]


def test_other_presets_need_a_folder(folder: Path) -> None:
    with pytest.raises(SettingError, match="or --preset mini, which needs none"):
        main(["severe", f"--checkpoint={folder}/encoder.safetensors"])


def test_means_are_those_of_the_factors(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = [
        {"experiment": one.name, "metric": one.metric, "value": 0.25 if one.is_error else 40.0, "videos": {}, "seed": 100}
        | {"unverified": [], "classes": 4}
        for one in MINI
    ]
    monkeypatch.setattr("modules.severe.report.all_results", lambda _: fake)
    report = read_report(folder, "encoder.safetensors", "mini", list(MINI), [100])
    # Counting has 100 (1 - 0.25) points, the other four tasks 40.
    assert report.mean_of(report.of_factor("task")) == pytest.approx((75 + 4 * 40) / 5)
    assert report.score == pytest.approx((75 + 14 * 40) / 15)
    assert "| **encoder.safetensors** | **40.0** | **40.0** | **40.0** | **47.0** | **42.3** |" in as_markdown(report)
