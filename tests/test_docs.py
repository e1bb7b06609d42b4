"""The site's pages: commands are accepted, shown files exist, and every method has a page."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from benchmarks.method_pictures import SHEETS
from benchmarks.method_pictures import main as draw
from main import main
from modules.runs.cli import CLI
from modules.training.method import Method
from tests.layers.test_targets import write_clip_file
from tests.registry import METHODS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in (DOCS / "methods").glob("*.md") if path.name != "index.md")
SECTIONS = ["Idea", "Picture", "Recipes", "What it learned here", "Weights", "Differences from the official code"]
COMMANDS = [
    line.removeprefix("    python main.py ")
    for page in PAGES
    for line in page.read_text().splitlines()
    if line.startswith("    python main.py ")
]
MAX_PICTURE = 150_000
PROJECT = (ROOT / "pyproject.toml").read_text()


class _Site(yaml.SafeLoader):
    """Reads mkdocs.yml, whose extensions may name Python objects."""


_Site.add_multi_constructor("tag:yaml.org,2002:python/name:", lambda loader, suffix, node: suffix)


def site() -> dict[str, Any]:
    """Content of mkdocs.yml."""
    settings: dict[str, Any] = yaml.load((ROOT / "mkdocs.yml").read_text(), _Site)
    return settings


def pages_of(nav: Any) -> list[str]:
    """File names in a navigation, in order."""
    if isinstance(nav, str):
        return [nav]
    return [name for entry in (nav.values() if isinstance(nav, dict) else nav) for name in pages_of(entry)]


def test_the_navigation_lists_every_page() -> None:
    listed = pages_of(site()["nav"])
    assert len(listed) == len(set(listed))
    there = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    # docs/hooks.py makes these two from files above docs/.
    assert set(listed) - {"contributing.md", "changelog.md"} == there


def test_the_site_asks_no_other_server() -> None:
    assert site()["theme"]["font"] is False
    assert not any("://" in str(entry) for name in ("extra_css", "extra_javascript") for entry in site().get(name, []))


@pytest.mark.parametrize("case", [case for case in METHODS if not case.variant], ids=lambda case: case.name)
def test_every_method_has_a_page_with_its_picture(case: Any) -> None:
    name = type(case.build()).__module__.rpartition(".")[2]
    text = (DOCS / f"methods/{name}.md").read_text()
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS
    assert f"`modules/methods/{name}.py`" in text
    assert f"configs/{case.yaml}" in text
    assert "](../learning.md#" in text
    assert f"({name}.png)" in text


def test_pictures_are_there_and_small() -> None:
    for page in DOCS.rglob("*.md"):
        for link in re.findall(r"!\[[^]]+\]\(([^)]+)\)", page.read_text()):
            assert (page.parent / link).is_file(), f"{page}: {link}"
    for path in (DOCS / "methods").glob("*.png"):
        assert path.stat().st_size < MAX_PICTURE, path


def test_pictures_are_those_of_the_script(tmp_path: Path) -> None:
    assert {f"{name}.md" for name in SHEETS} == {page.name for page in PAGES}
    # The one that takes neither training nor a large network; all others are drawn in the same way.
    draw(tmp_path, only="skeleton_contrast")
    with Image.open(tmp_path / "skeleton_contrast.png") as drawn, Image.open(DOCS / "methods/skeleton_contrast.png") as kept:
        assert drawn.size == kept.size


def test_every_recipe_of_pretraining_is_on_a_page() -> None:
    text = " ".join(page.read_text() for page in PAGES)
    assert [path.name for path in sorted((ROOT / "configs").glob("*.yaml")) if f"configs/{path.name}" not in text] == []


@pytest.mark.parametrize("command", dict.fromkeys(COMMANDS))
def test_commands_are_accepted(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stopped:
        main([*shlex.split(command), "--print_config"])
    assert stopped.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"]["class_path"]


USER_FILES = ("--model.backbone.checkpoint", "--model.text.checkpoint", "--model.tokenizer.vocabulary", "--model.init_from")
USER_FILES += ("--model.paste.objects.root", "--model.captions.clip.checkpoint")
"""Settings with files that only users have; networks are built without them."""


@pytest.mark.slow
@pytest.mark.parametrize("command", dict.fromkeys(COMMANDS))
def test_commands_build(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    write_clip_file(tmp_path / "clip.pt", patch=16, side=224)
    (tmp_path / "captions.txt").write_text("a dog runs\n")
    files = {"ViT-B-16.pt": str(tmp_path / "clip.pt"), "captions.txt": str(tmp_path / "captions.txt")}
    words = [files.get(word, word) for word in shlex.split(command)[1:]]
    for name in USER_FILES:
        if name in words:
            words[words.index(name) + 1] = "null"
    if "sigma_dino" in command or "smile_stage2" in command:
        # Their towers would be downloaded.
        words += ["--model.target", "ClipTarget", f"--model.target.checkpoint={tmp_path / 'clip.pt'}"]
    if "configs/crossvideomae.yaml" in command:
        words += ["--model.image_backbone.checkpoint=null"]
    if "skeleton" in command:
        words += ["--data", "SyntheticSkeleton", "--data.train_clips=64", "--data.val_clips=64"]
    else:
        words += ["--data", "SyntheticMotion", "--data.train_videos=128", "--data.val_videos=128"]
    if "configs/cvrl.yaml" in command:
        # Generated clips are not parts of one video.
        words += ["--data.clip.sampler", "Dense"]
    words += ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.strategy=auto", "--trainer.precision=32-true"]
    built = CLI([*words, f"--trainer.default_root_dir={tmp_path}"], run=False)
    assert isinstance(built.model, Method)
    assert sum(weight.numel() for weight in built.model.parameters()) > 0


def test_citation() -> None:
    content = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= content.keys()
    assert content["cff-version"] == "1.2.0"
    assert f'version = "{content["version"]}"' in PROJECT
    assert f'license = {{ text = "{content["license"]}" }}' in PROJECT


def test_changelog_has_the_usual_form() -> None:
    heads = re.findall(r"^(#+ .*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heads[:2] == ["# Changelog", "## [Unreleased]"]
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert all(head.removeprefix("### ") in kinds for head in heads if head.startswith("### "))


def test_the_container_installs_what_is_there() -> None:
    text = (ROOT / "Dockerfile").read_text()
    sources = [word for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE) for word in line.split()[:-1]]
    assert all((ROOT / name).exists() for name in sources)
    # Everything else is excluded from the docker context.
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(sources) == let_in
    (extras,) = re.findall(r"^ARG EXTRAS=(.*)$", text, re.MULTILINE)
    assert all(f"\n{extra} = [" in PROJECT for extra in extras.split(","))
    assert 'pip install --no-cache-dir -e ".[$EXTRAS]"' in text
    (packages,) = re.findall(r"^include = (\[.*\])$", PROJECT, re.MULTILINE)
    assert {name.rstrip("*") for name in yaml.safe_load(packages)} | {"main.py", "configs", "README.md"} <= set(sources)
    assert re.search(r"^FROM \$\{BASE\}$", text, re.MULTILINE)


@pytest.mark.parametrize("form", ["bug", "question", "method"])
def test_issue_forms(form: str) -> None:
    content = yaml.safe_load((ROOT / f".github/ISSUE_TEMPLATE/{form}.yml").read_text())
    assert {"name", "description", "body"} <= content.keys()
    fields = content["body"]
    assert all(field["type"] in {"input", "textarea"} and field["attributes"]["label"] for field in fields)
    assert len({field["id"] for field in fields}) == len(fields)
