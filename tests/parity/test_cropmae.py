"""CropMAE against its official code: views, encoder at several sizes, a pretraining step, learning rates and counts."""

import json

import pytest
import torch

from datamodules.video.crops import Box
from datamodules.video.transforms import crop_and_resize
from modules.augment.crops import enlarge, fitting_boxes
from modules.backbones.vit.positions import resample_frame_positions
from modules.core.preprocessing import Normalisation
from modules.layers.siamese_mae import kept_patches
from modules.methods.cropmae import CropMAE
from modules.training.schedules import Schedule
from tests.parity.cases import PARITY_DIR, assert_close, load_case, part
from tests.parity.siamese import BOUND, assert_pretraining, tower


def test_boxes_and_flips() -> None:
    """Given the official draws, rejected ones included, the boxes on the picture and on the resized global crop."""
    tensors, about = load_case("cropmae", "crop_views")
    settings = about["settings"]
    ratio = tuple(settings["aspect"])
    sizes = {"global": tuple(settings["picture_hw"]), "local": (settings["size"], settings["size"])}
    rejected = 0
    for number, row in enumerate(about["rows"]):
        # Lower and upper bound and value: of area and aspect ratio in turn, and of top and left.
        shapes, places = ([draw[1:] for draw in row["draws"] if draw[0] == kind] for kind in ("u", "i"))
        for order, (name, size) in enumerate(sizes.items()):
            low, high = settings[f"scale_{name}"]
            drawn = [(one[2], other[2]) for one, other in zip(shapes[::2], shapes[1::2], strict=True) if one[:2] == [low, high]]
            area, aspect = torch.tensor(drawn, dtype=torch.float64).T[:, None]
            rejected += area.shape[1] - 1
            place = [[(value + 0.5) / top for _, top, value in places[2 * order : 2 * order + 2]]]
            box = fitting_boxes(area, aspect.exp(), torch.tensor(place, dtype=torch.float64), size, ratio)
            y, x, height, width = row[f"{name}_box"]
            assert box.tolist() == [[x, y, width, height]]
            assert tensors[f"output.{name}_box"][number].tolist() == row[f"{name}_box"]
        assert row["flips"] == [u < settings["flip_p"] for u in row["flip_u"]] == tensors["output.flip"][number].tolist()
    assert rejected > 0


def test_pixels_of_the_views() -> None:
    """Both crops within one grey level, given the picture to cut from."""
    tensors, about = load_case("cropmae", "crop_views")
    settings = about["settings"]
    normalisation = Normalisation(tuple(settings["mean"]), tuple(settings["std"]))
    picture = tensors["input.image"].numpy()
    for row, views in zip(about["rows"], tensors["output.views"], strict=False):
        pixels = (255 * normalisation.restore(views[:, :, None])).round().permute(0, 2, 3, 4, 1)
        whole, local = (one.flip(2) if flip else one for one, flip in zip(pixels, row["flips"], strict=True))
        y, x, height, width = row["global_box"]
        cut = crop_and_resize([picture], Box(x, y, width, height), settings["size"])
        assert (cut.float() - whole).abs().max() <= 1
        y, x, height, width = row["local_box"]
        found = enlarge(whole.byte()[None], torch.tensor([[x, y, width, height]]))[0]
        assert (found.float() - local).abs().max() <= 1


def test_encoder_at_several_sizes() -> None:
    tensors, about = load_case("cropmae", "downstream_encoder")
    sizes = about["constructor"]
    encoder = tower(sizes)
    encoder.vit.load_state_dict(part(tensors, "state."))
    encoder.eval()
    cells = sizes["img_size"] // sizes["patch_size"]
    for number, (height, width) in enumerate(about["sizes_H_W"]):
        image = tensors[f"input.image_{number}"]
        size = height // sizes["patch_size"], width // sizes["patch_size"]
        codes = resample_frame_positions(encoder.vit.pos_embed, 1, (cells, cells), size)
        assert_close(codes, tensors[f"output.pos_embed_{number}"], f"positions {height} x {width}", BOUND)
        with torch.no_grad():
            tokens = encoder.vit.norm(encoder.vit.blocks(encoder.embed_frames(image)))
            grid = encoder.forward_intermediates(image[:, :, None], [-1], norm=True, intermediates_only=True)[0]
        expected = tensors[f"output.tokens_{number}"]
        assert_close(tokens, expected, f"tokens {height} x {width}", BOUND)
        assert_close(grid[:, :, 0].flatten(2).transpose(1, 2), expected[:, 1:], f"map {height} x {width}", BOUND)


def test_pretraining_step() -> None:
    assert_pretraining("cropmae", lambda encoder, **settings: CropMAE(encoder, **settings))


def test_learning_rates_and_counts() -> None:
    path = PARITY_DIR / "cropmae/lr_and_mask_counts.json"
    if not path.is_file():
        pytest.skip(f"no official numbers at {path}")
    about = json.loads(path.read_text())
    settings = about["settings"]
    schedule = Schedule(settings["peak_lr"], settings["min_lr"], warmup=settings["warmup_epochs"], horizon=settings["epochs"])
    assert settings["peak_lr"] == pytest.approx(settings["base_lr"] * settings["effective_batch"] / 256, rel=1e-12)
    assert settings["warmup_epochs"] == int(settings["warmup_epochs_prop"] * settings["epochs"])
    for epoch, iteration, rate in about["lr_rows_epoch_iter_lr"]:
        assert schedule.at(epoch + iteration / settings["iterations_per_epoch"]) == pytest.approx(rate, rel=1e-12)
    for patches, ratio, kept in about["keep_rows_tokens_ratio_kept"]:
        assert kept_patches(patches, ratio) == kept
