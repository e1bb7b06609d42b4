"""Nearest neighbours: scores by hand, every sample once, the training set as the bank, and refusals."""

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor, nn

from callbacks import ResultFile
from datamodules.folder import VideoFolder
from datamodules.generated.motion import SyntheticMotion
from datamodules.generated.skeleton import SyntheticSkeleton
from datamodules.loading.loader import ResumableLoader
from datamodules.prepare.synthesise import write_video
from datamodules.settings import ListSettings, ReadSettings
from datamodules.skeleton.clips import SkeletonClipSettings
from datamodules.video.samplers import Dense
from datamodules.video.sampling import ClipSettings, ViewSettings
from modules.backbones.cnn.base import VideoCNN
from modules.backbones.cnn.clip_order import ClipOrderResNet
from modules.backbones.skeleton.gru import BiGRU
from modules.core.batch import unlabelled
from modules.core.errors import SettingError
from modules.core.preprocessing import IMAGENET, TO_ONE
from modules.downstream.metrics.probes import knn_accuracy
from modules.downstream.retrieval import NearestNeighbours, neighbour_scores
from tests.callbacks.runs import make_trainer
from tests.registry import FRAMES, SIDE, tiny_vit, video_batch

TRAIN, TEST = 40, 11


class Motion(SyntheticMotion):
    """Generated clips; validation clips are the test set."""

    def test_dataloader(self) -> ResumableLoader:
        return self.val_dataloader()


def motion(**settings: Any) -> Motion:
    return Motion(ClipSettings(frames=FRAMES, size=SIDE), 4, **({"train_videos": TRAIN, "val_videos": TEST} | settings))


class Flat(nn.Module):
    """Raw pixels as features, a few of them."""

    kind = "video"
    embed_dim = feature_dim = 3 * FRAMES * 16
    preprocess = staticmethod(IMAGENET.apply)

    def forward(self, video: Tensor) -> Tensor:
        return video[..., ::8, ::8].flatten(1)


def scores_by_hand(bank: Tensor, bank_label: Tensor, queries: Tensor, label: Tensor, k: int) -> tuple[float, float]:
    """Accuracy of the vote and recall, one query at a time."""
    votes = hits = 0
    for query, own in zip(queries, label.tolist(), strict=True):
        cosine = torch.cosine_similarity(query[None], bank)
        order = cosine.argsort(descending=True)[:k]
        weights = {kind: float((cosine[order] / 0.07).exp()[bank_label[order] == kind].sum()) for kind in range(5)}
        votes += max(weights, key=lambda kind: weights[kind]) == own
        hits += own in bank_label[order].tolist()
    return 100 * votes / len(queries), 100 * hits / len(queries)


def test_scores_are_those_of_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    bank, queries = torch.randn(60, 6, generator=generator), torch.randn(25, 6, generator=generator)
    bank_label, label = torch.randint(5, (60,), generator=generator), torch.randint(5, (25,), generator=generator)
    found = neighbour_scores(bank, bank_label, queries, label, [1, 7], [1, 7, 100], 0.07)
    for k in (1, 7):
        votes, hits = scores_by_hand(bank, bank_label, queries, label, k)
        assert (found[f"knn{k}"], found[f"R@{k}"]) == (pytest.approx(votes), pytest.approx(hits))
    assert found["knn1"] == found["R@1"]
    assert found["R@100"] == 100
    assert found["knn7"] == pytest.approx(100 * knn_accuracy(bank, bank_label, queries, label, 7))


class Reds(VideoCNN):
    """A network whose last map is the red channel of its clips."""

    embed_dim, smallest_clip, default_eps = 1, (1, 1), 1e-5
    usual_normalisation = TO_ONE

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.finish(None, 0.1, False, False, None, None)

    def stages(self) -> list[list[nn.Module]]:
        return []

    def forward_features(self, video: Tensor) -> Tensor:
        return 255 * video[:, :1]


def test_features_of_the_last_map_are_spatial_maxima() -> None:
    """One sample of two clips of two frames of 4 x 5 pixels; the odd column is not used."""
    video = torch.zeros(1, 2, 2, 4, 5, 3, dtype=torch.uint8)
    video[0, 0, 0, ..., 0] = torch.arange(20).view(4, 5)
    video[0, 1, 0, ..., 0] = 2 * torch.arange(20).view(4, 5)
    video[0, 1, 1, 0, 0, 0] = 8
    batch = unlabelled(video)
    maxima = torch.tensor([[6, 8, 16, 18, 0, 0, 0, 0], [12, 16, 32, 36, 8, 0, 0, 0]]).float()
    method = NearestNeighbours(Reds(), map_pool=2)
    torch.testing.assert_close(method.encode(batch)[0], maxima)
    torch.testing.assert_close(method.embed(batch)[0], maxima.mean(0))
    # Without it, the mean of the map.
    assert NearestNeighbours(Reds()).embed(batch).shape == (1, 1)
    # VCOP's 9216 values, with a 64th of the channels.
    small = NearestNeighbours(ClipOrderResNet("r3d", 1), map_pool=2)
    assert small.embed(unlabelled(torch.zeros(1, 1, 16, 112, 112, 3, dtype=torch.uint8))).shape == (1, 9216 // 64)
    with pytest.raises(SettingError, match=r"map_pool is 5, but the last map has 4 x 5 places"):
        NearestNeighbours(Reds(), map_pool=5).encode(batch)
    with pytest.raises(SettingError, match=r"map_pool is 2, but VideoViT is not a video CNN"):
        NearestNeighbours(tiny_vit(), map_pool=2)


def test_all_training_clips_are_the_bank_and_each_test_clip_counts_once(tmp_path: Path) -> None:
    method, data = NearestNeighbours(Flat(), [1, 5], [1, 10]), motion()
    (found,) = make_trainer(tmp_path, [ResultFile("knn")]).test(method, datamodule=data, verbose=False)
    record = {"videos": TEST, "missed": [], "bank": TRAIN, "views": 1}
    assert method.test_record.items() >= record.items()
    train, test = data._pools["train"], data._pools["val"]
    features = [Flat()(method.normalise(pool.video[:, 0])) for pool in (train, test)]
    expected = neighbour_scores(features[0], train.label, features[1], test.label, [1, 5], [1, 10], 0.07)
    assert found == {f"test/{name}": pytest.approx(value) for name, value in expected.items()}
    assert list((tmp_path / "results").glob("*.json")) == [tmp_path / "results/motion_knn-000.json"]


def test_skeletons_in_evaluation_mode(tmp_path: Path) -> None:
    data = SyntheticSkeleton(SkeletonClipSettings(16, 2), 8, train_clips=20, val_clips=9)
    torch.manual_seed(0)
    method = NearestNeighbours(BiGRU(6, 1), [3])
    before = {name: value.clone() for name, value in method.state_dict().items()}
    (found,) = make_trainer(tmp_path, []).test(method, datamodule=data, verbose=False)
    assert set(found) == {"test/knn3", *(f"test/R@{k}" for k in (1, 5, 10, 20, 50))}
    assert method.test_record["bank"] == 20
    assert method.test_record["views"] == 2
    assert not any(value.requires_grad for value in method.parameters())
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())


def test_files_that_are_in_both_sets_are_refused(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for number in range(4):
            path = tmp_path / split / "ab"[number % 2] / f"{number}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, video_batch(1, seed=number).stream("video").data[0, 0].repeat(2, 1, 1, 1), fps=8)
    clip, views = ClipSettings(frames=FRAMES, sampler=Dense(1), size=SIDE), ViewSettings(2, 1)
    lists = {"train": tmp_path / "train.csv", "both": tmp_path / "both.csv"}
    lists["train"].write_text("".join(f"train/{'ab'[n % 2]}/{n}.mp4 {n % 2}\n" for n in range(4)))
    lists["both"].write_text("val/a/0.mp4 0\ntrain/b/1.mp4 1\n")
    data = VideoFolder(str(tmp_path), clip=clip, batch_size=2, reading=ReadSettings(0), views=views)
    method = NearestNeighbours(Flat(), recall=[1])
    make_trainer(tmp_path, []).test(method, datamodule=data, verbose=False)
    assert (method.test_record["bank"], method.test_record["videos"]) == (4, 4)
    named = ListSettings(str(lists["train"]), str(lists["both"]))
    both = VideoFolder(str(tmp_path), named, clip, batch_size=2, reading=ReadSettings(0), views=views)
    # Before any clip is read.
    method.encode = None  # type: ignore[assignment, method-assign]
    with pytest.raises(SettingError, match=r"1 test sample\(s\) are in the training set too"):
        make_trainer(tmp_path, []).test(method, datamodule=both, verbose=False)
    lists["both"].write_text("val/a/0.mp4 -1\nval/b/1.mp4 -1\n")
    unlabelled = ListSettings(test=str(lists["both"]))
    none = VideoFolder(str(tmp_path), unlabelled, clip, batch_size=2, reading=ReadSettings(0), views=views)
    with pytest.raises(SettingError, match="NearestNeighbours needs labelled training and test samples"):
        make_trainer(tmp_path, []).test(method, datamodule=none, verbose=False)


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    for settings in ({"k": [0]}, {"recall": [-1]}, {"temperature": 0.0}, {"k": [], "recall": []}):
        with pytest.raises(SettingError, match="all values must be above 0"):
            NearestNeighbours(Flat(), **settings)
    with pytest.raises(SettingError, match=r"nothing to train; run python main\.py test"):
        make_trainer(tmp_path, []).fit(NearestNeighbours(Flat()), datamodule=motion())
    with pytest.raises(SettingError, match=r"reads the stream skeleton, but the data have the stream\(s\) video; choose"):
        make_trainer(tmp_path, []).test(NearestNeighbours(BiGRU(4, 1)), datamodule=motion(), verbose=False)


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    found = []
    for world in (1, 2):
        settings = {"devices": world, "strategy": "ddp_spawn" if world > 1 else "auto", "use_distributed_sampler": False}
        trainer = make_trainer(tmp_path / str(world), [ResultFile("knn")], **settings)
        lightning.seed_everything(0)
        trainer.test(NearestNeighbours(Flat(), [1, 5]), datamodule=motion(), verbose=False)
        found.append((tmp_path / str(world) / "results/motion_knn-000.json").read_text().split('"trained_steps"')[0])
    assert found[0] == found[1]
