"""One sentence for what the command line's parser says in a page, with the nearest right name for a wrong one."""

import difflib
import inspect
import re
import sys
from importlib import import_module
from typing import Any, get_type_hints

import lightning.pytorch.callbacks
from lightning import Trainer

OUR_PACKAGES = {"modules", "datamodules", "callbacks"}
TOP_LEVEL = ["trainer", "model", "data", "seed_everything", "ckpt_path", "config", "weights_only", "verbose"]


def explain(message: str) -> str:
    """Shorten a message of jsonargparse.

    Args:
        message: several lines: where the parser was, in which class, and what it did not like.
    """
    where = re.findall(r'Parser key "([\w.]+)"', message)
    classes = re.findall(r"given class_path '([\w.]+)'", message)
    holder = find_class(classes[-1]) if classes else None
    unknown = re.search(
        r"Option '([\w.]+)' is not accepted|unrecognized arguments: --([\w.]+)|not accept option '([\w.]+)'", message
    )
    if unknown is not None:
        name = next(group for group in unknown.groups() if group)
        return f"There is no setting {'.'.join([*where, name])}{_hint(name, settings_of(holder, name), where)}"
    missing = re.search(r"Expected a dot import path string: (\S+)", message)
    if missing is not None:
        return f"{'.'.join(where)}: there is no class {missing[1]}{_hint(missing[1], class_names(), [])}"
    choice = re.search(r"Expected a typing\.Literal\[(.*?)\]\. Got value: (\S*)", message)
    if choice is not None:
        return f"{'.'.join(where)} is {choice[2]!r}; it must be one of {choice[1]}."
    mistyped = re.search(r"Expected a <class '([\w.]+)'>\. Got value: (.*)", message)
    if mistyped is not None:
        return f"{'.'.join(where)} must be of type {mistyped[1]}, not {mistyped[2]!r}."
    return " ".join(line.strip(" -") for line in message.splitlines() if line.strip())


def _hint(name: str, known: list[str], where: list[str]) -> str:
    head, _, last = name.rpartition(".")
    near = difflib.get_close_matches(last, known, n=1, cutoff=0.6)
    if not near:
        return "; --help lists what there is."
    return f"; did you mean {'.'.join([*where, head, near[0]] if head else [*where, near[0]])}?"


def find_class(path: str) -> Any:
    """The class of a class_path."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name, None)


def settings_of(holder: Any, name: str) -> list[str]:
    """Names that the last part of a dotted name could have had.

    Args:
        holder: class whose setting was wrong; None for a setting at the top.
        name: dotted name from there.
    """
    first, _, rest = name.partition(".")
    if holder is None:
        return settings_of(Trainer, rest) if first == "trainer" and rest else TOP_LEVEL
    parameters = [key for key in inspect.signature(holder).parameters if key != "self"]
    if not rest:
        return parameters
    kind = get_type_hints(holder.__init__).get(first)
    return settings_of(kind, rest) if inspect.isclass(kind) else parameters


def class_names() -> list[str]:
    """Short names of our classes and of Lightning's callbacks."""
    names = list(lightning.pytorch.callbacks.__all__)
    for module in list(sys.modules.values()):
        if module.__name__.split(".")[0] in OUR_PACKAGES:
            names += [name for name, value in vars(module).items() if inspect.isclass(value)]
    return sorted(set(names))
