"""CVRL against the official code: network, loss, augmentation, gap, learning rate; see also test_clip_sampling.py."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from datamodules.video.samplers import decreasing_gap
from modules.augment.clip_pairs import JITTER, Look, apply, gaussian_blur, grey, solarise
from modules.backbones.cnn.slow_only import SlowOnly, same_zeros
from modules.core.preprocessing import TO_ONE
from modules.layers.heads import ProjectionMLP
from modules.losses.contrast import PairContrast, pair_contrast, unit_rows
from modules.methods.cvrl import CVRL
from modules.training.optim import StepSGDSettings
from modules.weights.names.cnn.cvrl import from_tensorflow, to_tensorflow
from tests.parity.cases import PARITY_DIR, load_case, part


def description(name: str) -> dict[str, Any]:
    """A case that is only a description."""
    path = PARITY_DIR / "cvrl" / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"no official description at {path}; set PARITY_DIR to the folder that holds it")
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def within(found: Tensor, wanted: Tensor, bound: float) -> None:
    assert found.shape == wanted.shape
    assert float((found - wanted).detach().abs().max()) <= bound


# --- Network ---

Official = tuple[dict[str, Tensor], dict[str, Any], CVRL]
"""Tensors, their description, and the method with the official weights."""


@pytest.fixture(scope="module")
def case() -> Official:
    """Official tensors, their description, and the method with the official weights."""
    tensors, about = load_case("cvrl", "net_r3d50")
    settings = about["settings"]
    # The other memory layout gives the same, but is slow on a CPU.
    backbone = SlowOnly(settings["base_width"], tuple(settings["block_repeats"]), channels_last=False)
    method = CVRL(backbone, settings["hidden_dim"], settings["projection_dim"])
    weights = from_tensorflow(part(tensors, "state."))
    counters = {name: value for name, value in method.state_dict().items() if name.endswith("num_batches_tracked")}
    method.load_state_dict(weights | counters)
    return tensors, about, method


def test_maps_and_projections(case: Official) -> None:
    tensors, about, method = case
    method.eval()
    network, tolerance = method.backbone, about["tolerance"]
    assert isinstance(network, SlowOnly)
    with torch.no_grad():
        layers = network.layers(network.preprocess(tensors["input.clips"]))
        maps = [layers.start]
        for stage in layers.blocks:
            maps.append(stage(maps[-1]))
        pooled = network(network.preprocess(tensors["input.clips"]))
        projected = method.projection(pooled)
    within(maps[2].mean((2, 3, 4)), tensors["output.endpoint2_mean_thw"], tolerance["features_atol"])
    within(maps[-1].permute(0, 2, 3, 4, 1), tensors["output.endpoint5"], tolerance["features_atol"])
    within(pooled, tensors["output.pooled"], tolerance["features_atol"])
    within(projected, tensors["output.projection"], tolerance["projection_atol"])
    network.pad("symmetric")
    with torch.no_grad():
        other = network(network.preprocess(tensors["input.clips"]))
    network.pad("same")
    assert float((other - tensors["output.pooled"]).abs().max()) > 100 * tolerance["features_atol"]


def halves(rows: Tensor) -> PairContrast:
    """The loss of official rows: first the first clips, then the second ones."""
    first, second = unit_rows(rows).chunk(2)
    return pair_contrast(first, second, 0.1)


class TiedPool(nn.Module):
    """The pooling of the stem, with the gradient of TensorFlow's 3D pooling on a CPU: every value of a window within 1e-5 of
    the maximum gets all of it. Ours goes to one value, as PyTorch's does on all devices."""

    def forward(self, hidden: Tensor) -> Tensor:
        height, width = same_zeros(hidden.shape[3:], (3, 3), (2, 2))
        windows = F.pad(hidden, [*width, *height]).unfold(3, 3, 2).unfold(4, 3, 2).flatten(-2)
        largest = windows.detach().amax(-1)
        shares = (windows * (windows.detach() > largest[..., None] - 1e-5)).sum(-1)
        return largest + (shares - shares.detach())


STEM = ("backbone/layer_with_weights-0/", "backbone/layer_with_weights-1/")
"""Layers below the pooling of the stem."""


@pytest.mark.parametrize("tied", [False, True], ids=["our pooling", "pooling with ties"])
def test_loss_and_gradients_in_inference_mode(case: Official, tied: bool) -> None:
    """With our pooling, the loss and all official gradients above the stem. Those of the stem are sums over pooling windows, in
    which TensorFlow counts ties several times; they are compared with a pooling that does the same, and has the same output."""
    tensors, about, method = case
    method.eval().zero_grad()
    stem: Any = method.backbone.stem
    pool = stem[3]
    stem[3] = TiedPool() if tied else pool
    loss = halves(method.projection(method.backbone(method.normalise(tensors["input.clips"])))).losses.mean()
    stem[3] = pool
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(tensors["output.contrastive_loss"]), abs=1e-4)
    gradients = {name: value.grad for name, value in method.named_parameters() if value.grad is not None}
    theirs = to_tensorflow(gradients)
    wanted = {name: value for name, value in part(tensors, "output.grad.").items() if tied or not name.startswith(STEM)}
    assert any(name.startswith("backbone") for name in wanted)
    for name, value in wanted.items():
        within(theirs[name], value, about["tolerance"]["grad_rel_to_max"] * float(value.abs().max()))


def test_weight_decay_of_the_network_is_the_official_penalty(case: Official) -> None:
    tensors, _, _ = case
    kernels = (value for name, value in part(tensors, "state.").items() if name.endswith("kernel"))
    penalty = 1e-6 * sum(float(value.square().sum()) for value in kernels) / 2
    assert penalty == pytest.approx(float(tensors["output.reg_loss"]), rel=1e-5)
    total = float(tensors["output.contrastive_loss"]) + penalty
    assert total == pytest.approx(float(tensors["output.total_loss"]), abs=1e-5)


def test_training_mode(case: Official) -> None:
    tensors, about, method = case
    before = {name: value.clone() for name, value in method.state_dict().items()}
    method.train()
    with torch.no_grad():
        found = method.projection(method.backbone(method.normalise(tensors["input.clips"])))
    within(found, tensors["output.train.projection"], about["tolerance"]["train_projection_atol"])
    after = {name: value for name, value in method.state_dict().items() if not name.endswith("num_batches_tracked")}
    clips, momentum = len(found), 0.003
    for name in [name for name in after if name.startswith("projection.") and name.endswith("running_var")]:
        # Ours takes the unbiased variance of the batch, theirs the biased one.
        old = before[name]
        after[name] = old * (1 - momentum) + (after[name] - old * (1 - momentum)) * (clips - 1) / clips
    theirs = to_tensorflow(after)
    wanted = part(tensors, "output.train.state_after.")
    assert wanted
    for name, value in wanted.items():
        within(theirs[name], value, about["tolerance"]["train_state_after_atol"])
    method.load_state_dict(before)


def test_all_official_names_of_the_full_size() -> None:
    about = description("architecture")
    with torch.device("meta"):
        network = nn.ModuleDict({"backbone": SlowOnly(), "projection": ProjectionMLP(2048, 2048, 128)})
        ours = to_tensorflow(dict(network.state_dict()))
        assert {name: list(value.shape) for name, value in ours.items()} == {
            name: shape for name, (_, shape) in about["variables"].items()
        }
        # By the names of the variables, too.
        named = {variable: torch.empty(shape) for variable, shape in about["variables"].values()}
        suffixed = {f"{name}/.ATTRIBUTES/VARIABLE_VALUE": torch.empty(shape) for name, (_, shape) in about["variables"].items()}
        expected = {name: value.shape for name, value in network.state_dict().items() if not name.endswith("tracked")}
        for state in (named, suffixed):
            assert {name: value.shape for name, value in from_tensorflow(state).items()} == expected
    counts = {name: sum(value.numel() for value in module.parameters()) for name, module in network.items()}
    assert counts["backbone"] == about["n_trainable_backbone"]
    assert sum(counts.values()) == about["n_trainable_total"]


def test_exported_arrays_start_the_backbone(case: Official, tmp_path: Path) -> None:
    tensors, about, method = case
    path = tmp_path / "cvrl.safetensors"
    save_file({name: value.contiguous() for name, value in part(tensors, "state.").items()}, path)
    settings = about["settings"]
    network = SlowOnly(settings["base_width"], tuple(settings["block_repeats"]), checkpoint=str(path))
    assert (network.padding, network.normalisation, network.bn_eps) == ("same", TO_ONE, settings["norm_epsilon"])
    for name, value in method.backbone.state_dict().items():
        assert torch.equal(network.state_dict()[name], value) or name.endswith("tracked"), name


# --- Loss ---


def test_loss_of_one_replica() -> None:
    tensors, about = load_case("cvrl", "contrastive_loss")
    settings, tolerance = about["settings"], about["tolerance"]
    hidden = tensors["input.hidden"].requires_grad_()
    first, second = unit_rows(hidden).chunk(2)
    found = pair_contrast(first, second, settings["temperature"])
    found.losses.mean().backward()
    assert hidden.grad is not None
    within(found.losses.mean(), tensors["output.contrastive_loss"], tolerance["loss_atol"])
    within(hidden.grad, tensors["output.grad.hidden"], tolerance["grad_atol"])
    within(found.top1.mean(), tensors["output.contrast_acc"], 0)
    within(found.entropy.mean(), tensors["output.contrast_entropy"], tolerance["loss_atol"])


def test_weight_decay_is_that_of_kernels() -> None:
    """A step of the optimiser without gradients of the loss changes weights by the gradient of the official penalty."""
    tensors, about = load_case("cvrl", "contrastive_loss")
    decay = about["settings"]["weight_decay"]
    module = nn.Module()
    for name, value in part(tensors, "input.var.").items():
        parameter = nn.Parameter(value.clone())
        parameter.grad = torch.zeros_like(value)
        module.register_parameter(name, parameter)
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    StepSGDSettings(weight_decay=decay).build(module, 1e3, set()).step()
    penalty = 0.0
    for name, value in module.named_parameters():
        is_kernel = "kernel" in name
        expected = before[name] - 1e3 * decay * before[name] if is_kernel else before[name]
        assert torch.allclose(value.detach(), expected, rtol=1e-6), name
        penalty += decay * float(before[name].square().sum()) / 2 if is_kernel else 0
    assert penalty == pytest.approx(float(tensors["output.reg_loss"]), rel=1e-5)
    total = float(tensors["output.total_loss"])
    assert penalty + float(tensors["output.contrastive_loss"]) == pytest.approx(total, abs=1e-5)


def test_loss_of_several_replicas() -> None:
    tensors, about = load_case("cvrl", "contrastive_loss_ranks")
    settings, tolerance = about["settings"], about["tolerance"]
    views = [tensors[f"input.view{number}"].requires_grad_() for number in (1, 2)]
    found = pair_contrast(*(unit_rows(view) for view in views), settings["temperature"])
    for rank, (losses, top1) in enumerate(
        zip(found.losses.split(settings["batch_per_rank"]), found.top1.split(settings["batch_per_rank"]), strict=True)
    ):
        within(losses.mean(), tensors[f"output.rank{rank}.contrastive_loss"], tolerance["loss_atol"])
        within(top1.mean(), tensors[f"output.rank{rank}.contrast_acc"], 1e-6)
    loss = found.losses.mean()
    loss.backward()
    within(loss, tensors["output.mean_loss"], tolerance["loss_atol"])
    within(loss, tensors["output.single_replica_loss"], tolerance["loss_atol"])
    for number, view in enumerate(views, 1):
        assert view.grad is not None
        within(view.grad, tensors[f"output.grad_of_mean.view{number}"], tolerance["grad_atol"])


def test_learning_rate() -> None:
    tensors, about = load_case("cvrl", "lr_schedule")
    settings = about["settings"]
    optim = StepSGDSettings(base_lr=settings["initial_lr"])
    factor = optim.factor(settings["warmup_steps"], settings["decay_steps"], 0.0)
    found = [settings["initial_lr"] * factor(step) for step in tensors["input.step"].tolist()]
    assert found == pytest.approx(tensors["output.lr"].tolist(), rel=1e-5, abs=1e-9)
    assert factor(settings["warmup_steps"]) < 1
    # The official update is larger by the number of replicas, and nothing else is.
    assert StepSGDSettings(base_lr=0.32, replicas=8).rates(1024) == pytest.approx((2.56, 0.0))


# --- Clips ---


def planes(clip: Tensor) -> Tensor:
    return clip.permute(3, 0, 1, 2) / 255


def test_changes_of_clips() -> None:
    tensors, about = load_case("cvrl", "augment_ops")
    bound, settings = about["tolerance"]["atol"], about["settings"]
    clips = tensors["input.clips"]
    orders = set()
    for row in about["jitter_draws"]:
        factors = {name: row["hue_delta" if name == "hue" else f"{name}_factor"] for name in JITTER}
        order = row["order"] if row["jitter_applied"] else []
        orders.add(tuple(order))
        look = Look(tuple((name, factors[name]) for name in order), row["grey_applied"])
        made = apply(planes(clips[row["clip"]]), look)
        within(made.permute(1, 2, 3, 0), tensors[f"output.jitter{row['clip']}"], bound)
    assert len(orders) > 1
    first = planes(clips[0])
    for number, (size, sigma) in enumerate(zip(settings["kernel_args"], settings["sigmas"], strict=True)):
        within(gaussian_blur(first, size, sigma).permute(1, 2, 3, 0), tensors[f"output.blur{number}"], bound)
    within(solarise(first).permute(1, 2, 3, 0), tensors["output.solarize"], bound)
    within(grey(first).permute(1, 2, 3, 0), tensors["output.grey"], bound)


def test_gaps() -> None:
    tensors, _ = load_case("cvrl", "gap_cdf")
    for row, room in enumerate(tensors["input.max_offset"].tolist()):
        for column, u in enumerate(tensors["input.u"].tolist()):
            found, wanted = decreasing_gap(room, u), int(tensors["output.gap"][row, column])
            place = room * (1 - math.sqrt(1 - u))
            on_a_border = abs(place - round(place)) <= 1e-6 * max(1.0, place)
            assert found == wanted or (on_a_border and abs(found - wanted) == 1), (room, u)
