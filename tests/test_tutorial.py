"""docs/tutorial.md works unchanged: its commands and its code, in their order, in an empty folder."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pages import PAGES, ROOT, commands, python

TUTORIAL = PAGES["docs/tutorial.md"]
USED = ("main.py", "configs", "modules", "datamodules", "callbacks")


def test_the_readme_and_the_tutorial_have_the_same_commands() -> None:
    steps = commands(TUTORIAL)
    # The tutorial also trains from scratch, to compare.
    shared = [line for line in steps if "from_scratch" not in line]
    assert len(shared) == 9
    assert [line for line in commands(PAGES["README.md"]) if line in shared] == shared


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_tutorial_works_as_it_stands(tmp_path: Path) -> None:
    for name in USED:
        (tmp_path / name).symlink_to(ROOT / name)
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    for line in commands(TUTORIAL):
        subprocess.run(line, shell=True, cwd=tmp_path, env=environment, check=True)
    first, second = python(TUTORIAL)
    subprocess.run([sys.executable, "-c", first], cwd=tmp_path, env=environment, check=True)

    run = tmp_path / "runs/finetune_own_videos"
    (result,) = [json.loads(path.read_text()) for path in (run / "results").glob("videofolder_finetune-*.json")]
    with (run / "predictions/videofolder.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    right = sum(row["class"] == row["path"].split("/")[0] for row in rows)
    # Test and predictions use the same checkpoint and videos.
    assert (len(rows), right) == (100, round(result["metrics"]["test/top1"]))
    assert all((tmp_path / f"features/val_map{end}").exists() for end in (".png", ".html", ".projector"))
    pytest.importorskip("transformers", reason="transformers is not installed: pip install -e '.[benchmarks]'")
    subprocess.run([sys.executable, "-c", f"{first}\n{second}"], cwd=tmp_path, env=environment, check=True)
