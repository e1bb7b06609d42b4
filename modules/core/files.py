"""Atomic writing of files, their hashes, and JSON."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if the file is missing, is not valid JSON, or contains something else."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def sha256(path: Path) -> str:
    """SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_whole(path: Path, save: Callable[[Path], object]) -> None:
    """Write a file atomically, with the user's default permissions.

    Args:
        path: file to write; its folder is created.
        save: function that writes to a given path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = os.umask(0)
    os.umask(mask)
    with replacing(path) as part:
        save(part)
        # safetensors creates files that only their owner can read.
        part.chmod(0o666 & ~mask)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write readable JSON."""
    path.write_text(to_json(content, indent=1) + "\n")


def to_json(content: dict[str, Any], indent: int | None = None) -> str:
    """JSON text; tensors of one number become numbers."""
    return json.dumps(content, indent=indent, default=float)


PART = ".part"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file next to `path`, which replaces `path` at the end if there was no error.

    So `path` is never incomplete, even after a power cut. Its folder must exist.
    """
    # Replacing a file is atomic only within a folder's file system. With a fixed name, killed runs leave one file at most.
    partial = path.with_name(f".{path.name}{PART}")
    try:
        yield partial
        # Without the flush, the name may reach the disk before the content.
        _flush(partial)
        partial.replace(path)
        _flush(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def _flush(path: Path) -> None:
    if os.name == "nt":
        # Windows can flush neither folders nor files that are open for reading.
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
