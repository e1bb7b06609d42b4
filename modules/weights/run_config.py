"""Facts about weights from the settings of the run that trained them."""

from pathlib import Path
from typing import Any

import yaml

from modules.core.errors import SettingError
from modules.weights.sizes import PRESETS, Facts


def config_text(path: Path, run_config: Path | None, record: dict[str, Any]) -> str | None:
    """YAML of the run: the given file, the text in the checkpoint, or config.yaml in the folder that contains checkpoints/."""
    if run_config is not None:
        if not run_config.is_file():
            raise SettingError(f"--run_config names {run_config}, which does not exist; pass the config.yaml of a run.")
        return run_config.read_text()
    recorded = record.get("config")
    if recorded and isinstance(recorded, str):
        return recorded
    beside = path.parent.parent / "config.yaml"
    return beside.read_text() if path.suffix == ".ckpt" and beside.is_file() else None


def parse_config(text: str) -> dict[str, Any]:
    """The settings of a run.

    Raises:
        SettingError: if it is not a YAML mapping of settings.
    """
    try:
        settings = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingError(f"The run's config is not YAML ({type(error).__name__}); pass another with --run_config.") from error
    if not isinstance(settings, dict):
        raise SettingError("The run's config contains no settings; pass the run's config.yaml with --run_config.")
    return settings


def facts_of_run(settings: dict[str, Any]) -> Facts:
    """Facts in a run's settings that weights do not contain."""
    model = inside(settings, "model", "init_args")
    backbone = inside(model, "backbone", "init_args")
    clip = inside(settings, "data", "init_args", "clip")
    found = {name: backbone.get(name) for name in ("num_heads", "image_size", "num_frames", "patch_size", "tubelet_size")}
    if backbone.get("size") in PRESETS:
        preset = PRESETS[backbone["size"]]
        for name, value in (("num_heads", preset.num_heads), ("patch_size", preset.patch_size)):
            found[name] = value if found[name] is None else found[name]
    # A CNN takes clips of any size.
    for name, in_clip in (("num_frames", "frames"), ("image_size", "size")):
        found[name] = clip.get(in_clip) if found[name] is None else found[name]
    # Earlier versions had the decoder's heads among the method's settings, and the stride next to the frames.
    heads = inside(model, "decoder").get("heads", model.get("decoder_heads", inside(model, "predictor").get("heads")))
    stride = inside(clip, "sampler", "init_args").get("stride", clip.get("stride"))
    found |= {"decoder_heads": heads, "stride": stride}
    return {name: value for name, value in found.items() if type(value) is int}


def norm_pix_loss_of_run(settings: dict[str, Any]) -> bool | None:
    """Whether a run normalised the pixels that it predicted per cube; None if it predicted something else."""
    target = inside(settings, "model", "init_args").get("target")
    if not isinstance(target, dict) or str(target.get("class_path")).rpartition(".")[2] != "PixelTarget":
        return None
    return bool(inside(target, "init_args").get("normalise", True))


def inside(settings: Any, *names: str) -> dict[str, Any]:
    """The dictionary under a path of keys; empty if there is none."""
    for name in names:
        settings = settings.get(name) if isinstance(settings, dict) else None
    return settings if isinstance(settings, dict) else {}
