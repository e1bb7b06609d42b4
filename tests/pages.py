"""Commands and code in the README and the pages of docs/."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in FILES}
"""Pages by name. CONTRIBUTING.md, which explains how to set up a checkout, is not included."""
STARTS = ("python ", "pip ", "bash ", "tensorboard ")
CODE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[str]:
    """Commands of a page: lines indented by four or more, or in blocks of bash, in their order, without comments."""
    shell = CODE.sub(lambda block: re.sub("^", "    ", block[3], flags=re.MULTILINE) if block[2] == "bash" else "", text)
    lines = (line.strip() for line in shell.splitlines() if line.startswith("    "))
    return [line for line in lines if line.startswith(STARTS)]


def arguments(command: str) -> list[str]:
    """The main.py commands of a line, which may contain other commands before."""
    return shlex.split(command.split("&&")[-1], comments=True)[2:]


def python(text: str) -> list[str]:
    """Blocks of Python of a page."""
    return [block[3] for block in CODE.finditer(text) if block[2] == "python"]
