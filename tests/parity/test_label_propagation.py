"""Label propagation and its measures against the official code of DINO, videowalk and CropMAE, and DAVIS."""

import torch
from torch import Tensor

from modules.downstream.metrics.joints import joint_distances, pck
from modules.downstream.metrics.segmentation import (
    class_overlaps,
    confusion,
    contour_f,
    contours,
    davis_metrics,
    jaccard,
    object_scores,
    statistics,
)
from modules.downstream.propagation.joints import draw_joints, read_joints, to_grid, to_pixels
from modules.downstream.propagation.masks import Layout, SoftMask, stretched, to_labels, to_mask, upsampled
from modules.downstream.propagation.propagate import PropagationSettings, propagate
from tests.parity.cases import load_case

FOLDER = "label_propagation"


def assert_within(actual: Tensor, expected: Tensor, bound: float, name: str) -> None:
    assert actual.shape == expected.shape, f"{name}: {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    error = (actual.double() - expected.double()).abs().max()
    assert error <= bound, f"{name}: differs by {error:.2e}"


def assert_same_labels(actual: Tensor, expected: Tensor, planes: Tensor, name: str) -> None:
    """Equal where the two best labels [T, L, H, W] differ by more than 1e-5."""
    best = planes.topk(2, dim=1).values
    clear = best[:, 0] - best[:, 1] > 1e-5
    assert clear.float().mean() > 0.5
    assert torch.equal(actual[clear], expected[clear].to(actual.dtype)), name


def videowalk(norm_mask: bool) -> tuple[dict[str, Tensor], Layout, SoftMask, Tensor]:
    tensors, told = load_case(FOLDER, "videowalk_davis")
    given = told["settings"]
    settings = PropagationSettings(
        "videowalk", given["context"], given["topk"], given["radius"], given["temperature"], norm_mask, tile=4
    )
    image, grid, patch = tuple(given["image_hw"]), tuple(given["grid"]), float(given["patch"])
    layout = Layout(image, image, grid, (patch, patch))
    start = to_labels(tensors["input.first_label"], layout, "videowalk")
    assert start.ids.tolist() == told["channel_to_label"]
    return tensors, layout, start, propagate(tensors["input.features"], start.labels, settings)


def test_videowalk() -> None:
    tensors, layout, start, soft = videowalk(norm_mask=False)
    assert_within(start.labels.permute(1, 2, 0), tensors["output.first_label_soft"], 1e-5, "first labels")
    assert_within(soft.permute(0, 2, 3, 1), tensors["output.soft"], 1e-5, "soft labels")
    planes = torch.stack([upsampled(labels, layout) for labels in soft])
    some = tensors["output.soft_upsampled"]
    assert_within(planes[: len(some)].permute(0, 2, 3, 1), some, 1e-5, "upsampled labels")
    masks = torch.stack([to_mask(SoftMask(start.ids, labels), layout, "videowalk") for labels in soft])
    assert_same_labels(masks, tensors["output.label"], planes, "masks")
    assert_same_labels(planes.argmax(1), tensors["output.channel"], planes, "channels")


def test_videowalk_with_scaled_labels() -> None:
    tensors, layout, _, soft = videowalk(norm_mask=True)
    assert_within(soft.permute(0, 2, 3, 1), tensors["output.soft_norm_mask"], 1e-5, "soft labels")
    planes = torch.stack([upsampled(labels, layout) for labels in soft])
    assert_same_labels(planes.argmax(1), tensors["output.channel_norm_mask"], planes, "channels")


def test_weights_of_videowalk() -> None:
    """The weights of each source, read off by propagating its number as a label."""
    tensors, told = load_case(FOLDER, "videowalk_davis")
    given = told["settings"]
    settings = PropagationSettings("videowalk", given["context"], given["topk"], given["radius"], given["temperature"])
    features = tensors["input.features"]
    height, width = features.shape[2:]
    places = torch.eye(height * width).unflatten(1, (height, width))
    # Of the second frame, all sources are the first: the official weights, summed over its copies.
    official = torch.zeros(height * width, height * width)
    index = tensors["output.topk_ids"][1] % (height * width)
    official.scatter_add_(0, index, tensors["output.topk_weights"][1])
    assert_within(propagate(features[:2], places, settings)[1].flatten(1), official, 1e-5, "weights")


def test_dino() -> None:
    tensors, told = load_case(FOLDER, "dino_davis")
    given = told["settings"]
    settings = PropagationSettings(
        "dino", given["n_last_frames"], given["topk"], given["size_mask_neighborhood"], given["temperature"], tile=4
    )
    patch, grid = float(given["patch"]), tuple(given["grid"])
    frame = (round(grid[0] * patch), round(grid[1] * patch))
    layout = Layout(tuple(given["original_hw"]), frame, grid, (patch, patch))
    start = to_labels(tensors["input.first_label"], layout, "dino")
    assert torch.equal(start.labels, tensors["output.first_seg"])
    soft = propagate(tensors["input.features"], start.labels, settings)[1:]
    assert_within(soft, tensors["output.soft"], 1e-5, "soft labels")
    planes = torch.stack([upsampled(labels, layout) for labels in soft])
    assert_within(planes[:2], tensors["output.upsampled_first2"], 1e-5, "upsampled labels")
    normal = torch.stack([stretched(one) for one in planes])
    assert_within(normal[:2], tensors["output.normalised_first2"], 1e-4, "normalised labels")
    assert_same_labels(normal.argmax(1), tensors["output.argmax"], normal, "largest labels")
    masks = torch.stack([to_mask(SoftMask(start.ids, labels), layout, "dino") for labels in soft])
    expected = tensors["output.label_full"]
    assert torch.equal(tensors["input.first_label"].byte(), expected[0])
    # Pixels of the files that show a pixel of a frame without a clear label may differ.
    assert (masks != expected[1:]).float().mean() <= 2 * told["share_of_pixels_with_gap_below_1e_5"]


def test_poses() -> None:
    tensors, told = load_case(FOLDER, "videowalk_jhmdb_pose")
    given = told["settings"]
    settings = PropagationSettings("videowalk", given["context"], given["topk"], given["radius"], given["temperature"])
    patch, grid = float(given["patch"]), tuple(given["grid"])
    layout = Layout(tuple(given["original_hw"]), tuple(given["network_hw"]), grid, (patch, patch))
    joints = tensors["input.pos_img"].permute(2, 1, 0) - 1
    first = draw_joints(to_grid(joints[0], layout), grid)
    assert_within(first.permute(1, 2, 0), tensors["output.first_label_soft"], 1e-5, "first labels")
    soft = propagate(tensors["input.features"], first, settings)
    assert_within(soft.permute(0, 2, 3, 1), tensors["output.soft"], 1e-5, "soft labels")
    places = torch.stack([read_joints(labels) for labels in soft])
    assert_within(places.permute(2, 1, 0), tensors["output.coords"], 1e-4, "places")
    visible = places[..., 0] >= 0
    pixels = torch.stack([to_pixels(one, layout) for one in places])
    found = pck(joint_distances(pixels, joints, visible))
    for limit, value in told["pck"].items():
        assert abs(found[f"pck_{limit}"] - value) < 1e-9, limit


def test_pck() -> None:
    tensors, told = load_case(FOLDER, "jhmdb_pck")
    across, down = told["settings"]["feature_size_x_y"]
    distances = []
    for number, (_, height, width) in enumerate(told["settings"]["videos_T_H_W"]):
        places, truth = (tensors[f"input.{name}_{number}"].permute(2, 1, 0) for name in ("pred", "gt"))
        # In the precision of the stored predictions, as in the official code.
        pixels = torch.stack([places[..., 0] / across * width, places[..., 1] / down * height], -1)
        # Coordinates of the files are counted from 1.
        distances.append(joint_distances(pixels.double(), truth - 1, places[..., 0] >= 0))
    found = pck(torch.cat(distances))
    for limit, value in told["pck"].items():
        assert abs(found[f"pck_{limit}"] - value) < 1e-9, limit


def test_overlaps_of_parts() -> None:
    tensors, told = load_case(FOLDER, "vip_miou")
    matrix = confusion(tensors["input.pred"], tensors["input.gt"], told["settings"]["classes"])
    assert torch.equal(matrix, tensors["output.confusion"])
    assert abs(float(class_overlaps(matrix).nanmean()) - told["miou"]) < 1e-9


def test_masks_of_davis() -> None:
    tensors, told = load_case(FOLDER, "davis_j_and_f")
    truth, predicted = (tensors[f"input.{name}"].bool() for name in ("gt", "pred"))
    assert torch.equal(contours(truth), tensors["output.boundary_gt"].bool())
    bound = told["settings"]["bound_th"]
    found = {
        "J": jaccard(predicted, truth),
        "F": contour_f(predicted, truth, bound),
        "F_with_3_pixels": contour_f(predicted, truth, 3),
    }
    for number, pair in enumerate(told["pairs"]):
        for name, values in found.items():
            assert abs(float(values[number]) - pair[name]) < 1e-9, (pair["name"], name)


def test_statistics_of_davis() -> None:
    tensors, told = load_case(FOLDER, "davis_j_and_f")
    for number, expected in enumerate(told["statistics_mean_recall_decay"]):
        found = statistics(tensors[f"input.statistics_{number}"])
        assert all(abs(one - other) < 1e-9 for one, other in zip(found, expected, strict=True))


def test_evaluation_of_davis() -> None:
    tensors, told = load_case(FOLDER, "davis_j_and_f")
    names = sorted({key.split("_")[0].removeprefix("input.") for key in tensors if key.startswith("input.seq")})
    scores = [object_scores(tensors[f"input.{name}_pred"], tensors[f"input.{name}_gt"], chunk=2) for name in names]
    objects = [pair for own in scores for pair in zip(*own, strict=True)]
    for letter, column in zip("JF", zip(*objects, strict=True), strict=True):
        official = told["evaluation"][letter]
        found = [statistics(values) for values in column]
        for key, part in (("M", "mean"), ("R", "recall"), ("D", "decay")):
            assert all(abs(getattr(one, part) - other) < 1e-9 for one, other in zip(found, official[key], strict=True)), key
    assert abs(davis_metrics(objects)["j_and_f"] - 100 * told["evaluation"]["J_and_F_mean"]) < 1e-7
