"""Checks of the YAML files of a command before they are merged: afterwards the origin of a value is unknown."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from modules.core.errors import SettingError
from modules.runs.explain import class_named, new_name

OPTIONS = ("--config", "-c")


def config_files(words: list[str]) -> Iterator[str]:
    """Values of --config in a command line."""
    for word, following in pairwise([*words, ""]):
        option, equals, value = word.partition("=")
        name = value if equals else following
        # Lightning also accepts URLs.
        if option in OPTIONS and name and "://" not in name:
            yield name


def check_config_file(name: str) -> None:
    """Refuse errors that the parser would report less clearly, or accept by mistake.

    Args:
        name: path of a YAML file.

    Raises:
        SettingError: if the file is missing, not text, not YAML, empty, has a duplicate key, a section that is not
            a mapping, or renamed settings (all of which are listed).
    """
    path = Path(name).expanduser()
    if not path.is_file():
        what = "it is a folder" if path.is_dir() else "File does not exist"
        raise SettingError(f"--config {name}: {what}; pass a YAML file.")
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"--config names {name}, which cannot be read as text ({error}); pass a YAML file.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}" if mark is not None else "unknown line"
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        hint = "; indent with spaces, not with tabs" if "\\t" in problem else ""
        raise SettingError(f"{name}, {line}: invalid YAML ({problem}{hint}).") from error
    if root is None:
        raise SettingError(f"--config names {name}, which is empty; add settings, or leave it out.")
    if not isinstance(root, yaml.MappingNode):
        raise SettingError(f"--config names {name}, which contains no settings of the form 'name: value'.")
    _check_twice(name, root, "")
    _check_names(name, root)
    for key, value in root.value:
        if key.value == "trainer" and not isinstance(value, yaml.MappingNode):
            line = value.start_mark.line + 1
            raise SettingError(f"{name}, line {line}: trainer must be a mapping of settings ('max_epochs: 1'), not one value.")


def _check_twice(name: str, node: yaml.Node, where: str) -> None:
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_twice(name, item, where)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.value in lines:
            raise SettingError(f"{name}, line {line}: {where}{key.value} was already set in line {lines[key.value]}.")
        lines[str(key.value)] = line
        _check_twice(name, value, f"{where}{key.value}.")


def _check_names(name: str, root: yaml.Node) -> None:
    old = [f"{told} (line {line}) is {new}" for line, told, new in _renamed(root, "", None)]
    if old:
        raise SettingError(f"{name} uses settings that have been renamed: {', '.join(old)}; use the new names.")


def _renamed(node: yaml.Node, path: str, holder: Any) -> Iterator[tuple[int, str, str]]:
    """Settings that have been renamed: line, old name and new name.

    Args:
        node: node of the file.
        path: name of the setting whose value it is.
        holder: class whose settings it contains, if known.
    """
    if not isinstance(node, yaml.MappingNode):
        return
    chosen = next((value.value for key, value in node.value if key.value == "class_path"), None)
    for key, value in node.value:
        if key.value == "init_args":
            yield from _renamed(value, path, class_named(chosen) if isinstance(chosen, str) else None)
            continue
        told = f"{path}.{key.value}" if path else str(key.value)
        # Only the parser knows the settings of an unknown class.
        new = new_name(told, holder) if holder is not None else None
        # A setting that used to be a single value may now be a group of the same name.
        if new is not None and not (new.startswith(f"{told}.") and _is_group(value)):
            yield key.start_mark.line + 1, told, new
        else:
            yield from _renamed(value, told, holder)


def _is_group(node: yaml.Node) -> bool:
    return isinstance(node, yaml.MappingNode)
