"""Imports between rooms, read from the sources: `python -m tests.architecture` draws them into docs/architecture.md."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/architecture.md"
START, END = "```mermaid\n", "```\n"

ORDER = (
    "main",
    "severe",
    "bench",
    "feature_map",
    "embed",
    "callbacks",
    "runs",
    "convert",
    "downstream",
    "methods",
    "datamodules",
    "layers",
    "augment",
    "masks",
    "losses",
    "scenes",
    "language",
    "motion",
    "backbones",
    "training",
    "weights",
    "core",
)
"""From top to bottom: a room may import those below it, except for those that `may_import` forbids."""
BELOW_DATA = ("scenes", "language", "motion", "core")
"""Rooms that data modules may import: no networks."""
ABOVE_DATA = ("main", "callbacks", "runs", "embed", "feature_map")
"""Rooms that may import data modules; methods may not."""


def room_of(module: str) -> str | None:
    """The room of a module by its dotted name; None for modules of other packages, and for those that collect short names."""
    first, *rest = module.split(".")
    if first == "modules":
        return rest[0] if rest else None
    return first if first in ("main", "callbacks", "datamodules") else None


def may_import(room: str, other: str) -> bool:
    """Whether a room may import another."""
    if room == other:
        return True
    if room == "datamodules":
        return other in BELOW_DATA
    if other == "datamodules":
        return room in ABOVE_DATA
    return ORDER.index(room) < ORDER.index(other)


def sources() -> dict[str, Path]:
    """Dotted names and files of all modules of the project, except tests and benchmarks."""
    paths = [
        ROOT / "main.py",
        *(path for folder in ("modules", "datamodules", "callbacks") for path in (ROOT / folder).rglob("*.py")),
    ]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in sorted(paths)}


def imported(path: Path) -> list[tuple[str, bool]]:
    """Modules that a file imports, and whether it does so inside a function or for type checkers only."""
    tree = ast.parse(path.read_text())
    at_top = {id(node) for node in tree.body}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names] if node.module in ("modules", "datamodules") else []
            found += [(name, id(node) not in at_top) for name in names or [node.module]]
        elif isinstance(node, ast.Import):
            found += [(alias.name, id(node) not in at_top) for alias in node.names]
    return found


def edges() -> set[tuple[str, str]]:
    """Pairs of different rooms, the first of which imports the second."""
    pairs = {(room_of(name), room_of(other)) for name, path in sources().items() for other, _ in imported(path)}
    return {(one, other) for one, other in pairs if one is not None and other is not None and one != other}


def picture() -> str:
    """The rooms as a Mermaid diagram, without imports that follow from others."""
    pairs = edges()
    reached: dict[str, set[str]] = {}
    for room in reversed(ORDER):
        direct = {other for one, other in pairs if one == room}
        reached[room] = direct.union(*(reached.get(other, set()) for other in direct))
    lines = ["graph TD"]
    for room in ORDER:
        direct = sorted((other for one, other in pairs if one == room), key=ORDER.index)
        lines += [
            f"    {room} --> {other}" for other in direct if not any(other in reached[near] for near in direct if near != other)
        ]
    return "\n".join(lines) + "\n"


def drawn(text: str) -> str:
    """A page in which the picture is replaced."""
    before, _, rest = text.partition(START)
    return before + START + picture() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text()))
