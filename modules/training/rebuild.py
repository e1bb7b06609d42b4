"""Rebuilding a method from the settings in its checkpoints."""

from typing import Any, TypeVar

from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule

from modules.core.errors import SettingError
from modules.weights.run_config import inside, parse_config

Kind = TypeVar("Kind", bound=LightningModule)

WEIGHTS = ("checkpoint", "init_from")
"""Settings with weight files, which are replaced by the checkpoint's weights."""
FROZEN = ("target", "teacher", "clip")
"""Frozen parts that are not in checkpoints, so their files are still needed."""


def recorded_arguments(config: str, wanted: type[Kind], source: str) -> tuple[type[Kind], dict[str, Any]]:
    """Class and arguments of a run's method, with newly built networks and settings.

    Args:
        config: settings of the run, as YAML.
        wanted: required class of the method.
        source: checkpoint that contains them, for error messages.

    Raises:
        SettingError: if the run had a method of another class, or its settings no longer fit the code.
    """
    model = inside(parse_config(config), "model")
    try:
        kind = _class_of(model["class_path"])
        builder = ArgumentParser(exit_on_error=False)
        builder.add_class_arguments(kind, "model", instantiate=False)
        settings = builder.parse_object({"model": _without_files(model.get("init_args") or {})})
        # Before version 4.49, jsonargparse called it `instantiate_classes`.
        build = builder.instantiate if hasattr(builder, "instantiate") else builder.instantiate_classes
        built = build(settings).model
    except SettingError:
        raise
    except Exception as error:
        last = str(error).strip().rpartition("\n")[2].strip()
        raise SettingError(
            f"{source} was written with settings that can no longer be built ({last:.200}); build the method yourself and "
            "pass its arguments to load_from_checkpoint."
        ) from error
    if not issubclass(kind, wanted):
        raise SettingError(
            f"{source} contains a {kind.__name__}, not a {wanted.__name__}; use {kind.__name__}.load_from_checkpoint."
        )
    return kind, vars(built)


def _class_of(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(__import__(module, fromlist=[name]), name)


def _without_files(settings: Any, part: str = "") -> Any:
    """The same settings without the weight files that the checkpoint replaces."""
    if not isinstance(settings, dict):
        return settings
    kept = {}
    for name, value in settings.items():
        # The settings of a class are below its name and `init_args`, and all of a frozen part is frozen.
        inner = part if name == "init_args" or part in FROZEN else name
        kept[name] = None if name in WEIGHTS and part not in FROZEN else _without_files(value, inner)
    return kept
