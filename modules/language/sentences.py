"""Sentences from clauses, in three forms: 'a cup slides left', 'sliding a cup left', 'a slide of a cup'."""

import random

from modules.language.grammar import CONNECTIVES, NOTHING, Clause, Speaker, inflect, inflect_template, with_article
from modules.language.lexicon import ROWS, TRANSITIVE

FINITE, GERUND = 0.6, 0.25
DEFINITE = 0.3
SWAPPED = 0.2
"""Probability that two clauses are in the opposite order, with 'after'."""


def signature(clauses: list[Clause]) -> str:
    """The meaning of a caption, without the words for objects: the same for all wordings.

    Phases are joined by '|' in order of time; simultaneous motions of two objects by '&', in alphabetical order, and
    consecutive ones by ';'.
    """
    meanings = [clause.signature() for clause in clauses]
    if len({clause.objects for clause in clauses}) <= 1:
        return " | ".join(meanings)
    if _overlap(clauses):
        return " & ".join(sorted(meanings))
    return " ; ".join(clause.signature() for clause in sorted(clauses, key=lambda clause: clause.span))


def _overlap(clauses: list[Clause]) -> bool:
    return max(clause.span[0] for clause in clauses) < min(clause.span[1] for clause in clauses)


def sentence(clauses: list[Clause], subjects: list[str], speaker: Speaker) -> str:
    """A caption.

    Args:
        clauses: clauses in order of time; empty if nothing moves visibly.
        subjects: names of the objects, without articles.
        speaker: source of the words.
    """
    # These are always drawn, so that later random numbers do not depend on the clauses.
    register, article, order = (speaker.rng.random() for _ in range(3))
    if speaker.verbs == "plain":
        register, article, order = 0.0, 1.0, 1.0
    if not clauses:
        return NOTHING
    named = _with_articles(subjects, article < DEFINITE)
    if clauses[0].head.startswith("L."):
        return _relation(clauses[0], named, speaker)
    if len({clause.objects for clause in clauses}) > 1:
        return _two_objects(clauses, subjects, article < DEFINITE, order, speaker)
    noun = subjects[clauses[0].objects[0]]
    # The second object is not 'another' if the first is not mentioned.
    subject = _with_articles([noun], article < DEFINITE)[0]
    if register > FINITE + GERUND and len(clauses) == 1:
        phrase = speaker.noun_phrase(clauses[0], subject)
        if phrase is not None:
            return phrase
    if FINITE <= register < FINITE + GERUND:
        return _gerund(clauses, noun, subject, speaker)
    if len(clauses) == 2 and order < SWAPPED:
        after, _ = speaker.predicate(clauses[0], "gerund")
        return f"{subject} {speaker.predicate(clauses[1], 'finite')[0]} after {after}"
    predicates = [speaker.predicate(clause, "finite")[0] for clause in clauses]
    return f"{subject} {_chain(predicates, speaker)}"


def _two_objects(clauses: list[Clause], subjects: list[str], definite: bool, order: float, speaker: Speaker) -> str:
    together = _overlap(clauses)
    first, second = sorted(clauses, key=lambda clause: clause.span) if not together else clauses[:: 1 if order < 0.5 else -1]
    named = _with_articles([subjects[clause.objects[0]] for clause in (first, second)], definite)
    one, two = (speaker.predicate(clause, "finite")[0] for clause in (first, second))
    return f"{named[0]} {one} while {named[1]} {two}" if together else f"{named[0]} {one}, then {named[1]} {two}"


def _with_articles(subjects: list[str], definite: bool) -> list[str]:
    named = [f"the {noun}" if definite else with_article(noun) for noun in subjects]
    return [
        named[0],
        *(f"another {noun}" if noun == subjects[0] else name for noun, name in zip(subjects[1:], named[1:], strict=True)),
    ]


def _chain(predicates: list[str], speaker: Speaker, forms: tuple[str, ...] = CONNECTIVES) -> str:
    connective = speaker.pick(forms)
    if len(predicates) == 2:
        return connective.format(one=predicates[0], two=predicates[1])
    first, *rest = predicates
    return ", then ".join([first, *rest[:-1]]) + f", and finally {rest[-1]}" if rest else first


def _gerund(clauses: list[Clause], noun: str, subject: str, speaker: Speaker) -> str:
    told = [speaker.predicate(clause, "gerund") for clause in clauses]
    text, verb = told[0]
    verbal = inflect(verb.base, "gerund")
    if len(told) == 1 and verb.base in TRANSITIVE and text.startswith(verbal) and speaker.rng.random() < 0.5:
        return f"{verbal} {subject}{text[len(verbal) :]}"
    return f"{noun} {_chain([text for text, _ in told], speaker, CONNECTIVES[:2])}"


def _relation(clause: Clause, named: list[str], speaker: Speaker) -> str:
    template, verb = speaker.pick(ROWS[clause.head].templates), speaker.verb(clause.head, clause.facts)
    text = speaker.fill(inflect_template(template, verb, "finite"), clause.head, clause.facts)
    a, b = named[1], named[0]
    if b.startswith("another") or a.startswith("another"):
        # 'another' must be the object that comes second in the text.
        plain = b if a.startswith("another") else a
        a, b = (plain, a) if text.index("{a}") < text.index("{b}") else (a, plain)
    return text.replace("{a}", a).replace("{b}", b)


def canonical(clauses: list[Clause]) -> str:
    """The plainest wording with slots for objects: '{o} moves to the right quickly', '{a} passes {b} on its way up'."""
    slots = {"zero": "{b}", "one": "{a}"} if clauses[0].head.startswith("L.") else {"zero": "{o}", "one": "{p}"}
    text = sentence(clauses, list(slots), Speaker(random.Random(0), "plain"))
    for word, slot in slots.items():
        text = text.replace(with_article(word), slot)
    return text
