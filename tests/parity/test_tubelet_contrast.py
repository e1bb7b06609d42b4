"""Tubelets against the official code of TubeletContrast: paths, sizes, angles, masks and pasted pictures from its draws.

The other cases of the folder are in test_tubelet_backbones.py (encoders), test_moco.py (heads and loss), test_clip_augment.py,
and test_frame_sampler.py.
"""

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from modules.motion import trajectory
from modules.motion.render import Geometry, blend, geometry, paste, sample_objects
from modules.motion.trajectory import (
    REFERENCE_SIDE,
    MotionRecord,
    box_sizes,
    draw_key_frames,
    fill,
    linear_path,
    ramp,
    smooth_path,
    whole_boxes,
)
from modules.motion.tubelets import (
    HARD,
    TubeletRecord,
    clip_boxes,
    cut_patches,
    paste_tubelets,
)
from tests.parity.cases import assert_close, load_case


class Draws:
    """The recorded draws of the official code, in its order, turned into what our functions take (B = 1)."""

    def __init__(self, draws: list[dict[str, Any]], frames: int) -> None:
        self.draws, self.frames = list(draws), frames

    def next(self, function: str) -> Tensor:
        """The next draw, which must be one of `function`."""
        draw = self.draws.pop(0)
        assert draw["fn"] == function, f"{draw['fn']} where {function} was expected"
        return torch.tensor(draw["value"], dtype=torch.float64)

    def keys(self) -> Tensor:
        """Key frames, float [1, 4]."""
        inner = self.next("np.random.choice").long()

        def recorded(_: object, bound: int, *shape: int) -> Tensor:
            # Both numbers of inner key frames are computed; the recorded draw belongs to one of them.
            moves = bool(self.draws) and self.draws[0]["fn"] == "np.random.randint" and inner == shape[-1]
            if not moves:
                return torch.zeros(shape, dtype=torch.float64)
            low, high = self.draws[0]["args"]
            assert bound == high - low
            return self.next("np.random.randint").reshape(shape) - low

        with patch.object(trajectory, "_integers", recorded), patch("torch.multinomial", lambda *_, **__: inner.view(1, 1)):
            return draw_key_frames(1, self.frames, torch.Generator())

    def changes(self, keys: Tensor, axes: int) -> tuple[Tensor, Tensor]:
        """Steps [1, K, axes, S] and kinds [1, S] of the segments between key frames; segments of length zero get zeros."""
        count = len(keys.unique()) - 1
        # Without velocity there is nothing to draw.
        moving = self.draws[0]["fn"] == "np.random.uniform"
        steps = [self.next("np.random.uniform").view(-1, axes) if moving else torch.zeros(1, axes) for _ in range(count)]
        kinds = [self.next("np.random.choice").long() for _ in range(count)]
        return pad(torch.stack(steps, dim=-1), (0, 3 - count))[None], pad(torch.stack(kinds), (0, 3 - count))[None]

    def ramp(self) -> Tensor:
        """Angles or shear factors, [1, K, T]."""
        keys = self.keys()
        steps, kinds = self.changes(keys, 1)
        return fill(ramp(steps), keys, kinds, self.frames)[:, :, 0]

    def sizes(self, start: Tensor) -> Tensor:
        """Sizes over time from those at the start: [K, 2] -> [1, K, T, 2]."""
        keys = self.keys()
        steps, kinds = self.changes(keys, 2)
        return fill(start[..., None] * ramp(steps).exp(), keys, kinds, self.frames).transpose(-1, -2)

    def shapes(self, scales: list[float], ratios: list[float], side: int) -> Tensor:
        """Widths and heights at the start, [K, 2]."""
        choice = self.next("np.random.randint").long()
        scale = torch.tensor(scales).double()[choice % len(scales)] * (REFERENCE_SIDE / side)
        ratio = torch.tensor(ratios).double()[choice // len(scales)]
        return box_sizes(scale, ratio, self.next("np.random.uniform"), (side, side))

    def wander(self, count: int, side: int) -> tuple[Tensor, Tensor]:
        """Smooth paths [1, K, T, 2] and the points they came from [K, 2, 48]."""
        paths, points = [], []
        for _ in range(count):
            points.append(torch.stack([self.next("np.random.uniform") for _ in range(2)]))
            extent, *offset = (self.next("np.random.randint") for _ in range(3))
            paths.append(smooth_path(points[-1], extent.expand(2), torch.stack(offset), side, self.frames))
        return torch.stack(paths).transpose(-1, -2)[None], torch.stack(points)

    def opacity(self) -> Tensor:
        """Opacity of one tubelet, [T]."""
        keys = self.keys()
        values = self.next("np.random.uniform").view(1, -1)
        values = pad(values, (0, 4 - values.shape[1]))
        return fill(values, keys, torch.zeros(1, 3, dtype=torch.long), self.frames)[0]

    def look(self) -> tuple[int, float]:
        """Shape of a mask and where its soft edge begins."""
        shape = int(self.next("np.random.choice"))
        soft = self.next("random.uniform") < 0.5
        return shape, float(self.next("random.uniform")) if soft else HARD


def motion_of(centre: Tensor, size: Tensor, side: int) -> MotionRecord:
    """Motion without rotation from centres and sizes [1, K, T, 2]; boxes rounded and clipped as for tubelets."""
    centre, size = whole_boxes(centre, size)
    flat, time = torch.zeros_like(centre[..., 0]), centre.new_zeros(centre.shape[0], centre.shape[2])
    return clip_boxes(MotionRecord(centre, size, flat, torch.zeros_like(centre), flat + 1, time == 0, time), (side, side))


def test_key_frames_from_the_official_draws() -> None:
    tensors, info = load_case("tubelet_contrast", "key_frames")
    for number, case in enumerate(info["cases"]):
        keys = Draws(case["draws"], case["num_frames"]).keys()[0]
        assert torch.equal(keys.unique().long(), tensors[f"case{number}.output.key_inds"]), f"case {number}"


def test_filling_between_key_frames() -> None:
    tensors, info = load_case("tubelet_contrast", "key_frames")
    keys = tensors["interp.input.key_inds"].double()[None]
    values = tensors["interp.input.values"].movedim(0, -1)[None]
    drawn = torch.tensor([[draw["value"] for draw in info["interp_random_draws"]]])
    kinds = {name: torch.full_like(drawn, kind) for kind, name in enumerate(("uniform", "accelerate", "decelerate"))}
    for name, kind in {**kinds, "random": drawn}.items():
        official = tensors[f"interp.output.{name}"]
        ours = fill(values, keys, kind, len(official))[0].movedim(-1, 0)
        assert_close(ours, official, name, 1e-12)


def test_smooth_paths_and_their_boxes() -> None:
    tensors, info = load_case("tubelet_contrast", "trajectory_nonlinear")
    for number, case in enumerate(info["cases"]):
        draws, side = Draws(case["draws"], case["num_frames"]), case["image_size"]
        shapes, official = draws.shapes(case["scales"], case["ratios"], side), tensors[f"case{number}.mid.box_shapes"]
        # Officially computed in single precision.
        assert_close(shapes, official, "box shapes", 1e-6)
        centre, points = draws.wander(len(shapes), side)
        assert torch.equal(points, tensors[f"case{number}.mid.raw_xy"])
        assert torch.equal(centre[0].long(), tensors[f"case{number}.output.centres"]), f"case {number}"
        size = draws.sizes(official)
        low, high = ((centre + sign * size / 2)[0].clamp(0, side) for sign in (-1, 1))
        assert_close(torch.cat([low, high], dim=-1), tensors[f"case{number}.output.boxes_float"], "boxes", 1e-12)
        assert torch.equal(motion_of(centre, size, side).boxes()[0].long(), tensors[f"case{number}.output.traj_rois"])
        assert not draws.draws


def test_linear_paths_and_their_boxes() -> None:
    tensors, info = load_case("tubelet_contrast", "trajectory_linear")
    for number, case in enumerate(info["cases"]):
        draws, side = Draws(case["draws"], case["num_frames"]), case["image_size"]
        draws.draws = draws.draws[2:]
        boxes = tensors[f"case{number}.mid.boxes"]
        size = boxes[:, 2:] - boxes[:, :2]
        corner = torch.stack([draws.next("np.random.uniform") for _ in range(2)], dim=-1)
        assert_close(corner, boxes[:, :2], "first corner", 1e-12)
        keys = draws.keys()
        steps, kinds = draws.changes(keys, 2)
        path = linear_path((corner + size / 2)[None], steps, size / 2, side - size / 2)
        centre = fill(path, keys, kinds, case["num_frames"]).transpose(-1, -2)
        sizes = draws.sizes(size)
        low, high = ((centre + sign * sizes / 2)[0].clamp(0, side) for sign in (-1, 1))
        assert_close(torch.cat([low, high], dim=-1), tensors[f"case{number}.output.boxes_float"], "boxes", 1e-12)
        assert torch.equal(motion_of(centre, sizes, side).boxes()[0].long(), tensors[f"case{number}.output.traj_rois"])
        assert not draws.draws


def test_angles_and_shear_factors() -> None:
    tensors, info = load_case("tubelet_contrast", "rotation_shear_schedule")
    for number, case in enumerate(info["cases"]):
        angle = Draws(case["rotation_draws"], case["num_frames"]).ramp()[0, ..., None]
        assert_close(angle, tensors[f"case{number}.output.angles_deg"], "angles", 1e-12)
        assert torch.equal(angle.trunc().long(), tensors[f"case{number}.output.angles_int"])
        shear = Draws(case["shear_draws"], case["num_frames"]).ramp()[0, ..., None]
        assert_close(shear, tensors[f"case{number}.output.shear"], "shear", 1e-12)


def record_of(
    boxes: Tensor, angle: Tensor, shear: Tensor, opacity: Tensor, source: list[int], looks: list[tuple[int, float]]
) -> TubeletRecord:
    """Tubelets of one pair from boxes [K, T, 4], angles [K, T], shear factors [K, T, 2] and opacities [K, T]."""
    shape, edge = zip(*looks, strict=True)
    low, high = boxes.double().split(2, dim=-1)
    values = ((low + high) / 2, high - low, angle, shear, opacity)
    centre, size, angle, shear, opacity = (part.float()[None] for part in values)
    time = torch.zeros(1, boxes.shape[1], dtype=torch.int8)
    marks = (torch.tensor(source)[None], torch.tensor(shape)[None], torch.tensor(edge)[None])
    return TubeletRecord(centre, size, angle, shear, opacity, time == 0, time, *marks)


def official_middles(boxes: Tensor, angle: Tensor, shear: Tensor, mask: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Where the official code puts the middles of its patches, [..., 2], and its canvases: low corners and sizes.

    It turns a patch about (n / 2, n / 2) on a canvas of n pixels, n truncated, where OpenCV counts from the middle of the
    first pixel; slants it away from the left and upper border of a canvas, mirrored for negative factors (masks upside
    down, also where it slants along x); and places canvases by whole pixels. So middles lie up to a pixel from those of the
    boxes.
    """
    low, high = boxes.double().split(2, dim=-1)
    size = high - low
    width, height = size.unbind(-1)
    if shear.any():
        factor, steep = shear.double().unbind(-1)
        wide = (width + factor.abs() * height + 1e-9).trunc()
        x = (width - 1) / 2 + factor.abs() * (height - 1) / 2
        x = torch.where(factor < 0, wide - 1 - x, x) if not mask else x
        tall = (height + steep.abs() * wide + 1e-9).trunc()
        y = (height - 1) / 2 + steep.abs() * x
        y = torch.where(steep < 0, tall - 1 - y, y)
    else:
        cos, sin = torch.deg2rad(angle.double()).cos(), torch.deg2rad(angle.double()).sin()
        wide = (height * sin.abs() + width * cos.abs() + 1e-9).trunc()
        tall = (height * cos.abs() + width * sin.abs() + 1e-9).trunc()
        x, y = (wide + sin - cos) / 2, (tall - sin - cos) / 2
    canvas = torch.stack([wide, tall], dim=-1)
    corner = low - ((canvas - size) / 2).ceil()
    return corner + torch.stack([x, y], dim=-1) + 0.5, corner, canvas


class Scene:
    """An official pair: our record from its draws, and where the official code puts the middles of its patches."""

    def __init__(self, kind: str) -> None:
        self.tensors, info = load_case("tubelet_contrast", f"paste_{kind}")
        self.kind, self.expected = kind, [self.tensors[f"output.clip{number}"] for number in (1, 2)]
        frames, self.side = self.expected[0].shape[:2]
        time = torch.arange(frames, dtype=torch.uint8)[:, None, None, None]
        self.clips = [self.tensors[f"input.base{number}"] + 3 * time for number in (1, 2)]
        draws, settings = Draws(info["draws"], frames), info["settings"]
        shapes = draws.shapes(settings["scales"], settings["ratios"], self.side)
        centre, _ = draws.wander(len(shapes), self.side)
        self.boxes = motion_of(centre, draws.sizes(shapes), self.side).boxes()[0]
        source, looks, opacity = [], [], []
        for _ in shapes:
            source.append(int(draws.next("random.randint")))
            looks.append(draws.look())
            opacity.append(draws.opacity())
            shown = draws.next("np.random.uniform") <= settings["label_prob"]
            shown[[0, source[-1]]] = True
            opacity[-1] = opacity[-1] * shown
        self.angle = draws.ramp()[0].trunc() if kind == "rotation" else torch.zeros_like(opacity[0]).expand(len(shapes), -1)
        self.shear = torch.zeros(*self.angle.shape, 2, dtype=torch.float64)
        if kind == "shear":
            factors = torch.stack([draws.ramp()[0], draws.ramp()[0]], dim=-1)
            self.shear = factors * torch.tensor([[1, 0], [0, 1], [1, 1]])[int(draws.next("np.random.choice"))]
        assert not draws.draws
        self.record = record_of(self.boxes, self.angle, self.shear, torch.stack(opacity), source, looks)

    def paste_at(self, centre: Tensor) -> Tensor:
        """Both clips with tubelets around given middles [K, T, 2]: uint8 [2, T, H, W, 3]."""
        record, order = self.record.sorted_by_area()
        moved = replace(record, centre=centre[order[0]][None].float())
        query, key = self.clips
        both = paste(torch.cat([query, key], -1)[None], moved, cut_patches(query[None], record), windows=record.windows())
        return torch.stack(both[0].split(3, dim=-1))


def test_masks_from_the_official_draws() -> None:
    """Through the compositor, from the source frame's size to that of every frame."""
    tensors, info = load_case("tubelet_contrast", "alpha_masks")
    for number, case in enumerate(info["cases"]):
        sizes = tensors[f"case{number}.input.sizes_wh"]
        frames, source, side = len(sizes), case["crop_index"], int(sizes.max())
        draws = Draws(case["draws"], frames)
        look = draws.look()
        assert (look[0], look[1] < HARD) == (case["mask_type"], case["smooth_edge"])
        still = torch.zeros(1, frames, 2)
        boxes = torch.cat([still, sizes[None]], dim=-1)
        record = record_of(boxes, still[..., 0], still, draws.opacity()[None], [source], [look])
        # Colours far brighter than white, so that truncation to whole levels loses nothing.
        texture = cut_patches(torch.full((1, frames, side, side, 3), 255, dtype=torch.uint8), record)[:, 0] * 4096
        canvas = torch.zeros(1, frames, side, side, 3)
        place = geometry(record, (side, side), wrap=False)
        blend(canvas, sample_objects(Geometry(*place), texture[:, None], record.windows())[:, 0])
        alpha = canvas[0, ..., 0] / 4096 / 255
        ours = torch.cat([alpha[t, : sizes[t, 1], : sizes[t, 0]].flatten() for t in range(frames)])
        assert_close(ours, tensors[f"case{number}.output.alphas_flat"], f"case {number}")


def test_rotated_and_sheared_patches() -> None:
    """Patches of noise on black, where every hundredth of a pixel shows."""
    tensors, info = load_case("tubelet_contrast", "patch_rotate_shear")
    for case in info["cases"]:
        kind = "rot" if "rot" in case else "shear"
        name, axis = f"{kind}{case[kind]}", case.get("type")
        angle = torch.tensor(float(case.get("angle_deg_clockwise", 0)))
        shear = torch.tensor([case.get("fx", 0.0) * (axis != 1), case.get("fy", 0.0) * (axis != 0)])
        for layer in ("patch", "alpha"):
            picture, expected = tensors[f"{name}.input.{layer}"], tensors[f"{name}.output.{layer}"]
            if layer == "alpha":
                picture, expected = ((part * 255)[..., None].expand(-1, -1, 3) for part in (picture, expected))
            height, width = picture.shape[:2]
            box = torch.tensor([0, 0, width, height])
            middle, corner, canvas = official_middles(box, angle, shear, mask=layer == "alpha")
            assert canvas.tolist() == [expected.shape[1], expected.shape[0]], name
            still = record_of(box[None, None], angle[None, None], shear[None, None], torch.ones(1, 1), [0], [(0, HARD)])
            still.centre = (middle - corner).float().view(1, 1, 1, 2)
            texture = torch.cat([picture.float(), torch.full((height, width, 1), 255.0)], dim=-1)
            made = paste(torch.zeros(1, 1, *expected.shape, dtype=torch.uint8), still, texture[None, None])[0, 0]
            error = (made.double() - expected.double()).abs()
            # Officially, both shears are two interpolations; OpenCV interpolates on a grid of 1/32 pixel.
            twice = axis == 2
            assert error.mean() < (4 if twice else 1), f"{name} {layer}: {error.mean():.2f}"
            assert twice or error.max() < 9, f"{name} {layer}: {error.max():.1f}"


@pytest.mark.parametrize("kind", ["none", "rotation", "shear"])
def test_pasted_pairs(kind: str, record_property: Any) -> None:
    """Frames in which all tubelets stay inside; the rest is reported, since we do not shift patches at the border."""
    scene = Scene(kind)
    assert torch.equal(scene.boxes.long(), scene.tensors["output.traj_rois"])
    expected, clips = torch.stack(scene.expected).float(), torch.stack(scene.clips).float()
    middle, corner, canvas = official_middles(scene.boxes, scene.angle, scene.shear)
    inside = ((corner >= 0) & (corner + canvas <= scene.side)).all(-1).all(0)
    query, key = paste_tubelets(scene.clips[0][None], scene.clips[1][None], scene.record.sorted_by_area()[0])
    made = {"boxes' middles": torch.cat([query, key]), "official middles": scene.paste_at(middle)}
    without = (expected - clips).abs().mean((0, 2, 3, 4))
    for name, ours in made.items():
        error = (ours.float() - expected).abs().mean((0, 2, 3, 4))
        print(
            f"{kind}, {name}: grey levels {error[inside].mean():.3f} inside, {error.mean():.3f} over all; "
            f"without tubelets {without[inside].mean():.1f} and {without.mean():.1f}"
        )
        record_property(f"{name}, inside", float(error[inside].mean()))
        record_property(f"{name}, over all", float(error.mean()))
        if inside.any():
            relative = error[inside].mean() / without[inside].mean()
            assert relative < (0.15 if name == "official middles" else 0.3)
            assert name != "official middles" or error[inside].mean() < 1
    if kind == "none":
        assert inside.all()
        assert torch.equal(*made.values())
