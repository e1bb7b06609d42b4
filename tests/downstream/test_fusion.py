"""Late fusion: means over the available streams of a sample, losses of each stream, and refused settings."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from modules.augment.skeletons import SkeletonAugmentation
from modules.backbones.depth import Depth
from modules.backbones.signal.cnn import SignalCNN
from modules.backbones.skeleton.gru import BiGRU
from modules.core.batch import Batch, Stream
from modules.core.errors import SettingError
from modules.downstream.classification import Classification, HeadSettings
from modules.downstream.fusion import FusedClassification
from modules.downstream.labels import LabelSettings
from modules.training.optim import AdamWSettings
from tests.registry import FRAMES, OPTIM, SIDE, skeleton_batch, tiny_cnn

CLASSES = 5


def fused(**settings: Any) -> FusedClassification:
    torch.manual_seed(0)
    encoders = {"depth": Depth(tiny_cnn()), "skeleton": BiGRU(4, 1), "signal": SignalCNN(6, 4)}
    usual = {"encoders": encoders, "num_classes": CLASSES, "head": HeadSettings(std=1.0), "optim": OPTIM}
    return FusedClassification(**usual | settings)  # type: ignore[arg-type]


def batch(samples: int = 3, clips: int = 2, there: tuple[bool, ...] = (True, True, True)) -> Batch:
    """Random clips; `there` marks the samples with depth."""
    made, g = skeleton_batch(samples, clips), torch.Generator().manual_seed(1)
    depth = torch.randint(0, 5000, (samples, clips, FRAMES, SIDE, SIDE, 1), generator=g).to(torch.uint16)
    valid = torch.tensor(there)[:, None, None].expand(samples, clips, FRAMES)
    further = {
        "depth": Stream("depth", depth, valid),
        "signal": Stream("signal", torch.randn(samples, clips, 6, 24, generator=g)),
    }
    return replace(made, streams=made.streams | further)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@torch.no_grad()
def test_scores_are_means_over_the_streams_that_a_sample_has() -> None:
    method, some = fused().eval(), batch(there=(True, False, True))
    found = method.logits(some)
    assert list(found) == ["", "depth", "skeleton", "signal"]
    parts = torch.stack([found[name] for name in ("depth", "skeleton", "signal")])
    assert parts.shape == (3, 3, 2, CLASSES)
    for name, branch in method.parts:
        alone = Classification.clip_logits(branch, some)
        assert torch.equal(found[name], alone)
    assert torch.allclose(found[""][[0, 2]], parts.mean(0)[[0, 2]])
    assert torch.allclose(found[""][1], parts[1:, 1].mean(0))
    of_probabilities = fused(fuse="probabilities").eval()
    mixed = of_probabilities.logits(some)[""].softmax(-1)
    assert torch.allclose(mixed[0], parts.softmax(-1).mean(0)[0], atol=1e-5)
    assert torch.allclose(mixed[1], parts[1:].softmax(-1).mean(0)[1], atol=1e-5)
    several = fused(fuse="probabilities", labels=LabelSettings("several")).eval()
    assert torch.allclose(several.logits(some)[""].sigmoid()[0], parts.sigmoid().mean(0)[0], atol=1e-5)


def test_the_loss_is_that_of_each_stream_or_of_the_mean() -> None:
    some = batch()
    method = fused().eval()
    output = method.step(some, generator())
    alone = []
    for name, branch in method.parts:
        only = branch.step(some, generator())
        alone.append(only["loss"])
        assert torch.equal(output["log"][f"{name}_top1"], only["log"]["top1"])
    assert torch.allclose(output["loss"], torch.stack(alone).mean())
    scores = method.logits(some)[""].flatten(0, 1)
    target = some.label.repeat_interleave(2)
    expected = torch.nn.functional.cross_entropy(scores, target)
    assert torch.allclose(fused(loss="fused").eval().step(some, generator())["loss"], expected)
    assert torch.allclose(output["log"]["top1"], 100 * (scores.argmax(1) == target).float().mean())


def test_bodies_are_changed_in_training_alone() -> None:
    some, changes = batch(), SkeletonAugmentation(1.0, strength=0.5)
    method, plain = fused(augmentation=changes).eval(), fused().eval()
    assert torch.equal(method.logits(some)[""], plain.logits(some)[""])
    first, second = (method.logits(some, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert torch.equal(first["signal"], second["signal"])
    assert not torch.equal(first["skeleton"], second["skeleton"])
    alone = Classification(method.branches["skeleton"].backbone, CLASSES, augmentation=changes, optim=OPTIM).eval()
    losses = [alone.step(some, torch.Generator().manual_seed(seed))["loss"] for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    with pytest.raises(SettingError, match="SkeletonAugmentation is for skeletons; for signals leave it out"):
        Classification(SignalCNN(), 2, augmentation=changes, optim=OPTIM)
    with pytest.raises(SettingError, match=r"model\.augmentation\.shear_probability is 2"):
        Classification(BiGRU(4, 1), 2, augmentation=SkeletonAugmentation(2.0), optim=OPTIM)


@pytest.mark.parametrize("loss", ["each", "fused"])
def test_every_parameter_learns(loss: Any) -> None:
    method = fused(loss=loss)
    method.step(batch(), generator())["loss"].backward()
    assert [name for name, value in method.named_parameters() if value.grad is None or not value.grad.any()] == []
    frozen = fused(mode="linear")
    trained = {name for name, value in frozen.named_parameters() if value.requires_grad}
    assert trained == {f"branches.{name}.head.{own}" for name in ("depth", "skeleton", "signal") for own in ("weight", "bias")}
    assert not any(branch.backbone.training for _, branch in frozen.train().parts)


def test_a_missing_stream_teaches_nothing() -> None:
    method = fused()
    method.step(batch(there=(False, False, False)), generator())["loss"].backward()
    assert not any(value.grad is not None and value.grad.any() for value in method.branches["depth"].parameters())
    assert all(value.grad is not None and value.grad.any() for value in method.branches["signal"].parameters())
    features = method.eval().embed(batch(there=(True, False, True)))
    widths = [int(encoder.embed_dim) for encoder in method.encoders().values()]  # type: ignore[arg-type]
    depth, skeleton, signal = features.split(widths, 1)
    assert torch.allclose(depth.norm(dim=1), torch.tensor([1.0, 0, 1]))
    assert torch.allclose(torch.stack([skeleton, signal][:1]).norm(dim=2), torch.ones(1, 3))
    one = method.embed(batch(), "signal")
    assert torch.allclose(signal, one / one.norm(dim=1, keepdim=True))


def test_encoders_are_listed_by_stream_and_layers_are_counted_from_the_output() -> None:
    method = fused(encoders={"depth": Depth(tiny_cnn()), "signal": SignalCNN(6, 4)})
    assert list(method.encoders()) == list(method.reads()) == ["depth", "signal"]
    assert method.inputs(batch(), "signal").shape[2:] == (6, 24)
    layer = method.group_matcher()
    last = max(layer(name) for name, _ in method.named_parameters())
    assert layer("branches.depth.head.weight") == layer("branches.signal.head.weight") == last
    assert layer("branches.signal.backbone.stages.2.0.conv1.weight") == last
    # Five layers and four layers.
    assert layer("branches.depth.backbone.network.stem.0.weight") == 0
    assert layer("branches.signal.backbone.stem.0.weight") == 1
    assert method.no_weight_decay() <= {name for name, _ in method.named_parameters()}
    assert AdamWSettings(1e-3, layer_decay=0.5).build(method, 1e-3, method.no_weight_decay())


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(SettingError, match="has 1 encoder"):
        fused(encoders={"signal": SignalCNN()})
    with pytest.raises(SettingError, match="fuse must be logits or probabilities"):
        fused(fuse="scores")
    with pytest.raises(SettingError, match="for signals leave them out"):
        Classification(SignalCNN(), 2, "attentive", optim=OPTIM)
    missing = batch()
    del missing.streams["depth"]
    with pytest.raises(SettingError, match="reads the stream depth"):
        fused().step(missing, generator())


def test_a_checkpoint_makes_the_heads() -> None:
    method, other = fused(), fused(num_classes=None)
    other.load_state_dict(method.state_dict())
    some: Tensor = method.eval().logits(batch())[""]
    assert torch.equal(some, other.eval().logits(batch())[""])
    with pytest.raises(SettingError, match="has 5 classes, but there are 4 here"):
        fused(num_classes=4).load_state_dict(method.state_dict())
