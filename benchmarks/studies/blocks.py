"""Blocks of a page that a benchmark writes; what stands between them is written by hand and kept."""

from collections.abc import Mapping
from pathlib import Path

from modules.core.errors import SettingError


def marks(name: str) -> tuple[str, str]:
    """The lines before and after a block."""
    return f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"


def filled(page: Path, blocks: Mapping[str, str]) -> str:
    """Text of a page with new blocks.

    Args:
        page: Markdown file.
        blocks: Markdown by the name of its block.

    Raises:
        SettingError: if the page does not have each block exactly once.
    """
    text = page.read_text() if page.is_file() else ""
    for name, content in blocks.items():
        start, end = marks(name)
        if (text.count(start), text.count(end)) != (1, 1) or text.index(start) > text.index(end):
            raise SettingError(
                f"--page {page} has no lines {start.strip()} and {end.strip()} to write between; add them, once."
            )
        before, _, rest = text.partition(start)
        text = f"{before}{start}\n{content.rstrip()}\n\n{end}{rest.partition(end)[2]}"
    return text
