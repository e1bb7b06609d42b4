"""The licence of weights, where it is stated. It is never guessed."""

from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from modules.weights.files import FOLDER_FILES
from modules.weights.names.videomae import is_official
from modules.weights.passport import passport_of
from modules.weights.run_config import inside

UNKNOWN = "unknown"
"""Entry of a model card if no licence is stated."""
SETTINGS = ("checkpoint", "init_from")
"""Settings of a run with the files that its weights were initialised from."""
FAMILY_NOTE = (
    "Files of this form come from several code bases of the VideoMAE family. The code of VideoMAE is under CC BY-NC 4.0 and "
    "that of SMILE under MIT; the file does not record which of them it comes from."
)


def licence_of(path: Path, earlier: dict[str, Any], settings: dict[str, Any]) -> str | None:
    """The licence in a passport, in the model card of a folder, or of the weights that a run was initialised from; else None.

    Args:
        path: weight file.
        earlier: its passport; empty if there is none.
        settings: settings of the run that trained the weights.
    """
    if isinstance(earlier.get("license"), str):
        return str(earlier["license"])
    stated = front_matter(path.parent / "README.md").get("license") if path.name in FOLDER_FILES else None
    if isinstance(stated, str) and stated != UNKNOWN:
        return stated
    before = (passport_of(file) for file in started_from(settings) if Path(file).exists())
    return next((str(one["license"]) for one in before if one is not None and one.get("license")), None)


def started_from(settings: Any) -> list[str]:
    """The weight files in the settings of a run's model."""
    found: list[str] = []

    def look(part: Any) -> None:
        for name, value in part.items() if isinstance(part, dict) else []:
            if name in SETTINGS and isinstance(value, str):
                found.append(value)
            look(value)

    look(inside(settings, "model"))
    return found


def front_matter(path: Path) -> dict[str, Any]:
    """The YAML at the start of a model card; empty if there is none."""
    try:
        text = path.read_text()
        content = yaml.safe_load(text.split("---\n")[1]) if text.startswith("---\n") else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, IndexError):
        return {}
    return content if isinstance(content, dict) else {}


def licence_note(weights: dict[str, Tensor]) -> str | None:
    """A note on the licences of the code bases that write such files; None for other files."""
    return FAMILY_NOTE if is_official(weights) else None
