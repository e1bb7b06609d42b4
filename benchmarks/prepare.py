"""Preparing NTU RGB+D: `python main.py prepare ntu` against reading line by line and rotating joint by joint.

    python benchmarks/prepare.py

Writes .skeleton files of generated people, prepares them in one process, and prepares some of them again in the style of
published scripts: every line is split into a dictionary of numbers, clips are padded to 300 frames, and every joint is
rotated separately. Both times are processor time from file to centred and aligned clip; reading alone is also compared.
Memory is the growth of a separate process after its imports, for a quarter of the files and for all.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jsonargparse import auto_cli

sys.path.insert(0, str(Path(__file__).parents[1]))

from datamodules.prepare.command import prepare_ntu
from datamodules.skeleton.normalise import MAX_FRAMES, angle_between, rotation_about
from datamodules.skeleton.raw import read_bodies
from datamodules.skeleton.store import open_store
from modules.scenes.skeletons import make_skeletons

# Depth and colour pixels, orientation and tracking state, with typical lengths; these values are not used.
REST = " 275.3572 198.6727 1016.215 501.2963 -0.250735 -0.2608505 0.2733879 -0.1525852 2"
FACTS = "72057594037931101 0 1 1 1 1 0 0.001175309 0.0004108922 2"
COLUMNS = ("x", "y", "z", "depth_x", "depth_y", "color_x", "color_y", "w", "wx", "wy", "wz", "state")
# Resets the peak memory (Linux).
MEASURE = """
import re, sys
from pathlib import Path
from datamodules.prepare.command import prepare_ntu

def kilobytes(name):
    return int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

Path("/proc/self/clear_refs").write_text("5")
before = kilobytes("VmRSS")
prepare_ntu(Path(sys.argv[1]), Path(sys.argv[2]), workers=0)
print((kilobytes("VmHWM") - before) / 2**10)
"""


def write_skeleton(path: Path, bodies: np.ndarray) -> None:
    """Write a .skeleton file in the format of the Kinect recorder.

    Args:
        path: file to write.
        bodies: float [S, T, J, C]; a body that is 0 in a frame is not listed there.
    """
    lines = [str(bodies.shape[1])]
    for frame in bodies.swapaxes(0, 1):
        listed = [body for body in frame if body.any()]
        lines.append(str(len(listed)))
        for body in listed:
            lines += [FACTS, str(len(body))]
            lines += [f"{x:.7g} {y:.7g} {z:.7g}{REST}" for x, y, z in body.tolist()]
    path.write_text("\n".join(lines) + "\n")


def write_data_set(folder: Path, count: int) -> None:
    """Write .skeleton files under names of NTU RGB+D."""
    folder.mkdir(parents=True)
    for first in range(0, count, 100):
        made = make_skeletons(min(100, count - first), "train", 0, first)
        for number, (joints, length, action) in enumerate(
            zip(made.joints.numpy(), made.length.tolist(), made.action.tolist(), strict=True), first
        ):
            person, setup = number % 40 + 1, number // 40 % 17 + 1
            name = f"S{setup:03d}C{number % 3 + 1:03d}P{person:03d}R{number // 680 + 1:03d}A{action + 61:03d}"
            write_skeleton(folder / f"{name}.skeleton", joints[:, :length])


def read_by_lines(path: Path) -> np.ndarray:
    """Read four bodies [4, T, J, C] line by line, with every value in a dictionary."""
    with path.open() as file:
        frames: list[list[list[dict[str, float]]]] = []
        for _ in range(int(file.readline())):
            bodies = []
            for _ in range(int(file.readline())):
                _ = [float(word) for word in file.readline().split()]
                joints = []
                for _ in range(int(file.readline())):
                    words = file.readline().split()
                    joints.append({column: float(word) for column, word in zip(COLUMNS, words, strict=True)})
                bodies.append(joints)
            frames.append(bodies)
    data = np.zeros((4, len(frames), 25, 3))
    for time_step, bodies in enumerate(frames):
        for slot, body in enumerate(bodies[:4]):
            for number, joint in enumerate(body):
                data[slot, time_step, number] = [joint["x"], joint["y"], joint["z"]]
    return data


def prepare_by_joints(path: Path) -> np.ndarray:
    """A clip padded to 300 frames, float32 [M, 300, J, C], every joint rotated separately."""
    bodies = read_by_lines(path)
    energy = []
    for body in bodies:
        seen = body[[frame.sum() != 0 for frame in body]]
        energy.append(sum(seen[:, :, axis].std() for axis in range(3)) if len(seen) else 0.0)
    clip = np.zeros((2, MAX_FRAMES, 25, 3), np.float32)
    for place, slot in enumerate(np.argsort(energy)[::-1][:2]):
        clip[place, : bodies.shape[1]] = bodies[slot]
    for person in clip:
        if person.sum() == 0:
            continue
        for number, frame in enumerate(person):
            if frame.sum() == 0 and person[number:].sum() == 0:
                for empty in range(number, MAX_FRAMES):
                    person[empty] = person[empty - number]
                break
    there = (clip.sum(-1) != 0)[..., None]
    clip = (clip - clip[0, :, 1:2]) * there
    for start, end, axis in ((0, 1, 2), (4, 8, 0)):
        line, target = clip[0, 0, end] - clip[0, 0, start], np.eye(3)[axis]
        matrix = rotation_about(np.cross(line, target), angle_between(line, target))
        for person in clip:
            for frame in person:
                if frame.sum() != 0:
                    for number, point in enumerate(frame):
                        frame[number] = np.dot(matrix, point)
    return clip


def per_clip(work: Callable[[Path], object], files: list[Path]) -> float:
    """Milliseconds of processor time for one file."""
    start = time.process_time()
    for path in files:
        work(path)
    return 1e3 * (time.process_time() - start) / len(files)


def growth_mb(raw: Path, out: Path) -> float:
    """Peak growth of memory while preparing; Linux only."""
    command = [sys.executable, "-c", MEASURE, str(raw), str(out)]
    root = Path(__file__).parents[1]
    return float(subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main(files: int = 1000, slow_files: int = 40, memory: bool = True, out: Path | None = None) -> None:
    """Compare times and measure memory.

    Args:
        files: .skeleton files to write and prepare.
        slow_files: number of files that are also prepared in the slow way.
        memory: also measure memory, in separate processes; Linux only.
        out: JSON file to write.
    """
    with tempfile.TemporaryDirectory() as folder:
        raw, few = Path(folder, "raw"), Path(folder, "few")
        write_data_set(raw, files)
        paths = sorted(raw.iterdir())
        some = paths[:: max(1, files // slow_files)][:slow_files]
        few.mkdir()
        for path in paths[: max(1, files // 4)]:
            (few / path.name).hardlink_to(path)
        start = time.process_time()
        prepare_ntu(raw, Path(folder, "store"), workers=0)
        ours = 1e3 * (time.process_time() - start) / files
        slow = per_clip(prepare_by_joints, some)
        reading, slow_reading = per_clip(read_bodies, some), per_clip(read_by_lines, some)
        recordings = open_store(Path(folder, "store"), "ntu", "")
        rows = {name: row for row, name in enumerate(recordings.name.tolist())}
        error = max(difference(recordings.read(rows[path.stem]), prepare_by_joints(path)) for path in some[:5])
        places = (few, raw) if memory and Path("/proc/self/clear_refs").exists() else ()
        growth = {len(list(place.iterdir())): growth_mb(place, Path(folder, f"{place.name}_out")) for place in places}
    result = {
        "files": files,
        "ms_per_clip": {"prepare": ours, "line by line": slow, "reading": reading, "reading line by line": slow_reading},
        "ratio": slow / ours,
        "ratio_of_reading": slow_reading / reading,
        "largest_difference_m": error,
        "memory_growth_mb": growth,
    }
    print(f"{files} files: {1e3 / ours:.0f} clips/s per core, the line-by-line way {1e3 / slow:.0f}; ratio {slow / ours:.1f}")
    alone = f"{1e3 / reading:.0f} and {1e3 / slow_reading:.0f} clips/s per core; ratio {slow_reading / reading:.1f}"
    print(f"reading alone: {alone}; reading line by line takes {slow_reading / ours:.1f} times as long as all of ours")
    print("growth of memory: " + ", ".join(f"{size:.0f} MB for {count} files" for count, size in growth.items()))
    print(f"largest difference of a coordinate: {error:.1e} m")
    if out is not None:
        out.write_text(json.dumps(result, indent=1))


def difference(ours: np.ndarray, padded: np.ndarray) -> float:
    """Largest difference between a stored recording [T, 3, J, P] and a padded one [M, 300, J, 3]."""
    theirs = padded.transpose(1, 3, 2, 0)[: len(ours), ..., : ours.shape[-1]]
    return float(np.abs(ours - theirs).max())


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
