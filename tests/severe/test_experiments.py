"""Settings of the experiments are those of the official code."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest

import main  # noqa: F401  (the classes that YAML files name)
from modules.core.errors import SettingError
from modules.runs.cli import CLI
from modules.severe.experiments import ALL, VIT, choose, doubts

ROOT = Path(__file__).parents[2]
# Epochs are those of the official code, times the clips that it takes of each video in an epoch.
SHORT, LONG = (160, [60, 100, 140]), (180, [70, 120, 160])
OFFICIAL = {
    "ucf101": ("UCF101", "split1", *SHORT),
    "hmdb51": ("HMDB51", "split1", *SHORT),
    "ssv2": ("SSv2", "", 44, [24, 34, 40]),
    "gym99": ("FineGym", "gym99", *SHORT),
    "gym288": ("FineGym", "gym288", *SHORT),
    "vault": ("FineGym", "vault", *LONG),
    "floor": ("FineGym", "floor", *LONG),
    "fx_s1": ("FineGym", "fx_s1", *LONG),
    "ub_s1": ("FineGym", "ub_s1", *LONG),
    "diving48": ("Diving48", "", *SHORT),
    "ntu60": ("NTUVideos", "ntu60_xsub", 180, [90, 140, 160]),
    "ucf_1000": ("UCF101", "split1", *SHORT),
    "gym_1000": ("FineGym", "gym99", *SHORT),
}


class Parsed(CLI):
    """Settings alone; nothing is built."""

    def instantiate_classes(self) -> None: ...


@cache
def parser() -> Any:
    return Parsed(["--config", f"{ROOT}/configs/severe/cnn.yaml"], run=False).parser


def parsed(name: str, preset: Any) -> Any:
    """Settings of an experiment."""
    one = ALL[name]
    words = [word for file in one.files[preset] for word in ("--config", f"{ROOT}/configs/{file}.yaml")]
    return parser().parse_args([*words, *one.options])


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_recipe_of_classification(name: str) -> None:
    data, benchmark, epochs, milestones = OFFICIAL[name]
    config = parsed(name, "cnn")
    given, model = config.data.init_args, config.model.init_args
    assert config.data.class_path.rpartition(".")[2] == data
    assert (given.get("benchmark") or "") == benchmark
    assert config.trainer.max_epochs == epochs
    assert model.optim.init_args.milestones == milestones
    assert (model.optim.init_args.base_lr, model.optim.init_args.milestone_factor) == (1e-4, 0.3)
    assert given.batch_size == (64 if name == "ntu60" else 32)
    assert (given.clip.frames, given.clip.size, given.views.segments) == (16 if name == "ntu60" else 32, 112, 10)
    assert config.seed_everything == 100
    assert given.subset.low_shot == (1000 if name.endswith("_1000") else None)
    if given.subset.low_shot:
        assert given.subset.seed == 99999


@pytest.mark.parametrize("preset", ["cnn", "vit"])
@pytest.mark.parametrize("name", ALL)
def test_settings_fit(name: str, preset: Any) -> None:
    config = parsed(name, preset)
    network = config.model.init_args.backbone.class_path.rpartition(".")[2]
    assert network == {"cnn": "VideoResNet", "vit": "VideoViT"}[preset]
    assert any(one.class_path.endswith("ResultFile") for one in config.trainer.callbacks)
    assert (VIT in doubts(ALL[name], preset)) == (preset == "vit")


def test_avid_cma_is_fine_tuned_with_ten_times_the_rate() -> None:
    words = [
        word
        for file in (*ALL["gym99"].files["cnn"], "severe/cnn/avid_cma")
        for word in ("--config", f"{ROOT}/configs/{file}.yaml")
    ]
    settings = parser().parse_args(words).model.init_args.optim.init_args
    assert (settings.base_lr, settings.milestones, settings.weight_decay) == (1e-3, SHORT[1], 0)


def test_choice() -> None:
    assert [one.name for one in choose(["charades", "ssv2"])] == ["ssv2", "charades"]
    assert len(choose(None)) == 8
    with pytest.raises(SettingError, match=r"--only names fxs1; choose from ssv2, gym99, .*fx_s1"):
        choose(["fxs1"])
