"""Shortens the long messages of the command line's parser to one sentence, and suggests the closest valid name."""

import difflib
import inspect
import math
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from types import NoneType
from typing import Any, get_args, get_type_hints

import lightning.pytorch.callbacks
import lightning.pytorch.loggers
from jsonargparse import Namespace
from lightning import Trainer
from lightning.pytorch import LightningDataModule

from modules.core.errors import SettingError
from modules.runs.renamed import RENAMED
from modules.training.method import Method

OUR_PACKAGES = {"modules", "datamodules", "callbacks"}
TOP_LEVEL = ["trainer", "model", "data", "seed_everything", "ckpt_path", "config", "weights_only", "verbose", "compile"]
LONG = 200
"""Longer messages of Lightning (in characters) are cut to their first sentence."""
AS_LIST = ", written as [a, b]"
TOP_CLASSES = {"model": Method, "data": LightningDataModule}


def explain(message: str) -> str:
    """Shorten a message of jsonargparse.

    Args:
        message: several lines with the parser's position, the class, and the problem.
    """
    # A list that may also be a single object is parsed both ways, and the second attempt only adds noise.
    message = re.sub(r"- Problem with given class_path 'lightning\.Callback':.*?(?=- Expected|$)", "", message, flags=re.DOTALL)
    where = list(dict.fromkeys(re.findall(r'(?:Parser key|Group) [\'"]([\w.]+)[\'"]', message)))
    name = ".".join(where)
    classes = re.findall(r"given class_path '([\w.]+)'", message)
    holder = class_of(classes[-1]) if classes else None
    if classes and holder is None:
        return _wrong_class(name, classes[-1], _base(class_of(classes[-2]) if len(classes) > 1 else None, where))
    unknown = re.search(
        r"Option '([\w.]+)' is not accepted|unrecognized arguments: --([\w.]+)|not accept option '([\w.]+)'", message
    )
    if unknown is not None:
        wrong = next(group for group in unknown.groups() if group)
        told = ".".join([*where, wrong])
        if (new := new_name(told, holder)) is not None:
            return f"{told} has been renamed to {new}; use that name."
        inside = message.find("Group ") >= 0
        known = settings_of(holder, f"{where[-1]}.{wrong}" if inside else wrong)
        owner = f" in {holder.__name__}" if holder is not None else ""
        return f"There is no setting {told}{_hint(wrong, known, where, owner)}"
    stray = re.search(r"unrecognized arguments: (.*)", message)
    if stray is not None:
        return f"{stray[1]} is not a setting: write --name value, or --config FILE for a file."
    whole = re.search(r"Unable to load config ['\"](.*?)['\"]", message)
    if whole is not None:
        if (new := new_name(name, holder)) is not None:
            return f"{name} is {whole[1]!r}, but its content has been renamed to {new}; use that name."
        return f"{name} is {whole[1]!r}; give its settings one by one (--{name}.NAME VALUE), or a YAML file with them."
    missing = re.search(r"Expected a dot import path string: (\S+)", message)
    if missing is not None:
        return _wrong_class(name, missing[1], _base(holder, where))
    needed = re.search(r"arguments are required: ([\w.]+)", message)
    if needed is not None:
        if holder is None:
            command, _, what = needed[1].rpartition(".")
            return f"{what} is not set; " + (
                f"name a class with --{what}, or pass a recipe with --config." if command else f"pass --{what}."
            )
        return f"{name}.{needed[1]} is not set; {holder.__name__} needs it."
    if "is abstract" in message:
        return f"{name} names an abstract base class; it takes {_listed(fitting(_base(holder, where)))}."
    value = re.search(r"(?:Got|Given) value: (.*)", message, re.DOTALL)
    nested = re.match(r"NestedArg\(key='[\w.]+', val=(.*)\)", value[1], re.DOTALL) if value is not None else None
    given = "" if value is None else (nested[1] if nested is not None else value[1]).strip().partition("\n")[0].strip("'\"")
    given = "null" if given == "None" else given
    choices = list(dict.fromkeys(re.findall(r"typing\.Literal\[(.*?)\]", message)))
    if choices and name:
        # A setting may accept true and false, or null, in addition to a list of words.
        also = [
            word
            for kind, word in (("bool", "true, false"), ("NoneType", "null"))
            if f"- Expected a <class '{kind}'>" in message
        ]
        return f"{name} is {given!r}; it must be one of {', '.join(choices + (also if not classes else []))}."
    sized = re.search(r"Expected a tuple with (\d+) elements", message)
    if sized is not None:
        return f"{name} is {given}; it must have {sized[1]} values."
    mistyped = re.search(r"Expected a <class '([\w.]+)'>\. Got value: ", message)
    if mistyped is not None:
        return f"{name} must be of type {mistyped[1]}, not {given!r}{AS_LIST if mistyped[1] == 'list' else ''}."
    kinds = re.findall(r"- Expected a <class '([\w.]+)'>", message)
    if classes:
        # The other types belong to the setting that contains the class.
        plain = re.findall(r"Subtypes: \[((?:<class '\w+'>(?:, )?)+)\]", message)
        kinds = re.findall(r"'(\w+)'", plain[-1]) if plain else []
    if kinds and name:
        if set(kinds) == {"NoneType"}:
            return f"{name} does not name a class; name one with --{name}, or pass a recipe first with --config."
        names = list(dict.fromkeys("null" if kind == "NoneType" else kind.rpartition(".")[2] for kind in kinds))
        return f"{name} is {given!r}; it must be of type {' or '.join(names)}{AS_LIST if 'list' in names else ''}."
    text = re.sub(r"Given value( type)?: .*", "", message, flags=re.DOTALL)
    text = re.sub(
        r"Does not validate against any of the Union subtypes|Subtypes: .*|Errors:|Expected a <class 'NoneType'>", "", text
    )
    return " ".join(line.strip(" -") for line in text.splitlines() if line.strip(" -"))


def _wrong_class(name: str, wrong: str, base: Any) -> str:
    fits = fitting(base)
    last = wrong.rpartition(".")[2]
    name = name or "--help"
    if wrong in ("true", "false") and fits:
        return f"{name} is {wrong}; it takes {_listed(fits)}."
    if last in fits:
        return f"{name}: there is no class {wrong}; did you mean {last}?"
    if last in class_names() and last not in fits:
        near = difflib.get_close_matches(last, fits, n=1, cutoff=0.85)
        instead = f"did you mean {near[0]}?" if near else f"it takes {_listed(fits)}."
        return f"{name}: {wrong} cannot be used here; {instead}"
    return f"{name}: there is no class {wrong}{_hint(wrong, fits or class_names(), [])}"


def _listed(names: list[str]) -> str:
    return " | ".join(names) or "another class"


def _hint(name: str, known: list[str], where: list[str], owner: str = "") -> str:
    head, _, last = name.rpartition(".")
    if known is TOP_LEVEL and last in settings_of(Trainer, last):
        return f"; did you mean trainer.{last}?"
    near = [one for one in known if one.startswith(last)][:1] or difflib.get_close_matches(last, known, n=1, cutoff=0.6)
    if not near:
        return f"{owner}; --help lists the settings."
    return f"; did you mean {'.'.join([*where, head, near[0]] if head else [*where, near[0]])}?"


def new_name(name: str, holder: Any) -> str | None:
    """The new name of a renamed setting.

    Args:
        name: name on the command line, without the dashes.
        holder: class that it was passed to; None if unknown.

    Returns:
        None if the name was not changed, or the class has no setting with the new name.
    """
    new = RENAMED.get(name)
    whole, _, inner = name.rpartition(".")
    if new is None and whole in RENAMED and not RENAMED[whole].startswith(f"{whole}."):
        # A setting of a group that has been moved.
        new = f"{RENAMED[whole]}.{inner}"
    if new is None or holder is None:
        return new
    parts = new.split(".")
    # The class may be nested in the method or the data; comparing only the last part could match by chance.
    return new if any(_takes(holder, parts[start:]) for start in range(1, max(2, len(parts) - 1))) else None


def _takes(kind: Any, parts: list[str]) -> bool:
    """Whether a class has a setting with this dotted name, judged by its types."""
    if parts[0] not in inspect.signature(kind).parameters:
        return False
    inner = next((one for one in _classes(_types(kind).get(parts[0])) if _is_settings(one)), None)
    return len(parts) == 1 or inner is None or inspect.isabstract(inner) or _takes(inner, parts[1:])


def class_of(path: str) -> Any:
    """The class of a class_path; None if there is none, for example because its module has been moved."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name, None) if module else None
    except ModuleNotFoundError:
        return None


def class_named(path: str) -> Any:
    """The class of a class_path or a short name; None if there is none."""
    try:
        return class_of(path) if "." in path else _known().get(path)
    except ImportError:
        return None


def _base(holder: Any, where: list[str]) -> Any:
    """Type of a setting; None if unknown."""
    if not where:
        return None
    if holder is None:
        head, _, rest = where[0].partition(".")
        return _types(Trainer).get(rest) if head == "trainer" else TOP_CLASSES.get(head)
    kind = holder
    for name in where[-1].split("."):
        kind = next((types[name] for types in map(_types, _classes(kind)) if name in types), kind)
    return kind if kind is not holder else None


def _is_settings(kind: Any) -> bool:
    return hasattr(kind, "__dataclass_fields__")


def _types(kind: Any) -> dict[str, Any]:
    """Types of a class's settings by name; empty if they refer to names that are only imported for type checking."""
    try:
        return get_type_hints(kind if _is_settings(kind) else kind.__init__)
    except NameError:
        return {}


def _classes(kind: Any) -> Iterator[type]:
    """Classes in a type: `A | list[B] | None` -> A, B."""
    if get_args(kind):
        for part in get_args(kind):
            yield from _classes(part)
    elif inspect.isclass(kind) and kind is not NoneType and kind.__module__ != "builtins":
        yield kind


def fitting(base: Any) -> list[str]:
    """Short names of the classes that a setting of this type accepts."""
    bases = tuple(_classes(base))
    return [name for name, kind in _known().items() if issubclass(kind, bases) and not inspect.isabstract(kind)]


def settings_of(holder: Any, name: str) -> list[str]:
    """Valid names for the last part of a dotted name.

    Args:
        holder: class whose setting was wrong; None for a top-level setting.
        name: dotted name within the class.
    """
    first, _, rest = name.partition(".")
    if holder is None:
        return settings_of(Trainer, rest) if first == "trainer" and rest else TOP_LEVEL
    parameters = [key for key in inspect.signature(holder).parameters if key != "self"]
    if not rest:
        return parameters
    kind = _types(holder).get(first)
    return settings_of(kind, rest) if inspect.isclass(kind) else parameters


def _known() -> dict[str, type]:
    """Our classes and Lightning's callbacks and loggers that can be chosen by name, by their short names."""
    found: dict[str, type] = {}
    for module in (lightning.pytorch.callbacks, lightning.pytorch.loggers):
        found |= {name: getattr(module, name) for name in module.__all__ if inspect.isclass(getattr(module, name))}
    for module in list(sys.modules.values()):
        if module.__name__.split(".")[0] in OUR_PACKAGES:
            found |= {name: value for name, value in vars(module).items() if inspect.isclass(value)}
    return {name: found[name] for name in sorted(found) if not name.startswith("_")}


def class_names() -> list[str]:
    """Short names of our classes and of Lightning's callbacks and loggers."""
    return list(_known())


def check_values(config: Any, path: str, kind: Any = None) -> None:
    """Refuse NaN, and null where a class does not accept it (the parser accepts null for settings with a default).

    Args:
        config: value of a setting, as parsed.
        path: name of the setting on the command line.
        kind: class whose settings `config` contains, if `config` has no class_path.

    Raises:
        SettingError: for the first one.
    """
    if isinstance(config, list):
        for item in config:
            check_values(item, path)
    if not isinstance(config, Namespace):
        return
    if "class_path" in config:
        kind, config = class_of(config.class_path), config.get("init_args") or Namespace()
    if kind is None:
        return
    hints = _types(kind)
    for name, value in vars(config).items():
        hint = hints.get(name, Any)
        if value is None and hint not in (Any, object) and NoneType not in get_args(hint):
            raise SettingError(f"{path}.{name} is null, but {kind.__name__} needs a value; leave it out to take the default.")
        if isinstance(value, float) and math.isnan(value):
            raise SettingError(f"{path}.{name} is nan; it must be a number.")
        settings = next((one for one in _classes(hint) if _is_settings(one)), None)
        check_values(value, f"{path}.{name}", settings)


def explain_lightning(error: Exception, trainer: Namespace) -> str:
    """One sentence for an error raised by Lightning, with the trainer setting that caused it.

    Args:
        error: error raised by Lightning.
        trainer: the trainer's settings.
    """
    text = " ".join(str(error).split())
    if len(text) > LONG:
        text = re.split(r"(?<=[.!?])\s", text)[0]
    named = next((word for word in re.findall(r"\w+", text) if word in trainer), None)
    return f"trainer.{named} is {trainer[named]}: {text}" if named is not None else text
