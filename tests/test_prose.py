"""The prose check finds banned phrases, and none in the project."""

from pathlib import Path

import pytest

from tests.prose import PHRASES, find, find_all, read_phrases, without_code


def test_the_project_has_no_banned_phrase() -> None:
    """Alternatives are in `tests/phrases.txt`."""
    assert [str(finding) for finding in find_all()] == []


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("page.md", "A title\n\nA run goes on\nwhere it stopped.\n", 3),
        ("comment.py", "x = 1\n# A run goes on\n# where it stopped.\n", 2),
        ("docstring.py", 'def f():\n    """One line.\n\n    A run goes on\n    where it stopped.\n    """\n', 4),
        ("message.py", 'raise ValueError(\n    f"in {x} the run goes on "\n    f"where it stopped"\n)\n', 2),
        ("recipe.yaml", "a: 1\nb: 2  # A run goes on\n# where it stopped.\n", 2),
    ],
)
def test_a_phrase_is_found_in_whatever_people_read(name: str, content: str, line: int) -> None:
    (finding,) = find(Path(name), content, read_phrases())
    assert (finding.line, finding.found.lower()) == (line, "goes on where")
    assert str(finding) == f"{name}:{line}: 'goes on where'; write: resume, continue"


@pytest.mark.parametrize(
    ("name", "content"), [("code.py", "goes = on(where)\ngoes_on_where = 1\n"), ("recipe.yaml", "goes on where: 1\n")]
)
def test_code_and_settings_are_not_prose(name: str, content: str) -> None:
    assert find(Path(name), content, read_phrases()) == []


def test_every_phrase_has_a_suggestion() -> None:
    phrases = read_phrases(PHRASES)
    assert len(phrases) > 20
    assert all(phrase.instead.strip() for phrase in phrases)


def test_code_is_not_shown_to_the_linter() -> None:
    page = "Run `very very` so.\n\n```bash\nvery very\n```\n\nThe end.\n"
    blank = without_code(page)
    assert "very" not in blank
    assert blank.count("\n") == page.count("\n")
    assert blank.split() == ["Run", "so.", "The", "end."]
