"""Weights on the Hugging Face Hub: `hf://owner/name`, `hf://owner/name/file` and `hf://owner/name@revision/file`.

`huggingface_hub` keeps downloads in its cache (`HF_HOME`). Cached files can be used without a network (`HF_HUB_OFFLINE=1`).
"""

import re
from functools import lru_cache
from pathlib import Path

from modules.core.errors import SettingError

# The command line's path type replaces two slashes by one.
ADDRESS = re.compile(r"hf:/{1,2}(?P<repository>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?(?:/(?P<file>.+))?")
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of weight files in a repository; the first existing one is used."""


def local_path(path: str | Path, setting: str = "checkpoint") -> Path:
    """The local path: the path itself, or for an address on the hub, the downloaded file or folder.

    Args:
        path: file, folder or address. For a repository, the weights and all .json files are downloaded; for a single file, the
            file and the .json files that describe it.
        setting: setting with this path, for error messages.

    Raises:
        SettingError: if the download fails, or `huggingface_hub` is not installed.
    """
    found = ADDRESS.fullmatch(str(path))
    if found is None:
        return Path(path)
    repository, revision, file = found["repository"], found["revision"], found["file"]
    address = f"hf://{repository}{f'@{revision}' if revision else ''}{f'/{file}' if file else ''}"
    instead = f"download {file or 'model.safetensors and config.json'} of {repository} elsewhere and pass its path"
    try:
        downloaded = _download(repository, revision, file)
    except ImportError as error:
        raise SettingError(f"{setting} is {address}, but huggingface_hub is missing; install it, or {instead}.") from error
    except Exception as error:  # errors of the network, the hub, its cache, or invalid names
        reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
        raise SettingError(f"{setting} is {address}, which could not be downloaded ({reason}); {instead}.") from error
    if downloaded is None:
        raise SettingError(
            f"{setting} is {address}, a repository without {file or ' or '.join(HUB_FILES)}; pass hf://{repository}/FILE with "
            "the name of its weight file."
        )
    return downloaded


@lru_cache  # Weights and their passport are read separately, but must be of the same revision.
def _download(repository: str, revision: str | None, file: str | None) -> Path | None:
    """The downloaded file or folder with weights; None if the repository has none."""
    from huggingface_hub import snapshot_download

    for name in (file,) if file else HUB_FILES:
        beside = [f"{name}.json", *(str(Path(name).with_name(one)) for one in ("config.json", "preprocessor_config.json"))]
        patterns = [name, *beside] if file else [name, "*.json"]
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
        if (folder / name).is_file():
            return folder / name if file else folder
    return None
