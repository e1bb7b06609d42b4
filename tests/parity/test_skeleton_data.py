"""Skeletons from raw files to crops agree with the official code of Skeleton-Contrast (cases without spatial augmentation)."""

from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.skeleton.clips import centre_start, crop_length, resize_time
from datamodules.skeleton.normalise import (
    MAX_FRAMES,
    angle_between,
    choose_persons,
    normalise,
    rotation_about,
)
from datamodules.skeleton.raw import parse_ntu_name, read_bodies
from datamodules.skeleton.splits import TRAINS, missing_samples
from datamodules.skeleton.store import Recordings, open_store
from main import main
from tests.parity.cases import PARITY_DIR, assert_close, load_case, part

METHOD = "skeleton_contrast"
RAW = PARITY_DIR / METHOD / "ntu_raw"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    """The store that the command makes of the official case's files."""
    if not RAW.is_dir():
        pytest.skip(f"no official files at {RAW}; set PARITY_DIR to the folder that holds them")
    out = tmp_path_factory.mktemp("ntu") / "store"
    main(["prepare", "ntu", f"--raw={RAW}", f"--out={out}", "--workers=0"])
    return open_store(out, "ntu", "")


def test_choice_of_persons() -> None:
    tensors, _ = load_case(METHOD, "preprocess")
    for name, expected in part(tensors, "output.read_xyz.").items():
        persons = choose_persons(read_bodies(RAW / f"{name}.skeleton"))
        found = torch.from_numpy(persons).permute(3, 1, 2, 0)
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= 1e-6, name


def test_the_prepared_store(prepared: Recordings) -> None:
    tensors, case = load_case(METHOD, "preprocess")
    raw = part(tensors, "output.read_xyz.")
    joints = part(tensors, "output.data_joint.")
    rows = {name: row for row, name in enumerate(prepared.name.tolist())}
    assert set(joints) <= set(rows)
    assert case["ignored"] not in rows or case["ignored"] not in missing_samples()
    for name, expected in joints.items():
        frames = raw[name].shape[1]
        found = torch.zeros(3, frames, 25, 2)
        stored = torch.tensor(prepared.read(rows[name])).swapaxes(0, 1)
        found[..., : stored.shape[-1]] = stored
        assert (found - expected[:, :frames]).abs().max() <= 1e-5, name
        # What the official code pads with comes out the same from padded recordings.
        persons = torch.zeros(2, MAX_FRAMES, 25, 3, dtype=torch.float64)
        persons[:, :frames] = raw[name].permute(3, 1, 2, 0)
        padded = torch.from_numpy(normalise(persons.numpy())).permute(3, 1, 2, 0)
        assert (padded - expected).abs().max() <= 1e-5, name


def test_splits_labels_and_lengths(prepared: Recordings) -> None:
    _, case = load_case(METHOD, "preprocess")
    rows = {name: row for row, name in enumerate(prepared.name.tolist()) if name != case["ignored"]}
    for key, expected in case["splits"].items():
        benchmark, half = key.split("/")
        trains = TRAINS["xset" if benchmark == "xsetup" else benchmark]
        found = {name for name in rows if trains(parse_ntu_name(name)) == (half == "train")}
        names = [name.removesuffix(".skeleton") for name in expected["names"]]
        assert found == set(names), key
        for name, label, length in zip(names, expected["labels"], expected["num_frame"], strict=True):
            assert (prepared.label[rows[name]], prepared.length[rows[name]]) == (label, length)


def test_angles_and_rotations() -> None:
    tensors, _ = load_case(METHOD, "preprocess")
    axes, angles = tensors["input.axis"].numpy(), tensors["input.theta"].numpy()
    for axis, angle, matrix in zip(axes, angles, tensors["output.rotation_matrix"], strict=True):
        assert_close(torch.from_numpy(rotation_about(axis, float(angle))), matrix, "rotation")
    found = torch.tensor([angle_between(axis, torch.eye(3)[2].double().numpy()) for axis in axes])
    assert_close(found, tensors["output.angle_to_z"], "angle to z")


def crop(data: Tensor, start: int, end: int, frames: int) -> Tensor:
    """A part of one official sample (C, T, J, M), resized."""
    return torch.from_numpy(resize_time(data[:, start:end].swapaxes(0, 1).numpy(), frames)).swapaxes(0, 1)


def drawn_part(draws: list[Any], num_frames: int, share: list[float], frames: int) -> tuple[int, int]:
    """Start and end of a crop from the official draws: a number for the length, then the start."""
    assert [draw[0] for draw in draws[:2]] == ["np.random.rand", "np.random.randint"]
    low, high = share
    length = crop_length(num_frames, low + (high - low) * draws[0][2], frames)
    # The official start was drawn from as many places as there are.
    assert draws[1][1] == [0, num_frames - length + 1]
    return draws[1][2], draws[1][2] + length


def test_crops_in_time() -> None:
    tensors, case = load_case(METHOD, "augment")
    tested = 0
    for name, call in case["calls"].items():
        if not name.startswith("crop"):
            continue
        length, share, frames = call["num_of_frames"], call["l_ratio"], call["output_size"]
        if len(share) == 1:
            start = centre_start(length, share[0])
            end = length - start
        else:
            start, end = drawn_part(call["draws_in_order"], length, share, frames)
        found = crop(tensors["input.data"], start, end, frames)
        assert (found - tensors[f"output.{name}"]).abs().max() <= 1e-6, name
        tested += 1
    assert tested >= 3


def test_feeders_without_spatial_augmentation() -> None:
    tensors, case = load_case(METHOD, "feeder")
    assert {name.partition("_seq")[0].partition("_graph")[0] for name in case["calls"]} >= {"down_train", "down_test"}
    for name, call in case["calls"].items():
        row = int(name.rpartition("item")[2])
        data, length = tensors["input.data"][row], int(tensors["input.num_frame"][row])
        if not name.startswith("down"):
            # Here the crop is only the beginning; that it is the official one shows in the room for its start.
            drawn_part(call["draws_in_order"], length, [0.1, 1.0], 64)
            continue
        if name.startswith("down_test"):
            start = centre_start(length, 0.95)
            end = length - start
        else:
            start, end = drawn_part(call["draws_in_order"], length, [0.5, 1.0], 64)
        found = crop(data, start, end, 64)
        if "seq" in name:
            # Column 6 v + 2 c + m of the sequence is coordinate c of joint v of person m.
            found = found.permute(1, 2, 0, 3).flatten(1)
        assert (found - tensors[f"output.{name}.0"]).abs().max() <= 1e-6, name
