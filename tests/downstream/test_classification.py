"""Classification: trained and frozen parts, labels, test views, files, and each video counted once."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import lightning
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchmetrics.functional.classification import binary_average_precision

from datamodules.generated.motion import SyntheticMotion
from datamodules.generated.skeleton import SyntheticSkeleton
from datamodules.lists.manifest import Manifest
from datamodules.skeleton.clips import SkeletonClipSettings
from datamodules.video.sampling import ClipSettings
from modules.augment.clips import Mixing
from modules.backbones.cnn.resnet import VideoResNet
from modules.backbones.skeleton.gru import BiGRU
from modules.convert.command import convert
from modules.core.batch import Stream, unlabelled
from modules.core.errors import SettingError
from modules.downstream.classification import Classification, HeadSettings
from modules.downstream.labels import LabelSettings, OneLabel, SeveralLabels, accuracies, average_precisions, smooth_targets
from modules.training.method import Method
from modules.training.optim import AdamWSettings, SGDSettings
from tests.methods import test_common as common
from tests.registry import (
    CLASSES,
    COLOURS,
    DOWNSTREAM,
    FRAMES,
    OPTIM,
    SIDE,
    Case,
    rows_of,
    skeleton_batch,
    tiny_cnn,
    tiny_vit,
    video_batch,
)

everywhere = pytest.mark.parametrize("case", DOWNSTREAM, ids=lambda case: case.name)
SMALL = ClipSettings(frames=FRAMES, size=SIDE)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def trainer(folder: Path, **settings: Any) -> lightning.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    settings = {"logger": False, "num_sanity_val_steps": 0, "use_distributed_sampler": False} | quiet | settings
    return lightning.Trainer(accelerator="cpu", devices=1, default_root_dir=folder, **settings)


def motion(**settings: Any) -> SyntheticMotion:
    return SyntheticMotion(**{"clip": SMALL, "batch_size": 4, "train_videos": 12, "val_videos": 7} | settings)


@everywhere
def test_contract_of_methods(case: Case) -> None:
    common.test_loss_is_finite_and_every_trained_parameter_receives_gradient(case)
    common.test_outputs_for_callbacks_carry_no_gradient(case)
    common.test_batch_of_one(case)
    common.test_embed_is_frozen_and_per_video(case)
    if not case.skeletons:
        common.test_step_is_a_function_of_weights_batch_and_generator(case)
        common.test_several_clips_per_video_are_several_samples(case)
        common.test_pictures_are_uint8_videos(case)


@everywhere
def test_only_what_the_mode_names_is_trained(case: Case, tmp_path: Path) -> None:
    torch.manual_seed(0)
    method = case.build()
    assert isinstance(method, Classification)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    trainer(tmp_path, max_steps=1, limit_val_batches=0).fit(method, datamodule=case.data(4, 4, 4))
    moved = {name for name, value in method.state_dict().items() if not torch.equal(value, before[name])}
    if method.mode == "finetune":
        # The key bias does not change a softmax; everything else has changed.
        assert moved == before.keys()
    else:
        assert moved == {name for name in before if not name.startswith("backbone.")}
        assert not any(part.training for part in method.backbone.modules())


def test_batchnorm_of_a_frozen_backbone_drifts_only_if_asked() -> None:
    for frozen in (True, False):
        method = Classification(tiny_cnn(), 2, "linear", frozen_batchnorm=frozen, optim=OPTIM)
        before = {name: value.clone() for name, value in method.backbone.state_dict().items()}
        method.step(video_batch(), generator())["loss"].backward()
        moved = [name for name, value in method.backbone.state_dict().items() if not torch.equal(value, before[name])]
        assert all("running" in name or "num_batches" in name for name in moved)
        assert bool(moved) != frozen


def test_fresh_head_of_a_video_transformer_says_nothing() -> None:
    method = Classification(tiny_vit(), 400, optim=OPTIM)
    logits = method.logits(method.encode(video_batch())[:, 0])
    assert logits.abs().max() < 0.05
    loss = method.step(video_batch(), generator())["loss"]
    assert loss.item() == pytest.approx(torch.tensor(400.0).log().item(), abs=0.05)
    wide = Classification(BiGRU(8, 2), 500, "linear", head=HeadSettings(std=0.01), optim=OPTIM)
    assert wide.classifier.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert not wide.classifier.bias.any()


def test_loss_is_that_of_smoothed_labels() -> None:
    method = Classification(tiny_cnn(), 5, labels=LabelSettings(smoothing=0.1), optim=OPTIM).eval()
    batch = video_batch(4, clips=2)
    expected = torch.nn.functional.cross_entropy(
        method.logits(method.encode(batch).flatten(0, 1)), batch.label.repeat_interleave(2), label_smoothing=0.1
    )
    assert torch.allclose(method.step(batch, generator())["loss"], expected)


def test_views_are_merged_by_probabilities_or_by_logits() -> None:
    """By hand: one sure view against two that are less sure of the other class."""
    logits = torch.tensor([[99.0, 1.0], [1.0, 4.0], [1.0, 4.0]]).log()[None]
    one = OneLabel()
    assert one.merged(logits, "mean")[0].tolist() == pytest.approx([(0.99 + 0.2 + 0.2) / 3, (0.01 + 0.8 + 0.8) / 3])
    assert one.merged(logits, "max")[0].tolist() == pytest.approx([0.99, 0.8])
    # The cube roots of 99 and 16.
    assert one.merged(logits, "mean_logits")[0].tolist() == pytest.approx([4.62607 / 7.14591, 2.51984 / 7.14591], abs=1e-5)


def test_unit_features_have_length_one_before_the_head() -> None:
    method = Classification(tiny_cnn(), 2, "linear", head=HeadSettings(unit_features=True)).eval()
    with torch.no_grad():
        method.classifier.weight.copy_(torch.eye(2, method.classifier.in_features))
        method.classifier.bias.zero_()
    features = torch.zeros(2, method.classifier.in_features)
    features[:, :3] = torch.tensor([[3.0, 4.0, 0.0], [2.0, 3.0, 6.0]])
    torch.testing.assert_close(method.logits(features), torch.tensor([[0.6, 0.8], [2 / 7, 3 / 7]]))
    torch.testing.assert_close(method.logits(100 * features), method.logits(features))


def test_loss_of_several_labels() -> None:
    method = Classification(tiny_cnn(), 5, labels=LabelSettings("several"), optim=OPTIM).eval()
    label = torch.tensor([[1.0, 0, 1, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1]])
    batch = replace(video_batch(3, clips=2), label=label)
    logits = method.logits(method.encode(batch).flatten(0, 1))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, label.repeat_interleave(2, 0))
    assert torch.allclose(method.step(batch, generator())["loss"], expected)
    method.mixing = Mixing()
    assert method.step(batch, generator())["loss"].isfinite()
    # A single label is the only positive class; without label there is no loss.
    rows = SeveralLabels().rows(torch.tensor([2, -1]), 3)
    assert rows.tolist() == [[0, 0, 1], [-1, -1, -1]]
    targets, logits = SeveralLabels().targets(torch.tensor([2, -1]), 3), torch.randn(2, 3, requires_grad=True)
    SeveralLabels().loss(logits, targets).backward()
    assert logits.grad is not None
    assert (logits.grad != 0).tolist() == [[True] * 3, [False] * 3]
    # The mean over samples and classes.
    assert torch.allclose(logits.grad[0], (logits[0].sigmoid() - targets[0]).detach() / 6)


def test_views_of_several_labels_are_joined(tmp_path: Path) -> None:
    method = Classification(tiny_vit(), 13, head=HeadSettings(std=1.0), labels=LabelSettings("several"), optim=OPTIM).eval()
    assert (method.merge, Classification(tiny_vit(), 13, optim=OPTIM).merge) == ("max", "mean")
    data = motion(clip=ClipSettings(frames=FRAMES, size=SIDE, clips=2))
    data.setup()
    with torch.no_grad():
        parts = [(method.logits(method.encode(batch).flatten(0, 1)), batch.label) for batch in data.test_dataloader()]
    logits, label = (torch.cat(part) for part in zip(*parts, strict=True))
    views = logits.sigmoid().unflatten(0, (-1, 2))
    rows = SeveralLabels().rows(label, 13)
    for method.merge, merged in (("max", views.amax(1)), ("mean", views.mean(1))):
        (found,) = trainer(tmp_path).test(method, datamodule=data, verbose=False)
        expected = [binary_average_precision(merged[:, k], rows[:, k]) for k in range(13) if rows[:, k].any()]
        assert found["test/map"] == pytest.approx(100 * torch.stack(expected).mean().item(), rel=1e-4)
        loss = torch.nn.functional.binary_cross_entropy(merged, rows.float())
        assert found["test/loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert method.test_record == {"videos": 7, "missed": [], "classes": 13, "views": 2}


def test_average_precision_of_ties_and_of_no_positive() -> None:
    scores = torch.tensor([[0.5, 0.1, 0.3], [0.5, 0.9, 0.2], [0.1, 0.5, 0.1]])
    positive = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 1, 0]]) > 0
    found = average_precisions(scores, positive)
    # The first two samples have the same score: precision is one half; then two of three.
    assert found[:2].tolist() == pytest.approx([0.5 * 0.5 + 0.5 * 2 / 3, 1.0])
    assert found[2].isnan()
    together = SeveralLabels().scores(scores, positive.long())["map"]
    assert together.item() == pytest.approx(100 * found[:2].mean().item())
    # A test set may contain a single class.
    alone = average_precisions(scores, positive & torch.tensor([True, False, False]))
    assert alone[0].item() == pytest.approx(found[0].item())
    assert alone[1:].isnan().all()


def test_unlabelled_samples_have_no_loss() -> None:
    targets = smooth_targets(torch.tensor([2, -1]), 4, 0.2)
    assert torch.allclose(targets, torch.tensor([[0.05, 0.05, 0.85, 0.05], [0.0, 0, 0, 0]]))


@pytest.mark.parametrize("labels", ["one", "several"])
def test_unlabelled_samples_change_nothing_of_others(labels: Literal["one", "several"]) -> None:
    """A labelled clip whose partner in mixing has no label is not mixed, and progress only counts labelled clips."""
    method = Classification(
        tiny_cnn(),
        3,
        "linear",
        mixing=Mixing(cutmix=0),
        labels=LabelSettings(labels, merge="mean"),
        optim=OPTIM,
        head=HeadSettings(std=20.0),
    ).eval()
    batch = video_batch(2)
    batch.stream("video").data[1] = 255
    batch.label = torch.tensor([2, -1]) if labels == "one" else torch.tensor([[1, 0, 0], [-1, -1, -1]])
    output = method.step(batch, generator())
    plain = Classification(tiny_cnn(), 3, "linear", labels=LabelSettings(labels, merge="mean"), optim=OPTIM).eval()
    plain.load_state_dict(method.state_dict())
    expected = plain.step(rows_of(batch, slice(1)), generator())
    # A sample without label has a loss of 0, which counts in the mean.
    assert output["loss"].item() == pytest.approx(expected["loss"].item() / 2, rel=1e-5)
    assert output["log"] == expected["log"]


def test_progress_leaves_unlabelled_samples_out() -> None:
    logits = torch.tensor([[5.0, 0, 0], [0, 5, 0], [5, 0, 0]])
    one = OneLabel()
    assert one.progress(logits, one.targets(torch.tensor([0, 2, -1]), 3)) == {"top1": 50}
    several = SeveralLabels()
    rows = torch.tensor([[1, 0, 1], [0, 0, 0], [-1, -1, -1]])
    assert several.progress(logits, several.targets(rows, 3)) == {"hit1": 50}
    assert one.progress(logits, one.targets(torch.tensor([-1, -1, -1]), 3)) == {"top1": 0}


def test_a_test_without_labels_ends_before_any_video_is_read(tmp_path: Path) -> None:
    method = Classification(tiny_cnn(), CLASSES, "linear", optim=OPTIM)
    data = motion()
    data.test_manifest = Manifest(tmp_path, ["a.mp4"], np.array([-1]))  # type: ignore[attr-defined]
    method.encode = None  # type: ignore[assignment, method-assign]
    with pytest.raises(SettingError, match="No test video has a label"):
        trainer(tmp_path).test(method, datamodule=data, verbose=False)


def test_cached_features_train_the_same_head() -> None:
    method = Classification(tiny_cnn(), 3, "linear", optim=OPTIM)
    batch = video_batch(3, clips=2)
    cached = replace(batch, streams={"frozen": Stream("feature", method.encode(batch))})
    calls = []
    expected = method.step(batch, generator())["loss"]
    method.backbone.register_forward_hook(lambda *_: calls.append(1))
    method.feature_stream = "frozen"
    loss = method.step(cached, generator())["loss"]
    assert calls == []
    assert torch.equal(loss, expected)


def test_features_in_the_place_of_clips_are_for_a_linear_classifier(tmp_path: Path) -> None:
    data = motion()
    data.__class__ = type("Frozen", (SyntheticMotion,), {"streams": {"frozen": "feature"}})
    with pytest.raises(SettingError, match=r"set model\.mode to linear"):
        trainer(tmp_path).test(Classification(tiny_vit(), 13, "attentive", optim=OPTIM), datamodule=data, verbose=False)


def test_classes_come_from_the_data_or_the_checkpoint(tmp_path: Path) -> None:
    method = Classification(tiny_vit(), augmentation=COLOURS, mixing=Mixing(), optim=OPTIM)
    run = trainer(tmp_path, max_epochs=1)
    run.fit(method, datamodule=motion())
    assert method.classifier.out_features == 13
    run.save_checkpoint(tmp_path / "run.ckpt")
    again = Classification(tiny_vit(), optim=OPTIM)
    run = trainer(tmp_path)
    run.test(again, datamodule=motion(), ckpt_path=tmp_path / "run.ckpt", weights_only=True, verbose=False)
    for name, value in method.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    alone = Classification(tiny_vit(), optim=OPTIM)
    alone.load_state_dict(torch.load(tmp_path / "run.ckpt", weights_only=True)["state_dict"])
    assert alone.classifier.out_features == 13


def test_test_counts_each_video_once_and_names_missed_ones(tmp_path: Path) -> None:
    method = Classification(tiny_vit(), 13, head=HeadSettings(std=1.0), optim=OPTIM).eval()
    data = motion(clip=ClipSettings(frames=FRAMES, size=SIDE, clips=3))
    data.setup()
    rows = list(data.test_dataloader())
    video, label = torch.cat([batch.stream("video").data for batch in rows]), torch.cat([batch.label for batch in rows])
    with torch.no_grad():
        merged = torch.stack([method.logits(method.encode(unlabelled(video[:, [v]]))[:, 0]).softmax(1) for v in range(3)]).mean(
            0
        )
    expected = accuracies(merged, label)
    (found,) = trainer(tmp_path).test(method, datamodule=data, verbose=False)
    for name, value in expected.items():
        assert found[f"test/{name}"] == pytest.approx(value.item(), rel=1e-5), name
    assert method.test_record == {"videos": 7, "missed": [], "classes": 13, "views": 3}

    def spoil(loader: Any) -> DataLoader:
        # One file could not be read, one video has no label, and one occurs twice.
        batches = list(loader)
        for batch in batches:
            batch.substituted = torch.where(batch.index == 2, 5, -1)
            batch.label = torch.where(batch.index == 4, -1, batch.label)
        return DataLoader([*batches, replace(batches[0], label=batches[0].label + 1)], batch_size=None)

    data.test_dataloader = lambda: spoil(SyntheticMotion.test_dataloader(data))  # type: ignore[method-assign]
    (found,) = trainer(tmp_path).test(method, datamodule=data, verbose=False)
    kept = [0, 1, 3, 5, 6]
    assert found["test/top1"] == pytest.approx(accuracies(merged[kept], label[kept])["top1"].item(), rel=1e-5)
    assert (method.test_record["videos"], method.test_record["missed"]) == (5, [2])


def test_validation_does_not_repeat_copies_of_clips(tmp_path: Path) -> None:
    method = Classification(tiny_vit(), 13, optim=OPTIM)
    seen = []
    method.backbone.patch_embed.register_forward_hook(lambda _, given, made: seen.append(len(made)))
    run = trainer(tmp_path)
    run.validate(method, datamodule=motion(clip=ClipSettings(frames=FRAMES, size=SIDE, repeat=2)), verbose=False)
    assert sum(seen) == 7
    assert {"val/top1", "val/top5", "val/per_class", "val/loss"} <= run.callback_metrics.keys()


def test_learning_rate_counts_videos_not_copies(tmp_path: Path) -> None:
    method = Classification(tiny_vit(), 13, optim=AdamWSettings(base_lr=1e-3, warmup_epochs=0))
    run = trainer(tmp_path, max_epochs=1, limit_val_batches=0)
    run.fit(method, datamodule=motion(clip=ClipSettings(frames=FRAMES, size=SIDE, repeat=2)))
    assert run.optimizers[0].param_groups[0]["initial_lr"] == pytest.approx(1e-3 * 4 / 256)


def save(path: Path, method: Method) -> str:
    torch.save({"model": method.state_dict()}, path)
    return str(path)


def test_init_from_loads_whole_classifiers(tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = Classification(tiny_vit(), 5, head=HeadSettings(std=1.0), optim=OPTIM).eval()
    ours = save(tmp_path / "ours.pth", first)
    convert(Path(ours), tmp_path / "official.pth", to="official", heads=2, image_size=SIDE, num_frames=FRAMES)
    batch = video_batch()
    expected = first.logits(first.encode(batch)[:, 0])
    for path in (ours, str(tmp_path / "official.pth")):
        again = Classification(tiny_vit(), 5, init_from=path, optim=OPTIM).eval()
        assert torch.allclose(again.logits(again.encode(batch)[:, 0]), expected, atol=1e-6)
    with pytest.raises(SettingError, match=r"has 5 classes, but there are 6 here; .* model\.backbone\.checkpoint"):
        Classification(tiny_vit(), 6, init_from=ours, optim=OPTIM)
    torch.save(tiny_vit().state_dict(), tmp_path / "encoder.pth")
    with pytest.raises(SettingError, match=r"contains no classifier; set model\.backbone\.checkpoint"):
        Classification(tiny_vit(), 5, init_from=str(tmp_path / "encoder.pth"), optim=OPTIM)
    with pytest.raises(SettingError, match=r"The checkpoint has 5 classes, but there are 6 here"):
        Classification(tiny_vit(), 6, optim=OPTIM).load_state_dict(first.state_dict())


def test_init_from_a_folder_of_transformers(tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = Classification(tiny_vit(), 5, head=HeadSettings(std=1.0), optim=OPTIM).eval()
    convert(
        Path(save(tmp_path / "a.pth", first)), tmp_path / "hf", to="huggingface", heads=2, image_size=SIDE, num_frames=FRAMES
    )
    batch = video_batch()
    again = Classification(tiny_vit(), 5, init_from=str(tmp_path / "hf"), optim=OPTIM).eval()
    assert torch.allclose(again.logits(again.encode(batch)[:, 0]), first.logits(first.encode(batch)[:, 0]), atol=1e-6)


@pytest.mark.parametrize("form", ["checkpoint", "run", "folder"])
def test_classes_in_another_order_are_refused(form: str, tmp_path: Path) -> None:
    """The same names with other indices would give accuracies of another task."""
    data = motion()
    names = data.class_names

    def check(known: list[str]) -> None:
        method = Classification(tiny_vit(), len(names), optim=OPTIM)
        record = {"class_names": known}
        path = tmp_path / "a.ckpt"
        torch.save({"state_dict": method.state_dict(), "record": record, "pytorch-lightning_version": "2.6.6"}, path)
        run = trainer(tmp_path, limit_test_batches=1)
        if form == "run":
            run.test(Classification(tiny_vit(), optim=OPTIM), datamodule=data, ckpt_path=path, weights_only=True, verbose=False)
            return
        out = tmp_path / "hf"
        convert(path, out, to="huggingface", heads=2, image_size=SIDE, num_frames=FRAMES, overwrite=True)
        start = str(out if form == "folder" else path)
        run.test(Classification(tiny_vit(), init_from=start, optim=OPTIM), datamodule=data, verbose=False)

    check(names)
    with pytest.warns(
        UserWarning, match=f"calls class 0 'something else', but the data calls it '{names[0]}': indices are assumed"
    ):
        check(["something else", *names[1:]])
    with pytest.raises(
        SettingError, match=f"calls class 0 '{names[1]}', but the data calls it '{names[0]}', and a class has another"
    ):
        check([names[1], names[0], *names[2:]])
    with pytest.raises(SettingError, match="a class has another index in each"):
        check(["something else", *names[:-1]])


def test_load_from_checkpoint_makes_the_head(tmp_path: Path) -> None:
    first = Classification(tiny_vit(), 5, optim=OPTIM)
    torch.save({"state_dict": first.state_dict(), "pytorch-lightning_version": "2.6.6"}, tmp_path / "a.ckpt")
    again = Classification.load_from_checkpoint(tmp_path / "a.ckpt", backbone=tiny_vit())
    assert torch.equal(again.classifier.weight, first.classifier.weight)


def test_init_from_loads_whole_video_cnns_of_severe(tmp_path: Path) -> None:
    # torchvision's network ends with `fc`, and has the names of our backbone for the rest, but another eps than fresh ones.
    network, path = VideoResNet("r3d_18", 4, bn_eps=1e-5).eval(), tmp_path / "model_best.pth.tar"
    network.fc = torch.nn.Linear(network.embed_dim, 5)
    state = {f"module.{key}": value for key, value in network.state_dict().items() if "num_batches" not in key}
    torch.save({"epoch": 12, "state_dict": state, "optimizer": {}}, path)
    method = Classification(tiny_cnn(), 5, init_from=str(path), optim=OPTIM).eval()
    clip = torch.randn(2, 3, FRAMES, SIDE, SIDE)
    with torch.no_grad():
        assert torch.allclose(method.logits(method.features(clip)), network.fc(network(clip)), atol=1e-5)
    with pytest.raises(SettingError, match="has 5 classes, but there are 6 here"):
        Classification(tiny_cnn(), 6, init_from=str(path), optim=OPTIM)


class Unlabelled(SyntheticMotion):
    """Has no classes."""

    num_classes = None  # type: ignore[assignment]


def test_wrong_settings(tmp_path: Path) -> None:
    for settings, message in (
        ({"backbone": BiGRU(8, 2), "mode": "attentive"}, r"are for videos; for skeletons leave them out"),
        ({"backbone": BiGRU(8, 2), "mixing": Mixing()}, r"are for videos"),
    ):
        with pytest.raises(SettingError, match=message):
            Classification(**{"backbone": tiny_vit(), "num_classes": 2, "optim": OPTIM} | settings)  # type: ignore[arg-type]
    for kind, settings, message in (
        (LabelSettings, {"smoothing": 1.0}, r"model\.labels\.smoothing is 1\.0"),
        (
            LabelSettings,
            {"per_sample": "several", "smoothing": 0.1},
            r"0\.1, but for model\.labels\.per_sample several it must",
        ),
        (HeadSettings, {"dropout": 1.5}, r"model\.head\.dropout is 1\.5"),
        (HeadSettings, {"std": 0.0}, r"model\.head\.std is 0\.0"),
    ):
        with pytest.raises(SettingError, match=message):
            kind(**settings)
    with pytest.raises(SettingError, match=r"stream video, but the data have the stream\(s\) skeleton; choose another"):
        Classification(tiny_vit(), 2, optim=OPTIM).step(skeleton_batch(), generator())
    several = replace(video_batch(), label=torch.ones(4, 3))
    with pytest.raises(SettingError, match=r"one label per sample, .* set model\.labels\.per_sample to several"):
        Classification(tiny_vit(), 3, optim=OPTIM).step(several, generator())
    with pytest.raises(SettingError, match=r"model\.num_classes is 4, but the data has 13 classes"):
        trainer(tmp_path).test(Classification(tiny_vit(), 4, optim=OPTIM), datamodule=motion())
    with pytest.raises(SettingError, match=r"label 9, but the classifier only has 4 .* set model\.num_classes to 10"):
        OneLabel().scores(torch.rand(2, 4), torch.tensor([[9], [1]]))
    unlabelled = Unlabelled(SMALL, 4, train_videos=12, val_videos=7)
    with pytest.raises(SettingError, match=r"The data has no classes"):
        trainer(tmp_path).test(Classification(tiny_vit(), optim=OPTIM), datamodule=unlabelled)
    wrong = motion(clip=ClipSettings(frames=8, size=SIDE))
    with pytest.raises(SettingError, match=r"data\.clip\.frames is 8 but model\.backbone\.num_frames is 4"):
        trainer(tmp_path).test(Classification(tiny_vit(), optim=OPTIM), datamodule=wrong)


@pytest.mark.slow
def test_linear_classifier_learns_actions_of_skeletons(tmp_path: Path) -> None:
    """An untrained recurrent network already classifies generated actions better than chance, once a head is trained."""
    torch.manual_seed(0)
    lightning.seed_everything(0, verbose=False)
    data = SyntheticSkeleton(SkeletonClipSettings(16), 64, train_clips=512, val_clips=128)
    method = Classification(BiGRU(32, 1), mode="linear", optim=SGDSettings(0.5, weight_decay=0.0))
    run = trainer(tmp_path, max_epochs=10)
    run.fit(method, datamodule=data)
    (found,) = run.test(method, datamodule=data, verbose=False)
    assert found["test/top1"] > 2.5 * 100 / CLASSES
