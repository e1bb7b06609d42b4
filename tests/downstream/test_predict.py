"""Predictions of tasks other than classification: neighbours, counts, boxes, sentences; and late fusion."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from callbacks.reports.predictions import Predictions
from datamodules.folder import VideoFolder
from datamodules.generated.motion import SyntheticMotion
from datamodules.prepare.synthesise import write_video
from datamodules.settings import ListSettings, ReadSettings
from datamodules.video.samplers import Dense
from datamodules.video.sampling import ClipSettings, ViewSettings
from modules.core.batch import Batch
from modules.core.errors import SettingError
from modules.downstream.counting import RepetitionCounting
from modules.downstream.retrieval import NearestNeighbours
from modules.downstream.video_text_retrieval import RerankSettings
from modules.training.optim import AdamSettings
from tests.callbacks.runs import make_trainer
from tests.datamodules.sets.ava_files import small_ava, write_ava
from tests.datamodules.sets.repetitions import write_ucfrep
from tests.downstream.test_counting import data as counting_data
from tests.downstream.test_detection import Oracle
from tests.downstream.test_fusion import batch as fusion_batch
from tests.downstream.test_fusion import fused
from tests.downstream.test_retrieval import Flat
from tests.downstream.test_video_text_retrieval import motion, tiny
from tests.registry import FRAMES, SGD, SIDE, tiny_cnn, tiny_vit, video_batch


@pytest.fixture(scope="module")
def pairs() -> SyntheticMotion:
    """Six clips with sentences."""
    data = motion(3)
    data.setup("predict")
    return data


def predict(method: Any, data: Any, run: Path) -> None:
    make_trainer(run, [Predictions()]).predict(method.eval(), datamodule=data, return_predictions=False)


def table(run: Path, name: str) -> list[dict[str, str]]:
    with (run / f"predictions/{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_neighbours_are_named_with_class_and_cosine(tmp_path: Path) -> None:
    clips = [video_batch(1, seed=number).stream("video").data[0, 0].repeat(2, 1, 1, 1) for number in range(4)]
    root, new = tmp_path / "data", tmp_path / "new"
    for number, clip in enumerate(clips):
        (root / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        write_video(root / "ab"[number % 2] / f"{number}.mp4", clip, fps=8)
    new.mkdir()
    for number in (2, 1):
        write_video(new / f"like{number}.mp4", clips[number], fps=8)
    (new / "broken.mp4").write_bytes(b"no video")
    wanted = [f"{new}/{name}.mp4" for name in ("like2", "broken", "like1")]
    (tmp_path / "new.csv").write_text("".join(["path,label\n", *(f"{path},\n" for path in wanted)]))
    settings: dict[str, Any] = {
        "lists": ListSettings(test=str(tmp_path / "new.csv")),
        "clip": ClipSettings(frames=FRAMES, sampler=Dense(1), size=SIDE),
        "batch_size": 2,
        "reading": ReadSettings(0),
        "views": ViewSettings(1, 1),
    }
    data = VideoFolder(str(root), **settings)
    predict(NearestNeighbours(Flat(), [1, 3]), data, tmp_path)
    found = table(tmp_path, "videofolder")
    assert [(row["path"], row["class"], row["neighbour"]) for row in found] == [
        (wanted[0], "a", "a/2.mp4"),
        (wanted[1], "", ""),
        (wanted[2], "b", "b/1.mp4"),
    ]
    assert found[1]["reason"] == "cannot open"
    pairs = table(tmp_path, "videofolder_neighbours")
    assert [(row["path"], row["rank"]) for row in pairs] == [(path, str(rank)) for path in wanted[::2] for rank in (1, 2, 3)]
    assert pairs[0]["similarity"] == "1"
    assert all(row["class"] == row["neighbour"][0] for row in pairs)
    cosines = [float(row["similarity"]) for row in pairs[:3]]
    assert cosines == sorted(cosines, reverse=True)
    content = json.loads((tmp_path / "predictions/videofolder.json").read_text())
    assert (content["bank"], content["k"], content["class_names"]) == (4, 1, ["a", "b"])
    (tmp_path / "new.csv").write_text("path,label\na/0.mp4,\n")
    with pytest.raises(SettingError, match=r"1 sample\(s\) are in the training set too"):
        predict(NearestNeighbours(Flat()), VideoFolder(str(root), **settings), tmp_path)


@pytest.mark.parametrize("best", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_answers_of_retrieval_both_ways(best: int, pairs: SyntheticMotion, tmp_path: Path) -> None:
    method, data = tiny(rerank=RerankSettings(best)), pairs
    predict(method, data, tmp_path)
    make_trainer(tmp_path, []).test(method, datamodule=data, verbose=False)
    found = method.retrieved
    assert found is not None
    videos, sentences = (table(tmp_path, f"syntheticmotion{name}") for name in ("", "_sentences"))
    assert [row["sentence"] for row in sentences] == found.texts
    for scores, rows, name, names in (
        (found.video_to_text, videos, "sentence", found.texts),
        (found.text_to_video, sentences, "path", [str(number) for number in range(6)]),
    ):
        best_scores = scores.topk(5, 1)
        for own, (places, values) in zip(rows, zip(*(part.tolist() for part in best_scores[::-1]), strict=True), strict=True):
            assert own[f"{name}_1"] == names[places[0]]
            assert [float(own[f"score_{place}"]) for place in range(1, 6)] == pytest.approx(values, rel=1e-4)


def test_the_sentence_that_is_chosen(pairs: SyntheticMotion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = tiny(task="choice")

    def scores(batch: Batch) -> Tensor:
        return torch.tensor([[0.25, 0.75]]).repeat(len(batch.index), 1)

    monkeypatch.setattr(method, "options", scores)
    texts = pairs._pools["test"].clips.texts[0]
    monkeypatch.setattr(Batch, "text", lambda own: type("Text", (), {"sentences": [[texts[0], texts[3]]] * len(own.index)}))
    predict(method, pairs, tmp_path)
    found = table(tmp_path, "syntheticmotion")
    assert {(row["sentence"], row["probability"]) for row in found} == {(texts[3], "0.75")}
    assert len(found) == 6


@pytest.mark.slow
def test_counts_are_those_of_the_test(tmp_path: Path) -> None:
    root = write_ucfrep(tmp_path / "data", train=4)
    torch.manual_seed(0)
    method = RepetitionCounting(tiny_vit(), optim=AdamSettings(1e-3, milestones=[]))
    make_trainer(tmp_path, []).test(method, datamodule=counting_data(root), verbose=False)
    predict(method, counting_data(root), tmp_path)
    found = {row["path"]: row for row in table(tmp_path, "ucfrep")}
    told = method.test_record["counts"]
    assert found.keys() == told.keys()
    for path, count in told.items():
        assert float(found[path]["estimate"]) == pytest.approx(count["predicted"], rel=1e-5)
        assert int(found[path]["count"]) == round(count["predicted"])


def test_counts_are_of_whole_videos() -> None:
    method = RepetitionCounting(tiny_vit(), optim=AdamSettings(1e-3, milestones=[]))
    with pytest.raises(SettingError, match="counts in whole videos, of which the data give parts"):
        method.predict_step(video_batch(), 0)
    columns = method.answers(["a", "b"], torch.tensor([[2.6], [3.4]])).columns
    assert columns["count"] == [3, 3]


class Knowing(Oracle):
    """Predicts the true actions."""

    def predict_step(self, batch: Batch, batch_idx: int) -> Any:
        self.now = batch
        return super().predict_step(batch, batch_idx)


def test_boxes_have_their_actions(tmp_path: Path) -> None:
    data = small_ava(write_ava(tmp_path / "ava"), benchmark="true_boxes")
    predict(Knowing(tiny_cnn(), 80, optim=SGD), data, tmp_path)
    frames, boxes = table(tmp_path, "ava"), table(tmp_path, "ava_boxes")
    assert sum(int(row["boxes"]) for row in frames) == len(boxes) == 4
    assert {row["path"] for row in boxes} <= {row["path"] for row in frames}
    evaluation = data.evaluation("test")
    truth: dict[tuple[float, ...], set[str]] = {}
    for box, action in zip(evaluation.truth.box.tolist(), evaluation.truth.action.tolist(), strict=True):
        name = evaluation.scored.get(action)
        truth.setdefault(tuple(round(one, 5) for one in box), set()).update({name} if name is not None else set())
    for row in boxes:
        own = truth[tuple(round(float(row[corner]), 5) for corner in ("x1", "y1", "x2", "y2"))]
        assert set(filter(None, row["class"].split(";"))) == own


def test_fusion_predicts_what_it_tests() -> None:
    method, some = fused().eval(), fusion_batch(there=(True, False, True))
    with torch.no_grad():
        found = method.predict_step(some, 0)
        expected = method.logits(some)[""].softmax(-1).mean(1)
    assert torch.equal(found.value, expected)
    method.parts[0][1].class_names = [f"class{number}" for number in range(5)]
    columns = method.answers(["a", "b", "c"], found.value).columns
    assert columns["class"] == [f"class{number}" for number in expected.argmax(1).tolist()]
