"""UTD-MHAD in miniature, in both of its layouts: each frame and sample contains its own index."""

import csv
from pathlib import Path

import numpy as np
import torch
from scipy.io import savemat

from datamodules.prepare.synthesise import write_video
from datamodules.sets.utd_mhad import ACTIONS

FRAMES, SAMPLES = 8, 20


def joints(action: int, subject: int) -> np.ndarray:
    """A body of Kinect v1 that stands upright and lifts its right hand, [T, 20, 3]."""
    body = np.random.default_rng(100 * action + subject).normal(0, 0.02, (1, 20, 3))
    body[0, :, 2] += 2.5
    body[0, [0, 1, 2, 3], 1] += (0.8, 0.6, 0.3, 0.0)
    body[0, [4, 8], 0] += (-0.2, 0.2)
    found = np.repeat(body, FRAMES, 0)
    found[:, 11, 1] += np.linspace(0, action / 10, FRAMES)
    return found


def sensor(action: int, subject: int) -> np.ndarray:
    """Each sample is its index plus 100 per channel, with the action as decimals, [S, 6]."""
    return np.arange(SAMPLES)[:, None] + 100.0 * np.arange(6) + action / 10


def write_official(root: Path, actions: tuple[int, ...] = (1, 2), subjects: tuple[int, ...] = (1, 2, 3, 4)) -> None:
    """Files of the official names and shapes, smaller: depth in the left half is 2000 mm + 10 per frame + the action."""
    for action in actions:
        for subject in subjects:
            name = f"a{action}_s{subject}_t1"
            depth = np.zeros((24, 32, FRAMES), np.uint16)
            depth[:, :16] = 2000 + 10 * np.arange(FRAMES) + action
            for folder in ("Depth", "Skeleton", "Inertial"):
                (root / folder).mkdir(parents=True, exist_ok=True)
            savemat(root / f"Depth/{name}_depth.mat", {"d_depth": depth})
            savemat(root / f"Skeleton/{name}_skeleton.mat", {"d_skel": joints(action, subject).transpose(1, 2, 0)})
            savemat(root / f"Inertial/{name}_inertial.mat", {"d_iner": sensor(action, subject)})


def write_reduced(root: Path, actions: tuple[int, ...] = (1, 2), subjects: tuple[int, ...] = (1, 2, 3, 4)) -> None:
    """Files of the reduced form; grey is 200 - 10 per frame in the left half."""
    rows, skeletons, inertial = [], {}, {}
    for action in actions:
        for subject in subjects:
            clip, name = f"a{action:02}_s{subject}_t1", ACTIONS[action - 1]
            grey = np.zeros((FRAMES, 32, 32, 3), np.uint8)
            grey[:, :, :16] = 200 - 10 * np.arange(FRAMES)[:, None, None, None]
            (root / "depth" / name).mkdir(parents=True, exist_ok=True)
            write_video(root / f"depth/{name}/{clip}.mp4", torch.from_numpy(grey), fps=30)
            skeletons[clip] = joints(action, subject).astype(np.float32)
            inertial[clip] = sensor(action, subject).astype(np.float32)
            rows.append({"clip": clip, "action": action, "name": name, "subject": subject})
    np.savez(root / "skeleton.npz", **skeletons)
    np.savez(root / "inertial.npz", **inertial)
    with (root / "labels.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
