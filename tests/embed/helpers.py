"""Running the command, and reading its files."""

import csv
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from main import main
from modules.embed import encode

BROKEN = "train/down/broken.mp4"


def embed(folder: Path, out: Path, *options: str, encoder: str = "vit") -> dict[str, Any]:
    """Features of the folder of videos; None if this part was not the last."""
    words = ["embed", f"--checkpoint={folder / encoder}.safetensors", f"--source={folder / 'motion'}", f"--out={out}"]
    main([*words, "--num_workers=0", *options])
    file = out.with_name(f"{out.name}.safetensors")
    return load_file(file) if file.is_file() else {}


def embed_data(folder: Path, out: Path, *options: str, encoder: str = "vit") -> dict[str, Any]:
    """Features of the data set in the options."""
    main(["embed", f"--checkpoint={folder / encoder}.safetensors", f"--out={out}", "--num_workers=0", *options])
    return load_file(out.with_name(f"{out.name}.safetensors"))


def part_items(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Set the number of items per part."""
    monkeypatch.setattr(encode, "PART_ITEMS", count)


def rows_of(out: Path) -> list[dict[str, str]]:
    """The table of a collection."""
    with out.with_name(f"{out.name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))
