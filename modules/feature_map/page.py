"""The map as one self-contained page, which works offline: page.html, page.css and page.js with the data of the map.

Numbers are written as base64 of little-endian arrays, texts as JSON in which no character can end the script element.
"""

import base64
import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from modules.core.files import write_whole
from modules.feature_map.colours import GREY, Colouring, Entry
from modules.feature_map.films import SIDE, Film
from modules.feature_map.groups import Neighbours
from modules.feature_map.layout import Layout
from modules.feature_map.picture import Told
from modules.feature_map.points import Points

PLACE = re.compile("@(TITLE|STYLE|DATA|SCRIPT)@")


def write_page(
    path: Path,
    points: Points,
    layout: Layout,
    colourings: list[Colouring],
    neighbours: Neighbours,
    films: dict[int, Film],
    told: Told,
) -> int:
    """Write the page.

    Args:
        path: file to write.
        points: points of the map.
        layout: positions of the points.
        colourings: available colourings; the first is shown first.
        neighbours: neighbours of the points.
        films: films by point; other points have none.
        told: title, and lines below.

    Returns:
        size of the page in bytes.
    """
    data = {
        "title": told.title,
        "subtitle": told.subtitle,
        "facts": told.facts,
        "axes": layout.axes,
        "grey": GREY,
        "paths": points.paths,
        "labels": points.labels,
        "count": len(points.row),
        "place": _packed(layout.place, "<f4"),
        "order": _packed(layout.order(), "<i4"),
        "row": _packed(points.row, "<i4"),
        "span": _packed(points.span, "<f4") if points.span is not None else None,
        "near": {
            "k": neighbours.number.shape[1],
            "number": _packed(neighbours.number, "<i4"),
            "similarity": _packed(neighbours.similarity, "<f4"),
        },
        "colourings": [
            {
                "name": one.name,
                "index": _packed(one.group, "<i4"),
                "scale": one.scale,
                "entries": [dict(zip(Entry._fields, entry, strict=True)) for entry in one.entries],
            }
            for one in colourings
        ],
        "side": SIDE,
        "films": {number: _film(film) for number, film in films.items()},
    }
    here = Path(__file__)
    parts = {
        "TITLE": html.escape(told.title.encode("utf-8", "replace").decode("utf-8")),
        "STYLE": here.with_name("page.css").read_text(encoding="utf-8"),
        "SCRIPT": here.with_name("page.js").read_text(encoding="utf-8"),
        "DATA": to_script_json(data),
    }
    frame = here.with_name("page.html").read_text(encoding="utf-8")
    page = PLACE.sub(lambda found: parts[found[1]], frame).encode("utf-8")
    write_whole(path, lambda part: part.write_bytes(page))
    return len(page)


def to_script_json(data: Any) -> str:
    """ASCII JSON for a script element: without '<', which could end the element or begin a comment."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _film(film: Film) -> dict[str, Any]:
    if not film.strip:
        return {"reason": film.reason}
    return {"strip": base64.b64encode(film.strip).decode(), "frames": film.frames, "seconds": round(film.seconds, 3)}


def _packed(numbers: Tensor, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(numbers.numpy().astype(dtype)).tobytes()).decode()
