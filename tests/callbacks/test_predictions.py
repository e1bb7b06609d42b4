"""Predictions of `predict`: values equal to a test, complete and ordered files, broken files with reasons."""

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks.reports.predictions import Predictions
from datamodules.folder import VideoFolder
from datamodules.generated.motion import SyntheticMotion
from datamodules.prepare.synthesise import write_video
from datamodules.settings import ListSettings, ReadSettings, SubsetSettings
from datamodules.video.samplers import Dense
from datamodules.video.sampling import ClipSettings, ViewSettings
from modules.core.batch import Batch, Stream, Text
from modules.core.errors import SettingError
from modules.downstream.classification import Classification, HeadSettings
from modules.downstream.labels import LabelSettings, SeveralLabels
from modules.embed.collection import read_collection
from tests.callbacks.runs import make_trainer
from tests.distributed.evaluation import by_two, trainer_for
from tests.registry import FRAMES, METHODS, OPTIM, SIDE, tiny_vit, video_batch

VIDEOS = 7
CLIP = ClipSettings(frames=FRAMES, sampler=Dense(1), size=SIDE)


def classifier(classes: int | None = 13, **settings: Any) -> Classification:
    torch.manual_seed(0)
    return Classification(tiny_vit(), classes, head=HeadSettings(std=1.0), optim=OPTIM, **settings).eval()


def motion(clips: int = 2) -> SyntheticMotion:
    return SyntheticMotion(ClipSettings(frames=FRAMES, size=SIDE, clips=clips), 4, train_videos=8, val_videos=VIDEOS)


def folder_of_videos(root: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, video_batch(1, seed=number).stream("video").data[0, 0].repeat(2, 1, 1, 1), fps=8)
    return root


def folder(root: Path, lists: ListSettings = ListSettings(), **settings: Any) -> VideoFolder:  # noqa: B008
    usual: dict[str, Any] = {"clip": CLIP, "batch_size": 64, "reading": ReadSettings(0), "views": ViewSettings(2, 1)}
    return VideoFolder(str(root), lists, **usual | settings)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_classes_are_those_of_the_test(tmp_path: Path) -> None:
    method, data = classifier(), motion()
    names = method.class_names = data.class_names
    (tested,) = make_trainer(tmp_path, []).test(method, datamodule=data, verbose=False)
    trainer = make_trainer(tmp_path, [Predictions()])
    trainer.predict(method, datamodule=data, return_predictions=False)
    table = rows(tmp_path / "predictions/syntheticmotion.csv")
    assert [row["path"] for row in table] == [str(number) for number in range(VIDEOS)]
    labels = data.val_dataloader().dataset.label.tolist()  # type: ignore[attr-defined]
    right = [row["class"] == row["class_1"] == names[label] for row, label in zip(table, labels, strict=True)]
    assert tested["test/top1"] == pytest.approx(100 * sum(right) / VIDEOS)
    top5 = [names[label] in [row[f"class_{place}"] for place in range(1, 6)] for row, label in zip(table, labels, strict=True)]
    assert tested["test/top5"] == pytest.approx(100 * sum(top5) / VIDEOS)
    for row in table:
        likely = [float(row[f"probability_{place}"]) for place in range(1, 6)]
        assert likely == sorted(likely, reverse=True)
        assert float(row["probability"]) == likely[0]
    content = json.loads((tmp_path / "predictions/syntheticmotion.json").read_text())
    assert (content["method"], content["samples"], content["missed"]) == ("Classification", VIDEOS, {})
    assert content["class_names"] == names
    # The test's own merge of the clips of each video.
    with torch.no_grad():
        logits = torch.cat([method.clip_logits(batch) for batch in data.test_dataloader()])
    merged = logits.softmax(-1).mean(1)
    assert [row["probability"] for row in content["predictions"]] == pytest.approx(merged.amax(1).tolist(), rel=1e-6)
    assert {path.suffix for path in (tmp_path / "predictions").iterdir()} == {".csv", ".json"}


def test_several_classes_are_those_above_one_half() -> None:
    method = classifier(3, labels=LabelSettings("several"))
    method.class_names = ["a", "b", "c"]
    probabilities = torch.tensor([[0.6, 0.2, 0.9], [0.1, 0.2, 0.3]])
    assert torch.equal(
        method.labels.merged(SeveralLabels().logits(probabilities)[:, None], "max").round(decimals=4), probabilities
    )
    columns = method.answers(["x", "y"], probabilities).columns
    assert columns["class"] == [["c", "a"], []]
    assert columns["probability"] == [pytest.approx([0.9, 0.6]), []]
    assert columns["class_3"] == ["b", "a"]


def test_a_flat_folder_needs_no_labels_and_broken_files_are_named(tmp_path: Path) -> None:
    root = folder_of_videos(tmp_path / "videos", ["b.mp4", "c.mp4", "d/e.mp4"])
    (root / "a.mp4").write_bytes(b"no video")
    method = classifier(2)
    method.class_names = ["run", "walk; slowly"]
    # Subsets only apply to training.
    data = folder(root, subset=SubsetSettings(low_shot=1))
    make_trainer(tmp_path, [Predictions()]).predict(method, datamodule=data, return_predictions=False)
    table = rows(tmp_path / "predictions/videofolder.csv")
    assert [row["path"] for row in table] == ["a.mp4", "b.mp4", "c.mp4", "d/e.mp4"]
    assert (table[0]["class"], table[0]["probability"], table[0]["class_1"]) == ("", "", "")
    assert table[0]["reason"] == "cannot open"
    assert {row["class"] for row in table[1:]} <= {"run", "walk; slowly"}
    content = json.loads((tmp_path / "predictions/videofolder.json").read_text())
    assert content["missed"] == {"a.mp4": "cannot open"}
    assert (content["samples"], content["root"]) == (3, str(root))
    assert content["predictions"][0] == dict.fromkeys(table[0]) | {"path": "a.mp4", "reason": "cannot open"}
    # The report of broken files only covers the run's own data.
    assert not (tmp_path / "bad_videos.tsv").exists()
    for path in root.rglob("*.mp4"):
        path.write_bytes(b"no video")
    make_trainer(tmp_path, [Predictions()]).predict(method, datamodule=folder(root), return_predictions=False)
    assert [row["class"] for row in rows(tmp_path / "predictions/videofolder.csv")] == [""] * 4


def test_which_videos_are_predicted(tmp_path: Path) -> None:
    names = [f"{split}/x/{split}.mp4" for split in ("train", "val", "test")]
    root = folder_of_videos(tmp_path, names)

    def predicted(**settings: Any) -> list[str]:
        data = folder(root, **settings)
        data.setup("predict")
        assert data.predict_manifest is not None
        return list(data.predict_manifest.paths)

    assert predicted() == ["x/test.mp4"]
    (tmp_path / "list.csv").write_text("path,label\ntrain/x/train.mp4,\nval/x/val.mp4,\n")
    assert predicted(lists=ListSettings(test=str(tmp_path / "list.csv"))) == names[:2]
    (root / names[2]).unlink()
    (root / "test/x").rmdir()
    (root / "test").rmdir()
    assert predicted() == ["x/val.mp4"]
    with pytest.raises(SettingError, match=r"nothing\.csv does not exist; set data\.lists\.test"):
        predicted(lists=ListSettings(test=str(tmp_path / "nothing.csv")))


@pytest.mark.parametrize(
    "case", [case for case in METHODS if case.name in ("VideoMAE", "SkeletonContrast")], ids=lambda case: case.name
)
def test_pretraining_methods_write_features(case: Any, tmp_path: Path) -> None:
    method, data = case.build().eval(), case.data(4, 4, 5)
    make_trainer(tmp_path, [Predictions()]).predict(method, datamodule=data, return_predictions=False)
    found = read_collection(tmp_path / "predictions" / type(data).__name__.lower())
    assert found.paths == [str(number) for number in range(5)]
    assert all(found.labels)
    expected = []
    with torch.no_grad():
        for batch in data.test_dataloader():
            stream = batch.stream(method.stream)
            views = [
                method.embed(replace(batch, streams={method.stream: Stream(stream.kind, stream.data[:, v : v + 1])}))
                for v in range(stream.data.shape[1])
            ]
            expected.append(torch.stack(views).mean(0))
    assert torch.allclose(found.feature, torch.cat(expected), atol=1e-6)
    assert found.passport["method"] == case.name


def test_views_become_samples() -> None:
    data = torch.arange(12).view(2, 3, 2)
    feature = Stream("feature", data, valid=data > 3, time=data.float(), length=torch.tensor([[1, 2, 1], [2, 2, 1]]))
    own = Stream("signal", data[..., None], length=torch.tensor([1, 2]))
    batch = Batch(torch.tensor([4, 7]), torch.tensor([0, 1]), {"a": feature, "b": own, "text": Text([["x"], ["y"]])})
    found = replace(batch, extra={"count": torch.tensor([5, 6])}).separate(3)
    assert found.index.tolist() == [4, 4, 4, 7, 7, 7]
    assert found.extra["count"].tolist() == [5, 5, 5, 6, 6, 6]
    part = found.stream("a")
    assert torch.equal(part.data, data.view(6, 1, 2))
    assert part.valid is not None
    assert torch.equal(part.valid, (data > 3).view(6, 1, 2))
    assert part.length is not None
    assert part.length.tolist() == [[1], [2], [1], [2], [2], [1]]
    length = found.stream("b").length
    assert length is not None
    assert length.tolist() == [1, 1, 1, 2, 2, 2]
    assert found.text().first == ["x", "x", "x", "y", "y", "y"]


class Again:
    """The batches of a loader, and the first one once more."""

    def __init__(self, loader: Any) -> None:
        self.batches = [*loader]
        self.batches.append(self.batches[0])

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


def test_a_sample_counts_once_and_old_files_go(tmp_path: Path) -> None:
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions/syntheticmotion.bad.tsv").write_text("path\treason\n")
    data = motion(1)
    data.predict_dataloader = lambda: Again(data.test_dataloader())  # type: ignore[assignment, method-assign, return-value]
    returned = make_trainer(tmp_path, [Predictions()]).predict(METHODS[0].build(), datamodule=data)
    found = read_collection(tmp_path / "predictions/syntheticmotion")
    assert found.paths == [str(number) for number in range(VIDEOS)]
    assert returned is not None
    assert torch.equal(torch.cat([one.value for one in returned])[:VIDEOS], found.feature)  # type: ignore[union-attr]
    assert not (tmp_path / "predictions/syntheticmotion.bad.tsv").exists()


def measure(run: Path, world: int) -> dict[str, Any]:
    trainer = trainer_for(run / str(world), world)
    trainer.callbacks.append(Predictions())
    trainer.predict(classifier(), datamodule=motion(), return_predictions=False)
    return {}


@pytest.mark.slow
def test_two_processes_write_what_one_writes(tmp_path: Path) -> None:
    measure(tmp_path, 1)
    by_two(measure, tmp_path)
    one, two = (tmp_path / str(world) / "predictions/syntheticmotion.csv" for world in (1, 2))
    for own, other in zip(rows(one), rows(two), strict=True):
        assert own["path"] == other["path"]
        assert own["class"] == other["class"]
        assert float(own["probability"]) == pytest.approx(float(other["probability"]), rel=1e-5)
