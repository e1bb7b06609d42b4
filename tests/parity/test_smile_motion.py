"""Trajectories and pasted pictures against the official code of SMILE."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modules.motion.appearance import blur_to_size, load_object
from modules.motion.render import paste
from modules.motion.trajectory import MotionRecord, smooth_path
from tests.parity.cases import assert_close, load_case


def test_smooth_path_from_the_official_draws() -> None:
    tensors, info = load_case("smile", "gaussian_trajectory")
    extent, size, boxes = tensors["input.scaling_factor"].double(), tensors["input.box_wh"], tensors["output.boxes"]
    for axis, name in enumerate("xy"):
        offset = tensors[f"input.translation_{name}"].double()
        path = smooth_path(tensors[f"input.{name}_points"], extent, offset, info["image_wh"][axis], info["num_frames"])
        # Centres are whole pixels, so they are equal bit for bit; corners only up to the rounding of half a size.
        assert torch.equal(path, ((boxes[..., axis] + boxes[..., axis + 2]) / 2).round())
        assert_close(path - size[:, None, axis] / 2, boxes[..., axis], "low corner", 1e-12)
        assert_close(path + size[:, None, axis] / 2, boxes[..., axis + 2], "high corner", 1e-12)


class Scene:
    """The case of two objects, turned and resized over a clip, in our terms."""

    def __init__(self) -> None:
        self.tensors, _ = load_case("smile", "object_paste")
        rois = self.tensors["input.traj_rois"].double()
        self.frames, self.expected = self.tensors["input.frames"], self.tensors["output.frames"]
        self.size, self.angle = rois[..., 2:] - rois[..., :2], self.tensors["input.rotation_degrees"].double().trunc()
        self.middle = (rois[..., :2] + rois[..., 2:]) / 2
        width, height = self.size.unbind(-1)
        cos, sin = torch.deg2rad(self.angle).cos(), torch.deg2rad(self.angle).sin()
        # The official code turns an object about (n / 2, n / 2) of a canvas of n pixels, n truncated, where OpenCV counts
        # from the middle of the first pixel. So the object's middle lies up to 0.7 pixels from that of its box.
        self.canvas = torch.stack([height * sin.abs() + width * cos.abs(), height * cos.abs() + width * sin.abs()], -1).trunc()
        low = rois[..., :2] - ((self.canvas - self.size) / 2).ceil()
        self.centre = low + self.canvas / 2 + 0.5 + torch.stack([-0.5 * cos + 0.5 * sin, -0.5 * sin - 0.5 * cos], -1)

    def record(self, centre: Tensor) -> MotionRecord:
        """One clip of all objects, [1, K, T]."""
        K, T = self.angle.shape
        return MotionRecord(
            centre.float()[None],
            self.size.float()[None],
            self.angle.float()[None],
            torch.zeros(1, K, T, 2),
            torch.ones(1, K, T),
            torch.ones(1, T, dtype=torch.bool),
            torch.zeros(1, T, dtype=torch.int8),
        )

    def official_texture(self, k: int, frame: int) -> Tensor:
        """Object k resized twice as in the official code, colours multiplied by alpha: float [h, w, 4]."""
        picture = Image.fromarray(self.tensors[f"input.object_{k}"].numpy())
        for number in (int(self.tensors["input.size_reference_frame"][k]), frame):
            picture = picture.resize([int(side) for side in self.size[k, number]])
        rgba = torch.from_numpy(np.asarray(picture).astype(np.float32))
        rgba[..., :3] *= rgba[..., 3:] / 255
        return rgba

    def paste_as_officially(self) -> Tensor:
        """Every frame its own clip, since the official textures differ from frame to frame."""
        record, order = self.record(self.centre).sorted_by_area()
        made = []
        for frame in range(len(self.frames)):
            clip = self.frames[None, frame, None]
            for place, k in enumerate(order[0].tolist()):
                single = [getattr(record, name)[:, place : place + 1, frame, None] for name in ("centre", "size", "angle")]
                shear = torch.zeros_like(single[0])
                still = MotionRecord(
                    *single, shear, torch.ones_like(single[2]), record.keys[:, :1], record.interpolation[:, :1]
                )
                clip = paste(clip, still, self.official_texture(k, frame)[None, None])
            made.append(clip[0, 0])
        return torch.stack(made)

    def near(self) -> tuple[Tensor, Tensor]:
        """Pixels of the boxes around the turned objects, bool [T, H, W], and frames with all objects inside, bool [T]."""
        H, W = self.frames.shape[1:3]
        low, high = (self.centre - self.canvas / 2).floor(), (self.centre + self.canvas / 2).ceil()
        inside = (low >= 0).all(-1) & (high <= torch.tensor([W, H])).all(-1)
        x, y = torch.arange(W)[None, None, None], torch.arange(H)[None, None, :, None]
        left, top, right, bottom = (edge[..., axis, None, None] for edge in (low, high) for axis in (0, 1))
        return ((x >= left) & (x < right) & (y >= top) & (y < bottom)).any(0), inside.all(0)


def test_pasted_objects_agree_with_pil_and_opencv(record_property: Any) -> None:
    """Given the official textures and centres, pictures differ in the soft edges only."""
    scene = Scene()
    error = (scene.paste_as_officially().float() - scene.expected.float()).abs().mean(-1)
    near, inside = scene.near()
    within = (error * near).sum((1, 2)) / near.sum((1, 2))
    print(f"grey levels: whole {error.mean():.3f}, in the boxes {within.max():.3f}, largest {error.max():.1f}")
    record_property("whole", float(error.mean()))
    assert (scene.expected != scene.frames).any()
    assert error.mean() < 1
    assert error.mean((1, 2)).max() < 1
    if inside.any():
        assert within[inside].max() < 1


def test_objects_of_the_bank_agree_with_the_official_pictures(tmp_path: Path) -> None:
    """The way of training: one square texture of an object for all frames, resized and turned in one go."""
    scene = Scene()
    textures = []
    for k in range(len(scene.size)):
        Image.fromarray(scene.tensors[f"input.object_{k}"].numpy()).save(tmp_path / f"{k}.png")
        textures.append(torch.from_numpy(load_object(tmp_path / f"{k}.png", 96)[0]))

    def error(centre: Tensor) -> float:
        record, order = scene.record(centre).sorted_by_area()
        drawn = blur_to_size(torch.stack(textures)[order], record.size.mean(2))
        return float((paste(scene.frames[None], record, drawn)[0].float() - scene.expected.float()).abs().mean())

    without = float((scene.frames.float() - scene.expected.float()).abs().mean())
    shifted, boxes = error(scene.centre), error(scene.middle)
    print(f"grey levels: {shifted:.3f}, around the boxes' middles {boxes:.3f}, without objects {without:.3f}")
    assert shifted < 1
    # Trajectories put objects in the middle of their boxes, at most 0.7 pixels from where the official code puts them.
    assert boxes < 0.3 * without
