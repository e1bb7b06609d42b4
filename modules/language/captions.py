"""Captions of motion: selection of facts, their wording, and comparison of meanings.

The facts of a caption are selected from those measured on the final record, so they are true of the clip after all flips and
crops. The grammar is this project's; LocoMotion's (https://arxiv.org/abs/2410.12018) is not public. A flipped script gives the
flipped caption, word by word.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch

from modules.language.facts import Facts, clip_facts
from modules.language.grammar import IN_SIGHT, MAX_WORDS, Clause, Speaker, Verbs, word_count
from modules.language.measurements import spans_in_sight
from modules.language.paraphrases import Paraphrases
from modules.language.relations import relation_facts
from modules.language.sentences import sentence, signature
from modules.motion.primitives import PRIMITIVES, RELATIONS
from modules.motion.scripts import Script

KEEP, KEEP_USUAL = 0.7, 0.15
"""Probability of mentioning an optional fact, and one that is true of most motions."""
USUAL = ("C.straight", "S.steady")
TRIES = 8
GENERIC_NOUN = 0.15
COLOUR, SIZE = 0.7, 0.5
SMALL, LARGE = 0.2, 0.35

# fmt: off
TELLING = (
    "V.enter", "V.leave", "K.roll", "K.flyaway", "K.spinmove", "C.bounce", "C.jump", "C.turn", "C.return", "C.shuttle",
    "C.loop", "C.zigzag", "C.curve", "R.full", "R.rock", "R.cw", "R.ccw", "R.tilt", "Z.pulse", "T.", "Z.grow", "Z.shrink",
    "P.still", "M.move",
)
# fmt: on
"""Facts for a phase whose own primitive is not true, in order of preference."""
NEEDS_DIRECTION = ("S.", "D.", "G.", "P.start", "P.stop", "P.stopgo", "C.straight", "C.curve", "C.zigzag")
SPEEDS = ("S.slow", "S.fast")
EXTRAS = ("S.slow", "S.fast", "S.steady", "S.faster", "S.slower", "D.short", "D.long", "C.straight", "G.from", "G.to")


@dataclass
class Caption:
    """The caption of one clip.

    Args:
        text: caption in lower case, without punctuation except commas.
        signature: the meaning, the same for all wordings.
        signature_id: 63-bit hash of the signature and the words for the objects; captions with equal ids are not negatives.
        clauses: clauses of the caption.
    """

    text: str
    signature: str
    signature_id: int
    clauses: list[Clause]


@dataclass
class Name:
    """Name of an object: a noun, and optionally a colour."""

    noun: str
    colour: str = ""

    def full(self) -> str:
        """Colour and noun."""
        return f"{self.colour} {self.noun.replace('_', ' ')}".strip()


class Captioner:
    """Writes captions of scripts.

    Args:
        verbs: plain uses one verb and one phrase per meaning; lexicon all verbs except the held-out ones; held_out those.
        paraphrases: JSON lines of further wordings (see `modules.language.paraphrases`), used half of the time if the meaning
            is in the file; null disables this.
        full_names: always name an object by colour and noun; otherwise, it is sometimes only 'object', or small or large.
    """

    def __init__(self, verbs: Verbs = "lexicon", paraphrases: str | None = None, full_names: bool = False) -> None:
        self.verbs = verbs
        self.full_names = full_names
        self.paraphrases = None if paraphrases is None else Paraphrases(paraphrases)

    def __call__(
        self,
        script: Script,
        names: Sequence[Sequence[Name]],
        wording: int = 0,
        told: list[list[Clause]] | None = None,
    ) -> list[Caption]:
        """One caption per clip.

        Args:
            script: final motion.
            names: names of the objects of each clip.
            wording: other numbers give other wordings of the same meaning.
            told: the clauses of each clip, `tell(script)`, if already computed.
        """
        told = tell(script) if told is None else told
        sides = script.size.mean((2, 3)).tolist()
        captions = []
        for clauses, seed, own, size in zip(told, script.seed.tolist(), names, sides, strict=True):
            subjects = _subjects(random.Random(f"subjects {seed}"), own, size, clauses)
            if self.full_names:
                subjects = [name.full() for name in own]
            captions.append(self._caption(clauses, own, subjects, f"words {seed} {wording}"))
        return captions

    def _caption(self, clauses: list[Clause], names: Sequence[Name], subjects: list[str], stream: str) -> Caption:
        rng = random.Random(stream)
        meaning = signature(clauses)
        text = None
        if self.paraphrases is not None and rng.random() < 0.5:
            text = self.paraphrases.sentence(meaning, subjects, rng)
        for _ in range(TRIES):
            if text is not None and word_count(text) <= MAX_WORDS:
                break
            text = sentence(clauses, subjects, Speaker(rng, self.verbs))
        if text is None or word_count(text) > MAX_WORDS:
            # The meaning must not depend on the choice of words.
            text = sentence(clauses, [name.noun.replace("_", " ") for name in names], Speaker(rng, "plain", brief=True))
        said = [f"{c.signature()} of {' and '.join(subjects[number] for number in c.objects)}" for c in clauses]
        return Caption(text, meaning, stable_hash(" | ".join(sorted(said) if " & " in meaning else said)), clauses)


def stable_hash(text: str) -> int:
    """63-bit hash, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def _subjects(rng: random.Random, names: Sequence[Name], sides: list[float], clauses: list[Clause]) -> list[str]:
    """Nouns with at most one attribute, without an article."""
    facts = [fact for clause in clauses for fact in clause.facts.items()]
    changes = any(name.startswith(("Z.", "K.flyaway")) or values == IN_SIGHT for name, values in facts)
    subjects = []
    for name, side in zip(names, sides, strict=False):
        generic, coloured, sized = rng.random() < GENERIC_NOUN, rng.random() < COLOUR, rng.random() < SIZE
        noun = "object" if generic else name.noun.replace("_", " ")
        size = "" if changes or len(names) > 1 else "small" if side <= SMALL else "large" if side >= LARGE else ""
        attribute = name.colour if name.colour and coloured else size if sized else ""
        subjects.append(f"{attribute} {noun}".strip())
    return subjects


def tell(script: Script) -> list[list[Clause]]:
    """Clauses of each clip, in order of time; for two objects without a relation, they may be at the same time."""
    related = (script.relation >= 0).nonzero()[:, 0]
    relations = dict(zip(related.tolist(), relation_facts(script.select(related)), strict=True))
    columns = (clip_facts(script), script.topic.tolist(), script.relation.tolist(), script.span.tolist(), script.seed.tolist())
    told = []
    for number, (facts, topics, relation, spans, seed) in enumerate(zip(*columns, strict=True)):
        rng = random.Random(f"facts {seed}")
        known = relations.get(number, {})
        wanted = RELATIONS[relation] if relation >= 0 else ""
        if wanted in known:
            told.append([Clause(wanted, {wanted: known[wanted]}, (1, 0), (0.0, 1.0))])
            continue
        clauses = []
        # With three phases, only one may have an additional fact, because more would not fit into a caption.
        favoured = rng.randrange(3)
        for who, phases in enumerate(facts):
            # Spans without duration are unused phases, which have no facts.
            there = [k for k, (start, end) in enumerate(spans[who]) if end > start]
            for known_facts, k in zip(phases, there, strict=True):
                budget = 0 if len(facts) > 1 else (2, 1, int(k == favoured))[len(there) - 1]
                topic = PRIMITIVES[topics[who][k]] if topics[who][k] >= 0 else ""
                chosen = choose(known_facts, topic, budget, rng)
                if chosen is not None:
                    clauses.append(Clause(chosen[0], chosen[1], (who,), (spans[who][k][0], spans[who][k][1])))
        told.append(clauses)
    return _with_movers(script, _merged(script, told))


def _with_movers(script: Script, told: list[list[Clause]]) -> list[list[Clause]]:
    """The clauses of each clip; if there are none, the object that moves visibly for the longest time, if any."""
    silent = [number for number, clauses in enumerate(told) if not clauses]
    if not silent:
        return told
    told = list(told)
    for number, spans in zip(silent, spans_in_sight(script.select(_rows(script, silent))), strict=True):
        movers = [(who, span) for who, span in enumerate(spans) if span is not None]
        if movers:
            who, span = max(movers, key=lambda mover: mover[1][1] - mover[1][0])
            told[number] = [Clause("M.move", {"M.move": IN_SIGHT}, (who,), span)]
    return told


def _merged(script: Script, told: list[list[Clause]]) -> list[list[Clause]]:
    """Merge consecutive equal clauses about an object if the result is true of their joint time: two tilts may not be one."""
    grouped = [[list(run) for _, run in groupby(clauses, lambda clause: (clause.facts, clause.objects))] for clauses in told]
    repeated = [(number, _joined(run)) for number, runs in enumerate(grouped) for run in runs if len(run) > 1]
    true = iter(_hold(script, repeated))
    merged = []
    for runs in grouped:
        kept = [[_joined(run)] if len(run) > 1 and next(true) else run for run in runs]
        merged.append([clause for run in kept for clause in run])
    return merged


def _joined(run: list[Clause]) -> Clause:
    """The first clause, with the time span of all."""
    return run[0]._replace(span=(run[0].span[0], run[-1].span[1]))


def _hold(script: Script, clauses: list[tuple[int, Clause]]) -> list[bool]:
    """Whether all facts of a clause are measured on its time span; each clause comes with the index of its clip."""
    if not clauses:
        return []
    chosen = script.select(_rows(script, [number for number, _ in clauses]))
    span = torch.zeros_like(chosen.span)
    for row, (_, clause) in enumerate(clauses):
        span[row, clause.objects[0], 0] = span.new_tensor(clause.span)
    facts = clip_facts(replace(chosen, span=span))
    return [c.facts.items() <= known[c.objects[0]][0].items() for (_, c), known in zip(clauses, facts, strict=True)]


def _rows(script: Script, numbers: list[int]) -> torch.Tensor:
    return torch.tensor(numbers, device=script.centre.device)


def choose(facts: Facts, topic: str, budget: int, rng: random.Random) -> tuple[str, Facts] | None:
    """Choose the facts for a phase: its own primitive if it is true, else the most specific one, and up to `budget` more facts.

    Args:
        facts: all true facts.
        topic: the primitive that the phase was drawn as.
        budget: number of facts to add.
        rng: source of randomness; the same numbers are drawn for any facts.

    Returns:
        The head and the chosen facts, or None if there are none.
    """
    direction = next((name for name in facts if name.startswith("T.")), None)
    able = [name for name in facts if direction is not None or not name.startswith(NEEDS_DIRECTION)]
    head = topic if topic in able else next((n for prefix in TELLING for n in able if n.startswith(prefix)), None)
    order = [(rng.random(), rng.random()) for _ in range(len(EXTRAS) + 2)]
    if head is None:
        return None
    told = {head: facts[head]}
    if direction is not None and head.startswith(NEEDS_DIRECTION):
        told[direction] = facts[direction]
    places = dict(zip((*EXTRAS, "Z.grow", "Z.shrink"), order, strict=True))
    extras = [name for name in _additions(head, facts) if places[name][1] < (KEEP_USUAL if name in USUAL else KEEP)]
    for name in sorted(extras, key=lambda name: places[name][0]):
        clash = name.startswith("S.") and any(other.startswith("S.") for other in told)
        clash |= name.startswith("G.") and facts[name] in [told.get("G.from"), told.get("G.to")]
        if len(told) - 1 - (direction in told and direction != head) < budget and not clash:
            told[name] = facts[name]
    return head, told


def _additions(head: str, facts: Facts) -> list[str]:
    """Facts that may be added to a clause about a primitive."""
    if head.startswith(("T.", "S.", "D.", "G.", "C.straight")):
        growth = [] if "K.flyaway" in facts else [name for name in ("Z.grow", "Z.shrink") if name in facts]
        return [name for name in (*EXTRAS, *growth) if name in facts and name != head]
    if head.startswith("C.") and head not in ("C.turn", "C.return"):
        return [name for name in SPEEDS if name in facts]
    return []
