"""Neighbours, clusters and scores of features, against slow implementations and values by hand."""

import pytest
import torch
import torch.nn.functional as F

from modules.feature_map.groups import cluster, most_neighbours, nearest_others, purity, scores


def features(count: int, width: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_neighbours_are_the_nearest_of_other_files() -> None:
    feature = features(23)
    group = torch.arange(23) // 3
    found = nearest_others(feature, group, 4, chunk=5)
    cosine = F.cosine_similarity(feature[:, None], feature[None], dim=-1)
    for point in range(23):
        others = [other for other in range(23) if group[other] != group[point]]
        wanted = sorted(others, key=lambda other: -float(cosine[point, other]))[:4]
        assert found.number[point].tolist() == wanted
        assert torch.allclose(found.similarity[point], cosine[point, wanted], atol=1e-6)
    assert most_neighbours(group) == 20


def test_clusters_find_separate_directions_and_are_the_same_each_time() -> None:
    truth = torch.arange(60) % 3
    # Lengths differ, but only directions count. Sizes differ, so that the order of the clusters is known.
    truth[:9] = 0
    feature = (torch.eye(16)[truth] + 0.05 * features(60)) * (
        1 + 5 * torch.rand(60, 1, generator=torch.Generator().manual_seed(1))
    )
    found = cluster(feature, 3)
    assert purity(found, truth) == 1
    assert found.bincount().tolist() == sorted(truth.bincount().tolist(), reverse=True)
    assert torch.equal(found, cluster(feature, 3))


def test_more_clusters_than_different_points_leave_some_empty() -> None:
    found = cluster(torch.eye(4)[torch.arange(12) % 2], 5)
    assert found.unique().tolist() == list(range(int(found.max()) + 1))
    assert purity(found, torch.arange(12) % 2) == 1


def test_purity_by_hand() -> None:
    clusters, classes = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([1, 1, 0, 2, 0, 2])
    assert purity(clusters, classes) == pytest.approx((2 + 1 + 1) / 6)


def test_scores_say_accuracy_purity_and_chance() -> None:
    classes = torch.arange(40) % 2
    classes[-4:] = -1
    feature = torch.eye(16)[classes.clamp(min=0)] + 0.1 * features(40)
    told = scores(feature, torch.arange(40), classes.clamp(min=0), classes, 5)
    assert told[0].startswith("kNN accuracy 100.0 % (always the largest class: 50.0 %): 5 nearest by cosine vote")
    assert "36 labelled points, 2 classes" in told[0]
    assert told[1].startswith("2 k-means clusters of normalised features: purity 100.0 % (shuffled classes: 5")
    assert "NMI 1.000 (shuffled: 0.0" in told[1]


def test_steps_of_the_same_video_do_not_vote_for_each_other() -> None:
    # Steps of a video are nearly equal, and videos are independent of their classes.
    video = torch.arange(200) // 4
    feature = features(50, 64)[video] + 0.001 * features(200, 64, seed=1)
    classes = torch.randint(0, 2, (50,), generator=torch.Generator().manual_seed(2))[video]
    honest, leaking = (float(scores(feature, group, classes, classes, 3)[0].split()[2]) for group in (video, torch.arange(200)))
    assert leaking == 100
    assert 30 < honest < 70


def test_chance_of_clusters_keeps_the_steps_of_a_video_together() -> None:
    # Each cluster is a video, and therefore pure for any classes.
    video = torch.arange(40) // 4
    told = scores(features(40), video, video, video % 2, 3)[1]
    assert "purity 100.0 % (shuffled classes: 100.0 %)" in told


def test_one_class_has_no_scores() -> None:
    zeros = torch.zeros(6, dtype=torch.int64)
    assert scores(features(6), torch.arange(6), zeros, zeros, 3) == ["Fewer than two classes: no accuracy, purity or NMI."]
