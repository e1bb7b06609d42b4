"""RSPNet against tensors of its official code: networks, speeds, losses, training steps, augmentation, frames, names."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.overrides import TorchFunctionMode

from datamodules.video.crops import Box, centre_box, random_resized_box
from datamodules.video.readers import VideoInfo
from datamodules.video.samplers import Looped, Segments, at_rate
from modules.augment.clip_jitter import ClipJitter, JitterDraws, jitter
from modules.backbones.cnn.base import VideoCNN
from modules.backbones.cnn.c3d import C3D
from modules.backbones.cnn.resnet3d import ResNet3D
from modules.backbones.cnn.s3d import S3DG
from modules.core.preprocessing import IMAGENET
from modules.layers.contrast.momentum_contrast import ContrastSettings
from modules.layers.contrast.speed_contrast import Compared, SpeedContrast
from modules.losses.contrast import contrast_logits, identify, ranking
from modules.methods.rspnet import play, split_batch, split_samples
from modules.training.optim import SGDSettings
from modules.weights.names.cnn.rspnet import from_official, to_official
from tests.parity.cases import PARITY_DIR, load_case, part
from tests.resume.runs import as_torchrun_does, together

FOLDER = "rspnet"
NETWORKS: dict[str, Callable[[dict[str, Any]], VideoCNN]] = {
    "net_resnet18": lambda settings: ResNet3D(settings["base_width"], channels_last=False),
    "net_s3dg": lambda settings: S3DG(1 / settings["divide"], channels_last=False),
}


def close(actual: Tensor, expected: Tensor, atol: float, rtol: float = 0) -> None:
    torch.testing.assert_close(actual.detach(), expected, atol=atol, rtol=rtol)


# --- Networks ---


@pytest.mark.parametrize("case", NETWORKS)
def test_networks(case: str) -> None:
    tensors, info = load_case(FOLDER, case)
    bounds, network = info["tolerance"], NETWORKS[case](info["settings"]).eval()
    network.load_state_dict(part(tensors, "state."))
    clips = network.preprocess(tensors["input.clips"].permute(0, 2, 3, 4, 1))
    close(network.forward_features(clips), tensors["output.feature_map"], bounds["feature_atol"])
    pooled = network(clips)
    close(pooled, tensors["output.pooled"], bounds["feature_atol"])
    (pooled * tensors["input.grad_weights"]).sum().backward()
    weights = dict(network.named_parameters())
    for name, expected in part(tensors, "output.grad.").items():
        gradient = weights[name].grad
        assert gradient is not None
        close(gradient, expected, bounds["grad_rel_to_max"] * float(expected.abs().max()))
    close(network.train()(clips), tensors["output.train.pooled"], bounds["train_atol"])
    for name, expected in part(tensors, "output.train.state_after.").items():
        close(network.state_dict()[name], expected, bounds["train_atol"])


# --- Speeds and losses ---


def test_speeds() -> None:
    tensors, info = load_case(FOLDER, "speed_split")
    frames = info["settings"]["frames"]
    for draw, speed in enumerate(tensors["input.speed"].tolist()):
        order = tensors[f"input.draw{draw}.perm"]
        speeds = split_batch(order, speed, frames)
        windows = torch.arange(frames).expand(len(order), -1)
        for name, chosen in (("query", speeds.query), ("key_pos", speeds.query), ("key_neg", speeds.other)):
            assert torch.equal(play(windows, chosen, speeds.frames), tensors[f"output.draw{draw}.{name}_frames"])


def test_losses() -> None:
    tensors, info = load_case(FOLDER, "loss")
    settings, bounds = info["settings"], info["tolerance"]
    names = ("logits_A1", "logits_A2", "logits_M_pos", "logits_M_neg")
    first, second, right, wrong = (tensors[f"input.{name}"].requires_grad_() for name in names)
    (one, top1, top5), (two, _, _) = identify(first), identify(second)
    speed, share = ranking(right[:, 0], wrong[:, 0], settings["margin"])
    loss = settings["A"] * (one + two) + settings["M"] * speed
    found = (("loss", loss), ("loss_A", one + two), ("loss_M", speed))
    for name, value in found:
        close(value, tensors[f"output.{name}"], bounds["loss_atol"])
    for name, value in (("acc1_A", top1), ("acc5_A", top5), ("acc1_M", share)):
        close(100 * value, tensors[f"output.{name}"], 1e-4)
    for name, gradient in zip(names, torch.autograd.grad(loss, (first, second, right, wrong)), strict=True):
        close(gradient, tensors[f"output.grad.{name}"], bounds["grad_atol"])


# --- Training steps ---


class StandIn(nn.Module):
    """The cases' encoder: a convolution, batch norm if the case has it, ReLU, and the mean over time and space."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.embed_dim = len(state["conv.weight"])
        self.conv = nn.Conv3d(3, self.embed_dim, 3, (1, 2, 2), 1, bias="conv.bias" in state)
        self.bn = nn.BatchNorm3d(self.embed_dim) if "bn.weight" in state else nn.Identity()

    def forward(self, video: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(video))).mean((2, 3, 4))


class Parts(nn.Module):
    """Encoder and contrast with the weights of a case."""

    def __init__(self, tensors: dict[str, Tensor], settings: dict[str, Any]) -> None:
        super().__init__()
        state = from_official(part(tensors, "state."))
        self.backbone = StandIn(part(state, "backbone."))
        hidden = 0 if "contrast.head.2.weight" not in state else len(state["contrast.head.0.bias"])
        contrast = ContrastSettings(hidden, settings["dim"], settings["queue_size"], settings["m"], settings["temperature"])
        self.contrast = SpeedContrast(self.backbone, contrast)
        self.load_state_dict(state)

    def step(self, inputs: dict[str, Tensor], settings: dict[str, Any], speed: int) -> Compared:
        speeds = split_batch(inputs["speed_perm"], speed, settings["frames"])
        windows = [(inputs[name].movedim(2, 1).float() / 255 - 0.45) / 0.225 for name in ("clip_q", "clip_k")]
        query, same, other = (
            play(windows[clip], chosen, speeds.frames).movedim(1, 2)
            for clip, chosen in ((0, speeds.query), (1, speeds.query), (1, speeds.other))
        )
        self.played = {"im_q_real": query, "im_k_real": same, "im_k_negative": other}
        return self.contrast.compare_speeds(self.backbone, query, same, other, settings["margin"], torch.Generator())


class Recorder:
    """Keeps the projections and logits of a step."""

    def __init__(self, parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
        contrast, self.found = parts.contrast, {}
        queries, keys, compare = contrast.project, contrast.project_keys, contrast.compare
        names = {"queries": ["q"], "keys": ["k_neg", "k"], "logits": ["logits_A1", "logits_A2"]}

        def of_queries(*given: Any) -> Any:
            return self.keep(names["queries"].pop(0), queries(*given))

        def of_keys(*given: Any) -> Any:
            return self.keep(names["keys"].pop(0), keys(*given))

        def of_logits(query: Tensor, key: Tensor) -> Any:
            assert contrast.queue is not None
            logits = contrast_logits(query, key, contrast.queue.used, contrast.settings.temperature)
            self.found[names["logits"].pop(0)] = logits.detach()
            return compare(query, key)

        for name, function in (("project", of_queries), ("project_keys", of_keys), ("compare", of_logits)):
            monkeypatch.setattr(contrast, name, function)

    def keep(self, name: str, rows: Any) -> Any:
        self.found |= {f"{name}_A": rows.appearance.detach(), f"{name}_M": rows.speed.detach()}
        return rows


def check_step(parts: Parts, recorded: Recorder, found: Compared, expected: dict[str, Tensor], info: dict[str, Any]) -> None:
    settings, bounds = info["settings"], info["tolerance"]
    rows = recorded.found
    for name in ("q_A", "q_M", "k_A", "k_M", "k_neg_A", "k_neg_M"):
        close(rows[name], expected[name], bounds["unit_vectors_atol"])
    for name in ("logits_A1", "logits_A2"):
        close(rows[name], expected[name], bounds["logits_atol"])
    for name, key in (("pos", "k_M"), ("neg", "k_neg_M")):
        logits = (rows["q_M"] * rows[key]).sum(1, keepdim=True) / settings["temperature"]
        close(logits, expected[f"logits_M_{name}"], bounds["logits_atol"])
    appearance = found.same.loss + found.other.loss
    atol = bounds.get("loss_atol", bounds["logits_atol"])
    close(appearance, expected["loss_A"], atol)
    close(found.ranking, expected["loss_M"], atol)
    close(settings["A"] * appearance + settings["M"] * found.ranking, expected["loss"], atol)


def check_queue(parts: Parts, after: dict[str, Tensor], bound: float) -> None:
    queue = parts.contrast.queue
    assert queue is not None
    close(queue.keys.T, after["queue_after"], bound)
    assert int(queue.pointer) == int(after["queue_ptr_after"])


def check_newest(parts: Parts, written: int, keys: Tensor, bounds: dict[str, float]) -> None:
    """The last rows before the pointer are these keys; `written` counts from the first row."""
    queue = parts.contrast.queue
    assert queue is not None
    assert int(queue.pointer) == written % len(queue.keys)
    rows = (written - len(keys) + torch.arange(len(keys))) % len(queue.keys)
    close(queue.keys[rows], keys, bounds["unit_vectors_atol"])


@pytest.mark.parametrize("case", ["moco_linear", "moco_mlp"])
def test_training_steps(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips, projections, logits, losses and gradients of every step, and the weights and the queue after the last one.

    The case has `state_after`, `after_sgd` and the queue under the name of its first step, but their values are those after its
    last step: they are the tensors of the model itself, which the later step changed before they were written. The queue's
    pointer shows it, and is checked. After each step, the newest rows of the queue are compared with the keys of that step.
    """
    tensors, info = load_case(FOLDER, case)
    settings, bounds = info["settings"], info["tolerance"]
    parts, sgd = Parts(tensors, settings).train(), settings["sgd"]
    optimiser = SGDSettings(base_lr=sgd["lr"], momentum=sgd["momentum"], weight_decay=sgd["weight_decay"]).build(
        parts, sgd["lr"], set()
    )
    for number, speed in enumerate(settings["speed_of_step"], start=1):
        expected = part(tensors, f"output.step{number}.")
        with monkeypatch.context() as patch:
            recorded = Recorder(parts, patch)
            found = parts.step(part(tensors, f"input.step{number}."), settings, speed)
        check_step(parts, recorded, found, expected, info)
        for name, clips in parts.played.items():
            # Means of each frame, which the case has for its first step.
            if f"{name}_mean" in expected:
                close(clips.mean((1, 3, 4)), expected[f"{name}_mean"], bounds["unit_vectors_atol"])
        check_newest(parts, int(tensors["state.queue_ptr"]) + number * len(expected["k_neg_A"]), expected["k_neg_A"], bounds)
        optimiser.zero_grad()
        (settings["A"] * (found.same.loss + found.other.loss) + settings["M"] * found.ranking).backward()
        weights = dict(parts.named_parameters())
        gradients = from_official(part(expected, "grad."))
        assert gradients.keys() == {name for name, value in weights.items() if value.requires_grad}
        for name, value in gradients.items():
            gradient = weights[name].grad
            assert gradient is not None
            close(gradient, value, bounds["grad_atol"], bounds["grad_rtol"])
        optimiser.step()
    after = part(tensors, "output.step1.")
    for number in range(1, len(settings["speed_of_step"]) + 1):
        check_queue(parts, part(tensors, f"output.step{number}."), bounds["unit_vectors_atol"])
    for name in ("state_after.", "after_sgd."):
        moved = from_official(part(after, name))
        assert len(moved) == len(gradients)
        for weight, value in moved.items():
            close(weights[weight], value, bounds["unit_vectors_atol"])


class GivenOrders(TorchFunctionMode):
    """Replaces random permutations by recorded ones, in turn."""

    def __init__(self, *orders: Tensor) -> None:
        super().__init__()
        self.orders = list(orders)

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return self.orders.pop(0) if func is torch.randperm else func(*args, **(kwargs or {}))


def one_process(folder: Path, rank: int, port: int) -> None:
    """One of the two processes of the official run."""
    torch.set_num_threads(1)
    tensors, info = load_case(FOLDER, "moco_two_ranks")
    settings = info["settings"]
    os.environ |= as_torchrun_does(rank, settings["world_size"], port)
    distributed.init_process_group("gloo")
    parts, patch = Parts(tensors, settings).train(), pytest.MonkeyPatch()
    recorded = Recorder(parts, patch)
    with GivenOrders(tensors["input.shuffle_neg"], tensors["input.shuffle_pos"]):
        found = parts.step(part(tensors, f"input.rank{rank}."), settings, settings["diff_speed"][0])
    expected = part(tensors, f"output.rank{rank}.")
    check_step(parts, recorded, found, expected, info)
    (settings["A"] * (found.same.loss + found.other.loss) + settings["M"] * found.ranking).backward()
    gradients = {name: value.grad for name, value in parts.named_parameters() if value.grad is not None}
    for value in gradients.values():
        distributed.all_reduce(value)
        value /= settings["world_size"]
    mean = from_official(part(tensors, "output.mean_grad."))
    assert mean.keys() == gradients.keys()
    bounds = info["tolerance"]
    for name, value in mean.items():
        close(gradients[name], value, bounds["grad_atol"], bounds["grad_rtol"])
    check_queue(parts, part(tensors, "output."), bounds["unit_vectors_atol"])
    networks = {"encoder_q": parts.backbone, "encoder_k": parts.contrast.key_backbone}
    for name, network in networks.items():
        for statistic in ("running_mean", "running_var"):
            close(getattr(network.bn, statistic), expected[f"{name}.bn.{statistic}_after"], bounds["unit_vectors_atol"])
    distributed.destroy_process_group()
    (folder / f"rank{rank}").touch()


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    _, info = load_case(FOLDER, "moco_two_ranks")
    world = info["settings"]["world_size"]
    assert together(one_process, [(tmp_path,)] * world) == [0] * world
    assert len(list(tmp_path.iterdir())) == world


# --- Augmentation, crops and frames ---


def draws_of(changes: list[tuple[str, float]], grey: bool = False) -> JitterDraws:
    """Draws of a single clip; changes that are not named do nothing."""
    names = ("brightness", "contrast", "saturation", "hue")
    factors = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0} | dict(changes)
    order = [names.index(name) for name, _ in changes]
    order += [place for place in range(4) if place not in order]
    return JitterDraws(torch.tensor([grey]), torch.tensor([order]), torch.tensor([[factors[name] for name in names]]))


def test_augmentation() -> None:
    tensors, info = load_case(FOLDER, "augment_ops")
    settings, atol = info["settings"], info["tolerance"]["atol"]
    size = settings["size"]
    clips = tensors["input.clips"].float() / 255
    resized = tensors["output.resized"]
    for clip, expected in zip(clips, resized, strict=True):
        small = F.interpolate(clip.movedim(3, 1), (size, size), mode="bilinear", align_corners=False).movedim(1, 0)
        close(small, expected, atol)

    def changed(clip: Tensor, draws: JitterDraws) -> Tensor:
        """[3, T, H, W] from 0 to 1, before and after."""
        return jitter(255 * clip.movedim(0, 3)[None], draws)[0].movedim(3, 0) / 255

    for name, factor in settings["factors"].items():
        close(changed(resized[0], draws_of([(name, factor)])), tensors[f"output.{name}"], atol)
    close(changed(resized[0], draws_of([], grey=True)), tensors["output.grey"], atol)
    for clip, (given, changes) in enumerate(zip(resized, info["jitter"], strict=True)):
        done = changed(given, draws_of(changes))
        close(done, tensors[f"output.jitter{clip}"], atol)
    close(IMAGENET.apply(255 * resized[-1].movedim(0, 3)[None])[0], tensors["output.normalized"], atol)
    # All clips at once, as in training.
    every = [draws_of(changes) for changes in info["jitter"]]
    together = JitterDraws(*(torch.cat(values) for values in zip(*every, strict=True)))
    done = jitter(255 * resized.movedim(1, 4), together) / 255
    for clip in range(len(resized)):
        close(done[clip].movedim(3, 0), tensors[f"output.jitter{clip}"], atol)
    bounds = ClipJitter().draw(1000, torch.Generator().manual_seed(0)).factors
    assert (bounds[:, :3] - 1).abs().max() <= 0.4
    assert bounds[:, 3].abs().max() <= 0.4


class Recorded:
    """Returns recorded numbers instead of a generator's."""

    def __init__(self, numbers: list[float]) -> None:
        self.numbers = list(numbers)

    def uniform(self, low: float, high: float) -> float:
        assert low - 1e-6 <= self.numbers[0] <= high + 1e-6
        return self.numbers.pop(0)

    def integers(self, low: int, high: int | None = None) -> int:
        drawn = int(self.numbers.pop(0))
        assert 0 <= drawn < (low if high is None else high)
        return drawn


def test_crops() -> None:
    tensors, info = load_case(FOLDER, "crop_box")
    for row, draws in enumerate(info["draws"]):
        height, width = tensors["input.height_width"][row].tolist()
        rng: Any = Recorded(draws)
        box = random_resized_box(width, height, tuple(info["settings"]["scale"]), (3 / 4, 4 / 3), rng)
        top, left, tall, wide = tensors["output.box_top_left_h_w"][row].tolist()
        assert box == Box(left, top, wide, tall)
        assert not rng.numbers
    for (height, width), expected in zip(
        tensors["input.center_sizes"].tolist(), tensors["output.center_max_box"].tolist(), strict=True
    ):
        top, left, tall, wide = expected
        assert centre_box(width, height) == Box(left, top, wide, tall)


def test_frames() -> None:
    tensors, info = load_case(FOLDER, "temporal")
    clips = info["settings"]["n_crop"]
    rows = zip(tensors["input.crops_num_frames_size_stride"].tolist(), tensors["input.random_crop_start"].tolist(), strict=True)
    for row, ((length, frames, stride), start) in enumerate(rows):
        video, sampler = VideoInfo(length, 25.0, 340, 256), Looped(stride)
        rng: Any = Recorded([start] if start >= 0 and length - (frames - 1) * stride - 1 > 0 else [])
        np.testing.assert_array_equal(sampler.draw(video, 1, frames, rng)[0], tensors[f"output.random_crop{row}.frames"])
        np.testing.assert_array_equal(sampler.views(video, clips, frames).ravel(), tensors[f"output.even_crop{row}.frames"])
        np.testing.assert_array_equal(sampler.views(video, 1, frames)[0], tensors[f"output.even_crop{row}.frames_n1"])
        # The official rule that covers a video is that of Segments, except for videos that are repeated.
        cover = Segments() if length > frames else sampler
        np.testing.assert_array_equal(cover.views(video, clips, frames).ravel(), tensors[f"output.cover{row}.frames"])
    for row, (length, source, rate) in enumerate(info["settings"]["resample_rows"]):
        np.testing.assert_array_equal(at_rate(length, source, rate), tensors[f"output.resample{row}.frames"])


# --- Schedule and names ---


def test_learning_rate() -> None:
    tensors, info = load_case(FOLDER, "lr_schedule")
    given = info["settings"]
    # A video has two clips; the recipe's rates are for 256.
    base = given["lr"] * 128 / 64
    settings = SGDSettings(base_lr=base, min_lr=base / 1000, scale_lr=True)
    peak, final = settings.rates(2 * given["world_size"] * given["batch_size_per_gpu"])
    assert math.isclose(peak, info["scaled_lr"], rel_tol=1e-12)
    factor = settings.factor(0, given["epochs"], final / peak)
    rates = torch.tensor([peak * factor(epoch) for epoch in range(given["epochs"] + 1)], dtype=torch.float64)
    expected = tensors["output.lr_per_epoch_f64"]
    torch.testing.assert_close(rates, expected, rtol=info["tolerance"]["rtol"], atol=0)


@pytest.mark.parametrize(("arch", "build"), [("resnet18", ResNet3D), ("c3d", C3D)])
def test_names_at_published_size(arch: str, build: type[VideoCNN]) -> None:
    path = PARITY_DIR / FOLDER / "architecture.json"
    if not path.is_file():
        pytest.skip(f"no official names at {path}")
    content = json.loads(path.read_text())
    facts = content["encoders"][arch]
    with torch.device("meta"):
        backbone = build()
        parts = nn.ModuleDict({"backbone": backbone})
        parts["contrast"] = SpeedContrast(backbone, ContrastSettings(0, content["settings"]["dim"], 256))
        official = {
            f"encoder_{branch}.{name}": torch.empty(shape)
            for branch in "qk"
            for name, shape in facts["encoder_q_state"].items()
        }
        official |= {"queue": torch.empty(content["settings"]["dim"], 256), "queue_ptr": torch.empty(1)}
    assert sum(value.numel() for value in backbone.parameters()) == facts["n_parameters_backbone_without_classifier"]
    ours = from_official(official)
    assert {name: value.shape for name, value in ours.items()} == {
        name: value.shape for name, value in parts.state_dict().items()
    }
    unused = {f"encoder_{branch}.encoder.{name}" for branch in "qk" for name in facts["unused_backbone_parameters"]}
    again = to_official(ours)
    assert again.keys() == official.keys() - unused
    assert all(again[name].shape == official[name].shape for name in again)


def test_speeds_of_samples() -> None:
    """Each sample is independent; clips have the length of the highest speed."""
    draws = torch.tensor([[0.1, 0.0], [0.9, 0.0], [0.1, 0.99], [0.9, 0.6]])
    speeds = split_samples(draws, (2, 4), 32)
    assert speeds.query.tolist() == [1, 2, 1, 4]
    assert speeds.other.tolist() == [2, 1, 4, 1]
    assert speeds.frames == 8
