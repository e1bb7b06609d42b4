"""Wording of facts: inflection, clauses, phrases. The facts are selected in `modules.language.captions`."""

import random
import re
from typing import Literal, NamedTuple

from modules.language.facts import REGIONS, Facts
from modules.language.lexicon import ADJECTIVES, AXES, DIRECTIONS, MODIFIERS, NOUNS, ROWS, SENSES, Verb
from modules.language.lexicon import REGIONS as REGION_WORDS

Form = Literal["finite", "gerund", "plural"]
Verbs = Literal["plain", "lexicon", "held_out"]
MAX_WORDS = 28
PLAIN = 0.3

CONNECTIVES = ("{one} and then {two}", "{one}, then {two}", "{one}, after which it {two}", "{one} before it {two}")
"""Connections of two clauses about the same object; the subject of the second is dropped or 'it'."""
NOTHING = "nothing moves in sight"
IN_SIGHT = ("in sight",)
"""Parameter of M.move if it is only known that an object moves, turns or grows while it is partly visible."""
GLUE = ("and finally", "after", "while", "of", "a", "an", "the", "another", "object", "small", "large", NOTHING)
"""Further words of captions."""
SAID_BY_VERBS = ("S.slow", "S.fast", "S.steady", "D.short", "D.long")
"""Rows whose meaning is expressed by their verbs or by a modifier, not by their templates."""

_IRREGULAR = {"go": "goes"}
# fmt: off
_DOUBLED = frozenset((
    "stop", "hop", "tip", "slip", "spin", "drop", "begin", "set", "get", "hit", "throb", "run", "plod", "skim", "skid",
    "zigzag", "travel", "swivel",
))
# fmt: on
_OPPOSITES = {
    "left": "right",
    "leftward": "rightward",
    "clockwise": "counterclockwise",
}
_MIRROR = {**_OPPOSITES, **{b: a for a, b in _OPPOSITES.items()}, "anticlockwise": "clockwise"}


class Clause(NamedTuple):
    """A clause about one phase of one object, or about two objects.

    Args:
        head: the main primitive of the clause.
        facts: all facts of the clause, with parameters, including `head`.
        objects: indices of the objects, object 1 before object 0.
        span: start and end, from 0 to 1.
    """

    head: str
    facts: Facts
    objects: tuple[int, ...]
    span: tuple[float, float]

    def signature(self) -> str:
        """The meaning as a string, the same for all wordings: 'T.up+S.fast', 'V.enter(left)'."""
        said = [name + (f"({','.join(values)})" if values else "") for name, values in sorted(self.facts.items())]
        return "+".join(said)


def inflect(phrase: str, form: Form) -> str:
    """Third person or gerund of a verb phrase: ('go up', 'finite') -> 'goes up'."""
    if form == "plural":
        return phrase
    if " and " in phrase and not phrase.endswith("back and forth"):
        return " and ".join(inflect(part, form) for part in phrase.split(" and "))
    verb, _, rest = phrase.partition(" ")
    if form == "finite":
        ending = "es" if re.search(r"(s|x|z|ch|sh)$", verb) else "s"
        word = _IRREGULAR.get(verb) or (verb[:-1] + "ies" if re.search(r"[^aeiou]y$", verb) else verb + ending)
    elif verb in _DOUBLED:
        word = verb + verb[-1] + "ing"
    else:
        word = (verb[:-1] if re.search(r"[^eo]e$", verb) else verb) + "ing"
    return f"{word} {rest}" if rest else word


def flip_words(text: str) -> str:
    """The caption of the mirrored clip, with left and right, and clockwise and counterclockwise, swapped."""
    return re.sub(r"[a-z]+", lambda word: _MIRROR.get(word[0], word[0]), text)


def word_count(text: str) -> int:
    """Number of words of a caption."""
    return len(text.replace(",", " ").split())


def with_article(noun: str) -> str:
    """'a cup', 'an arrow', 'a unicycle', 'an hourglass'."""
    # The article depends on the sound; object categories may start with any of these.
    vowel = re.match(r"hour|heir|[aeiou]", noun) and not re.match(r"uni[^nm]|use|uten|uku|eu|one\b", noun)
    return f"{'an' if vowel else 'a'} {noun}"


class Speaker:
    """Chooses words, with one stream of random numbers.

    Args:
        rng: source of randomness.
        verbs: plain: always the first verb and phrase. lexicon: the first verb with probability 0.3, otherwise any verb that
            is not held out. held_out: held-out verbs if a row has a suitable one.
        brief: use the shortest phrases.
    """

    def __init__(self, rng: random.Random, verbs: Verbs = "lexicon", brief: bool = False) -> None:
        self.rng = rng
        self.brief = brief
        self.verbs = verbs

    def pick(self, choices: tuple[str, ...]) -> str:
        """One of several phrases."""
        # A number is always drawn, so that the captions of a clip and its mirror image use the same random choices.
        number = self.rng.random()
        if self.brief:
            return min(choices, key=word_count)
        return choices[0] if self.verbs == "plain" else choices[int(number * len(choices))]

    def verb(self, row: str, said: Facts) -> Verb:
        """A verb whose implications are all among the facts."""
        plain, number = self.rng.random() < PLAIN, self.rng.random()
        fitting = [verb for verb in ROWS[row].verbs if verb.implies <= said.keys()]
        held_out = [verb for verb in fitting if verb.held_out]
        known = [verb for verb in fitting if not verb.held_out]
        if self.verbs == "held_out" and held_out:
            return held_out[int(number * len(held_out))]
        return known[0] if self.verbs == "plain" or plain else known[int(number * len(known))]

    def _row(self, clause: Clause) -> str:
        """Row of the verb: that of the main primitive, or of another fact that a clause can be based on."""
        number = self.rng.random()
        if clause.head[0] not in "TSDG" and clause.head not in ("C.straight", "C.curve"):
            return clause.head
        direction = next(name for name in clause.facts if name.startswith("T."))
        if self.verbs == "plain":
            return direction
        able = [direction, *(name for name in clause.facts if name[0] in "SD" or name in ("C.straight", "C.curve"))]
        if self.verbs == "held_out":
            able = [name for name in able if any(v.held_out and v.implies <= clause.facts.keys() for v in ROWS[name].verbs)]
        return able[int(number * len(able))]

    def predicate(self, clause: Clause, form: Form) -> tuple[str, Verb]:
        """The clause without its subject, and its verb."""
        row = self._row(clause)
        verb = self.verb(row, clause.facts)
        if clause.facts[row] == IN_SIGHT:
            # Other verbs imply a change of position, but the object may only rotate in place.
            verb = ROWS[row].verbs[0]
            return f"{inflect(verb.base, form)} {' '.join(IN_SIGHT)}", verb
        text = self.fill(inflect_template(self.pick(ROWS[row].templates), verb, form), row, clause.facts)
        said = verb.implies | (set() if row in SAID_BY_VERBS else {row})
        for name in MODIFIERS:
            if name in clause.facts and name not in said:
                region = "".join(clause.facts[name])
                link = " and " if name == "G.to" and "G.from" in clause.facts else " "
                text += link + self.pick(MODIFIERS[name]).replace("{region}", REGION_WORDS.get(region, region))
        return text, verb

    def fill(self, text: str, row: str, facts: Facts) -> str:
        """Fill the slots for directions, sides and directions of rotation in a text."""
        values = facts[row]
        heading = next((name[2:] for name in facts if name.startswith("T.")), None)
        if row in ("K.spinmove", "C.return", "C.turn") or (row.startswith("L.") and values):
            heading = values[0]
        slots: dict[str, str] = {}
        for name in re.findall(r"\{(dir|dir2|side|sense|axis)\}", text):
            if name == "dir":
                slots[name] = self.pick(DIRECTIONS[str(heading)])
            elif name == "dir2":
                slots[name] = self.pick(DIRECTIONS[values[1]])
            elif name == "sense":
                sense = {"R.cw": "clockwise", "R.ccw": "anticlockwise"}.get(row) or values[-1]
                slots[name] = self.pick(SENSES[sense])
            else:
                slots[name] = self.pick(AXES[values[0]]) if name == "axis" else values[0]
        for name, word in slots.items():
            text = text.replace("{" + name + "}", word)
        return text

    def noun_phrase(self, clause: Clause, subject: str) -> str | None:
        """A noun phrase such as 'a slow leftward slide of a cup'; None if there are no words for it."""
        speeds = {"S.slow": "slow", "S.fast": "fast"}
        heads = [name for name in clause.facts if name not in speeds]
        if len(heads) != 1:
            return None
        sense = {"R.cw": "clockwise", "R.ccw": "anticlockwise"}.get(heads[0])
        turn = self.pick(SENSES[sense]) if sense else ADJECTIVES.get(heads[0][2:]) if heads[0].startswith("T.") else None
        speed = next((speeds[name] for name in clause.facts if name in speeds), "")
        verb = self.verb(heads[0], clause.facts)
        noun = NOUNS.get(verb.base)
        if turn is None or noun is None or verb.implies:
            return None
        return f"{with_article(f'{speed} {turn} {noun}'.strip())} of {subject}"


def inflect_template(template: str, verb: Verb, form: Form) -> str:
    """The template with its verbs in one form; slots are not filled."""
    template = template.replace("<v*>", verb.base).replace("<v>", inflect(verb.base, form))
    return re.sub(r"<([a-z ]+)>", lambda word: inflect(word[1], form), template)


def vocabulary(nouns: tuple[str, ...] = ()) -> list[str]:
    """All words that captions can contain, in alphabetical order.

    Args:
        nouns: names and attributes of objects.
    """
    phrases = [
        *nouns,
        *CONNECTIVES,
        *ADJECTIVES.values(),
        *NOUNS.values(),
        *REGIONS,
        *REGION_WORDS.values(),
        *GLUE,
        "slow",
        "fast",
    ]
    forms: tuple[Form, ...]
    for name, row in ROWS.items():
        # Relations are only expressed as complete sentences.
        forms = ("finite",) if name.startswith("L.") else ("finite", "gerund")
        for form in forms:
            for verb in row.verbs:
                phrases += [inflect_template(template, verb, form) for template in row.templates]
    for table in (DIRECTIONS, SENSES, AXES, MODIFIERS):
        phrases += [phrase for choices in table.values() for phrase in choices]
    words = {word for phrase in phrases for word in re.sub(r"\{[a-z0-9]+\}|,", " ", phrase).split()}
    return sorted(words)
