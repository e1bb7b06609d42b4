"""The prose check: `python -m tests.prose` runs proselint on the documentation, and looks for banned phrases everywhere.

proselint reads Markdown files without their code, with the settings of `.proselintrc.json`: dates and times ('AM' is found in
formulas), repeated words ('16 x 224 x 224'), consistent spelling ('colour' next to 'Color' in names), diacritics ('resume' is a
verb here) and typographic symbols (straight quotes, 'x' in sizes) are switched off. The phrases of `tests/phrases.txt` are
searched in Markdown files, in comments and strings of Python files (docstrings, help, errors), and in comments of YAML files.
"""

import io
import re
import subprocess
import sys
import tempfile
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PHRASES = ROOT / "tests/phrases.txt"
DOCUMENTS = ("*.md", "docs/**/*.md", ".github/**/*.md")
FILES = (
    *DOCUMENTS,
    "main.py",
    *(f"{folder}/**/*.py" for folder in ("modules", "datamodules", "callbacks", "benchmarks", "tests")),
    "configs/**/*.yaml",
)
# These quote the phrases.
QUOTED = (ROOT / "tests/test_prose.py",)
# Lines of a comment, and adjacent string literals, continue a sentence: a phrase may be split over them.
JOINS = re.compile(r"[\"']\s*\n\s*[frb]*[\"']|\n\s*#?\s*")

CODE = re.compile(r"^( *)(```|~~~).*?^\1\2|`[^`\n]+`|<!--.*?-->|https?://[^\s)>]+", re.DOTALL | re.MULTILINE)


class Phrase(NamedTuple):
    """A banned phrase."""

    pattern: re.Pattern[str]
    instead: str


class Finding(NamedTuple):
    """A banned phrase in a file."""

    path: Path
    line: int
    found: str
    instead: str

    def __str__(self) -> str:
        """One line for a terminal."""
        return f"{self.path}:{self.line}: '{self.found}'; write: {self.instead}"


def read_phrases(path: Path = PHRASES) -> list[Phrase]:
    """The banned phrases of a file, in which lines are 'regular expression => suggestion'."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return [Phrase(re.compile(pattern, re.IGNORECASE), instead) for pattern, instead in (line.split(" => ") for line in lines)]


def texts(path: Path, content: str) -> Iterator[tuple[int, str]]:
    """Passages of a file that people read, with the lines that they start in."""
    if path.suffix == ".py":
        previous: tuple[int, str, int, int] | None = None  # first line, text, last line, kind
        for token in tokenize.generate_tokens(io.StringIO(content).readline):
            if token.type not in (tokenize.STRING, tokenize.COMMENT):
                continue
            if previous is not None and previous[3] == token.type and token.start[0] == previous[2] + 1:
                previous = (previous[0], f"{previous[1]}\n{token.string}", token.end[0], token.type)
                continue
            if previous is not None:
                yield previous[0], previous[1]
            previous = (token.start[0], token.string, token.end[0], token.type)
        if previous is not None:
            yield previous[0], previous[1]
    elif path.suffix == ".yaml":
        # Commented lines keep their place, so that phrases may go on in the next one.
        yield 1, "\n".join(line[line.index("#") :] if re.search(r"(^|\s)#", line) else "" for line in content.splitlines())
    else:
        yield 1, content


def find(path: Path, content: str, phrases: list[Phrase]) -> list[Finding]:
    """Banned phrases in the content of a file.

    Args:
        path: of the file; its suffix says what its content is.
        content: of the file.
        phrases: to look for.
    """
    # Most files have none, and need not be split into passages.
    plain = " ".join(JOINS.sub(" ", content).split())
    candidates = [phrase for phrase in phrases if phrase.pattern.search(plain)]
    found = []
    for start, text in texts(path, content) if candidates else ():
        # Joins become blanks of the same length, so that places in the text stay.
        joined = JOINS.sub(lambda join: " " * len(join[0]), text)
        squeezed = [(match.start(), match[0]) for match in re.finditer(r"\S+", joined)]
        words = " ".join(word for _, word in squeezed)
        for phrase in candidates:
            for match in phrase.pattern.finditer(words):
                place = squeezed[words.count(" ", 0, match.start())][0]
                found.append(Finding(path, start + text.count("\n", 0, place), match[0], phrase.instead))
    return found


def find_all(root: Path = ROOT) -> list[Finding]:
    """Banned phrases in all files of the project."""
    phrases = read_phrases()
    paths = sorted({path for pattern in FILES for path in root.glob(pattern)}.difference(QUOTED))
    return [one for path in paths for one in find(path.relative_to(root), path.read_text(), phrases)]


def without_code(markdown: str) -> str:
    """Markdown with blanks instead of code, of which a linter for prose understands nothing; lines keep their numbers."""
    return CODE.sub(lambda code: re.sub(r"[^\n]", " ", code[0]), markdown)


def lint(root: Path = ROOT) -> str:
    """What proselint says about the documentation; empty if it finds nothing."""
    with tempfile.TemporaryDirectory() as folder:
        for path in sorted({path for pattern in DOCUMENTS for path in root.glob(pattern)}):
            copy = Path(folder).resolve() / path.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(without_code(path.read_text()))
        command = [sys.executable, "-m", "proselint", "--config", str(ROOT / ".proselintrc.json"), "check", folder]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        said = (result.stdout + result.stderr).replace(f"{Path(folder).resolve()}/", "").strip()
    return said if said or result.returncode == 0 else f"proselint failed with exit code {result.returncode}"


def main() -> int:
    """Print all findings, and return an exit code."""
    findings = [str(finding) for finding in find_all()]
    told = lint()
    print("\n".join([*findings, *told.splitlines()]) or "Nothing to correct.")
    return int(bool(findings or told))


if __name__ == "__main__":
    sys.exit(main())
