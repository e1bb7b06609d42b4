"""Cached features: read once, equal to a run without cache, recomputed if anything changes, refused if they would be wrong."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from callbacks import OnlineKNN, ProbeReport
from datamodules.cached_features import CachedFeatures, hash_network
from datamodules.generated.motion import SyntheticMotion
from datamodules.generated.skeleton import SyntheticSkeleton
from datamodules.loading.single_pass import fingerprint, once, sample_names
from datamodules.skeleton.clips import SkeletonClipSettings
from datamodules.video.sampling import ClipSettings
from modules.augment.clips import ClipAugmentation, Mixing
from modules.backbones.skeleton.gcn import AGCN
from modules.backbones.skeleton.gru import BiGRU
from modules.core.errors import SettingError
from modules.downstream.classification import Classification, HeadSettings
from modules.downstream.retrieval import NearestNeighbours
from modules.training.optim import SGDSettings
from tests.callbacks.runs import make_trainer
from tests.registry import FRAMES, SIDE, tiny_cnn

TRAIN, VAL, BATCH = 22, 7, 8
# The whole recording in training and evaluation: there is nothing to draw.
WHOLE = SkeletonClipSettings(16, 1, (1.0, 1.0), 1.0)
PARTS = SkeletonClipSettings(16, 1, (0.5, 1.0))


def skeletons(clip: SkeletonClipSettings = WHOLE, **settings: Any) -> SyntheticSkeleton:
    return SyntheticSkeleton(clip, BATCH, **({"train_clips": TRAIN, "val_clips": VAL} | settings))


def linear(mode: str = "linear", seed: int = 0, **settings: Any) -> Classification:
    torch.manual_seed(seed)
    return Classification(
        BiGRU(8, 1), 12, mode, head=HeadSettings(std=0.01), optim=SGDSettings(0.1, weight_decay=0), **settings
    )


class Counting(BiGRU):
    """Counts the clips that it sees."""

    def __init__(self) -> None:
        super().__init__(4, 1)
        self.seen: list[int] = []

    def forward(self, skeleton: Tensor) -> Tensor:
        self.seen.append(len(skeleton))
        return super().forward(skeleton)


def train(data: Any, folder: Path, epochs: int = 2) -> dict[str, Tensor]:
    method = linear()
    make_trainer(folder, [], epochs).fit(method, datamodule=data)
    return method.state_dict()


@pytest.mark.parametrize(("clip", "views"), [(WHOLE, 0), (PARTS, 2)], ids=["centre", "random"])
def test_result_is_that_of_a_run_without_cache(clip: SkeletonClipSettings, views: int, tmp_path: Path) -> None:
    plain = train(skeletons(clip), tmp_path)
    cached = train(CachedFeatures(skeletons(clip), str(tmp_path / "features"), views), tmp_path)
    for name, value in plain.items():
        # The backbone uses other batches, which changes rounding.
        assert torch.allclose(value, cached[name], atol=1e-5), name
    assert len(list((tmp_path / "features").iterdir())) == max(1, views) + 1


def test_backbone_runs_once_and_never_again(tmp_path: Path) -> None:
    seen = []
    for _ in range(2):
        torch.manual_seed(0)
        backbone = Counting()
        method = Classification(backbone, 12, "linear", optim=SGDSettings(0.1))
        data = CachedFeatures(skeletons(), str(tmp_path / "features"))
        trainer = make_trainer(tmp_path, [], 3)
        trainer.fit(method, datamodule=data)
        trainer.test(method, datamodule=data, verbose=False)
        seen.append(sum(backbone.seen))
    # The test set of skeletons is the validation set.
    assert seen == [TRAIN + VAL, 0]
    assert method.test_record["videos"] == VAL


def test_a_change_of_weights_settings_clips_or_data_is_noticed() -> None:
    same, base = hash_network(AGCN(4)), BiGRU(4, 1)
    assert hash_network(AGCN(4)) != same
    turned = copy.deepcopy(base)
    turned.backward_in_time = True
    assert len({hash_network(base), hash_network(copy.deepcopy(base)), hash_network(turned)}) == 2
    moved = AGCN(4)
    before = hash_network(moved)
    moved.data_bn.running_mean += 1
    assert hash_network(moved) != before
    hashes = []
    for settings in ({}, {}, {"seed": 1}, {"clip": PARTS}, {"train_clips": 20}):
        data = skeletons(**settings)
        data.setup("fit")
        loader = data.train_dataloader()
        hashes.append((fingerprint(loader.dataset), fingerprint(once(loader).dataset)))
    assert hashes[0] == hashes[1]
    assert len({one for pair in hashes for one in pair}) == 8
    motion = []
    for seed in (0, 0, 1):
        data = SyntheticMotion(ClipSettings(frames=FRAMES, size=SIDE), 4, train_videos=24, val_videos=2, seed=seed)
        motion.append(fingerprint(data.train_dataloader().dataset))
    assert motion[0] == motion[1] != motion[2]


def test_order_and_batches_are_those_of_the_project(tmp_path: Path) -> None:
    inner = skeletons()
    data = CachedFeatures(inner, str(tmp_path))
    data.trainer = trainer = make_trainer(tmp_path, [])
    trainer.strategy.connect(linear())
    data.setup("fit")
    loader = data.train_dataloader()
    found = list(loader)
    expected = list(inner.train_dataloader())
    assert [batch.index.tolist() for batch in found] == [batch.index.tolist() for batch in expected]
    assert all(torch.equal(one.label, other.label) for one, other in zip(found, expected, strict=True))
    assert found[0].stream("feature").data.shape == (BATCH, 1, 16)
    # After the batches that were returned before.
    loader.load_state_dict(loader.state_dict() | {"samples": BATCH})
    assert [batch.index.tolist() for batch in loader] == [batch.index.tolist() for batch in found[1:]]
    assert len(sample_names(inner.train_dataloader().dataset)) == TRAIN
    assert data.tested_in_training() == inner.tested_in_training() == 0
    assert (data.num_classes, data.batch_size, data.clip) == (12, BATCH, WHOLE)


def test_once_gives_every_sample_in_order() -> None:
    data = skeletons(PARTS)
    data.setup("fit")
    loader = data.train_dataloader()
    for epoch in (None, 0, 2):
        batches = list(once(loader, epoch))
        assert torch.cat([batch.index for batch in batches]).tolist() == list(range(TRAIN))
        clips = torch.cat([batch.stream("skeleton").data for batch in batches])
        if epoch is not None:
            assert torch.equal(clips[[3, 5]], loader.read(epoch, [3, 5]).stream("skeleton").data)
    assert loader.dataset.train
    centre = torch.cat([batch.stream("skeleton").data for batch in once(loader)])
    assert torch.equal(centre, torch.cat([batch.stream("skeleton").data for batch in data.probe_dataloader()]))


def test_neighbours_from_the_same_files(tmp_path: Path) -> None:
    found = []
    for data in (skeletons(), CachedFeatures(skeletons(), str(tmp_path / "features"))):
        torch.manual_seed(0)
        method = NearestNeighbours(BiGRU(8, 1), [1, 3])
        found += make_trainer(tmp_path, []).test(method, datamodule=data, verbose=False)
        assert (method.test_record["bank"], method.test_record["videos"]) == (TRAIN, VAL)
    assert found[0] == found[1]


def test_what_would_be_wrong_is_refused(tmp_path: Path) -> None:
    for method in (linear("finetune"), linear(frozen_batchnorm=False)):
        with pytest.raises(SettingError, match="CachedFeatures is for models with a frozen backbone"):
            make_trainer(tmp_path, []).fit(method, datamodule=CachedFeatures(skeletons(), str(tmp_path)))
    with pytest.raises(SettingError, match=r"data\.views is -1"):
        CachedFeatures(skeletons(), views=-1)
    with pytest.raises(SettingError, match="need clips, not features"):
        CachedFeatures(skeletons()).probe_dataloader()


@pytest.mark.parametrize(
    ("method", "callbacks", "message"),
    [
        (lambda: videos_classifier("linear", ClipAugmentation()), [], "Frozen features cannot be augmented"),
        (lambda: videos_classifier("linear", None, Mixing()), [], "Frozen features cannot be augmented"),
        (lambda: videos_classifier("attentive"), [], "CachedFeatures is for models with a frozen backbone"),
        (lambda: videos_classifier("linear"), [OnlineKNN()], "Probes and pictures need clips, not features"),
        (lambda: videos_classifier("linear"), [ProbeReport()], "Probes and pictures need clips, not features"),
    ],
    ids=["augmentation", "mixing", "attentive", "kNN", "report"],
)
def test_what_would_be_wrong_is_refused_before_the_backbone_runs(
    method: Callable[[], Classification], callbacks: list[Any], message: str, tmp_path: Path
) -> None:
    model = method()
    model.encode = None  # type: ignore[assignment, method-assign]
    data = CachedFeatures(SyntheticMotion(ClipSettings(frames=FRAMES, size=SIDE), 4, train_videos=8, val_videos=4))
    with pytest.raises(SettingError, match=message):
        make_trainer(tmp_path, callbacks).fit(model, datamodule=data)


def videos_classifier(mode: Any, augmentation: ClipAugmentation | None = None, mixing: Mixing | None = None) -> Classification:
    return Classification(tiny_cnn(), 13, mode, augmentation, mixing)


def test_fewer_samples_than_a_batch_are_refused_before_the_backbone_runs(tmp_path: Path) -> None:
    backbone = Counting()
    method = Classification(backbone, 12, "linear", optim=SGDSettings(0.1))
    with pytest.raises(SettingError, match=rf"data\.batch_size 64 on 1 device\(s\) is more than the {TRAIN} training samples"):
        make_trainer(tmp_path, []).fit(method, datamodule=CachedFeatures(skeletons(), str(tmp_path), batch_size=64))
    assert backbone.seen == []
    # A test needs no batch of training samples.
    make_trainer(tmp_path, []).test(method, datamodule=CachedFeatures(skeletons(), str(tmp_path), batch_size=64), verbose=False)
