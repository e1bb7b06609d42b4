"""Feature collections in the format of embed, without an encoder."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from main import main

EVIL = "</script><img src=x onerror=alert(1)>.mp4"
NOISE = torch.randn(9, 12, generator=torch.Generator().manual_seed(0))


def write_features(
    name: Path, feature: Tensor, rows: list[tuple[str, str]], root: Path | None = None, encoder: str = "a", **tensors: Tensor
) -> Path:
    """Write features with the paths and classes of their rows; further tensors are `time` and `length`."""
    name.parent.mkdir(parents=True, exist_ok=True)
    save_file({"feature": feature.contiguous(), **tensors}, name.with_name(f"{name.name}.safetensors"))
    with name.with_name(f"{name.name}.csv").open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    passport: dict[str, Any] = {"encoder": {"network": "VideoViT", "file": "last.ckpt", "sha256": encoder}}
    passport |= {"root": str(root)} if root else {}
    name.with_name(f"{name.name}.json").write_text(json.dumps(passport))
    return name


def draw(features: Path | str, *options: str) -> None:
    """Run the command without worker processes."""
    main(["map", f"--features={features}", "--num_workers=0", *options])


def page_of(name: Path) -> tuple[str, dict[str, Any]]:
    """The page of a map, and the data in it."""
    page = name.with_name(f"{name.name}.html").read_text(encoding="utf-8")
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert len(found) == 1
    return page, json.loads(found[0])
