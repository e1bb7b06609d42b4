"""A checkpoint is complete or absent: full disk, no permission, damage."""

import ctypes
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from modules.core.errors import SettingError
from modules.runs.saving import WholeCheckpointIO
from tests.resume.runs import together

SMALL, LARGE = {"weights": torch.arange(10.0)}, {"weights": torch.zeros(1_000_000)}
CLONE_NEWNS, CLONE_NEWUSER, MS_RDONLY, MS_REMOUNT, MS_REC, MS_PRIVATE = 0x20000, 0x10000000, 1, 32, 16384, 1 << 18
NOT_ALLOWED = 77


def save_twice(folder: Path, second: dict[str, torch.Tensor], between: Callable[[], None]) -> str:
    """Write a checkpoint, break the disk, fail to write another, and find the first one intact; returns the message."""
    io = WholeCheckpointIO()
    path = folder / "checkpoints" / "last.ckpt"
    io.save_checkpoint(SMALL, path)
    between()
    with pytest.raises(SettingError) as raised:
        io.save_checkpoint(second, path)
    assert torch.equal(io.load_checkpoint(path)["weights"], SMALL["weights"])
    assert list(path.parent.iterdir()) == [path]
    return str(raised.value)


def mount(folder: Path, flags: int) -> None:
    """A file system of one megabyte that only this process sees; ends the process if that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    namespace = CLONE_NEWNS | (0 if os.geteuid() == 0 else CLONE_NEWUSER)
    if not flags & MS_REMOUNT and libc.unshare(namespace):
        os._exit(NOT_ALLOWED)
    libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", flags, b"size=1m"):
        os._exit(NOT_ALLOWED)


def full_disk(folder: Path, rank: int, port: int) -> None:
    mount(folder, 0)
    said = save_twice(folder, LARGE, lambda: None)
    assert "last.ckpt could not be written ([Errno 28] No space left on device); the previous one is intact" in said


def read_only(folder: Path, rank: int, port: int) -> None:
    mount(folder, 0)
    said = save_twice(folder, SMALL, lambda: mount(folder, MS_REMOUNT | MS_RDONLY))
    assert "Read-only file system" in said
    assert "resume with --ckpt_path last" in said


@pytest.mark.parametrize("what", [full_disk, read_only])
def test_small_file_system(what: Callable[[Path, int, int], None], tmp_path: Path) -> None:
    codes = together(what, [(tmp_path,)])
    if codes == [NOT_ALLOWED]:
        pytest.skip("this system does not allow to mount a small file system")
    assert codes == [0]


def limited(folder: Path, rank: int, port: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = (1_000_000, resource.RLIM_INFINITY)
    said = save_twice(folder, LARGE, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    assert "File too large" in said


def test_limit_on_file_size(tmp_path: Path) -> None:
    assert together(limited, [(tmp_path,)]) == [0]


def test_no_folder_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingError, match="there is no previous one"):
        WholeCheckpointIO().save_checkpoint(SMALL, tmp_path / "file" / "last.ckpt")


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "flipped"])
def test_damaged_checkpoint_is_named(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    WholeCheckpointIO().save_checkpoint(LARGE, path)
    whole = path.read_bytes()
    # The directory of the zip file is at its end.
    flipped = whole[:-30] + bytes([whole[-30] ^ 0xFF]) + whole[-29:]
    path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"hello", "flipped": flipped}[damage])
    with pytest.raises(SettingError, match=r"--ckpt_path names .*last\.ckpt, which cannot be read as a checkpoint"):
        WholeCheckpointIO().load_checkpoint(path)


def test_what_a_killed_run_left_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".last.ckpt.part").write_bytes(b"half")
    WholeCheckpointIO().save_checkpoint(SMALL, tmp_path / "last.ckpt")
    assert list(tmp_path.iterdir()) == [tmp_path / "last.ckpt"]
