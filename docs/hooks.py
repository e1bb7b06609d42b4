"""What the site needs beside docs/: pages of files above docs/, and the picture of rooms without a script from elsewhere.

Links like `../modules/methods/smile.py` work where the repository is read; on the site they lead to pages made here. README.md
leads to the start page, CONTRIBUTING.md and CHANGELOG.md are pages of the same name in lower case.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Files above docs/ that have a page, and its name."""
UNSEARCHED = "---\nsearch: {exclude: true}\n---\n"
LINK = re.compile(r"(?<=\]\()([\w./-]+)(?=[)#])")
MERMAID = re.compile(r"```mermaid\ngraph TD\n(.*?)```", re.DOTALL)
BOX, ROW, MARGIN = (104, 30), 74, 16
"""Width and height of a room's box, distance of rows, and margin, in pixels."""


def outside(path: Path) -> set[str]:
    """Files above docs/ that a page links to, named from the top of the repository."""
    folder = posixpath.dirname(path.relative_to(ROOT).as_posix())
    found = {posixpath.normpath(posixpath.join(folder, link)) for link in LINK.findall(path.read_text())}
    return {name for name in found if not name.startswith(("docs/", "..")) and (ROOT / name).is_file()}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add contributing.md, changelog.md, and a page for each source file that a page links to."""
    above = PAGES.keys() - {"README.md"}
    pages = [*Path(config.docs_dir).rglob("*.md"), *(ROOT / name for name in above)]
    linked = {name for page in pages for name in outside(page)}
    for name in sorted(above | linked - PAGES.keys()):
        text = (ROOT / name).read_text()
        if name not in PAGES:
            text = f"{UNSEARCHED}# {name}\n\n~~~~{Path(name).suffix.lstrip('.')}\n{text}~~~~\n"
        files.append(File.generated(config, PAGES.get(name, f"source/{name}.md"), content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links out of docs/ to the pages made for them, and draw pictures in Mermaid as SVG."""
    source = page.file.src_uri
    if source.startswith("source/"):
        return markdown
    # Of files that lie above docs/, links count from there.
    folder = "" if source in PAGES.values() and source != "index.md" else posixpath.join("docs", posixpath.dirname(source))

    def lead(link: re.Match[str]) -> str:
        name = posixpath.normpath(posixpath.join(folder, link[1]))
        if not (ROOT / name).is_file():
            return link[1]
        target = name.removeprefix("docs/") if name.startswith("docs/") else PAGES.get(name, f"source/{name}.md")
        return posixpath.relpath(target, posixpath.dirname(source) or ".")

    return MERMAID.sub(lambda graph: drawn(graph[1]), LINK.sub(lead, markdown))


def layers(pairs: list[tuple[str, str]]) -> list[list[str]]:
    """Names in rows from top to bottom, each below all that have an arrow to it, near the middle of these."""
    depth: dict[str, int] = {name: 0 for pair in pairs for name in pair}
    for _ in depth:
        for one, other in pairs:
            depth[other] = max(depth[other], depth[one] + 1)
    rows: list[list[str]] = [[] for _ in range(max(depth.values()) + 1)]
    for name, row in depth.items():
        rows[row].append(name)
    place: dict[str, float] = {}
    for row_names in rows:
        above = {name: [place[one] for one, other in pairs if other == name] for name in row_names}
        row_names.sort(key=lambda name: sum(above[name]) / max(1, len(above[name])))
        place |= {name: (number + 0.5) / len(row_names) for number, name in enumerate(row_names)}
    return rows


def drawn(graph: str) -> str:
    """A graph of lines `one --> other` as SVG in the colours of the page."""
    pairs = re.findall(r"(\w+) --> (\w+)", graph)
    rows = layers(pairs)
    width = max(map(len, rows)) * (BOX[0] + 36) + 2 * MARGIN
    centre = {
        name: (width * (number + 0.5) / len(row), MARGIN + BOX[1] / 2 + ROW * level)
        for level, row in enumerate(rows)
        for number, name in enumerate(row)
    }
    height = MARGIN * 2 + BOX[1] + ROW * (len(rows) - 1)
    parts = [f'<svg class="rooms" viewBox="0 0 {width} {height}" role="img" aria-label="Rooms and what they import">']
    parts.append('<marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">')
    parts.append('<path d="M0 0L8 4L0 8z"/></marker>')
    for one, other in pairs:
        (x, y), (u, v) = centre[one], centre[other]
        y, v = y + BOX[1] / 2, v - BOX[1] / 2
        bend = min(ROW / 2, (v - y) / 2)
        parts.append(
            f'<path class="arrow" marker-end="url(#tip)" d="M{x:.0f} {y:.0f}C{x:.0f} {y + bend:.0f} '
            f'{u:.0f} {v - bend:.0f} {u:.0f} {v:.0f}"/>'
        )
    for name, (x, y) in centre.items():
        parts.append(f'<rect x="{x - BOX[0] / 2:.0f}" y="{y - BOX[1] / 2:.0f}" width="{BOX[0]}" height="{BOX[1]}" rx="4"/>')
        parts.append(f'<text x="{x:.0f}" y="{y + 4:.0f}">{name}</text>')
    return "".join([*parts, "</svg>"])
