"""Facts in the config.json of a `transformers` folder that its weights do not contain."""

from pathlib import Path

from modules.core.errors import SettingError
from modules.core.files import read_json
from modules.weights.sizes import Facts

HIGHEST_EPS = 1e-5


def read_config(path: Path, setting: str = "--source") -> "Facts":
    """Read facts that weights do not contain from a config.json, and check that the network is supported.

    Args:
        path: config.json.
        setting: command-line name of the setting with this folder, for error messages.

    Raises:
        SettingError: if the file is missing or is not that of a VideoMAE, or the network differs from ours.
    """
    config = read_json(path)
    if "model_type" not in config:
        raise SettingError(f"{setting}: {path} is not the config of a model; restore it.")
    if config["model_type"] != "videomae":
        raise SettingError(f"{setting}: {path} is for a {config['model_type']!r} network; only 'videomae' can be read.")
    eps = config.get("layer_norm_eps", 0.0)
    # Missing settings have transformers' defaults, because its files only list settings that differ from them.
    differences = {
        "hidden_act": config.get("hidden_act", "gelu") != "gelu",
        "num_channels": config.get("num_channels", 3) != 3,
        "layer_norm_eps": not isinstance(eps, int | float) or eps > HIGHEST_EPS,
        "use_mean_pooling": "Classification" in str(config.get("architectures")) and not config.get("use_mean_pooling", True),
    }
    for name, differs in differences.items():
        if differs:
            raise SettingError(f"{setting}: {path} has {name} {config.get(name)!r}, which is not supported; pass another.")
    names = {
        "image_size": ("image_size", 224),
        "num_frames": ("num_frames", 16),
        "patch_size": ("patch_size", 16),
        "tubelet_size": ("tubelet_size", 2),
        "num_heads": ("num_attention_heads", 12),
        "decoder_heads": ("decoder_num_attention_heads", 6),
    }
    facts: Facts = {}
    for ours, (theirs, default) in names.items():
        value = config.get(theirs, default)
        sides = value if isinstance(value, list) and value else [value]
        if not all(isinstance(side, int) and side == sides[0] for side in sides):
            raise SettingError(f"{setting}: {path} has {theirs} {value}; only integers and squares can be read.")
        facts[ours] = int(sides[0])
    return facts


def norm_pix_loss_of(path: Path, default: bool | None) -> bool | None:
    """Whether pixels are normalised per cube according to a config.json; `default` if it does not specify this."""
    value = read_json(path).get("norm_pix_loss")
    return value if isinstance(value, bool) else default


def class_names_of(path: Path) -> list[str] | None:
    """Class names by label in a config.json; None if there are none, or only LABEL_0, LABEL_1 and so on."""
    names = read_json(path).get("id2label")
    if not isinstance(names, dict) or names.keys() != {str(number) for number in range(len(names))}:
        return None
    ordered = [str(names[str(number)]) for number in range(len(names))]
    return None if ordered == [f"LABEL_{number}" for number in range(len(names))] else ordered
