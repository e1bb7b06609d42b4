"""The command `python main.py map`."""

from pathlib import Path
from typing import Literal

import torch
from lightning.pytorch.utilities import rank_zero_info

from datamodules.prepare.parallel import core_count
from modules.core.errors import SettingError, check_whole, check_writable, given
from modules.feature_map.colours import Colouring, by_cluster, by_name, by_time
from modules.feature_map.films import Film, middle_frame, read_films
from modules.feature_map.groups import cluster, most_neighbours, nearest_others, scores
from modules.feature_map.layout import MethodName, lay_out
from modules.feature_map.page import write_page
from modules.feature_map.picture import Told, draw_map
from modules.feature_map.points import Per, Points, read_points
from modules.feature_map.projector import write_projector

CLUSTERS, NEIGHBOURS, VOTERS = 10, 6, 10
NO_FILM = Film(b"", 0, 0.0, "")


def feature_map(
    features: list[Path] | Path,
    out: Path | None = None,
    method: MethodName = "pca",
    colour: Literal["class", "cluster", "time"] | None = None,
    clusters: int | None = None,
    neighbours: int | None = None,
    per: Per = "step",
    films: bool = True,
    film_limit: int = 1000,
    root: Path | None = None,
    num_workers: int | None = None,
) -> None:
    """Draw a map of features written by embed: OUT.png, a page OUT.html with films, and OUT.projector for TensorBoard.

    The page is a single file that works offline. Points show their clip as a film, with the nearest neighbours by cosine
    similarity, and are coloured by class, by cluster or by time. Files of an earlier map with that name are replaced. The same
    features give the same map.

    Args:
        features: name of a collection written by embed, or of several from the same encoder: '[features/train, features/val]'.
        out: name of the map, without suffix; null takes that of the first collection with _map appended.
        method: pca, or umap (needs umap-learn: pip install -e .[map]).
        colour: by class, by cluster (k-means) or by time (second of the video); null takes the class, or the cluster if
            no video has a class. The page can show all of them.
        clusters: number of k-means clusters; null is 10, or fewer if there are fewer points.
        neighbours: number of nearest neighbours, from other videos, shown for each point; null is 6, or fewer
            if there are fewer.
        per: points of videos with a sequence of features: step, a point per feature; or video, a point for their mean.
        films: show clips as films, read from the videos.
        film_limit: maximum number of points with a film, evenly spread; each adds about 10 kB to the page.
        root: folder that relative paths are relative to; null takes the one recorded by embed.
        num_workers: processes that read videos; null takes four, or the number of cores if there are fewer.

    Raises:
        SettingError: if a setting is invalid, a collection cannot be read, or umap-learn is missing.
    """
    check_whole("--", 1, film_limit=film_limit, **given(neighbours=neighbours))
    check_whole("--", 2, **given(clusters=clusters))
    num_workers = min(4, core_count()) if num_workers is None else num_workers
    check_whole("--", 0, num_workers=num_workers)
    names = [
        _without(name, ".safetensors", ".csv", ".json") for name in (features if isinstance(features, list) else [features])
    ]
    if not names:
        raise SettingError("--features names no collection; pass the name that was given to embed as --out.")
    name = _without(out, ".png", ".html") if out is not None else names[0].with_name(f"{names[0].name}_map")
    check_writable("--out", name.parent)

    points = read_points(names, per, root)
    count, group = len(points.row), points.groups()
    if (clusters or 0) > count:
        raise SettingError(f"--clusters is {clusters}, but there are {count} points; pass {count} or fewer.")
    most = most_neighbours(group)
    if (neighbours or 0) > most:
        raise SettingError(
            f"--neighbours is {neighbours}, but some points have only {most} others from other videos; pass {most} or fewer."
        )
    rank_zero_info(f"{count} points of {len(points.files)} videos.")
    near = nearest_others(points.feature, group, neighbours or min(NEIGHBOURS, most))
    clustered = cluster(points.feature, clusters or min(CLUSTERS, count))
    colourings = colourings_of(points, clustered, colour)
    layout = lay_out(points.feature, method)
    facts = [layout.note]
    classes = next((one for one in colourings if one.name == "class"), None)
    if classes is not None:
        facts += scores(points.feature, group, clustered, classes.group, VOTERS)
    for fact in facts:
        rank_zero_info(fact)

    found, notes = films_of(points, film_limit, num_workers) if films else ({}, [])
    facts += notes
    what = f"steps of {len(points.files)} videos" if count > len(points.files) else "videos"
    told = Told(
        f"{' and '.join(one.name for one in names)}: {count} {what}"
        + (f", {len(classes.entries)} classes" if classes is not None else ""),
        f"Features of {points.encoder}, {points.feature.shape[1]} numbers each",
        facts,
    )
    beside = {suffix: name.with_name(f"{name.name}{suffix}") for suffix in (".png", ".html", ".projector")}
    draw_map(beside[".png"], layout, colourings[0], told)
    size = write_page(beside[".html"], points, layout, colourings, near, found, told)
    pictures = [middle_frame(found.get(number, NO_FILM)) for number in range(count)] if found else None
    write_projector(beside[".projector"], points.feature, columns_of(points, clustered), pictures)
    rank_zero_info(
        f"Wrote {beside['.png']}, the page {beside['.html']} ({size / 1e6:.1f} MB, open it in a browser) and "
        f"{beside['.projector']} (tensorboard --logdir {beside['.projector']})."
    )


def _without(name: Path, *suffixes: str) -> Path:
    """Remove one of some suffixes from a name; other dots are part of the name."""
    return name.with_suffix("") if name.suffix in suffixes else name


def colourings_of(points: Points, clustered: torch.Tensor, first: str | None) -> list[Colouring]:
    """All ways to colour the points, the requested one first.

    Args:
        points: points of the map.
        clustered: int64 [P], from 0.
        first: the requested one; None is the class, or the cluster without classes.

    Raises:
        SettingError: if the collection does not contain the requested property.
    """
    rows = points.row.tolist()
    classes = by_name("class", [points.labels[row] for row in rows])
    found = [classes] if classes.entries else []
    found.append(by_cluster(clustered, classes))
    if points.span is not None and (points.span.mean(1) != points.span[0].mean()).any():
        found.append(by_time(points.span))
    if len(set(points.origin)) > 1:
        found.append(by_name("collection", [points.origin[row] for row in rows]))
    if first is not None and first not in [one.name for one in found]:
        missing = "no video has a class" if first == "class" else "the features are all of the same time, or do not say when"
        raise SettingError(f"--colour is {first}, but {missing}; pass cluster.")
    return sorted(found, key=lambda one: one.name != first)


def films_of(points: Points, limit: int, num_workers: int) -> tuple[dict[int, Film], list[str]]:
    """Films of evenly spread points, by point, and notes about them; empty if the videos do not exist."""
    if points.missing_root:
        rank_zero_info(f"Films are left out: {points.missing_root}.")
        return {}, ["There are no films, because the videos were not found."]
    total = len(points.row)
    shown = torch.linspace(0, total - 1, min(limit, total), dtype=torch.float64).round().long()
    files = [points.files[row] for row in points.row[shown].tolist()]
    spans = None if points.span is None else [(first, last) for first, last in points.span[shown].tolist()]
    found = dict(zip(shown.tolist(), read_films(files, spans, num_workers), strict=True))
    notes = [f"{len(found)} of {total} points have a film (--film_limit)."] if len(found) < total else []
    if faults := [film.reason for film in found.values() if not film.strip]:
        notes.append(f"{len(faults)} of {len(found)} films could not be read, the first one: {faults[0]}.")
    for note in notes:
        rank_zero_info(note)
    return found, notes


def columns_of(points: Points, clustered: torch.Tensor) -> dict[str, list[str]]:
    """The table of the projector."""
    rows = points.row.tolist()
    columns = {
        "path": [points.paths[row] for row in rows],
        "class": [points.labels[row] for row in rows],
        "cluster": [str(number + 1) for number in clustered.tolist()],
    }
    if points.span is not None:
        columns["second"] = [f"{second:.2f}" for second in points.span.mean(1).tolist()]
    return columns
