"""The command as a process: killed, it resumes to the same bytes; interrupted, it prints one line; shared work."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLIPS = 2000
FILES = (".safetensors", ".csv", ".json")


def words(folder: Path, out: Path, *options: str, clips: int = CLIPS) -> list[str]:
    data = ["--data=SyntheticMotion", f"--data.train_videos={clips}", "--data.val_videos=1"]
    return ["embed", f"--checkpoint={folder / 'vit.safetensors'}", f"--out={out}", *data, "--num_workers=2", *options]


def start(command: list[str]) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    # A separate group, as a terminal gives to each command.
    return subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), *command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(command: list[str]) -> str:
    process = start(command)
    said = process.communicate()[0]
    assert process.returncode == 0, said
    return said


def wait_for_parts(out: Path, count: int) -> None:
    for _ in range(4000):
        if len(list(out.with_name(f"{out.name}.parts").glob("*.safetensors"))) >= count:
            return
        time.sleep(0.05)
    raise AssertionError(f"no {count} parts of {out}")


def living(group: int) -> list[str]:
    """Running processes of a group, without zombies."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, own = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(own) == group and state != "Z":
            found.append(folder.name)
    return found


def assert_equal(one: Path, other: Path) -> None:
    for suffix in FILES:
        assert one.with_name(one.name + suffix).read_bytes() == other.with_name(other.name + suffix).read_bytes(), suffix


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_thousand_clips_killed_several_times_are_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    finish(words(folder, tmp_path / "whole"))
    for parts in (1, 7, 20, 41):
        process = start(words(folder, tmp_path / "again"))
        wait_for_parts(tmp_path / "again", parts)
        os.killpg(process.pid, signal.SIGKILL) if parts % 2 else process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]
        assert not (tmp_path / "again.safetensors").exists()
    assert "parts are there already" in finish(words(folder, tmp_path / "again"))
    assert_equal(tmp_path / "again", tmp_path / "whole")
    assert not list(tmp_path.glob("again.parts*"))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("devices", [1, 2])
def test_ctrl_c_says_one_line_and_leaves_no_process(folder: Path, tmp_path: Path, devices: int) -> None:
    process = start(words(folder, tmp_path / "features", f"--devices={devices}", "--device=cpu"))
    wait_for_parts(tmp_path / "features", 3)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + signal.SIGINT
    assert said.splitlines()[-1] == "Interrupted."
    assert "Traceback" not in said
    for _ in range(300):  # workers notice the end of their parent within five seconds
        if not living(process.pid):
            return
        time.sleep(0.1)
    raise AssertionError(f"left over: {living(process.pid)}")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_several_processes_write_the_bytes_of_one(folder: Path, tmp_path: Path) -> None:
    finish(words(folder, tmp_path / "one", clips=200))
    finish(words(folder, tmp_path / "two", "--devices=2", "--device=cpu", clips=200))
    assert_equal(tmp_path / "two", tmp_path / "one")
    # Two parts at once; either may finish last.
    shares = [start(words(folder, tmp_path / "shares", f"--shard={number}/2", clips=200)) for number in (1, 2)]
    for process in shares:
        said = process.communicate()[0]
        assert process.returncode == 0, said
    assert_equal(tmp_path / "shares", tmp_path / "one")
