"""SIGMA: features, prototypes, flow of gradients, and reading of files."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from modules.backbones.vit.decoder import DecoderSettings
from modules.backbones.vit.video_vit import VideoViT
from modules.core.batch import unlabelled
from modules.core.errors import SettingError
from modules.core.tokens import Grid, gather_tokens
from modules.layers.targets import PixelTarget, TowerTarget, normalise_over_tokens
from modules.losses import sinkhorn
from modules.losses.sinkhorn import SinkhornSettings, balance
from modules.masks.base import Mask
from modules.masks.noise import Green3D
from modules.masks.tokens import TubeMask
from modules.methods.sigma import SIGMA, MLPSettings, normalise_rows, prototype_colours, swapped_loss, usage
from modules.training.optim import AdamWSettings, warmup_cosine
from modules.weights.names.videomae import to_official
from tests.registry import rows_of, tiny_vit, video_batch

ROOT = Path(__file__).parents[2]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Tower(torch.nn.Module):
    """A fixed linear map of the patches of 32 px frames."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed = torch.nn.Conv2d(3, width, 8, 8)

    def forward(self, frames: Tensor) -> Tensor:
        return self.embed(frames).flatten(2).transpose(1, 2)


def with_mlp(**settings: object) -> SIGMA:
    torch.manual_seed(0)
    own = {"mlp": MLPSettings([16, 8]), "num_prototypes": 12, "decoder": DecoderSettings(1)} | settings
    return SIGMA(tiny_vit(), PixelTarget(), TubeMask(0.5), **own).eval()


def with_tower() -> SIGMA:
    torch.manual_seed(0)
    return SIGMA(
        tiny_vit(), TowerTarget(Tower(), 8, 32, 8), TubeMask(0.5), num_prototypes=12, decoder=DecoderSettings(1)
    ).eval()


def random_rows(rows: int = 40, count: int = 12, width: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Two branches and unit prototypes, all of which take gradients."""
    drawn = [torch.randn(size, width, generator=generator(seed)) for seed, size in enumerate((rows, rows, count))]
    return drawn[0].requires_grad_(), drawn[1].requires_grad_(), F.normalize(drawn[2]).requires_grad_()


def test_shapes_of_the_paper() -> None:
    backbone = VideoViT(embed_dim=12, depth=1, num_heads=2)
    seen: list[Tensor] = []
    backbone.blocks[0].register_forward_hook(lambda _, given, made: seen.append(made))
    method = SIGMA(backbone, PixelTarget(), TubeMask(), MLPSettings(), num_prototypes=20, decoder=DecoderSettings(1)).eval()
    output = method.step(unlabelled(torch.randint(0, 256, (1, 1, 16, 224, 224, 3), dtype=torch.uint8)), generator())
    assert seen[0].shape == (1, 160, 12)
    # 176 of 196 tokens of each slice, the same in all of them.
    slices = output["show"]["masked"].reshape(8, 176) - 196 * torch.arange(8)[:, None]
    assert (slices == slices[0]).all()
    assert output["show"]["prediction"].shape == output["show"]["target"].shape == (1, 1408, 256)
    assert output["show"]["assigned"].shape == (1, 2, 1408)
    assert {name: tuple(value.shape) for name, value in method.named_parameters() if name.startswith(("proj", "proto"))} == {
        "projection.0.weight": (1024, 1536),
        "projection.0.bias": (1024,),
        "projection.2.weight": (1024, 1024),
        "projection.2.bias": (1024,),
        "projection.4.weight": (512, 1024),
        "projection.4.bias": (512,),
        "projection.6.weight": (256, 512),
        "projection.6.bias": (256,),
        "prototypes": (20, 256),
    }


def test_labels_of_flat_and_of_textured_tubes() -> None:
    grid = Grid(1, 2, 2, 2, 16)
    flat = torch.full((1, 3, 2, 32, 32), 0.4)
    labels = PixelTarget()(flat, grid)
    assert labels.shape == (1, 4, 1536)
    assert labels.abs().max() < 0.2
    textured = PixelTarget()(torch.rand(1, 3, 2, 32, 32, generator=generator()), grid).unflatten(2, (512, 3))
    assert textured.mean(2).abs().max() < 1e-4
    assert (textured.std(2) - 1).abs().max() < 1e-4


def test_features_of_a_tower_are_normalised_before_masking() -> None:
    method = with_tower()
    batch = video_batch(2)
    output = method.step(batch, generator())
    features = method.target(method.normalise(batch.stream("video").data[:, 0]), method.backbone.grid)
    assert features.mean(1).abs().max() < 1e-5
    assert (features.std(1) - 1).abs().max() < 1e-4
    assert torch.equal(output["show"]["target"], gather_tokens(features, output["show"]["masked"]))
    assert not torch.allclose(output["show"]["target"], normalise_over_tokens(output["show"]["target"]), atol=0.01)


def test_green3d_in_place_of_tubes_changes_no_shape() -> None:
    shapes = []
    for mask in (TubeMask(0.5), Green3D(0.5)):
        torch.manual_seed(0)
        method = SIGMA(tiny_vit(), PixelTarget(), mask, mlp=MLPSettings([16, 8]), num_prototypes=8, decoder=DecoderSettings(1))
        output = method.step(video_batch(2), generator())
        output["loss"].backward()
        assert output["loss"].isfinite()
        shapes.append({name: value.shape for name, value in output["show"].items()})
    assert shapes[0] == shapes[1]


def test_only_training_balances_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """In validation, where processes may have different numbers of batches, they would block forever."""
    asked = []
    monkeypatch.setattr("modules.methods.sigma.balance", lambda *given: (asked.append(given[3]), balance(*given))[1])
    method = with_mlp()
    for training in (True, False):
        method.train(training).step(video_batch(2), generator())
    assert asked == [True, False]


def test_every_forward_leaves_unit_prototypes() -> None:
    method = with_mlp()
    before = method.prototypes.detach().clone()
    # The smaller change is that of an optimiser step.
    for training, length in ((True, 3), (False, 3), (True, 1.001)):
        with torch.no_grad():
            method.prototypes.mul_(length)
        method.train(training).step(video_batch(2), generator())
        assert (method.prototypes.detach().norm(dim=1) - 1).abs().max() < 1e-6
    assert torch.allclose(method.prototypes.detach(), F.normalize(before), atol=1e-6)
    # Normalising again changes no bit, so that a step can be repeated exactly.
    bits = method.prototypes.detach().clone()
    normalise_rows(method.prototypes)
    assert torch.equal(method.prototypes.detach(), bits)


@pytest.mark.parametrize("soft", [False, True])
def test_loss_is_the_plain_formula_in_any_chunks(soft: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    target, prediction, prototypes = random_rows()
    settings = SinkhornSettings(epsilon=0.1, soft=soft)
    ours, theirs = F.normalize(target) @ prototypes.T, F.normalize(prediction) @ prototypes.detach().T
    with torch.no_grad():
        balanced = balance([F.normalize(target), F.normalize(prediction)], prototypes, settings)
        soft_labels = [
            (scores / 0.1 + u).softmax(dim=1) for scores, u in zip((ours, theirs), balanced.log_weights, strict=True)
        ]
    best = [one.argmax(dim=1) for one in soft_labels]
    told = soft_labels if soft else best
    expected = F.cross_entropy(ours / 0.2, told[1]) + F.cross_entropy(theirs / 0.2, told[0])
    gradients = torch.autograd.grad(expected, (target, prediction, prototypes))
    for rows in (7, 40):
        monkeypatch.setattr(sinkhorn, "CHUNK_ENTRIES", rows * len(prototypes))
        swapped = swapped_loss(target, prediction, prototypes, 0.2, settings)
        assert torch.equal(swapped.assigned, torch.stack(best))
        loss = swapped.target + swapped.prediction
        assert torch.allclose(loss, expected, rtol=1e-5)
        for ours_, theirs_ in zip(torch.autograd.grad(loss, (target, prediction, prototypes)), gradients, strict=True):
            assert torch.allclose(ours_, theirs_, atol=1e-6)


def test_who_learns_from_what() -> None:
    for method, trained in ((with_mlp(), {"projection", "prototypes"}), (with_tower(), {"prototypes"})):
        swapped: list = []
        monitor = method.monitor
        method.monitor = lambda result, monitor=monitor, swapped=swapped: (swapped.append(result), monitor(result))[1]
        method.step(video_batch(2), generator())
        parameters = dict(method.named_parameters())
        for loss, parts in ((swapped[0].target, trained), (swapped[0].prediction, {"backbone", "decoder"})):
            gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, retain_graph=True)
            moved = {name.split(".")[0] for name, value in zip(parameters, gradients, strict=True) if value is not None}
            assert moved == parts


def test_no_gradient_passes_through_assignments() -> None:
    """A branch makes the other's labels, soft ones here, and gets no gradient from them."""
    target, prediction, prototypes = random_rows()
    swapped = swapped_loss(target, prediction, prototypes, 0.1, SinkhornSettings(soft=True))
    assert torch.autograd.grad(swapped.target, prediction, allow_unused=True, retain_graph=True) == (None,)
    assert torch.autograd.grad(swapped.prediction, target, allow_unused=True) == (None,)


def test_loss_at_the_start_is_that_of_guessing() -> None:
    target, prediction, prototypes = random_rows(1000, 3000, 256)
    swapped = swapped_loss(target, prediction, prototypes, 0.1, SinkhornSettings())
    loss = float((swapped.target + swapped.prediction).detach())
    assert 2 * math.log(3000) < loss < 2 * math.log(3000) + 1


def test_exchanged_clips_exchange_outputs_and_keep_the_loss() -> None:
    method, batch = with_mlp(), video_batch(2)
    mask = TubeMask(0.5).draw(2, method.backbone.grid, generator())
    method.mask.draw = lambda *_: mask
    output = method.step(batch, generator())
    method.mask.draw = lambda *_: Mask(mask.visible.flip(0), mask.targets.flip(0))
    turned = method.step(rows_of(batch, [1, 0]), generator())
    assert torch.allclose(turned["show"]["prediction"], output["show"]["prediction"].flip(0), atol=1e-5)
    assert torch.equal(turned["show"]["assigned"], output["show"]["assigned"].flip(0))
    assert torch.allclose(turned["loss"], output["loss"], rtol=1e-5)


def test_autocast_changes_no_assignment_of_the_same_features() -> None:
    target, prediction, prototypes = random_rows()
    plain = swapped_loss(target, prediction, prototypes, 0.1, SinkhornSettings())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = swapped_loss(target, prediction, prototypes, 0.1, SinkhornSettings())
        assert with_mlp().step(video_batch(2), generator())["loss"].dtype == torch.float32
    for one, other in zip(plain, mixed, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("recipe", ["sigma_dino", "sigma_mlp", "sigma_dino_ssv2", "sigma_mlp_ssv2"])
def test_learning_rate_of_the_recipes(recipe: str) -> None:
    config = yaml.safe_load((ROOT / f"configs/{recipe}.yaml").read_text())["model"]["init_args"]["optim"]
    settings = AdamWSettings(**config)
    steps, epochs = 100, settings.horizon_epochs
    assert (settings.betas, settings.weight_decay, epochs) == ([0.9, 0.95], 0.05, 801)
    peak, final = settings.rates(640)
    rate = warmup_cosine(settings.warmup_epochs * steps, epochs * steps, final / peak)
    assert rate(0) == 0
    assert peak * rate(40 * steps) == pytest.approx(1.5e-4 * 640 / 256)
    assert peak * rate(801 * steps - 1) == pytest.approx(1e-5 * 640 / 256, rel=1e-6)


def test_use_of_prototypes() -> None:
    assert usage(torch.arange(12).repeat(3), 12) == {"perplexity": pytest.approx(1), "used": 1}
    assert usage(torch.zeros(30, dtype=torch.int64), 12) == {"perplexity": pytest.approx(1 / 12), "used": pytest.approx(1 / 12)}
    half = usage(torch.arange(6).repeat(2), 12)
    assert half == {"perplexity": pytest.approx(0.5), "used": 0.5}


def test_log_tells_collapse() -> None:
    method = with_mlp()
    output = method.step(video_batch(4), generator())
    log, assigned = output["log"], output["show"]["assigned"]
    assert log["agreement"] == (assigned[:, 0] == assigned[:, 1]).float().mean()
    for branch, name in enumerate(("target", "prediction")):
        assert log[f"used_{name}"] == assigned[:, branch].unique().numel() / 12
        # Balanced by construction, even at the start.
        assert 0.5 < log[f"perplexity_{name}"] <= 1
    assert log["loss_target"] + log["loss_prediction"] == output["loss"].detach()


def test_pictures_colour_tokens_by_their_prototypes() -> None:
    method, batch = with_mlp(), video_batch(3)
    output = method.step(batch, generator())
    pictures = method.pictures(output)
    colour = (prototype_colours(output["show"]["assigned"]) * 255).round().byte()
    masked = output["show"]["masked"]
    for branch, name in enumerate(("prototypes_target", "prototypes_prediction")):
        video = pictures[name]
        for token, wanted in zip(masked[1].tolist(), colour[1, branch], strict=True):
            t, row, column = token // 16, token % 16 // 4, token % 4
            tube = video[1, 2 * t : 2 * t + 2, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            assert (tube == wanted).all()
        # Visible tokens show the clip.
        assert (video == batch.stream("video").data[:, 0]).float().mean() > 0.45
    assert len(prototype_colours(torch.arange(50)).unique(dim=0)) == 50


def save(method: SIGMA, path: Path, official: bool = False) -> str:
    state = method.state_dict()
    content = {"model": to_official(state, method.backbone.grid)} if official else {"state_dict": state}
    torch.save(content, path)
    return str(path)


@pytest.mark.parametrize("official", [False, True])
def test_files_say_how_many_prototypes_and_how_wide(official: bool, tmp_path: Path) -> None:
    first = with_mlp()
    path = save(first, tmp_path / "first.pth", official)
    torch.manual_seed(3)
    # The number of prototypes and the MLP differ here: those of the file are used.
    second = SIGMA(
        tiny_vit(), PixelTarget(), TubeMask(0.5), num_prototypes=5, decoder=DecoderSettings(1), init_from=path
    ).eval()
    assert second.prototypes.shape == (12, 8)
    batch = video_batch(3)
    assert torch.equal(first.step(batch, generator())["loss"], second.step(batch, generator())["loss"])


def test_wrong_files_are_told_apart(tmp_path: Path) -> None:
    tower = with_tower()
    path = save(tower, tmp_path / "tower.pth")
    with pytest.raises(SettingError, match=r"model\.init_from .* 8 wide, but those of model\.target are 384 wide"):
        with_mlp(init_from=path)
    with pytest.raises(SettingError, match=r"model\.mlp\.checkpoint is .*tower\.pth, but .*tower\.pth contains no MLP"):
        with_mlp(mlp=MLPSettings([16, 8], path))
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(SettingError, match=r"model\.init_from .* no prototypes"):
        with_mlp(init_from=str(tmp_path / "other.pth"))
    state = with_mlp().state_dict()
    del state["decoder.head.bias"]
    torch.save({"state_dict": state}, tmp_path / "part.pth")
    with pytest.raises(SettingError, match=r"1 missing \(decoder\.head\.bias\)"):
        with_mlp(init_from=str(tmp_path / "part.pth"))


@pytest.mark.parametrize("official", [False, True])
def test_an_earlier_projection_is_frozen(official: bool, tmp_path: Path) -> None:
    first = with_mlp()
    path = save(first, tmp_path / "first.pth", official)
    torch.manual_seed(3)
    second = SIGMA(tiny_vit(), PixelTarget(), TubeMask(0.5), MLPSettings([16, 8], path), 12, decoder=DecoderSettings(1))
    for name, value in second.projection.named_parameters():
        assert torch.equal(value, first.projection.get_parameter(name))
        assert not value.requires_grad
    second.step(video_batch(2), generator())["loss"].backward()
    trained = {name.split(".")[0] for name, value in second.named_parameters() if value.grad is not None}
    assert trained == {"backbone", "decoder", "prototypes"}
    tower = SIGMA(tiny_vit(), PixelTarget(), TubeMask(0.5), None, 12, decoder=DecoderSettings(1))
    with pytest.raises(SettingError, match=r"but the file of model\.init_from contains no MLP"):
        with_mlp(mlp=MLPSettings([16, 8], path), init_from=save(tower, tmp_path / "none.pth", official))


@pytest.mark.parametrize("settings", [{"num_prototypes": 0}, {"temperature": 0.0}])
def test_settings_that_make_no_sense_are_refused(settings: dict) -> None:
    with pytest.raises(SettingError, match=rf"model\.{next(iter(settings))}"):
        with_mlp(**settings)


@pytest.mark.parametrize("widths", [[8, 0], []])
def test_an_mlp_has_layers_with_a_width(widths: list[int]) -> None:
    with pytest.raises(SettingError, match=r"model\.mlp\.widths is \["):
        MLPSettings(widths)
