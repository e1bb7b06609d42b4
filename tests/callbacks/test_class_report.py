"""The confusion matrix and the table of classes that every test of a classifier writes."""

import csv
import json
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

from callbacks import ResultFile
from callbacks.reports.classes import LIST, NAME, draw_confusion
from datamodules.generated.motion import SyntheticMotion
from datamodules.video.sampling import ClipSettings
from modules.downstream.classification import Classification, HeadSettings
from modules.downstream.labels import LabelSettings, average_precisions
from modules.downstream.metrics.classes import ClassReport, class_names, report_several, report_single
from modules.downstream.retrieval import NearestNeighbours
from modules.layers.drawing.streams import shortened, width_of
from tests.callbacks.runs import make_trainer
from tests.downstream.test_retrieval import Flat
from tests.registry import FRAMES, OPTIM, SIDE, tiny_vit

VIDEOS = 13


def motion() -> SyntheticMotion:
    return SyntheticMotion(ClipSettings(frames=FRAMES, size=SIDE), 4, train_videos=20, val_videos=VIDEOS)


def small() -> ClassReport:
    label = torch.tensor([0, 0, 0, 1, 1, 3])
    return report_single(torch.tensor([0, 1, 1, 1, 3, 3]), label, ["run", "walk", "jump", "fall"])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_report_of_single_classes() -> None:
    report = small()
    assert report.confusion is not None
    assert report.confusion.tolist() == [[1, 2, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 0, 1]]
    first, second, third, _ = report.rows()
    assert (first["videos"], first["correct"], first["taken_for"], first["taken_for_count"]) == (3, 1, "walk", 2)
    assert first["accuracy"] == pytest.approx(100 / 3)
    assert (second["accuracy"], second["taken_for"]) == (50, "fall")
    assert (third["videos"], third["accuracy"], third["taken_for"]) == (0, None, None)
    assert report.most_confused(5) == [(0, 1, 2, 3), (1, 3, 1, 2)]
    assert report.most_confused(1) == [(0, 1, 2, 3)]
    assert class_names(["a"], 2) == ["0", "1"]


def test_report_of_several_classes() -> None:
    scores, positive = torch.rand(6, 3), torch.tensor([[1, 0, 0]] * 3 + [[0, 1, 0]] * 3) > 0
    report = report_several(average_precisions(scores, positive), positive, ["a", "b", "c"])
    told = report.rows()
    assert [row["videos"] for row in told] == [3, 3, 0]
    expected = average_precisions(scores, positive)
    assert told[0]["average_precision"] == pytest.approx(100 * float(expected[0]))
    assert told[2] == {"class": "c", "videos": 0, "average_precision": None}
    assert report.most_confused(3) == []


def test_every_test_of_a_classifier_writes_them(tmp_path: Path) -> None:
    lightning.seed_everything(0)
    logger = TensorBoardLogger(tmp_path, name="", version="")
    method = Classification(tiny_vit(), 13, head=HeadSettings(std=1.0), optim=OPTIM)
    trainer = make_trainer(tmp_path, [ResultFile("finetune")], logger=logger)
    for _ in range(2):
        (found,) = trainer.test(method, datamodule=motion(), verbose=False)
    stem = tmp_path / "results/syntheticmotion_finetune-001"
    table = rows(stem.with_name(f"{stem.name}_classes.csv"))
    assert [row["class"] for row in table] == motion().class_names
    assert sum(int(row["videos"]) for row in table) == VIDEOS
    assert found["test/top1"] == pytest.approx(100 * sum(int(row["correct"]) for row in table) / VIDEOS)
    seen = [float(row["accuracy"]) for row in table if row["accuracy"]]
    assert found["test/per_class"] == pytest.approx(sum(seen) / len(seen), rel=1e-4)
    matrix = rows(stem.with_name(f"{stem.name}_confusion.csv"))
    for row, own in zip(matrix, table, strict=True):
        name = row.pop("class")
        assert name == own["class"]
        assert sum(map(int, row.values())) == int(own["videos"])
        assert row[name] == own["correct"]
    with Image.open(tmp_path / "pictures/0000000_confusion_syntheticmotion_finetune-000.png") as picture:
        assert picture.size[0] > LIST
    events = b"".join(path.read_bytes() for path in tmp_path.glob("events*"))
    assert b"pictures/confusion_syntheticmotion_finetune-000" in events


def test_of_several_labels_there_is_no_matrix(tmp_path: Path) -> None:
    method = Classification(tiny_vit(), 13, labels=LabelSettings("several"), head=HeadSettings(std=1.0), optim=OPTIM)
    (found,) = make_trainer(tmp_path, [ResultFile("several")]).test(method, datamodule=motion(), verbose=False)
    (table,) = (tmp_path / "results").glob("*.csv")
    assert table.name == "syntheticmotion_several-000_classes.csv"
    seen = [float(row["average_precision"]) for row in rows(table) if row["average_precision"]]
    assert found["test/map"] == pytest.approx(sum(seen) / len(seen), rel=1e-4)
    assert not (tmp_path / "pictures").exists()


def test_of_neighbours_it_is_that_of_the_first_vote(tmp_path: Path) -> None:
    data = motion()
    trainer = make_trainer(tmp_path, [ResultFile("knn")])
    (found,) = trainer.test(NearestNeighbours(Flat(), [3, 1]), datamodule=data, verbose=False)
    table = rows(tmp_path / "results/syntheticmotion_knn-000_classes.csv")
    assert found["test/knn3"] == pytest.approx(100 * sum(int(row["correct"]) for row in table) / VIDEOS)
    assert json.loads((tmp_path / "results/syntheticmotion_knn-000.json").read_text())["videos"] == VIDEOS


@pytest.mark.parametrize("classes", [1, 4, 60, 400])
def test_pictures_of_few_and_many_classes(classes: int) -> None:
    names = [f"class {number} of a long name that goes on and on" for number in range(classes)]
    label = torch.arange(classes).repeat(3)
    predicted = torch.where(torch.arange(len(label)) < classes, (label + 1) % classes, label)
    report = report_single(predicted, label, names)
    picture = draw_confusion(report)
    side = min(44, max(2, 660 // classes)) * classes
    assert picture.shape[0] >= side + NAME // 2
    assert picture.shape[1] >= side + LIST
    assert picture.shape[0] <= side + 2 * NAME + 400
    # The diagonal is darker than confused cells, and these are darker than empty cells.
    blue = (picture == torch.tensor([0, 60, 120])).all(2)
    assert bool(blue.any())


def test_texts_are_shortened_to_a_width() -> None:
    assert shortened("walk", 200) == "walk"
    short = shortened("a very long name of a class", 60)
    assert short.endswith("...")
    assert width_of(short) <= 60
    assert shortened("a", 0) == "..."
