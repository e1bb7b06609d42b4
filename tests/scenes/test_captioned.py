"""Clips of captioned motion: pixels agree with captions, and the retrieval set differs only in motion."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
import torch

from datamodules.generated.motion import SceneSettings, SyntheticMotion
from datamodules.settings import LoadSettings
from datamodules.video.sampling import ClipSettings
from main import main
from modules.core.errors import SettingError
from modules.language.grammar import flip_words, inflect
from modules.language.lexicon import HELD_OUT, NOUNS
from modules.motion.appearance import COLOURS, SHAPES
from modules.motion.primitives import PRIMITIVES, REVERSED, REVERSIBLE
from modules.scenes.captioned import HELD_OUT_SHAPES, CaptionSettings, Stage, captioned_clips, retrieval_clips, training_shapes

STAGE = Stage(8, 24, "train", 0)
SIMPLE = CaptionSettings(primitives=("T", "Z.grow", "Z.shrink"), phases=(1, 0, 0), relations=0, together=0)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Many small operations: on a busy machine, a second thread costs more than it gains."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_pixels_do_what_the_topic_says() -> None:
    """The middle and the amount of what is bright, over black, from the first frame to the last."""
    made = captioned_clips(120, Stage(8, 48, "train", 0), SIMPLE)
    weight = made.video.float().sum(-1)
    axis = torch.arange(48.0)
    x, y = ((weight.sum(dim) * axis).sum(-1) / weight.sum((2, 3)) for dim in (2, 3))
    area = weight.sum((2, 3))
    dx, dy, growth = x[:, -1] - x[:, 0], y[:, -1] - y[:, 0], (area[:, -1] / area[:, 0]).log()
    # Eight directions: along an axis counts what is within 67.5 degrees of it. Objects that touch the border are cut a bit.
    least = 0.38 * torch.hypot(dx, dy)
    for number, caption in zip(range(120), made.captions, strict=True):
        name = PRIMITIVES[int(made.motion[number])]
        words = set(re.findall("[a-z]+", caption.text))
        if name.startswith("Z."):
            assert growth[number] * (1 if name == "Z.grow" else -1) > 0.5
            continue
        assert abs(growth[number]) < 0.3
        assert (dx[number] > least[number]) == name.endswith("right")
        assert (dx[number] < -least[number]) == name.endswith("left")
        assert (dy[number] < -least[number]) == ("up" in name)
        assert (dy[number] > least[number]) == ("down" in name)
        assert words & {"arrow", "corner", "tee", "triangle", "crescent", "sector", "object"}
    assert made.motion.unique().tolist() == sorted(PRIMITIVES.index(name) for name in SIMPLE.chosen())


def test_a_clip_is_a_function_of_its_number() -> None:
    many, few = (captioned_clips(count, STAGE, CaptionSettings()) for count in (40, 9))
    assert torch.equal(many.video[:9], few.video)
    assert [c.text for c in many.captions[:9]] == [c.text for c in few.captions]
    assert torch.equal(many.signature[:9], few.signature)
    other = captioned_clips(9, Stage(8, 24, "val", 0), CaptionSettings())
    assert not set(other.signature.tolist()) & set(few.signature.tolist())
    assert (other.video != few.video).flatten(1).any(1).all()


def test_objects_are_named_as_they_look() -> None:
    made = captioned_clips(200, Stage(4, 24, "train", 1), CaptionSettings(primitives=("Z.grow",), relations=0, together=0))
    brightest = made.video[:, -1].flatten(1, 2).float()
    peak = brightest[torch.arange(200), brightest.sum(-1).argmax(1)]
    for colour, names in zip(peak.tolist(), made.names, strict=True):
        red, green, blue = (value > 128 for value in colour)
        expected = {"red": (1, 0, 0), "yellow": (1, 1, 0), "white": (1, 1, 1), "cyan": (0, 1, 1)}
        if names[0].colour in expected:
            assert (red, green, blue) == expected[names[0].colour]
    assert {name.colour for names in made.names for name in names} == set(COLOURS)
    assert {name.noun for names in made.names for name in names} == set(training_shapes())
    assert [SHAPES[k] for k in made.object.tolist()] == [names[0].noun for names in made.names]


def test_the_retrieval_set_differs_in_motion_alone() -> None:
    made = retrieval_clips(Stage(8, 24, "val", 0, ("texture", "noise")), CaptionSettings(test_pairs=40))
    assert made.video.shape == (80, 8, 24, 24, 3)
    # The same frames in the opposite order: they only differ in order.
    assert torch.equal(made.video[0::2], made.video[1::2].flip(1))
    assert (made.video[0::2] != made.video[1::2]).flatten(1).any(1).all()
    assert len(made.signature.unique()) == 80
    assert made.names[0::2] == made.names[1::2]
    for first, second in zip(made.motion[0::2].tolist(), made.motion[1::2].tolist(), strict=True):
        assert REVERSED[first] == second
        assert PRIMITIVES[first] in REVERSIBLE
    # Names are given in full, so that two clips with other objects have other captions.
    assert all(name.colour in caption.text for caption, names in zip(made.captions, made.names, strict=True) for name in names)
    again = retrieval_clips(Stage(8, 24, "val", 0, ("texture", "noise")), CaptionSettings(test_pairs=40, text="object"))
    assert torch.equal(made.video, again.video)
    assert [c.text for c in made.captions] == [c.text for c in again.captions]


def test_held_out_verbs_and_objects() -> None:
    stage = Stage(8, 16, "val", 0)
    forms = {inflect(base, form) for base in HELD_OUT for form in ("finite", "gerund", "plural")}
    forms |= {NOUNS[base] for base in HELD_OUT if base in NOUNS}
    said = re.compile(rf"\b({'|'.join(sorted(forms, key=len, reverse=True))})\b")
    verbs = retrieval_clips(stage, CaptionSettings(test_pairs=60, held_out="verbs"))
    assert [caption.text for caption in verbs.captions if not said.search(caption.text)] == []
    others = retrieval_clips(stage, CaptionSettings(test_pairs=60))
    assert [caption.text for caption in others.captions if said.search(caption.text)] == []
    objects = retrieval_clips(stage, CaptionSettings(test_pairs=20, held_out="objects"))
    assert {name.noun for names in objects.names for name in names} == set(HELD_OUT_SHAPES)
    assert not set(HELD_OUT_SHAPES) & set(training_shapes())
    plain = retrieval_clips(stage, CaptionSettings(test_pairs=20, verbs="plain", primitives=("T.left", "T.right")))
    assert all("moves to the" in caption.text for caption in plain.captions)
    for one, two in zip(plain.captions[0::2], plain.captions[1::2], strict=True):
        gist = [re.sub("(left|right).*", r"\1", text.text) for text in (one, two)]
        assert gist[0] == flip_words(gist[1])


def data(**settings: Any) -> SyntheticMotion:
    values = {"clip": ClipSettings(frames=8, size=16, repeat=2), "batch_size": 8, "train_videos": 30, "val_videos": 13}
    captions = CaptionSettings(test_pairs=5, wordings=3)
    return SyntheticMotion(**{**values, "probe_samples": 10, "captions": captions, **settings})


def test_batches_carry_captions() -> None:
    module = data()
    loader = module.train_dataloader()
    texts: list[dict[int, str]] = []
    for epoch in range(4):
        loader.batches.sampler.set_epoch(epoch)
        texts.append({})
        for batch in loader:
            assert batch.stream("video").data.shape == (8, 2, 8, 16, 16, 3)
            assert len(batch.text().first) == 8
            assert batch.extra["signature"].dtype == torch.int64
            texts[-1].update(zip(batch.index.tolist(), batch.text().first, strict=True))
    # Wordings take turns from epoch to epoch.
    both = texts[0].keys() & texts[3].keys()
    assert {texts[0][k] == texts[3][k] for k in both} == {True}
    both = texts[0].keys() & texts[1].keys()
    assert any(texts[0][k] != texts[1][k] for k in both)
    made = captioned_clips(30, Stage(8, 16, "train", 0, ["black"]), CaptionSettings())
    assert all(made.captions[k].text == text for k, text in texts[0].items())
    assert module.class_names == list(PRIMITIVES)
    tested = list(module.test_dataloader())
    assert sum(len(batch.text().first) for batch in tested) == 10
    assert len(torch.cat([batch.extra["signature"] for batch in tested]).unique()) == 10
    assert sum(len(batch.text().first) for batch in module.val_dataloader()) == 13
    assert sum(len(batch.text().first) for batch in module.probe_dataloader()) == 10


def test_captions_of_objects_only_and_none_at_all() -> None:
    objects = data(captions=CaptionSettings(text="object", test_pairs=5))
    batch = next(iter(objects.train_dataloader()))
    for text in batch.text().first:
        assert re.fullmatch(r"an? \w+ \w+( and an? \w+ \w+)?", text), text
    # Test clips still describe the motion.
    assert any("moves" in text or "ing" in text for text in next(iter(objects.test_dataloader())).text().first)
    silent = next(iter(data(captions=None).train_dataloader()))
    assert silent.kinds == {"video": "video"}
    assert silent.extra.keys() == {"object", "background"}


@pytest.mark.slow
def test_batches_do_not_depend_on_workers() -> None:
    alone = list(data().train_dataloader())
    for workers in (1, 4):
        for one, other in zip(alone, data(reading=LoadSettings(workers)).train_dataloader(), strict=True):
            assert one.text().first == other.text().first
            assert torch.equal(one.stream("video").data, other.stream("video").data)
            assert torch.equal(one.index, other.index)
            assert torch.equal(one.extra["signature"], other.extra["signature"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip": ClipSettings(frames=8, size=16, clips=2)}, "data.clip.clips"),
        ({"scene": SceneSettings(objects=False)}, "data.scene.objects"),
        ({"captions": CaptionSettings(primitives=("C.zigzag",)), "clip": ClipSettings(frames=4, size=16)}, "4 frames"),
        ({"captions": CaptionSettings(primitives=("P.still",))}, "backwards"),
        ({"captions": CaptionSettings(wordings=0)}, "wordings"),
        ({"captions": CaptionSettings(primitives=("Q",))}, "'Q'"),
    ],
)
def test_impossible_settings_name_what_to_change(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message.replace(".", r"\.")):
        data(**settings)


def test_too_many_pairs_are_refused() -> None:
    with pytest.raises(SettingError, match=r"test_pairs is 60"):
        retrieval_clips(Stage(4, 16, "val", 0), CaptionSettings(primitives=("Z.grow",), test_pairs=60))


def test_the_command_writes_videos_and_captions(tmp_path: Path) -> None:
    main(
        ["synthesise", f"--out={tmp_path}", "--captions=true", "--train_videos=5", "--val_videos=3", "--frames=8", "--size=32"]
    )
    lines = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    assert [line["video"] for line in lines] == [f"{s}/{k:05d}.mp4" for s, n in (("train", 5), ("val", 3)) for k in range(n)]
    made = captioned_clips(5, Stage(8, 32, "train", 0, ["texture"]), CaptionSettings())
    assert [line["caption"] for line in lines[:5]] == [caption.text for caption in made.captions]
    for line in lines:
        assert line.keys() == {"video", "caption", "signature", "objects", "clauses"}
        assert all(0 <= clause["time"][0] < clause["time"][1] <= 1 for clause in line["clauses"])
        with av.open(str(tmp_path / line["video"])) as container:
            assert sum(1 for _ in container.decode(video=0)) == 8
