"""Weights on the Hugging Face Hub: `hf://owner/name`, `hf://owner/name/file` and `hf://owner/name@revision/file`.

`huggingface_hub` keeps what it downloads in its own cache (`HF_HOME`) and needs no network for what is there already
(`HF_HUB_OFFLINE=1`).
"""

import re
from functools import lru_cache
from pathlib import Path

from modules.core.errors import SettingError

# A command line that takes paths makes one slash of two.
ADDRESS = re.compile(r"hf:/{1,2}(?P<repository>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?(?:/(?P<file>.+))?")
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of weights in a repository, the first that is there is taken."""


def local_path(path: str | Path, setting: str = "checkpoint") -> Path:
    """The path itself; of an address on the hub, the file or folder that it is downloaded to.

    Args:
        path: file, folder or address. Of a repository, weights and all .json files are downloaded; of one of its files, the
            file and what may say more of it.
        setting: that named it, for error messages.

    Raises:
        SettingError: if the hub does not give it, or `huggingface_hub` is not installed.
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
    except Exception as error:  # of the network, the hub, its cache, or names that it does not allow
        reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
        raise SettingError(f"{setting} is {address}, which could not be downloaded ({reason}); {instead}.") from error
    if downloaded is None:
        raise SettingError(
            f"{setting} is {address}, a repository that holds no {file or ' or '.join(HUB_FILES)}; pass hf://{repository}/FILE "
            "with the name of its file."
        )
    return downloaded


@lru_cache  # The passport of weights is read after the weights: both must be of the same revision.
def _download(repository: str, revision: str | None, file: str | None) -> Path | None:
    """The file, or else the folder of weights; None if the repository has none."""
    from huggingface_hub import snapshot_download

    for name in (file,) if file else HUB_FILES:
        beside = [f"{name}.json", *(str(Path(name).with_name(one)) for one in ("config.json", "preprocessor_config.json"))]
        patterns = [name, *beside] if file else [name, "*.json"]
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
        if (folder / name).is_file():
            return folder / name if file else folder
    return None
