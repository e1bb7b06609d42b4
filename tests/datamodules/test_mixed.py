"""Several data sets in one training: exact fractions, rows in turn; order, workers, resuming and reports like one set."""

import dataclasses
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from callbacks import OnlineKNN
from datamodules import CachedFeatures, MixedData, SyntheticMotion, SyntheticSkeleton, VideoFolder
from datamodules.loading.mixing import JoinedGuard, find_common, join, walk
from datamodules.loading.single_pass import once
from datamodules.loading.worker_guard import WorkerGuard
from datamodules.mixed import share_out
from datamodules.settings import LoadSettings, ReadSettings
from datamodules.video.sampling import ClipSettings
from main import main
from modules.core.batch import Batch, Stream
from modules.core.errors import SettingError
from tests.callbacks.runs import Oracle, make_trainer
from tests.datamodules.sets import trees
from tests.datamodules.sets.trees import CLIP, put

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*worker processes in total"),
    pytest.mark.filterwarnings("ignore:You passed in a .val_dataloader."),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:.*training samples of"),
]
ROOT = Path(__file__).parents[2]
FILES, GENERATED = 6, 10


def files(tree: Path, **settings: Any) -> VideoFolder:
    return VideoFolder(str(tree), **({"clip": CLIP, "batch_size": 3, "reading": ReadSettings(0), "seed": 1} | settings))


def generated(**settings: Any) -> SyntheticMotion:
    clip = ClipSettings(frames=4, size=32)
    return SyntheticMotion(clip, 4, **({"train_videos": GENERATED, "val_videos": 4, "probe_samples": 4} | settings))


def mixed(tree: Path, workers: int = 0, **settings: Any) -> MixedData:
    given = {"sets": [files(tree), generated()], "batch_size": 4, "reading": LoadSettings(workers), "seed": 1}
    data = MixedData(**(given | settings))
    data.setup("fit")
    return data


def batches(data: Any, epoch: int = 0) -> Any:
    return trees.batches(data, epoch)


def fit(data: Any, run: Path, **settings: Any) -> list[tuple[int, int]]:
    return trees.fit(data, run, **settings).substituted


def seen(read: list[Batch]) -> list[tuple[int, int, int]]:
    """Place, set and row of all samples."""
    return [
        sample
        for one in read
        for sample in zip(one.index.tolist(), one.extra["source"].tolist(), one.extra["row"].tolist(), strict=True)
    ]


def pixels(read: list[Batch]) -> dict[int, Tensor]:
    """Clips by place."""
    return {place: clip for one in read for place, clip in zip(one.index.tolist(), one.stream("video").data, strict=True)}


# --- Which row comes when ---


def test_rows_come_again_only_when_all_were_there() -> None:
    rows = walk((1, 2), 5, 0, 17)
    for number in range(3):
        part = rows[5 * number : 5 * number + 5]
        assert sorted(part[:, 0].tolist()) == list(range(5))
        # What distinguishes repetitions of a row.
        assert set(part[:, 1].tolist()) == {number}
    assert not np.array_equal(rows[:5, 0], rows[5:10, 0])
    pieces = [walk((1, 2), 5, first, 4) for first in range(0, 16, 4)]
    assert np.array_equal(np.concatenate(pieces), rows[:16])
    assert not np.array_equal(walk((1, 3), 5, 0, 17), rows)


def test_weighted_rows_come_as_often_as_they_weigh() -> None:
    weights = np.array([4.0, 1.0, 0.0, 2.5, 0.5])
    rows = walk((3,), 5, 0, 5 * 200, weights)
    for number in range(200):
        count = np.bincount(rows[5 * number : 5 * number + 5, 0], minlength=5)
        assert (abs(count - 5 * weights / weights.sum()) < 1).all()
    assert np.bincount(rows[:, 0], minlength=5) / 1000 == pytest.approx(weights / weights.sum(), abs=0.02)
    # Each time is another sample.
    assert len({tuple(row) for row in rows.tolist()}) == len(rows)
    assert np.array_equal(walk((3,), 5, 7, 9, weights), rows[7:16])


def test_shares_add_up() -> None:
    assert share_out([6, 10], None, None) == [6, 10]
    assert share_out([6, 10], None, 8) == [3, 5]
    assert share_out([6, 10], [1, 1], None) == [8, 8]
    assert share_out([6, 10, 3], [1, 1, 1], 10) == [3, 4, 3]
    with pytest.raises(SettingError, match=r"An epoch of 4 samples has none of set 1 of data\.sets; raise its share"):
        share_out([6, 10], [100, 1], 4)


def test_without_weights_an_epoch_is_every_sample_once(tree: Path) -> None:
    data = mixed(tree)
    for epoch in (0, 1):
        read = seen(batches(data, epoch))
        assert sorted(sample[1:] for sample in read) == [(0, row) for row in range(FILES)] + [
            (1, row) for row in range(GENERATED)
        ]
    assert {tuple(one.extra["source"].tolist()) for one in batches(data)} - {(0,) * 4, (1,) * 4}


def test_weights_are_exact_over_an_epoch_and_rows_take_turns(tree: Path) -> None:
    data = mixed(tree, weights=[3, 1], epoch_samples=16)
    counts: Counter[tuple[int, int]] = Counter()
    for epoch in range(5):
        read = seen(batches(data, epoch))
        assert Counter(source for _, source, _ in read) == {0: 12, 1: 4}
        counts.update(sample[1:] for sample in read)
    assert {counts[0, row] for row in range(FILES)} == {10}
    assert [counts[1, row] for row in range(GENERATED)] == [2] * GENERATED


def test_a_row_that_comes_twice_in_an_epoch_is_drawn_anew(tree: Path) -> None:
    read = batches(mixed(tree, weights=[3, 1]))
    clips = pixels(read)
    places = [place for place, source, row in seen(read) if (source, row) == (0, 2)]
    assert len(places) == 2
    assert not torch.equal(*(clips[place] for place in places))


def test_samples_are_those_of_the_sets(tree: Path) -> None:
    data = mixed(tree)
    alone = [
        batches(one)[0] for one in (files(tree, batch_size=FILES), generated(train_videos=GENERATED)) if not one.setup("fit")
    ]
    for one in batches(data):
        for place, (source, row) in enumerate(zip(one.extra["source"].tolist(), one.extra["row"].tolist(), strict=True)):
            label = int(one.label[place]) - 3 * source
            if source == 1 and row in alone[1].index.tolist():
                at = alone[1].index.tolist().index(row)
                assert torch.equal(one.stream("video").data[place], alone[1].stream("video").data[at])
                assert label == alone[1].label[at]
            elif source == 0:
                # Their first time in the mix is their first epoch.
                at = alone[0].index.tolist().index(row)
                assert torch.equal(one.stream("video").data[place], alone[0].stream("video").data[at])
                assert label == alone[0].label[at] == row // 2
    # Generated clips know neither, so that no clip of the mix does.
    assert batches(data)[0].stream("video").time is None


def test_workers_change_nothing(tree: Path) -> None:
    runs = [batches(mixed(tree, workers)) for workers in (0, 2)]
    assert seen(runs[0]) == seen(runs[1])
    one, other = map(pixels, runs)
    assert all(torch.equal(clip, other[place]) for place, clip in one.items())


def test_another_batch_size_goes_on_at_the_next_sample(tree: Path) -> None:
    whole = seen(batches(mixed(tree, batch_size=1), 2))
    first = mixed(tree, batch_size=4)
    loader = first.train_dataloader()
    loader.batches.sampler.set_epoch(2)
    read = iter(loader)
    taken = [next(read), next(read)]
    second = mixed(tree, batch_size=3)
    second.load_state_dict(first.state_dict())
    assert seen(taken) + seen(batches(second, 2)) == whole[: 8 + 8]


def test_a_run_that_goes_on_sees_the_rest(tree: Path) -> None:
    (tree / "train/class 1/train1.mp4").write_bytes(b"this is no video")
    whole = fit(mixed(tree), tree / "whole")
    part = fit(mixed(tree), tree / "part", stop_after=5)
    other = mixed(tree, weights=[1, 1])
    with pytest.raises(SettingError, match="the training data have changed since"):
        fit(other, tree / "part", ckpt_path=tree / "part/last.ckpt")
    rest = fit(mixed(tree), tree / "part", ckpt_path=tree / "part/last.ckpt")
    assert (len(part), len(whole)) == (20, 32)
    assert part + rest == whole


def test_processes_share_what_one_reads(tree: Path) -> None:
    whole = seen(batches(mixed(tree, batch_size=1)))
    parts = []
    for rank in (0, 1):
        loader = mixed(tree, batch_size=1).train_dataloader()
        loader.batches.sampler.rank, loader.batches.sampler.world_size = rank, 2
        parts.append(seen(list(loader)))
    assert [sample for pair in zip(*parts, strict=True) for sample in pair] == whole


def test_another_order_is_known_by_its_hash(tree: Path) -> None:
    one = Balanced(str(tree), clip=CLIP, batch_size=3, reading=ReadSettings(0), seed=1)
    choices: list[dict[str, Any]] = [{}, {"sets": [files(tree), generated(train_videos=11)]}, {"sets": [one, generated()]}]
    hashes = [mixed(tree, epoch_samples=16, weights=[1, 1], **more).train_dataloader().sha256 for more in choices]
    assert len(set(hashes)) == 3


def test_one_batch_can_be_read_again(tree: Path) -> None:
    data = mixed(tree, weights=[3, 1])
    loader = data.train_dataloader()
    loader.batches.sampler.set_epoch(4)
    for one in loader:
        again = loader.read(4, one.index.tolist())
        assert torch.equal(again.stream("video").data, one.stream("video").data)


# --- Broken files ---


def test_broken_files_are_replaced_within_their_set_and_named_by_it(tree: Path, one_video: Path) -> None:
    other = tree / "other"
    for number in range(5):
        put(one_video, other / f"{number}.mp4")
    (other / "3.mp4").write_bytes(b"")
    (tree / "train/class 1/train1.mp4").write_bytes(b"this is no video")
    for workers in (0, 2):
        data = mixed(tree, workers, sets=[files(tree), generated(), files(other)])
        for name, one in zip(data.names, data.sets, strict=True):
            if isinstance(one, VideoFolder):
                assert one.faults is not None
                one.faults.write_to(tree / f"run{workers}" / name)
        read = batches(data) + batches(data, 1)
        assert [
            (tree / f"run{workers}" / name / "bad_videos.tsv").read_text().splitlines()[1:]
            for name in ("0_VideoFolder", "2_VideoFolder")
        ] == [["class 1/train1.mp4\ttrain\tcannot open"], ["3.mp4\ttrain\tempty file"]]
        broken = {(0, 2), (2, 3)}
        for one in read:
            for source, row, substituted in zip(
                one.extra["source"].tolist(), one.extra["row"].tolist(), one.substituted.tolist(), strict=True
            ):
                assert substituted == (row if (source, row) in broken else -1)
        # The other clips are identical, so a substitute is identified by its label.
        assert all((one.label[one.extra["source"] == 2] == -1).all() for one in read)


def test_a_set_reports_in_a_folder_of_its_own(tree: Path) -> None:
    (tree / "train/class 1/train1.mp4").write_bytes(b"this is no video")
    fit(mixed(tree), tree / "run", epochs=1)
    assert [path.relative_to(tree / "run").as_posix() for path in (tree / "run").rglob("bad_videos*")] == [
        "0_VideoFolder/bad_videos.tsv"
    ]


def test_nothing_readable_in_a_set_ends_the_run(tree: Path) -> None:
    for path in (tree / "train").rglob("*.mp4"):
        path.write_bytes(b"")
    with pytest.raises(SettingError, match="Several videos in a row could not be read: class"):
        batches(mixed(tree))


def test_the_guard_of_the_set_that_was_read_blames(tree: Path) -> None:
    guards = [WorkerGuard(2), WorkerGuard(2)]
    guards[1]._rows[1] = 7
    assert JoinedGuard(guards).blame({1: -11})
    assert (guards[0].condemned, guards[1].condemned) == ({}, {7: "decoder crashed"})
    assert not JoinedGuard(guards).blame({0: -11})
    data = mixed(tree, workers=2)
    guard = data.train_dataloader().guard
    assert isinstance(guard, JoinedGuard)
    assert [len(one._rows) for one in guard.guards] == [2]


# --- Labels, weights of a set, preparation ---


def test_labels_of_one_list_or_none(tree: Path) -> None:
    data = mixed(tree)
    names = data.class_names
    assert data.num_classes == 3 + 13
    assert names is not None
    assert names[:3] == [f"0_VideoFolder/class {number}" for number in range(3)]
    assert names[3].startswith("1_SyntheticMotion/")
    for one in batches(data):
        assert ((one.label >= 3) == (one.extra["source"] == 1)).all()
    bare = mixed(tree, labels="none")
    assert (bare.num_classes, bare.class_names) == (3, [f"class {number}" for number in range(3)])
    assert all((one.label == -1).all() for one in batches(bare))
    # Probes and validation keep the labels of the first set.
    for loader in (bare.val_dataloader(), bare.probe_dataloader()):
        assert {label for one in loader for label in one.label.tolist()} == {0, 1, 2}


class Balanced(VideoFolder):
    """One class is drawn as often as the two others together."""

    @cached_property
    def sample_weights(self) -> np.ndarray:
        assert self.train_manifest is not None
        return np.where(self.train_manifest.labels == 0, 2.0, 1.0)


def test_a_set_may_weigh_its_own_samples(tree: Path) -> None:
    one = Balanced(str(tree), clip=CLIP, batch_size=3, reading=ReadSettings(0), seed=1)
    data = mixed(tree, sets=[one], epoch_samples=24)
    labels = torch.cat([batch.label for batch in batches(data)])
    first, second, third = torch.bincount(labels).tolist()
    assert first == 12
    assert 4 <= second <= 8
    assert 4 <= third <= 8
    one.__dict__["sample_weights"] = np.ones(5)
    with pytest.raises(SettingError, match=r"0_Balanced of data\.sets has weights for 5 of 6 training samples"):
        data.train_dataloader()


class Notes:
    """A method's preparation that records its input."""

    def __call__(self, batch: Batch, epoch: int | None) -> None:
        batch.prepared = (epoch, batch.index.tolist())


def test_mixed_batches_are_prepared_as_a_whole(tree: Path) -> None:
    data = mixed(tree)
    data.preparation = Notes()
    assert [one.prepared for one in batches(data, 1)] == [(1, one.index.tolist()) for one in batches(data, 1)]
    assert [one.prepared[0] for one in data.val_dataloader()] == [None]
    assert all(one.prepared is None for one in data.probe_dataloader())


# --- Evaluation ---


def test_probes_and_neighbours_are_those_of_the_first_set(tree: Path) -> None:
    data = mixed(tree)
    assert [one.index.tolist() for one in data.val_dataloader()] == [[0, 1, 2]]
    assert sorted(row for one in data.train_once() for row in one.index.tolist()) == list(range(FILES))
    data.setup("test")
    assert data.tested_in_training() == 0
    assert [one.index.tolist() for one in data.test_dataloader()] == [[0], [1], [2]]
    trainer = make_trainer(tree / "run", [OnlineKNN(k=1)], 1)
    trainer.fit(Oracle(), datamodule=mixed(tree, sets=[generated(), files(tree)]))
    assert float(trainer.callback_metrics["knn/acc1"]) >= 0


# --- What does not fit together ---


def test_what_cannot_be_mixed_is_refused(tree: Path) -> None:
    for settings, words in (
        ({"sets": []}, r"data\.sets is empty"),
        ({"weights": [1]}, r"data\.weights has 1 values for the 2 sets"),
        ({"weights": [1, 0]}, r"data\.weights is 0; it must be a number above 0"),
        ({"epoch_samples": 0}, r"data\.epoch_samples is 0"),
        ({"epoch_samples": 3}, r"data\.batch_size 4 on 1 device\(s\) is more than the 3 samples of an epoch"),
        (
            {"sets": [files(tree), SyntheticSkeleton(train_clips=64)]},
            "SyntheticSkeleton of data.sets has samples of skeleton",
        ),
        (
            {"sets": [files(tree), files(tree, clip=dataclasses.replace(CLIP, size=16))]},
            r"1_VideoFolder of data\.sets has samples of video uint8 \[1, 4, 16, 16, 3\], but 0_VideoFolder has video",
        ),
        ({"sets": [CachedFeatures(generated(), str(tree))]}, r"data\.sets has CachedFeatures, which cannot be mixed"),
    ):
        with pytest.raises(SettingError, match=words):
            mixed(tree, **settings)
    with pytest.raises(SettingError, match="The samples of MixedData change in every epoch"):
        once(mixed(tree).train_dataloader())


def test_series_of_unequal_length_are_filled_up() -> None:
    short = Stream("audio", torch.ones(2, 1, 1, 3), torch.tensor([[[True, True, False]]] * 2), torch.zeros(2, 1, 2))
    long = Stream("audio", torch.full((1, 1, 1, 5), 2.0))
    parts = [Batch(torch.arange(len(one.data)), torch.zeros(len(one.data)), {"audio": one}) for one in (short, long)]
    audio = join(parts, np.array([2, 0, 1]), find_common(["short", "long"], parts)).stream("audio")
    assert audio.data[:, 0, 0].tolist() == [[1, 1, 1, 0, 0], [2, 2, 2, 2, 2], [1, 1, 1, 0, 0]]
    assert audio.valid is not None
    assert audio.valid[:, 0].int().tolist() == [[1, 1, 0, 0, 0], [1] * 5, [1, 1, 0, 0, 0]]
    assert audio.length is not None
    assert audio.length.tolist() == [3, 5, 3]
    assert audio.time is None


def test_the_layer_runs(tree: Path) -> None:
    text = (ROOT / "configs/data/mixed.yaml").read_text()
    layer = tree / "mixed.yaml"
    for place in ("data/motion", "data/small"):
        assert place in text
        text = text.replace(place, str(tree))
    text = text.replace("frames: 16, size: 224", "frames: 4, size: 32")
    layer.write_text(text)
    configs = ("configs/videomae.yaml", "configs/debug/tiny.yaml")
    words = [word for path in configs for word in ("--config", str(ROOT / path))]
    words += ["--config", str(layer), "--data.batch_size=4", "--data.reading.num_workers=0", "--trainer.max_epochs=1"]
    main(["fit", *words, f"--trainer.default_root_dir={tree / 'run'}", "--trainer.enable_progress_bar=false"])
    assert torch.load(tree / "run/checkpoints/last.ckpt", weights_only=True)["global_step"] == 2
