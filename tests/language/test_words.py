"""The words of captions: the lexicon, the grammar, and paraphrases of a file."""

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from modules.core.errors import SettingError
from modules.language.captions import EXTRAS, TELLING, Captioner, Name, tell
from modules.language.grammar import MAX_WORDS, flip_words, inflect, vocabulary, with_article, word_count
from modules.language.lexicon import HELD_OUT, IMPLIED, MODIFIERS, NOUNS, ROWS, TRANSITIVE
from modules.language.paraphrases import Paraphrases, fault
from modules.language.sentences import canonical
from modules.motion.choreography import ScriptSettings, draw_scripts, uniform_numbers
from modules.motion.primitives import MIRRORED, PRIMITIVES
from modules.motion.scripts import Script

NAMES = [[Name("cup", "red"), Name("half_disc", "orange")]]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Many small operations: on a busy machine, a second thread costs more than it gains."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def scripts(count: int, seed: int = 0, topic: str | None = None) -> Script:
    numbers = uniform_numbers(count, torch.Generator().manual_seed(seed))
    wanted = None if topic is None else torch.full((count,), PRIMITIVES.index(topic))
    return draw_scripts(numbers, 8, (1, 1), ScriptSettings(), wanted)


def test_every_primitive_has_verbs_enough() -> None:
    """At least four each that ask for nothing but what their primitive says; the plain one asks for nothing more."""
    assert set(PRIMITIVES) - ROWS.keys() == {"G.from", "G.to"}
    for name, row in ROWS.items():
        usable = [verb for verb in row.verbs if verb.implies <= {name}]
        assert len(usable) >= 4, name
        assert usable[0] == row.verbs[0], name
        assert not row.verbs[0].held_out, name
        assert len({verb.base for verb in row.verbs}) == len(row.verbs), name
    assert set(IMPLIED.values()) <= set(MODIFIERS)
    assert set(EXTRAS) <= set(MODIFIERS)
    assert {name for name in ROWS if not name.startswith(("G.", "S.", "D.", "P.", "L.", "C.straight"))} | {"P.still"} == {
        name for prefix in TELLING for name in ROWS if name.startswith(prefix)
    }


def test_held_out_verbs_are_a_share_of_most_rows_and_of_no_training_caption() -> None:
    every = {verb.base for row in ROWS.values() for verb in row.verbs}
    assert every >= HELD_OUT
    assert 0.12 < len(HELD_OUT) / len(every) < 0.18
    without = [name for name, row in ROWS.items() if not any(verb.held_out for verb in row.verbs)]
    assert len(without) < 0.35 * len(ROWS)
    assert not any(name.startswith(("T.", "R.c", "V.", "K.")) for name in without)
    # No word of a held-out verb appears in any other verb or phrase, so that training never shows it.
    first = {base.split()[0] for base in HELD_OUT}
    forms = {inflect(word, form) for word in first for form in ("finite", "gerund", "plural")}
    forms |= {NOUNS[base] for base in HELD_OUT if base in NOUNS}
    script = scripts(1000, seed=1)
    trained = [caption.text for verbs in ("plain", "lexicon") for caption in Captioner(verbs)(script, NAMES * 1000)]
    assert not forms & {word for text in trained for word in re.findall("[a-z]+", text)}
    tested = [caption.text for caption in Captioner("held_out")(script, NAMES * 1000)]
    assert sum(bool(forms & set(re.findall("[a-z]+", text))) for text in tested) > 0.75 * 1000
    assert not HELD_OUT & {"move", "turn", "grow"}
    assert every >= TRANSITIVE


def test_ten_thousand_captions_use_known_words_only() -> None:
    words = set(vocabulary(("cup", "half disc", "red", "orange")))
    script = scripts(500)
    told = tell(script)
    texts = []
    for verbs in ("plain", "lexicon", "held_out"):
        for wording in range(1 if verbs == "plain" else 10):
            texts += [caption.text for caption in Captioner(verbs)(script, NAMES * 500, wording, told)]  # type: ignore[arg-type]
    assert len(texts) > 10_000
    for text in texts:
        assert re.fullmatch(r"[a-z]+(,? [a-z]+)*", text), text
        assert word_count(text) <= MAX_WORDS
        assert set(text.replace(",", "").split()) <= words, text
    assert len(set(texts)) > 5000
    # Most words are in use, so that the vocabulary has no ballast.
    assert len({word for text in texts for word in text.replace(",", "").split()}) > 0.8 * len(words)


def test_every_row_can_be_said_in_every_register() -> None:
    seen = set()
    for number, name in enumerate(PRIMITIVES):
        for caption in Captioner()(scripts(20, 60 + number, name), NAMES * 20):
            text = caption.text
            seen.add("gerund" if re.match(r"((red|small|large) )?\w+( \w+)?( \w+)? ?\w*ing\b", text) else "finite")
            if re.match(r"an? \w+( \w+)* of ", text):
                seen.add("noun phrase")
            # The plain wording is one per meaning, with its slots for objects.
            plain = canonical(caption.clauses)
            assert set(re.findall(r"\{\w\}", plain)) == ({"{a}", "{b}"} if name.startswith("L.") else {"{o}"})
    assert seen == {"gerund", "finite", "noun phrase"}


@pytest.mark.parametrize(
    ("verb", "finite", "gerund"),
    [
        ("slide", "slides", "sliding"),
        ("go up", "goes up", "going up"),
        ("rush", "rushes", "rushing"),
        ("pass over", "passes over", "passing over"),
        ("fly off", "flies off", "flying off"),
        ("sway", "sways", "swaying"),
        ("stop and go on", "stops and goes on", "stopping and going on"),
        ("go back and forth", "goes back and forth", "going back and forth"),
        ("see", "sees", "seeing"),
        ("veer", "veers", "veering"),
        ("travel", "travels", "travelling"),
    ],
)
def test_inflection(verb: str, finite: str, gerund: str) -> None:
    assert inflect(verb, "finite") == finite
    assert inflect(verb, "gerund") == gerund
    assert inflect(verb, "plural") == verb


def test_verbs_take_in_what_they_imply() -> None:
    """Nothing is said twice, and no verb says what is not so."""
    fast = {verb.base for row in ROWS.values() for verb in row.verbs if "S.fast" in verb.implies}
    words = {inflect(base, form).split()[0] for base in fast for form in ("finite", "gerund")}
    adverbs = {phrase.split()[-1] for phrase in MODIFIERS["S.fast"]}
    for script in (scripts(600, 2), scripts(300, 3, "S.fast")):
        for caption in Captioner()(script, NAMES * len(script.seed)):
            facts = [name for clause in caption.clauses for name in clause.facts]
            said = re.findall("[a-z]+", caption.text)
            if "S.fast" not in facts:
                assert (
                    not (words | {"fast", "quickly"}) & set(said)
                    or "starts fast" in caption.text
                    or "starting fast" in caption.text
                )
            elif all(name.startswith(("T.", "S.fast")) for name in facts):
                assert len([word for word in said if word in words | adverbs]) == facts.count("S.fast"), caption.text


def test_flipped_words() -> None:
    text = "a cup slides leftward, then turns clockwise and finally ends at the top right"
    flipped = "a cup slides rightward, then turns counterclockwise and finally ends at the top left"
    assert flip_words(text) == flipped
    assert flip_words(flipped) == text
    assert flip_words("spinning anticlockwise") == "spinning clockwise"
    # No word of the lexicon is swapped by accident: rows of mirror images have the same words, up to the swap.
    for number, name in enumerate(PRIMITIVES):
        if name in ROWS:
            mirror = ROWS[PRIMITIVES[MIRRORED[number]]]
            assert [verb.base for verb in ROWS[name].verbs] == [verb.base for verb in mirror.verbs]
            assert [flip_words(template) for template in ROWS[name].templates] == list(mirror.templates)


def test_articles_and_equal_names() -> None:
    said = ["a cup", "an orange cup", "an object", "a unicycle", "an umbrella", "an hourglass", "a horse", "a ukulele"]
    assert [with_article(text.split(" ", 1)[1]) for text in said] == said
    script = scripts(60, 4, "L.hit")
    for caption in Captioner(full_names=True)(script, [[Name("cup")] * 2] * 60):
        assert re.match(r"(a|the) cup \w+( \w+)? another cup, which then moves ", caption.text), caption.text


@pytest.mark.parametrize(
    ("template", "signature", "reason"),
    [
        ("{o} shoots upward", "T.up+S.fast", None),
        ("{o} goes down", "T.up", "opposite direction"),
        ("{o} falls", "T.up", "opposite direction"),
        ("{o} slides rightward", "T.left", "opposite direction"),
        ("{o} climbs down and to the left", "T.upleft", "opposite direction"),
        ("{o} turns anticlockwise", "R.cw", "opposite direction"),
        ("{o} turns counter-clockwise", "R.cw", "opposite direction"),
        ("{o} turns anti-clockwise", "R.cw", "opposite direction"),
        ("{o} turns counter clockwise", "R.cw", "opposite direction"),
        ("{o} turns counter-clockwise", "R.ccw", None),
        ("{o} circles counter-clockwise", "C.loop(clockwise)", "opposite direction"),
        ("{o} heads to the lower left corner", "T.upleft", "opposite direction"),
        ("{o} heads to the upper left corner", "T.downleft", "opposite direction"),
        ("{o} shrinks", "Z.grow", "opposite direction"),
        ("{o} grows smaller", "Z.grow", "opposite direction"),
        ("{o} slowly slides to the right", "S.fast+T.right", "opposite direction"),
        ("{o} picks up speed as it moves down", "S.faster+T.down", None),
        ("{o} moves up and later falls", "T.up | T.down", None),
        ("{o} rises upward, then falls downward", "T.up | T.down", None),
        ("{o} moves leftward starting at the right side", "G.from(right)+T.left", "opposite direction"),
        ("{a} overtakes {b} on its way up", "L.pass(up)", None),
        ("{a} overtakes {b} on its way down", "L.pass(up)", "opposite direction"),
        ("{a} overtakes", "L.pass(up)", "slots"),
        ("{o} moves and {o} moves and {o} moves", "T.up", "slots"),
        ("{o} moves {dir}", "T.up", "slots"),
        ("{o} levitates", "T.up", "unknown verb"),
        ("{o} moves up " + "very " * 30, "T.up", "too long"),
    ],
)
def test_paraphrases_are_checked(template: str, signature: str, reason: str | None) -> None:
    assert fault(template, signature) == reason


def test_every_opposite_is_refused() -> None:
    """The plain caption of a motion is no paraphrase of the opposite one, whatever the primitive."""
    for number, name in enumerate(("T.right", "T.up", "T.upleft", "T.down", "R.cw", "R.ccw", "Z.grow", "V.enter", "L.apart")):
        script = scripts(20, 80 + number, name)
        for one, two in zip(tell(script), tell(script.reverse()), strict=True):
            meaning = "+".join(one[0].signature().split("+"))
            assert fault(canonical(two), meaning) is not None, (canonical(two), meaning)


def test_a_file_of_paraphrases(tmp_path: Path) -> None:
    path = tmp_path / "more.jsonl"
    entries = [
        {
            "signature": "P.still",
            "canonical": "{o} stays in place",
            "paraphrases": ["{o} sits still", "{o} rests in place"] * 2,
        },
        {
            "signature": "T.up",
            "paraphrases": ["{o} levitates", "{o} goes down", "{o} moves skyward"],
            "allowed_extra": ["levitates"],
        },
        {"signature": "L.apart", "paraphrases": ["{a} and {b} part ways", "{a} leaves"]},
    ]
    entries[0]["allowed_extra"] = ["sits still"]
    path.write_text("\n".join(json.dumps(entry) for entry in entries))
    read = Paraphrases(str(path))
    assert read.templates == {
        "P.still": ["{o} sits still", "{o} rests in place"],
        "T.up": ["{o} levitates"],
        "L.apart": ["{a} and {b} part ways"],
    }
    assert read.dropped == {"repeated": 2, "opposite direction": 1, "unknown verb": 1, "slots": 1}
    assert read.sentence("L.apart", ["cup", "arrow"], random.Random(0)) == "an arrow and a cup part ways"
    assert read.sentence("L.apart", ["cup", "cup"], random.Random(0)) == "a cup and another cup part ways"
    assert read.sentence("T.down", ["cup"], random.Random(0)) is None
    captioner = Captioner(paraphrases=str(path), full_names=True)
    texts = [caption.text for caption in captioner(scripts(200, 5, "P.still"), [[Name("cup")]] * 200)]
    assert 0.15 < sum(text == "a cup sits still" for text in texts) / 200 < 0.35


def test_files_that_cannot_be_read_say_so(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"nowhere\.jsonl"):
        Captioner(paraphrases=str(tmp_path / "nowhere.jsonl"))
    (tmp_path / "bad.jsonl").write_text('{"signature": "T.up", "paraphrases": ["{o} rises"]}\n{"signature": "T.up"}\n')
    with pytest.raises(SettingError, match="line 2"):
        Captioner(paraphrases=str(tmp_path / "bad.jsonl"))
