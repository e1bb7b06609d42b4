"""Captioned motion: captions are true of their clip, also after flips, crops or reversal."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import fields
from itertools import pairwise
from typing import get_args

import pytest
import torch
from torch import Tensor

from modules.core.errors import SettingError
from modules.language.captions import Captioner, Name, tell
from modules.language.facts import Facts, clip_facts, name_heading, name_region
from modules.language.grammar import IN_SIGHT, NOTHING, Clause, Verbs, flip_words
from modules.language.measurements import visible_share
from modules.language.relations import relation_facts
from modules.language.tokenizers import clean, lexicon_pieces
from modules.motion.choreography import NUMBERS, ScriptSettings, draw_scripts, drawable, uniform_numbers
from modules.motion.primitives import MIRRORED, PHASES, PRIMITIVES, RECIPES, RELATIONS, REVERSED, REVERSIBLE, TURNS
from modules.motion.render import paste
from modules.motion.scripts import MOMENTS, Script

STILL_CUP = 8495453116198792049
NAMES = [Name("cup", "red"), Name("half_disc", "green")]
SQUARE, WIDE = (1, 1), (180, 320)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Many small operations: on a busy machine, a second thread costs more than it gains."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scripts(count: int, frames: int = 8, seed: int = 0, picture: tuple[int, int] = SQUARE, **settings: object) -> Script:
    chosen = ScriptSettings(**settings)  # type: ignore[arg-type]
    return draw_scripts(uniform_numbers(count, generator(seed)), frames, picture, chosen)


def of_topic(name: str, count: int, frames: int = 8, seed: int = 0, picture: tuple[int, int] = SQUARE) -> Script:
    topic = torch.full((count,), PRIMITIVES.index(name))
    return draw_scripts(uniform_numbers(count, generator(seed)), frames, picture, ScriptSettings(), topic)


def facts_of(script: Script, name: str) -> list[Facts]:
    return relation_facts(script) if name in RELATIONS else [clip[0][0] for clip in clip_facts(script)]


@pytest.mark.parametrize("group", sorted({name[0] for name in PRIMITIVES}))
def test_what_is_drawn_is_what_is_measured(group: str) -> None:
    """200 draws of each primitive: it holds, and no other of the kinds that exclude each other."""
    rivals = [
        {f"T.{k}" for k in ()} | {p for p in PRIMITIVES if p[:2] == kind} for kind in ("T.", "R.", "Z.", "P.", "V.", "K.")
    ]
    rivals += [{"S.slow", "S.fast"}, {"S.steady", "S.faster", "S.slower"}, {"D.short", "D.long"}, set(RELATIONS)]
    rivals += [{p for p in PRIMITIVES if p.startswith("C.")}]
    for number, name in enumerate(p for p in PRIMITIVES if p[0] == group):
        kind = next((rival for rival in rivals if name in rival), {name})
        for facts in facts_of(of_topic(name, 200, seed=number), name):
            assert kind & facts.keys() == {name}, facts


@pytest.mark.slow
@pytest.mark.parametrize(("frames", "picture"), [(4, SQUARE), (16, WIDE), (8, (320, 180)), (32, SQUARE)])
def test_measured_as_drawn_in_other_frames(frames: int, picture: tuple[int, int]) -> None:
    for name in drawable(frames):
        assert all(name in facts for facts in facts_of(of_topic(name, 200, frames, 1, picture), name)), name


def test_four_frames_cannot_show_everything() -> None:
    assert {"C.zigzag", "R.full", "R.rock", "C.loop", "P.stopgo"} & set(drawable(4)) == set()
    assert set(drawable(8)) == set(PRIMITIVES)
    assert (scripts(300, frames=4).topic[:, 0, 1:] < 0).all()
    # Rotation per frame stays below what can be told from rotation the other way.
    for frames in (4, 8, 16):
        record = scripts(500, frames).at(frames, (32, 32))
        assert record.angle.diff(dim=2).abs().max() < 60


def heads(script: Script) -> list[list[str]]:
    return [[clause.head for clause in clauses] for clauses in tell(script)]


def test_clips_tell_what_they_were_drawn_as_in_the_order_of_time() -> None:
    script = scripts(800, seed=3)
    phases = torch.tensor([len(clip) for clip in heads(script)])
    assert (phases >= 1).all()
    for clauses, topics, relation in zip(tell(script), script.topic.tolist(), script.relation.tolist(), strict=True):
        if relation >= 0:
            assert [clause.head for clause in clauses] == [RELATIONS[relation]]
            continue
        drawn = [PRIMITIVES[topic] for row in topics for topic in row if topic >= 0]
        said = [clause.head for clause in clauses]
        # Equal neighbours are told once.
        assert said == drawn or (len(said) < len(drawn) and set(said) <= set(drawn))
        if script.objects[0] == 1:
            assert all(a.span[1] <= b.span[0] for a, b in pairwise(clauses) if a.objects == b.objects)
        if len({clause.objects for clause in clauses}) == 2:
            assert max(clause.span[0] for clause in clauses) < min(clause.span[1] for clause in clauses)
    share = (script.topic[:, 0] >= 0).sum(1)[(script.objects == 1)].bincount(minlength=4)[1:] / (script.objects == 1).sum()
    assert torch.allclose(share, torch.tensor([0.5, 0.3, 0.2]), atol=0.06)
    assert abs((script.relation >= 0).float().mean() - 0.15) < 0.03
    assert abs((script.objects == 2).float().mean() - 0.3) < 0.04


def test_primitives_are_balanced() -> None:
    drawn = scripts(3000, seed=4, phases=(1, 0, 0), relations=0, together=0).topic[:, 0, 0].bincount(minlength=len(RECIPES))
    expected = 3000 / len(RECIPES)
    assert ((drawn - expected) ** 2 / expected).sum() < 2 * len(RECIPES)


@pytest.mark.parametrize("picture", [SQUARE, WIDE])
def test_objects_stay_in_sight_unless_they_come_or_go(picture: tuple[int, int]) -> None:
    script = scripts(1500, seed=5, picture=picture)
    at_border = torch.tensor([name.startswith("V.") for name in PRIMITIVES])
    comes = (at_border[script.topic.clamp_min(0)] & (script.topic >= 0)).any(-1)
    there = script.opacity[..., 0] > 0
    seen = visible_share(script)
    assert seen[there & ~comes].min() > 0.6
    assert (seen[comes & there].amin(-1) == 0).all()
    assert (seen[comes & there].amax(-1) > 0.6).all()


# What a text says, read by a rule that knows nothing of how it was made.
WAYS = {"right": (1, 0), "rightward": (1, 0), "left": (-1, 0), "leftward": (-1, 0)}
WAYS |= {"up": (0, -1), "upward": (0, -1), "top": (0, -1), "down": (0, 1), "downward": (0, 1), "bottom": (0, 1)}
ASCENDING = {"rises", "rising", "ascends", "lifts", "lifting", "climbs", "climbing", "rise", "climb", "ascending", "ascent"}
DESCENDING = {"falls", "falling", "drops", "dropping", "descends", "descending", "subsides", "fall", "drop", "descent"}
DESCENDING |= {"sinks", "sinking", "plunges", "plunging", "subsiding"}


def ways_in(text: str) -> set[tuple[int, int]]:
    text = re.sub(r" (and )?(starting|coming from|leaving|ending|reaching|arriving).*", "", text)
    words = set(re.findall("[a-z]+", re.sub(r"(speeds?|speeding|picks?|picking|slows?|slowing) (up|down)", "", text)))
    ways = {WAYS[word] for word in words if word in WAYS}
    return ways | ({(0, -1)} if words & ASCENDING else set()) | ({(0, 1)} if words & DESCENDING else set())


@pytest.mark.parametrize("verbs", ["plain", "lexicon", "held_out"])
def test_the_directions_in_a_text_are_those_of_the_motion(verbs: str) -> None:
    captioner = Captioner(verbs)  # type: ignore[arg-type]
    for number in range(8):
        script = of_topic(PRIMITIVES[number], 60, seed=20 + number)
        for turned in (script, script.flip(), script.reverse()):
            moved = turned.centre[:, 0, -1] - turned.centre[:, 0, 0]
            # A way is named where the motion is within 22.5 degrees of it, and both on a diagonal.
            expected = (moved / moved.norm(dim=-1, keepdim=True) / math.sin(math.radians(22.5))).trunc().clamp(-1, 1)
            for caption, (dx, dy) in zip(captioner(turned, [NAMES] * 60), expected.tolist(), strict=True):
                wanted = ({(int(dx), 0)} if dx else set()) | ({(0, int(dy))} if dy else set())
                assert ways_in(caption.text) == wanted, caption.text


def test_a_mirrored_clip_has_the_mirrored_caption() -> None:
    script = scripts(600, seed=6)
    captioner = Captioner()

    def same(text: str) -> str:
        return text.replace("anticlockwise", "counterclockwise")

    plain, flipped = (captioner(s, [NAMES] * 600) for s in (script, script.flip()))
    assert sum(a.text != b.text for a, b in zip(plain, flipped, strict=True)) > 300
    for a, b in zip(plain, flipped, strict=True):
        assert same(flip_words(a.text)) == same(b.text)
        assert same(a.text) == same(flip_words(b.text))
    back = script.flip().flip()
    for entry in fields(script):
        assert torch.allclose(getattr(back, entry.name).double(), getattr(script, entry.name).double(), atol=1e-6)
    mirrored = script.flip()
    for name in ("size", "opacity", "span", "objects", "relation", "seed", "extent"):
        assert torch.equal(getattr(mirrored, name), getattr(script, name))
    assert torch.equal(mirrored.centre[..., 1], script.centre[..., 1])


def test_flipping_the_record_flips_the_picture() -> None:
    script = scripts(24, seed=7)
    frames = torch.randint(0, 256, (24, 6, 32, 32, 3), generator=generator(1), dtype=torch.uint8)
    alpha = torch.rand(24, 2, 16, 16, 1, generator=generator(2))
    colour = torch.rand(24, 2, 16, 16, 3, generator=generator(3))
    texture = (torch.cat([colour * alpha, alpha], dim=-1) * 255).round().to(torch.uint8)
    straight = paste(frames, script.at(6, (32, 32)), texture)
    mirrored = paste(frames.flip(3), script.flip().at(6, (32, 32)), texture.flip(3))
    assert (straight.flip(3).int() - mirrored.int()).abs().max() <= 1
    assert (straight != frames).any()
    # No pixel beyond the boxes has changed.
    record = script.at(6, (32, 32))
    reach = record.size.norm(dim=-1)[..., None, None] / 2 + 1
    axis = torch.arange(32) + 0.5
    far = (record.centre[..., 0, None, None] - axis).abs().maximum((record.centre[..., 1, None, None] - axis[:, None]).abs())
    outside = ((far > reach) | (record.opacity[..., None, None] == 0)).all(1)
    assert torch.equal(straight[outside], frames[outside])


def test_backwards_is_the_other_primitive() -> None:
    for number, name in enumerate(REVERSIBLE):
        script = of_topic(name, 30, seed=40 + number)
        other = PRIMITIVES[REVERSED[PRIMITIVES.index(name)]]
        forwards, backwards = tell(script), tell(script.reverse())
        assert all(clauses[0].head == other for clauses in backwards), name
        for one, two in zip(forwards, backwards, strict=True):
            assert one[0].facts != two[0].facts
    script = scripts(50, seed=8)
    assert torch.equal(script.reverse().at(9, (32, 32)).centre, script.at(9, (32, 32)).centre.flip(2))


def test_crops_change_what_is_said() -> None:
    """An object that crosses the border of the crop leaves, what lies outside is not told, and directions stay."""
    script = of_topic("T.right", 1)
    script.centre[0, 0] = torch.stack([torch.linspace(0.2, 0.8, MOMENTS), torch.full((MOMENTS,), 0.25)], dim=-1)
    script.size[:], script.span[0, 0, 0] = 0.15, torch.tensor([0.0, 1.0])

    def heard(*window: float) -> str:
        return Captioner("plain", full_names=True)(script.crop(torch.tensor([window])), [NAMES])[0].text

    assert heard(0, 0, 1, 1).startswith("a red cup moves to the right")
    assert heard(0, 0, 0.5, 0.5) == "a red cup leaves at the right"
    assert heard(0.5, 0, 1, 0.5) == "a red cup enters from the left"
    assert heard(0, 0.5, 0.5, 1) == "nothing moves in sight"
    assert "to the right" in heard(0.05, 0.1, 0.95, 1)
    # Twice as near, motion is twice as fast: 0.6 and then 1.2 lengths of the frame per clip.
    assert "S.fast" not in facts_of(script, "T.right")[0]
    wide = script.crop(torch.tensor([[0.1, 0.0, 0.9, 0.4]]))
    assert torch.allclose(wide.extent, torch.tensor([[2.0, 1.0]]))
    assert "S.fast" in facts_of(wide, "T.right")[0]


def random_crops(count: int, seed: int) -> Script:
    corner = torch.rand(count, 2, generator=generator(1)) * 0.4
    return scripts(count, seed=seed).crop(torch.cat([corner, corner + 0.6], dim=1))


def check_facts(script: Script, told: list[list[Clause]]) -> None:
    """Every clause of one object is measured again, on a script whose only phase is the clause's own span."""
    relations = relation_facts(script)
    for number, clauses in enumerate(told):
        for clause in clauses:
            if clause.head in RELATIONS:
                assert clause.facts.items() <= relations[number].items()
            elif clause.facts != {"M.move": IN_SIGHT}:
                alone = script.select(torch.tensor([number]))
                alone.span = torch.zeros_like(alone.span)
                alone.span[0, clause.objects[0], 0] = torch.tensor(clause.span)
                known = clip_facts(alone)[0][clause.objects[0]][0]
                assert clause.facts.items() <= known.items(), (clause, known)


def test_nothing_untrue_is_said_of_crops() -> None:
    cropped = random_crops(400, 9)
    told = tell(cropped)
    check_facts(cropped, told)
    assert len({clause.head for clauses in told for clause in clauses}) > 30
    assert all(text.text for text in Captioner()(cropped, [NAMES] * 400))


@pytest.mark.parametrize("frames", [8, 16])
def test_a_clause_about_several_phases_is_true_of_them_together(frames: int) -> None:
    """Two tilts, or two short ways, may add up to more than one: then each is told. What still holds is told once."""
    names = ("T.right", "T.left", "S.slow", "D.short", "R.tilt", "Z.grow", "Z.shrink")
    script = scripts(300, frames, seed=31, phases=(0, 1, 1), relations=0, together=0, primitives=names)
    told = tell(script)
    check_facts(script, told)
    ends = [{end for _, end in spans[0]} for spans in script.span.tolist()]
    starts = [{start for start, _ in spans[0]} for spans in script.span.tolist()]
    for clauses, start, end in zip(told, starts, ends, strict=True):
        assert all(clause.span[0] in start and clause.span[1] in end for clause in clauses)
    # Both happen: neighbours that stay apart, and clauses over several phases.
    assert any(a.facts == b.facts for clauses in told for a, b in pairwise(clauses))
    phases = (script.topic[:, 0] >= 0).sum(1).tolist()
    assert any(len(clauses) < count for clauses, count in zip(told, phases, strict=True))


def test_what_moves_in_sight_is_never_denied() -> None:
    """Where nothing exact can be told of a crop, it is told that an object moves, if one does."""
    script = random_crops(400, 9)
    seen = visible_share(script)
    speed = script.centre.diff(dim=2).norm(dim=-1) * (MOMENTS - 1)
    speed = speed.maximum(script.angle.diff(dim=2).abs() * (MOMENTS - 1) / 100)
    speed = speed.maximum(script.size[..., 0].log().diff(dim=2).abs() * (MOMENTS - 1))
    there = (torch.arange(2) < script.objects[:, None])[..., None]
    # Clearly in sight for a tenth of the time, and in sight at all.
    clear = (((speed > 0.1) & (seen[..., 1:] > 0.1) & there).float().mean(-1) > 0.1).any(-1).tolist()
    at_all = ((speed > 0.03) & (seen[..., 1:] > 0) & there).any(-1).tolist()
    captions = {verbs: Captioner(verbs)(script, [NAMES] * 400) for verbs in get_args(Verbs)}
    for own in captions.values():
        for caption, moves, somewhere in zip(own, clear, at_all, strict=True):
            assert (caption.text == NOTHING) == (not caption.clauses)
            assert caption.clauses or not moves
            if caption.signature == "M.move(in sight)":
                assert somewhere[caption.clauses[0].objects[0]]
                assert re.search(r"\b(moves|moving)\b.* in sight$", caption.text), caption.text
    texts = [caption.text for caption in captions["lexicon"]]
    assert 0 < texts.count(NOTHING) < 50
    pieces = set(lexicon_pieces())
    assert {word for text in texts for word in clean(text)} - {"cup"} <= pieces


def test_a_half_seen_object_moves_in_sight() -> None:
    script = of_topic("T.right", 1)
    script.size[:], script.span[0, 0, 0] = 0.2, torch.tensor([0.0, 1.0])

    def heard(x: tuple[float, float], y: float, degrees: float = 0) -> tuple[str, str]:
        script.centre[0, 0] = torch.stack([torch.linspace(*x, MOMENTS), torch.full((MOMENTS,), y)], dim=-1)
        script.angle[0, 0] = torch.linspace(0, degrees, MOMENTS)
        caption = Captioner("plain", full_names=True)(script, [NAMES])[0]
        return caption.text, caption.signature

    moves = ("a red cup moves in sight", "M.move(in sight)")
    assert heard((0.2, 0.8), 0.05)[0].startswith("a red cup moves to the right")
    assert heard((0.2, 0.8), -0.02) == moves
    assert heard((0.5, 0.5), -0.02, degrees=40) == moves
    # At rest, and out of sight.
    assert heard((0.5, 0.5), -0.02) == heard((0.2, 0.8), -0.2) == (NOTHING, "")
    # Of two it is the one in sight, and it is not 'another' one.
    script.objects[:], script.size[0, 1], script.centre[0, 1] = 2, 0.2, script.centre[0, 0] * torch.tensor([1, 0])
    told = [clauses[0].objects for clauses in tell(script)]
    twins = Captioner("plain", full_names=True)(script, [[NAMES[0]] * 2])
    assert (told, twins[0].text) == ([(1,)], moves[0])


def test_words_do_not_depend_on_frames_and_resolution() -> None:
    """The record is continuous: it serves any number of frames and pixels, and the same draws tell the same in wide frames."""
    numbers = uniform_numbers(300, generator(10))
    square, wide = (draw_scripts(numbers, 8, picture, ScriptSettings()) for picture in (SQUARE, WIDE))
    assert heads(square) == heads(wide)
    for script, side, picture in ((square, 64, (64, 64)), (wide, 180, WIDE)):
        for frames in (4, 8, 12, 16):
            record = script.at(frames, picture)
            assert record.centre.shape == (300, 2, frames, 2)
            assert torch.allclose(record.centre[:, :, [0, -1]] / side, script.centre[:, :, [0, -1]], atol=1e-6)
        # Every third of 97 moments.
        record = script.at(33, picture)
        assert torch.allclose(record.centre / side, script.centre[:, :, ::3], atol=1e-5)
        assert torch.allclose(record.size / side, script.size[:, :, ::3], atol=1e-5)
    with pytest.raises(ValueError, match="320"):
        square.at(8, WIDE)


def test_a_clip_is_a_function_of_its_numbers() -> None:
    numbers = uniform_numbers(64, generator(11))
    together = draw_scripts(numbers, 8, SQUARE, ScriptSettings())
    again, some = (draw_scripts(n, 8, SQUARE, ScriptSettings()) for n in (numbers, numbers[5:9]))
    for entry in fields(Script):
        assert torch.equal(getattr(together, entry.name), getattr(again, entry.name))
        assert torch.equal(getattr(together, entry.name)[5:9], getattr(some, entry.name))
    one, other = (Captioner()(script, [NAMES] * 64) for script in (together, again))
    assert [c.text for c in one] == [c.text for c in other]
    assert numbers.shape == (64, NUMBERS)


def test_records_survive_json() -> None:
    script = scripts(5, seed=12)
    back = Script.from_dict(json.loads(json.dumps(script.to_dict())))
    for entry in fields(Script):
        value = getattr(script, entry.name)
        assert getattr(back, entry.name).dtype == value.dtype
        assert torch.equal(getattr(back, entry.name), value)


def test_names_of_headings_and_places() -> None:
    assert [name_heading(angle) for angle in (0, 11.9, -12, 350, 45, 180, -90, 315)] == [
        *("right",) * 4,
        "upright",
        "left",
        "down",
        "downright",
    ]
    assert name_heading(20) is name_heading(-67.5) is None
    assert [name_region(x, y) for x, y in ((0.1, 0.1), (0.5, 0.5), (0.9, 0.5), (0.5, 0.99))] == [
        "top left",
        "middle",
        "right",
        "bottom",
    ]
    assert name_region(0.35, 0.5) is name_region(0.5, 1.1) is None
    assert all(min((a - b) % 8, (b - a) % 8) in (2, 3) for a, b in TURNS)
    # What is mirrored or reversed twice is itself.
    for table in (MIRRORED, REVERSED):
        assert [table[table[k]] for k in range(len(PRIMITIVES))] == list(range(len(PRIMITIVES)))
    assert set(PHASES) <= set(RECIPES)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"primitives": ("T.sideways",)}, "T.sideways"),
        ({"phases": (0, 0, 0)}, "phases"),
        ({"relations": 0.7, "together": 0.6}, "relations"),
        ({"object_size": (0.4, 0.2)}, "object_size"),
    ],
)
def test_impossible_settings_name_what_to_change(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        ScriptSettings(**settings).chosen()  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="more frames"):
        scripts(4, frames=4, primitives=("C.zigzag",))


def test_only_the_chosen_primitives_are_drawn() -> None:
    script = scripts(300, primitives=("T", "Z.grow", "L.hit"))
    seen = {PRIMITIVES[topic] for topic in script.topic.flatten().tolist() if topic >= 0}
    assert seen == {*PRIMITIVES[:8], "Z.grow"}
    assert set(script.relation.tolist()) == {-1, RELATIONS.index("L.hit")}
    # A half turn takes more time than a third of eight frames: such clips show one thing only.
    script = scripts(300, primitives=("R.cw", "R.ccw"))
    seen = {PRIMITIVES[topic] for topic in script.topic.flatten().tolist() if topic >= 0}
    assert seen == {"R.cw", "R.ccw"}
    assert all(clauses for clauses in tell(script))


def test_signatures_name_meanings_and_not_words() -> None:
    script = scripts(400, seed=13)
    first, second = (Captioner()(script, [NAMES] * 400, wording) for wording in (0, 1))
    assert [c.signature for c in first] == [c.signature for c in second]
    assert [c.signature_id for c in first] == [c.signature_id for c in second]
    assert sum(a.text != b.text for a, b in zip(first, second, strict=True)) > 250
    # The same motion of another object is another caption; so is another motion.
    other = Captioner(full_names=True)(script, [[Name("fork"), Name("plate")]] * 400)
    assert not {c.signature_id for c in first} & {c.signature_id for c in other}
    assert all(0 <= c.signature_id < 1 << 63 for c in first)
    # Who does what matters where two do something at the same time.
    both = scripts(300, seed=14, together=1, relations=0, primitives=("T",))
    swapped = [[NAMES[1], NAMES[0]]] * 300
    one, two = (Captioner(full_names=True)(both, names) for names in ([NAMES] * 300, swapped))
    assert all(a.signature == b.signature for a, b in zip(one, two, strict=True))
    same = [a.signature_id == b.signature_id for a, b in zip(one, two, strict=True)]
    assert 0 < sum(same) < 150
    assert all(len(set(a.signature.split(" & "))) == 1 for a, equal in zip(one, same, strict=True) if equal)
    # A fixed number: it must not differ between processes.
    still = Captioner(full_names=True)(of_topic("P.still", 1), [[Name("cup")]])[0]
    assert (still.signature, still.signature_id) == ("P.still", STILL_CUP)


def displacement_of(script: Script) -> Tensor:
    return script.centre[:, :, -1] - script.centre[:, :, 0]


def test_the_first_named_object_lies_on_top() -> None:
    """A covers B in a crossing: the renderer draws object 1 last."""
    script = of_topic("L.cross", 20)
    moved = displacement_of(script).norm(dim=-1)
    assert (moved[:, 1] > 0.3).all()
    assert (moved[:, 0] < 0.01).all()
    captions = Captioner("plain", full_names=True)(script, [NAMES] * 20)
    assert {caption.text for caption in captions} == {"a green half disc passes over a red cup"}
