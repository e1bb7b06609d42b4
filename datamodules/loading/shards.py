"""Videos in shards, in a folder or an object store: the only file that uses litdata.

Of the existing engines, litdata (of Lightning) and WebDataset, only litdata has random access to samples, and only reads the
bytes of that sample from a store. So order, resuming, substitutes and probes work as for files on a disk, with any
number of processes. WebDataset reads archives sequentially: the order of samples depends on the number of workers and on a
buffer, and resuming in the middle of an epoch means reading everything before it again.

A sample is the encoded file. `lists.json` next to the shards describes each of them.
"""

import io
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

from modules.core.errors import SettingError

LISTS = "lists.json"
"""Written last: if it exists, all shards are complete."""
INDEX = "index.json"
"""litdata's index, one for each split: names, sizes and lengths of its shards."""
FORMAT = 1
STORES = ("s3://", "gs://", "r2://")
"""Stores from which litdata can read parts of a file; from others it would download complete shards."""
AHEAD = 8
"""Samples that a worker requests from a store in parallel."""


def engine() -> ModuleType:
    """litdata.

    Raises:
        SettingError: if it is not installed.
    """
    try:
        import litdata
    except ImportError as error:
        raise SettingError(
            f"Shards are written and read by litdata, which cannot be imported ({error}); run `pip install -e '.[streaming]'`."
        ) from error
    return litdata


def is_store(root: str) -> bool:
    """Whether a path is in one of `STORES` and not a folder."""
    return root.startswith(STORES)


def place_of(root: Path) -> str:
    """A folder unchanged, and the URL of a store with both slashes, one of which is lost in a path."""
    store, found, rest = str(root).partition(":/")
    return f"{store}://{rest}" if found and f"{store}://" in STORES else str(root)


class Shards:
    """The samples of one split, with random access. Each process opens them when first needed.

    Args:
        place: folder of the split, or its URL in a store.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self._data: Any = None
        self._process = 0

    def __getstate__(self) -> dict[str, Any]:
        """State for another process, without open files and connections."""
        return {"place": self.place, "_data": None, "_process": 0}

    def check(self) -> None:
        """Check that all shards exist; for a store, check and load the index, so that workers need not fetch it.

        Raises:
            SettingError: if one is missing or has another size.
        """
        if is_store(self.place):
            self._opened()
            return
        for shard in _read_json(self.place, INDEX)["chunks"]:
            path = Path(self.place, shard["filename"])
            if not path.is_file() or path.stat().st_size != shard["chunk_bytes"]:
                raise SettingError(
                    f"The shard {path} is missing or incomplete; copy it again, or run `python main.py prepare shards` again."
                )

    def read(self, item: int) -> bytes:
        """The file of a sample.

        Raises:
            SettingError: if its shard cannot be read. The file itself must not count as broken.
        """
        try:
            return bytes(self._opened()[item])
        except Exception as error:
            raise self._unreadable(f"Sample {item} of the shards", error) from error

    def read_ahead(self, items: Sequence[int]) -> Iterator[bytes]:
        """The files of some samples, in this order; from a store, several are fetched in parallel. Raises like `read`."""
        if not is_store(self.place):
            yield from map(self.read, items)
            return
        self._opened()
        with ThreadPoolExecutor(AHEAD) as pool:
            left = iter(items)
            coming: list[Future[bytes]] = [pool.submit(self.read, item) for item in islice(left, AHEAD)]
            while coming:
                content = coming.pop(0).result()
                coming += [pool.submit(self.read, item) for item in islice(left, 1)]
                yield content

    def _opened(self) -> Any:
        # Connections do not survive a fork.
        if self._data is None or self._process != os.getpid():
            try:
                data = engine().StreamingDataset(self.place, batch_decode=0)
                len(data)  # reads the index
            except Exception as error:
                raise self._unreadable(f"The {INDEX} of the shards", error) from error
            self._data, self._process = data, os.getpid()
        return self._data

    def _unreadable(self, what: str, error: Exception) -> SettingError:
        if isinstance(error, SettingError):
            return error
        said = f"{type(error).__name__}: {error}".partition("\n")[0]
        return SettingError(
            f"{what} in {self.place} cannot be read ({said}); check that all of them exist and are reachable, and resume "
            "with --ckpt_path last."
        )


def read_lists(root: str) -> dict[str, Any]:
    """Content of `lists.json`.

    Raises:
        SettingError: if there is none, or it is of another version.
    """
    try:
        lists = _read_json(root, LISTS)
    except Exception as error:
        said = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise SettingError(
            f"data.root {root} contains no readable {LISTS} ({said}); pass a folder that `python main.py prepare shards` "
            "has completed, or the URL of a copy of it."
        ) from error
    if not isinstance(lists, dict) or lists.get("format") != FORMAT:
        raise SettingError(f"The {LISTS} of data.root {root} is of another version; run `python main.py prepare shards` again.")
    return lists


def _read_json(place: str, name: str) -> Any:
    if not is_store(place):
        return json.loads(Path(place, name).read_text(encoding="utf-8"))
    engine()
    from litdata.streaming.downloader import get_downloader

    content = io.BytesIO()
    # Into memory: the alternatives start threads that forked workers could not use.
    get_downloader(place, "", []).download_fileobj(f"{place}/{name}", content)
    return json.loads(content.getvalue())


def write_shard(folder: Path, contents: Sequence[bytes]) -> tuple[Path, dict[str, Any]]:
    """Write one shard into a new folder.

    Args:
        folder: an empty folder.
        contents: contents of its files, in order.

    Returns:
        The shard, and litdata's index of it: `chunks`, with one entry, and `config`.
    """
    engine()
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(str(folder), chunk_size=len(contents) + 1)
    for number, content in enumerate(contents):
        writer.add_item(number, content)
    writer.done()
    (listed,) = folder.glob(f"*.{INDEX}")
    index = json.loads(listed.read_text(encoding="utf-8"))
    (shard,) = index["chunks"]
    return folder / shard["filename"], index
