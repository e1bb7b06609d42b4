"""Videos with sentences: json lists, pairs, what is missing, parts of the training set, and batches."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules import MSRVTT, DiDeMo, SSv2Text, VideoText
from datamodules.lists.manifest import Manifest
from datamodules.sets.video_text import read_text_rows
from datamodules.settings import ListSettings, ReadSettings, SubsetSettings
from datamodules.video.sampling import ViewSettings
from modules.core.errors import SettingError
from modules.language.tokenizers import clean
from tests.datamodules.sets.trees import CLIP, batches, put, ready

SMALL: dict[str, Any] = {"clip": CLIP, "batch_size": 2, "reading": ReadSettings(0), "seed": 1}


def write(path: Path, *entries: Any) -> Path:
    path.write_text(json.dumps(entries))
    return path


@pytest.fixture
def retrieval(tmp_path: Path, one_video: Path) -> Path:
    """Five videos: of one two sentences, two share one; one of another suffix, one in a folder."""
    for name in ("a.mp4", "b.webm", "deep/er/c.mp4", "d.mp4", "e.mp4"):
        put(one_video, tmp_path / "videos" / name)
    write(
        tmp_path / "train.json",
        {"video": "a.mp4", "caption": ["A cat, running.", "a cat sleeps"]},
        {"video": "b.mp4", "caption": "a dog"},
        {"video": "deep/er/c.mp4", "caption": "a cat running"},
    )
    write(tmp_path / "val.json", {"video": ["d.mp4", "e.mp4"], "caption": "a bird"}, {"video": "d.mp4", "caption": "it flies"})
    return tmp_path


def texts_of(manifest: Manifest | None) -> list[tuple[str, list[str]]]:
    assert manifest is not None
    assert manifest.texts is not None
    return list(zip(manifest.paths, manifest.texts, strict=True))


def test_training_has_pairs_and_evaluation_videos(retrieval: Path) -> None:
    data = ready(VideoText(str(retrieval / "videos"), lists=ListSettings(folder=str(retrieval)), **SMALL))
    assert texts_of(data.train_manifest) == [
        ("a.mp4", ["A cat, running."]),
        ("a.mp4", ["a cat sleeps"]),
        ("b.webm", ["a dog"]),
        ("deep/er/c.mp4", ["a cat running"]),
    ]
    # Sentences with the same tokens have the same index.
    assert data.train_manifest is not None
    assert data.train_manifest.labels.tolist() == [0, 1, 2, 0]
    assert texts_of(data.val_manifest) == [("d.mp4", ["a bird", "it flies"]), ("e.mp4", ["a bird"])]
    seen = {(int(batch.index[row]), batch.text().first[row]) for batch in batches(data) for row in range(2)}
    assert seen == {(0, "A cat, running."), (1, "a cat sleeps"), (2, "a dog"), (3, "a cat running")}
    data.setup("test")
    (batch,) = data.test_dataloader()
    assert batch.text().sentences == [["a bird", "it flies"], ["a bird"]]
    assert batch.text().first == ["a bird", "a bird"]
    assert batch.stream("video").data.shape == (2, 1, CLIP.frames, CLIP.size, CLIP.size, 3)
    other = texts_of(data.train_manifest.subset(np.array([2, 0])))
    assert other == [("b.webm", ["a dog"]), ("a.mp4", ["A cat, running."])]
    assert data.manifest_hash != data.val_manifest.sha256()


def test_a_test_needs_no_training_list(retrieval: Path) -> None:
    (retrieval / "train.json").unlink()
    data = VideoText(str(retrieval / "videos"), lists=ListSettings(folder=str(retrieval)), **SMALL)
    data.setup("test")
    assert [batch.index.tolist() for batch in data.test_dataloader()] == [[0, 1]]
    with pytest.raises(SettingError, match=r"contains no train\.json; set data\.lists\.train to it, or data\.lists\.folder"):
        data.setup("fit")
    (retrieval / "val.json").unlink()
    with pytest.raises(SettingError, match=r"contains no val\.json; set data\.lists\.test to it, or data\.lists\.folder"):
        VideoText(str(retrieval / "videos"), lists=ListSettings(folder=str(retrieval)), **SMALL).setup("test")


def test_paragraphs_are_one_text(retrieval: Path) -> None:
    data = ready(
        VideoText(str(retrieval / "videos"), lists=ListSettings(folder=str(retrieval)), benchmark="paragraphs", **SMALL)
    )
    assert texts_of(data.train_manifest)[0] == ("a.mp4", ["A cat, running. a cat sleeps"])
    for split in ("train", "val", "test"):
        write(
            retrieval / f"didemo_ret_{split}.json",
            {"video": "a.mp4", "caption": [split, "ends"]},
            {"video": "d.mp4", "caption": "x"},
        )
    didemo = ready(DiDeMo(str(retrieval / "videos"), lists=ListSettings(folder=str(retrieval)), **SMALL))
    didemo.setup("test")
    for manifest, split in ((didemo.train_manifest, "train"), (didemo.val_manifest, "val"), (didemo.test_manifest, "test")):
        assert texts_of(manifest) == [("a.mp4", [f"{split} ends"]), ("d.mp4", ["x"])]


def test_official_names_of_lists(retrieval: Path) -> None:
    folder, videos = retrieval / "annotations", str(retrieval / "videos")
    folder.mkdir()
    entries = [{"video": f"{name}.mp4", "caption": [f"one {name}", "another"]} for name in "abcd"]
    for name in ("msrvtt_ret_train9k", "msrvtt_ret_train7k", "msrvtt_ret_test1k", "ssv2_ret_template_train"):
        write(folder / f"{name}.json", *entries[: 3 if "7k" in name else 4])
    choices = [
        {"video": "a.mp4", "caption": list("vwxyz"), "answer": 3},
        {"video": "e.mp4", "caption": list("vwxyz"), "answer": 0},
    ]
    write(folder / "msrvtt_mc_test.json", *choices)
    for benchmark, rows in (("9k", 8), ("7k", 6), ("choice", 8)):
        data = ready(MSRVTT(videos, lists=ListSettings(folder=str(retrieval)), benchmark=benchmark, **SMALL))
        assert data.train_manifest is not None
        assert data.val_manifest is not None
        assert (len(data.train_manifest), len(data.val_manifest)) == (rows, 4)
    data.setup("test")
    assert data.test_manifest is not None
    assert data.test_manifest.labels.tolist() == [3, 0]
    (batch,) = data.test_dataloader()
    assert batch.text().sentences == [list("vwxyz")] * 2
    template = ready(SSv2Text(videos, lists=ListSettings(folder=str(retrieval)), **SMALL))
    assert template.val_manifest is None
    with pytest.raises(SettingError, match=r"contains no ssv2_ret_label_train\.json"):
        ready(SSv2Text(videos, lists=ListSettings(folder=str(retrieval)), benchmark="label", **SMALL))


def test_few_data_is_a_part_of_the_pairs(retrieval: Path) -> None:
    def part(subset: SubsetSettings = SubsetSettings()) -> list[tuple[str, list[str]]]:  # noqa: B008
        lists = ListSettings(folder=str(retrieval))
        return texts_of(ready(VideoText(str(retrieval / "videos"), lists, subset=subset, **SMALL)).train_manifest)

    half, more = part(SubsetSettings(0.5)), part(SubsetSettings(0.75))
    assert [len(half), len(more)] == [2, 3]
    assert all(pair in more for pair in half)
    assert all(pair in part() for pair in more)
    assert len({str(part(SubsetSettings(0.5, seed=seed))) for seed in range(6)}) > 1


def test_missing_videos_are_counted(retrieval: Path) -> None:
    videos = retrieval / "videos"
    (videos / "e.mp4").unlink()
    with pytest.warns(UserWarning, match=r"1 of the 2 videos of .*val\.json are below .*; 1 are missing, the first is e\.mp4"):
        data = ready(VideoText(str(videos), lists=ListSettings(folder=str(retrieval)), **SMALL))
    data.setup("test")
    (batch,) = data.test_dataloader()
    assert batch.substituted.tolist() == [-1, 1]
    # A substitute sample has its own sentences.
    assert batch.text().sentences[1] == ["a bird", "it flies"]
    (videos / "d.mp4").unlink()
    with pytest.raises(
        SettingError, match=r"2 of the 2 videos of .*val\.json are not below .* \(the first: d\.mp4\); set data\.root"
    ):
        ready(VideoText(str(videos), lists=ListSettings(folder=str(retrieval)), **SMALL))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"a": 1}', "contains no list of videos"),
        ("[]", "contains no list of videos"),
        ('[{"video": "a.mp4"}]', r"entry 0 is \{'video': 'a.mp4'\}; expected an object with video and caption"),
        ('[{"video": "a.mp4", "caption": "x"}, {"caption": "y"}]', "entry 1 is"),
        ('[{"video": "a.mp4", "caption": ["x", 3]}]', "each a text or a list of texts"),
        ('[{"video": "a.mp4", "caption": " "}]', "each a text or a list of texts"),
        ('["a.mp4"]', "entry 0 is 'a.mp4'"),
        ('[{"video": "a.mp4", "caption": ["x", "y"], "answer": 2}]', "entry 0 has the answer 2, but 2 sentences"),
        ("[", "cannot be read as JSON"),
    ],
)
def test_lists_of_another_form(content: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text(content)
    with pytest.raises(SettingError, match=expected):
        read_text_rows(tmp_path / "list.json")


def test_wrong_settings(retrieval: Path) -> None:
    with pytest.raises(SettingError, match=r"no\.json does not exist; set data\.lists\.train"):
        ready(VideoText(str(retrieval / "videos"), ListSettings(str(retrieval / "no.json")), **SMALL))
    with pytest.raises(SettingError, match=r"data\.views is not for VideoText"):
        ready(
            VideoText(str(retrieval / "videos"), lists=ListSettings(folder=str(retrieval)), views=ViewSettings(1, 1), **SMALL)
        )


FRACTIONS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)


@pytest.mark.parametrize("kind", ["few sentences with many videos", "each video its own sentence", "both"])
def test_parts_are_nested_and_have_their_share_of_every_sentence(kind: str) -> None:
    many = np.repeat(np.arange(8), 50)
    labels = {"few": many, "each": np.arange(400), "both": np.concatenate([many, np.arange(8, 208)])}[kind.split()[0]]
    whole = Manifest(Path(), [str(row) for row in range(len(labels))], labels, texts=[[str(label)] for label in labels])
    counts = Counter(labels.tolist())
    for seed in (1, 2):
        before: set[str] = set()
        for fraction in FRACTIONS:
            part = whole.share(fraction, seed)
            assert before <= set(part.paths)
            before = set(part.paths)
            assert len(part) == len(before) == int(np.ceil(len(labels) * fraction))
            assert part.texts == [[str(label)] for label in part.labels]
            own = Counter(part.labels.tolist())
            assert all(abs(own[label] - fraction * count) <= 1 for label, count in counts.items())
        assert part.paths == whole.paths
    assert whole.share(0.25, 1).paths != whole.share(0.25, 2).paths


def test_words_are_cleaned() -> None:
    assert clean("<person> don't: a Two-way/one (Café)!") == ["person", "dont", "a", "two", "way", "one", "cafe"]
