"""SMILE: pasted objects, two masks, two stages, learning without video."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from modules.backbones.vit.decoder import DecoderSettings
from modules.backbones.vit.video_vit import VideoViT
from modules.core.batch import unlabelled
from modules.core.errors import SettingError
from modules.core.preprocessing import IMAGENET, Normalisation
from modules.core.tokens import Grid
from modules.layers.targets import PixelTarget
from modules.masks.base import MaskGenerator
from modules.masks.noise import Green3D
from modules.masks.tokens import TubeMask
from modules.masks.trajectory import TrajectoryMask
from modules.methods.smile import SMILE, PasteSettings, still_background
from modules.methods.videomae import VideoMAE
from modules.motion.appearance import ObjectBank
from tests.registry import FRAMES, SIDE, tiny_vit, video_batch


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tiny(mask: MaskGenerator | None = None, **settings: object) -> SMILE:
    torch.manual_seed(0)
    parts = {"paste": PasteSettings(ObjectBank())} | settings
    return SMILE(tiny_vit(), PixelTarget(), mask or TrajectoryMask(0.5), decoder=DecoderSettings(1), **parts).eval()


class Spy(PixelTarget):
    """Keeps the input of the target."""

    def of_tokens(self, clip: Tensor, places: Tensor, grid: Grid, normalisation: Normalisation = IMAGENET) -> Tensor:
        self.clip = clip
        return super().of_tokens(clip, places, grid, normalisation)


def test_shapes_of_the_paper() -> None:
    backbone = VideoViT(embed_dim=12, depth=1, num_heads=2)
    method = SMILE(backbone, PixelTarget(), TrajectoryMask(), PasteSettings(ObjectBank()), decoder=DecoderSettings(1))
    output = method.step(unlabelled(torch.randint(0, 256, (1, 1, 16, 224, 224, 3), dtype=torch.uint8)), generator())
    # Two masks of a clip: 1248 of 1568 tokens each.
    assert output["show"]["masked"].shape == (2, 1248)
    assert output["show"]["prediction"].shape == output["show"]["target"].shape == (2, 1248, 3 * 512)


def test_green3d_in_place_of_trajectories_changes_no_shape() -> None:
    outputs = [tiny(mask).step(video_batch(2), generator()) for mask in (None, Green3D(0.5))]
    assert all(output["loss"].isfinite() for output in outputs)
    shapes = [{name: value.shape for name, value in output["show"].items()} for output in outputs]
    assert shapes[0] == shapes[1]
    assert not torch.equal(outputs[0]["show"]["masked"], outputs[1]["show"]["masked"])


def test_student_and_target_see_the_same_pasted_clip() -> None:
    method = tiny()
    method.target = Spy()
    seen = []
    original = method.backbone.encode_clip
    method.backbone.encode_clip = lambda clip, *rest: (seen.append(clip), original(clip, *rest))[1]
    batch = video_batch(2)
    output = method.step(batch, generator())
    assert seen[0] is method.target.clip is output["show"]["clip"]
    assert not torch.equal(output["show"]["clip"], batch.stream("video").data[:, 0])


def test_two_objects_always_and_their_boxes_follow_the_paste() -> None:
    batch = video_batch(4)
    batch.stream("video").data = torch.zeros_like(batch.stream("video").data)
    output = tiny().step(batch, generator())
    boxes = output["show"]["boxes"]
    assert boxes.shape == (4, 2, FRAMES, 4)
    # Larger objects are below smaller ones.
    area = ((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])).mean(-1)
    assert (area[:, 0] >= area[:, 1] - 1).all()
    # Every non-black pixel is within reach of a box (half a diagonal around its centre, for rotation).
    drawn = output["show"]["clip"].sum(-1) > 0
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    reach = (boxes[..., 2:] - boxes[..., :2]).norm(dim=-1) / 2 + 1.5
    axis = torch.arange(SIDE) + 0.5
    distance = torch.hypot(
        axis[None, None, None, None] - centre[..., 0, None, None], axis[:, None] - centre[..., 1, None, None]
    )
    near = (distance <= reach[..., None, None]).any(1)
    assert drawn.any()
    assert not (drawn & ~near).any()


def test_second_mask_is_a_permutation_of_the_first() -> None:
    output = tiny().step(video_batch(4), generator())
    first, second = output["show"]["masked"].chunk(2)
    assert sorted(map(tuple, first.tolist())) == sorted(map(tuple, second.tolist()))


def test_loss_of_two_masks_is_the_mean_of_single_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    method = tiny(TubeMask(0.5), paste=None)
    batch = video_batch(4)
    order = torch.tensor([2, 3, 1, 0])
    mask = TubeMask(0.5).draw(4, method.backbone.grid, generator())
    turned = type(mask)(mask.visible[order], mask.targets[order])
    losses = []
    for one in (mask, turned):
        method.views_per_clip = 1
        monkeypatch.setattr(method.mask, "draw", lambda *_, one=one: one)
        losses.append(method.step(batch, generator())["loss"])
    method.views_per_clip = 2
    monkeypatch.setattr(method.mask, "draw", lambda *_: mask)
    monkeypatch.setattr(torch, "randperm", lambda *_, **__: order)
    both = method.step(batch, generator())["loss"]
    assert torch.allclose(both, (losses[0] + losses[1]) / 2, rtol=1e-5)


def test_without_objects_it_is_videomae() -> None:
    smile = tiny(TubeMask(0.5), paste=None, masks_per_clip=1)
    videomae = VideoMAE(tiny_vit(), PixelTarget(), TubeMask(0.5), DecoderSettings(1)).eval()
    videomae.load_state_dict(smile.state_dict())
    batch = video_batch(3)
    assert torch.equal(smile.step(batch, generator())["loss"], videomae.step(batch, generator())["loss"])


def test_stage_two_starts_where_stage_one_ended(tmp_path: Path) -> None:
    first = tiny()
    path = tmp_path / "stage1.ckpt"
    torch.save({"state_dict": first.state_dict(), "optimizer_states": [{"state": {}}]}, path)
    torch.manual_seed(3)
    second = SMILE(tiny_vit(), PixelTarget(), TubeMask(0.5), paste=None, decoder=DecoderSettings(1), init_from=str(path)).eval()
    first.paste, first.mask = None, TubeMask(0.5)
    batch = video_batch(3)
    assert torch.equal(first.step(batch, generator())["loss"], second.step(batch, generator())["loss"])


def test_stage_one_weights_must_be_complete(tmp_path: Path) -> None:
    state = tiny().state_dict()
    del state["decoder.head.bias"]
    path = tmp_path / "stage1.ckpt"
    torch.save({"state_dict": state}, path)
    with pytest.raises(SettingError, match=r"1 missing \(decoder\.head\.bias\)"):
        tiny(init_from=str(path))


@pytest.mark.parametrize("kind", ["first_frame", "black", "noise"])
def test_still_backgrounds_do_not_move(kind: str) -> None:
    clip = video_batch(3).stream("video").data[:, 0]
    still = still_background(clip, kind, generator())
    assert still.shape == clip.shape
    assert still.dtype == torch.uint8
    assert (still == still[:, :1]).all()
    if kind == "first_frame":
        assert torch.equal(still[:, 0], clip[:, 0])
    if kind == "noise":
        assert not torch.equal(still[0], still[1])
        assert still.float().mean().item() == pytest.approx(127.5, abs=4)


def test_invisible_objects_on_black_leave_nothing_to_predict() -> None:
    method = tiny(background="black")
    motion = method.paste.motion.draw
    method.paste.motion.draw = lambda *args: invisible(motion(*args))
    output = method.step(video_batch(2), generator())
    assert not output["show"]["clip"].any()
    assert PixelTarget(normalise=False)(method.normalise(output["show"]["clip"]), method.backbone.grid).abs().max() < 1e-6


def invisible(record):
    record.opacity = torch.zeros_like(record.opacity)
    return record


def test_missing_objects_say_what_to_set() -> None:
    with pytest.raises(SettingError, match=r"model\.paste\.objects is not set"):
        SMILE(tiny_vit(), PixelTarget(), TrajectoryMask(0.5))


def test_masks_count_into_the_learning_rate() -> None:
    assert tiny(masks_per_clip=3).views_per_clip == 3
