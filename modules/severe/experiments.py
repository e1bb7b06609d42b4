"""The experiments of SEVERE (https://arxiv.org/abs/2203.14221) and SEVERE++ (https://arxiv.org/abs/2504.05706).

An experiment fine-tunes an encoder under one kind of shift from its pretraining and ends with one number. Its settings are the
YAML files below `configs/severe/`: those of a preset (`cnn.yaml` is the official recipe of video CNNs, `vit.yaml` that of
VideoMAE, which SEVERE's official code does not contain), and on top those of the experiment.

The preset `mini` asks the same questions with generated clips, which need no files. Its encoders are frozen. It is this
project's, and its numbers cannot be compared with published ones.
"""

from typing import Literal, NamedTuple

from modules.core.errors import SettingError

Preset = Literal["cnn", "vit", "mini"]
Factor = Literal["domain", "samples", "actions", "task"]
FACTORS: dict[Factor, str] = {
    "domain": "other videos than Kinetics",
    "samples": "few labels",
    "actions": "fine-grained actions",
    "task": "other tasks than classification",
}

MINI_FACTORS: dict[Factor, str] = {
    "domain": "other pictures than objects on black",
    "samples": "few labels",
    "actions": "classes that differ in one quantity",
    "task": "other tasks than classification of motions",
}
"""The same for generated clips."""


class Experiment(NamedTuple):
    """One fine-tuning and its number."""

    name: str
    """on the command line, and of its files"""
    title: str
    """in tables"""
    factor: Factor
    folder: str
    """of the data, below --root; empty for generated clips"""
    metric: str
    """in the result file"""
    files: dict[Preset, tuple[str, ...]]
    """YAML files below configs/, in order, without suffix"""
    options: tuple[str, ...] = ()
    """settings on top of the YAML files"""
    is_error: bool = False
    """the smaller the better"""
    unverified: str = ""
    """what of the protocol is not known from the official code; empty if nothing"""
    is_cached: bool = False
    """features of the frozen encoder are computed once and kept"""


def recipe(name: str) -> dict[Preset, tuple[str, ...]]:
    """Files of an experiment with one label per video: what is common to a preset, then its own."""
    return {"cnn": ("severe/cnn", f"severe/cnn/{name}"), "vit": ("severe/vit", f"severe/vit/{name}")}


def whole(cnn: str, vit: str) -> dict[Preset, tuple[str, ...]]:
    """Files of an experiment whose recipe is in one file."""
    return {"cnn": (cnn,), "vit": (vit,)}


def low_shot(count: int) -> tuple[str, ...]:
    """Settings for about so many videos, equally many of each class, drawn as the official code draws them."""
    return (f"--data.subset.low_shot={count}", "--data.subset.seed=99999")


SUBSET = (
    Experiment("ssv2", "SSv2", "domain", "ssv2", "test/top1", recipe("ssv2")),
    Experiment("gym99", "Gym99", "domain", "finegym", "test/top1", recipe("gym99")),
    Experiment("ucf_1000", "UCF 1k", "samples", "ucf101", "test/top1", recipe("ucf101"), low_shot(1000)),
    Experiment("gym_1000", "Gym 1k", "samples", "finegym", "test/top1", recipe("gym99"), low_shot(1000)),
    Experiment("fx_s1", "FX-S1", "actions", "finegym", "test/top1", recipe("fx_s1")),
    Experiment("ub_s1", "UB-S1", "actions", "finegym", "test/top1", recipe("ub_s1")),
    Experiment("ucf_rc", "UCF-RC", "task", "ucfrep", "test/MAE", whole("counting/ucfrep", "severe/vit/ucf_rc"), is_error=True),
    Experiment("charades", "Charades", "task", "charades", "test/map", whole("finetune/cnn_charades", "severe/vit/charades")),
)
"""The eight experiments whose mean is SEVERE's score."""
SHOTS = (2000, 4000, 8000)
"""Numbers of training videos between 1,000 and all. The steps of the study are not in the official code."""
FURTHER = (
    Experiment("ucf101", "UCF101", "domain", "ucf101", "test/top1", recipe("ucf101")),
    Experiment("hmdb51", "HMDB51", "domain", "hmdb51", "test/top1", recipe("hmdb51")),
    Experiment("ntu60", "NTU-60", "domain", "ntu60_videos", "test/top1", recipe("ntu60")),
    Experiment("diving48", "Diving48", "domain", "diving48", "test/top1", recipe("diving48")),
    Experiment(
        "epic_kitchens", "EPIC verbs", "domain", "epic_kitchens", "test/top1", recipe("epic_kitchens"),
        unverified="the official code has no EPIC-Kitchens; verbs, and the recipe of SSv2, are assumed",
    ),
    *(
        Experiment(
            f"{name}_{count}", f"{title} {count // 1000}k", "samples", folder, "test/top1", recipe(file), low_shot(count),
            unverified="the steps of the curve are assumed",
        )
        for name, title, folder, file, shots in (
            ("ucf", "UCF", "ucf101", "ucf101", SHOTS),
            ("gym", "Gym", "finegym", "gym99", SHOTS),
            ("ntu", "NTU-60", "ntu60_videos", "ntu60", (1000, *SHOTS)),
            ("ssv2", "SSv2", "ssv2", "ssv2", (1000, *SHOTS)),
        )
        for count in shots
    ),
    Experiment("gym288", "Gym288", "actions", "finegym", "test/top1", recipe("gym288")),
    Experiment("vault", "Vault", "actions", "finegym", "test/top1", recipe("vault")),
    Experiment("floor", "Floor", "actions", "finegym", "test/top1", recipe("floor")),
    Experiment(
        "linear_ucf101", "UCF101 linear", "domain", "ucf101", "test/top1",
        whole("linear/ucf101_cnn", "severe/vit/linear_ucf101"),
    ),
    Experiment(
        "linear_kinetics", "K400 linear", "domain", "kinetics400", "test/top1",
        whole("severe/cnn/linear_kinetics", "linear/kinetics400"),
    ),
    Experiment(
        "arrow_of_time", "Arrow of time", "task", "ucf101", "test/top1",
        whole("severe/cnn/arrow_of_time", "severe/vit/arrow_of_time"),
        unverified="the official code has no arrow of time; see modules/downstream/arrow_of_time.py for what is done here",
    ),
    Experiment("ava", "AVA", "task", "ava", "test/map", whole("detection/ava", "severe/vit/ava")),
    Experiment(
        "activitynet", "ActivityNet", "domain", "activitynet", "test/top1", recipe("activitynet"),
        unverified="SEVERE++'s code could not be read; the recipe of UCF101 is assumed",
    ),
)  # fmt: skip
"""The rest of the two studies."""


def small(name: str, title: str, factor: Factor, metric: str = "test/top1", is_error: bool = False) -> Experiment:
    """An experiment of mini-SEVERE with its own recipe."""
    return Experiment(name, title, factor, "", metric, {"mini": (f"severe/mini/{name}",)}, is_error=is_error)


def probe(name: str, title: str, factor: Factor, metric: str = "test/top1") -> Experiment:
    """An experiment of mini-SEVERE on features that are computed once."""
    return Experiment(name, title, factor, "", metric, {"mini": ("severe/mini", f"severe/mini/{name}")}, is_cached=True)


MINI = (
    probe("backgrounds", "Other backgrounds", "domain"),
    probe("objects", "Other objects", "domain"),
    probe("noise", "Noise", "domain"),
    probe("samples_5", "5 per class", "samples"),
    probe("samples_20", "20 per class", "samples"),
    probe("samples_100", "100 per class", "samples"),
    probe("samples_all", "All samples", "samples"),
    probe("speed", "Speed", "actions"),
    probe("phase", "Phase", "actions"),
    probe("direction", "Direction", "actions"),
    small("counting", "Counting", "task", "test/MAE", is_error=True),
    probe("labels", "Several labels", "task", "test/map"),
    small("arrow", "Arrow of time", "task"),
    small("detection", "Detection", "task", "test/map"),
    probe("order", "Order of phases", "task"),
)
"""SEVERE in small, on generated clips."""
TABLES: dict[Preset, tuple[Experiment, ...]] = {"cnn": SUBSET, "vit": SUBSET, "mini": MINI}
"""The experiments of which a mean is made."""
NOT_KNOWN = {
    "UCF101-24 detection": "no protocol of it is known here",
    "temporal action localisation": "no protocol of it is known here",
}
"""What the studies measured besides, and why it is not here."""
ALL = {one.name: one for one in (*SUBSET, *FURTHER, *MINI)}
VIT = "SEVERE's official code has no recipe for video transformers; this one is VideoMAE's, and was not checked"


def choose(names: list[str] | None, preset: Preset) -> list[Experiment]:
    """Experiments of a preset by their names, in the order of the tables; None for all that count in the mean.

    Raises:
        SettingError: if there is none of a name.
    """
    if names is None:
        return list(TABLES[preset])
    known = {name: one for name, one in ALL.items() if preset in one.files}
    unknown = sorted(set(names) - known.keys())
    if unknown or not names:
        raise SettingError(
            f"--only names {', '.join(unknown) or 'nothing'}; with the preset {preset}, choose from {', '.join(known)}."
        )
    return [one for name, one in known.items() if name in names]


def doubts(experiment: Experiment, preset: Preset) -> list[str]:
    """What of its protocol is not known from official code."""
    return [*([VIT] if preset == "vit" else []), *([experiment.unverified] if experiment.unverified else [])]
