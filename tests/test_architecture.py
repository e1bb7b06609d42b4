"""Rooms and their allowed imports; see docs/architecture.md."""

import re
from collections import Counter

import pytest

from tests.architecture import PAGE, ROOT, drawn, imported, may_import, room_of, sources

OURS = ("main", "modules", "datamodules", "callbacks")
FEW = 12
"""Files in a room; more are allowed for methods and data sets, which have one file each."""


def test_imports_run_down() -> None:
    up = [
        f"{name} imports {other}"
        for name, path in sources().items()
        for other, _ in imported(path)
        if (room := room_of(name)) and (below := room_of(other)) and not may_import(room, below)
    ]
    assert up == []


def test_no_method_imports_another() -> None:
    methods = {name: path for name, path in sources().items() if name.startswith("modules.methods.")}
    assert len(methods) > 5
    assert [
        f"{name}: {other}" for name, path in methods.items() for other, _ in imported(path) if room_of(other) == "methods"
    ] == []


def test_no_import_inside_a_function_dodges_a_circle() -> None:
    hidden = [
        f"{name}: {other}"
        for name, path in sources().items()
        for other, is_hidden in imported(path)
        if is_hidden and other.partition(".")[0] in OURS
    ]
    assert hidden == []


def test_no_circle_between_files() -> None:
    names = sources()
    graph = {name: {other for other, _ in imported(path) if other in names} for name, path in names.items()}
    while leaves := {name for name, others in graph.items() if not others & graph.keys()}:
        graph = {name: others for name, others in graph.items() if name not in leaves}
    assert graph == {}


def test_rooms_are_small() -> None:
    files = Counter(path.parent.relative_to(ROOT).as_posix() for path in sources().values() if path.name != "__init__.py")
    crowded = {
        room: count for room, count in files.items() if count > FEW and room not in ("modules/methods", "datamodules/sets")
    }
    assert crowded == {}


def test_the_picture_is_that_of_the_imports() -> None:
    text = PAGE.read_text()
    assert text == drawn(text), "python -m tests.architecture updates it"


def test_what_the_page_names_is_there() -> None:
    text = PAGE.read_text()
    links = re.findall(r"\]\((\.\./[\w/.]+)\)", text)
    assert len(links) > 20
    assert [link for link in links if not (PAGE.parent / link).is_file()] == []
    folders = re.findall(r"`((?:modules|datamodules|callbacks|tests)/[\w/.]*)`", text)
    assert [name for name in folders if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(
    ("room", "other", "allowed"),
    [
        ("methods", "layers", True),
        ("layers", "methods", False),
        ("core", "weights", False),
        ("datamodules", "backbones", False),
        ("datamodules", "scenes", True),
        ("downstream", "datamodules", False),
        ("runs", "datamodules", True),
    ],
)
def test_rules(room: str, other: str, allowed: bool) -> None:
    assert may_import(room, other) is allowed
