"""Colours and shapes of points, and their legend: by class, by cluster, by time, by collection.

Axis letters: `P` points.
"""

import colorsys
from typing import NamedTuple

import torch
from torch import Tensor

# Okabe and Ito's colours, which most colour-blind readers can distinguish.
FEW = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442")
SHAPES = ("circle", "square", "triangle", "diamond")
GREY = "#9A9A9A"
# Steps of Viridis (matplotlib), whose brightness increases evenly.
VIRIDIS = ("#440154", "#482878", "#3E4A89", "#31688E", "#26828E", "#1F9E89", "#35B779", "#6DCD59", "#B4DE2C", "#FDE725")
SHADES = 64


class Entry(NamedTuple):
    """A line of the legend."""

    text: str
    colour: str
    shape: str
    points: int


class Colouring(NamedTuple):
    """One way to colour the points."""

    name: str
    entries: list[Entry]
    """the groups, or the shades of a scale from low to high"""
    group: Tensor
    """int64 [P], entry of each point; -1 for grey points"""
    scale: tuple[float, float] | None = None
    """values at the ends of a scale; None for groups"""


def palette(count: int) -> list[tuple[str, str]]:
    """Colours and shapes of groups: up to seven by colour only, more by hue and shape."""
    if count <= len(FEW):
        return [(colour, SHAPES[0]) for colour in FEW[:count]]
    made = []
    for number in range(count):
        red, green, blue = colorsys.hls_to_rgb(number / count, (0.44, 0.62)[number % 2], 0.7)
        colour = f"#{round(255 * red):02X}{round(255 * green):02X}{round(255 * blue):02X}"
        made.append((colour, SHAPES[number % len(SHAPES)]))
    return made


def by_name(title: str, names: list[str]) -> Colouring:
    """Colour points by name, '' for none; numbers are sorted as numbers."""
    known = sorted(set(names) - {""}, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))
    number = {name: place for place, name in enumerate(known)}
    index = torch.tensor([number.get(name, -1) for name in names])
    return Colouring(title, _groups(known, index), index)


def by_cluster(clusters: Tensor, classes: Colouring) -> Colouring:
    """Colour points by cluster; the legend shows the most frequent class of each, if there are classes.

    Args:
        clusters: int64 [P], from 0.
        classes: colouring of the same points by class.
    """
    texts = []
    for number in range(int(clusters.max()) + 1):
        inside = classes.group[(clusters == number) & (classes.group >= 0)]
        text = f"cluster {number + 1}"
        if len(inside):
            counts = inside.bincount()
            share = 100 * int(counts.max()) / len(inside)
            text += f" ({share:.0f} % {classes.entries[int(counts.argmax())].text})"
        texts.append(text)
    return Colouring("cluster", _groups(texts, clusters), clusters)


def by_time(span: Tensor) -> Colouring:
    """Colour points by their middle time, on a scale.

    Args:
        span: float32 [P, 2], start and end in seconds.
    """
    middle = span.mean(1)
    low, high = float(middle.min()), float(middle.max())
    index = ((middle - low) / max(high - low, 1e-9) * (SHADES - 1)).round().long()
    counts = index.bincount(minlength=SHADES).tolist()
    entries = [Entry("", shade(number / (SHADES - 1)), SHAPES[0], counts[number]) for number in range(SHADES)]
    return Colouring("time", entries, index, (low, high))


def shade(share: float) -> str:
    """Colour of the scale at a position from 0 to 1."""
    below = min(int(share * (len(VIRIDIS) - 1)), len(VIRIDIS) - 2)
    part = share * (len(VIRIDIS) - 1) - below
    mixed = [
        round((1 - part) * low + part * high) for low, high in zip(rgb(VIRIDIS[below]), rgb(VIRIDIS[below + 1]), strict=True)
    ]
    return "#{:02X}{:02X}{:02X}".format(*mixed)


def rgb(colour: str) -> tuple[int, int, int]:
    """The three numbers of '#0072B2'."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _groups(texts: list[str], index: Tensor) -> list[Entry]:
    counts = index[index >= 0].bincount(minlength=len(texts)).tolist()
    looks = palette(len(texts))
    return [Entry(text, *look, count) for text, look, count in zip(texts, looks, counts, strict=True)]
