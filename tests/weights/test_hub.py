"""Weights on the Hugging Face Hub: requests, reading, and one sentence if it cannot be reached."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from modules.convert.command import convert
from modules.convert.load import describe_backbone, load_backbone
from modules.core.errors import SettingError
from modules.weights import hub
from modules.weights.files import read_weights
from tests.registry import SIDE, tiny_vit


@pytest.fixture(autouse=True)
def _nothing_known() -> Iterator[None]:
    hub._download.cache_clear()
    yield
    hub._download.cache_clear()


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None, list[str]]]:
    """Requests to a hub whose repository `us/tiny` holds one encoder, as a folder of transformers and as a file."""
    torch.manual_seed(0)
    state = {f"backbone.{key}": value.contiguous() for key, value in tiny_vit().state_dict().items()}
    save_file(state, tmp_path / "raw.safetensors")
    folder = tmp_path / "snapshot"
    convert(tmp_path / "raw.safetensors", folder, to="huggingface", heads=2, image_size=SIDE, num_frames=4)
    convert(tmp_path / "raw.safetensors", folder / "sub/own.safetensors", heads=2, image_size=SIDE, num_frames=4, stride=3)
    found: list[tuple[str, str | None, list[str]]] = []

    def download(repository: str, revision: str | None = None, allow_patterns: Any = None) -> str:
        found.append((repository, revision, allow_patterns))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return found


@pytest.mark.parametrize("address", ["hf://us/tiny", "hf:/us/tiny", Path("hf://us/tiny")])
def test_a_repository_is_a_folder(asked: list[Any], tmp_path: Path, address: str | Path) -> None:
    network = load_backbone(address)
    assert asked == [("us/tiny", None, ["model.safetensors", "*.json"])]
    clip = torch.rand(1, 3, 4, SIDE, SIDE)
    assert torch.equal(network(clip), load_backbone(tmp_path / "snapshot")(clip))


def test_a_file_of_a_repository_has_its_passport(asked: list[Any]) -> None:
    assert describe_backbone("hf://us/tiny@v1/sub/own.safetensors").stride == 3
    (repository, revision, patterns), *more = asked
    assert (repository, revision) == ("us/tiny", "v1")
    assert not more, "once"
    assert patterns[:2] == ["sub/own.safetensors", "sub/own.safetensors.json"]


def test_what_a_repository_lacks_is_named(asked: list[Any]) -> None:
    with pytest.raises(
        SettingError, match=r"--checkpoint is hf://us/tiny/no\.pth, a repository without no\.pth; pass hf://us/tiny/FILE"
    ):
        read_weights("hf://us/tiny/no.pth", "--checkpoint")


def test_without_the_hub_one_sentence_says_which_file_to_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    message = (
        r"^model\.backbone\.checkpoint is hf://us/tiny, which could not be downloaded \(.+\); download model\.safetensors and "
        r"config\.json of us/tiny elsewhere and pass its path\.$"
    )
    with pytest.raises(SettingError, match=message) as raised:
        read_weights("hf://us/tiny", "model.backbone.checkpoint")
    assert "\n" not in str(raised.value)


def test_without_the_package_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(SettingError, match=r"but huggingface_hub is missing; install it, or download x\.pth of us/tiny"):
        read_weights("hf://us/tiny/x.pth", "--checkpoint")
