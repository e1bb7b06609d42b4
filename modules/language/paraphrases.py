"""Further wordings from a file that users provide, checked line by line when it is read.

Each line of the file is a JSON object: `signature` (the meaning, in the format of `modules.language.sentences.signature`),
`paraphrases` (list of templates with the slots of the meaning: {o} for one object, {a} and {b} for two in a relation) and
optionally `allowed_extra` (main verbs that are not in the lexicon, in the form that the templates use). Other entries, such as
`canonical` and `source`, are ignored.
"""

import json
import random
import re
from collections import Counter
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info

from modules.core.errors import SettingError
from modules.language.grammar import MAX_WORDS, inflect, with_article, word_count
from modules.language.lexicon import ROWS
from modules.motion.primitives import PRIMITIVES, REVERSED

# Words for a direction that exclude its opposite.
_WORDS = {
    "right": "right rightward rightwards",
    "left": "left leftward leftwards",
    "up": "up upward upwards upper top",
    "down": "down downward downwards lower bottom",
    "clockwise": "clockwise",
    "anticlockwise": "anticlockwise counterclockwise",
    "grow": "larger bigger",
    "shrink": "smaller tinier",
    "fast": "fast quickly rapidly",
    "slow": "slow slowly",
}
_PAIRS = (("right", "left"), ("up", "down"), ("clockwise", "anticlockwise"), ("grow", "shrink"), ("fast", "slow"))
_OPPOSITE = dict(_PAIRS) | {other: way for way, other in _PAIRS}
_TRICKY = {"speeds up", "picks up speed", "slows down", "speed up", "slow down", "speeding up", "slowing down", "swings round"}
_SPELLINGS = {r"counter[- ]clockwise": "counterclockwise", r"anti[- ]clockwise": "anticlockwise"}
_WAYS = {
    "R.cw": "clockwise",
    "R.ccw": "anticlockwise",
    "Z.grow": "grow",
    "Z.shrink": "shrink",
    "S.fast": "fast",
    "S.slow": "slow",
}


def _directions(signature: str) -> set[str]:
    """Keys of `_WORDS` in a meaning: right, left, up, down, clockwise, and so on."""
    found: set[str] = set()
    for name, values in re.findall(r"([A-Z]\.\w+)(?:\(([^)]*)\))?", signature):
        words = [name[2:]] if name.startswith("T.") else values.split(",") if values and not name.startswith("G.") else []
        words += [_WAYS[name]] if name in _WAYS else []
        for word in words:
            pair = re.fullmatch(r"(up|down)(right|left)", word)
            found |= set(pair.groups()) if pair else {word}
    return found & _WORDS.keys()


def _forms(row: str) -> set[str]:
    """All forms of a row's verbs, as complete phrases."""
    return {inflect(verb.base, form) for verb in ROWS[row].verbs for form in ("finite", "gerund", "plural")}


def _has(text: str, phrases: set[str]) -> bool:
    return any(re.search(rf"\b{re.escape(phrase)}\b", text) for phrase in phrases)


def fault(template: str, signature: str, allowed_extra: frozenset[str] = frozenset()) -> str | None:
    """The reason why a template does not express a meaning, or None if it does.

    Args:
        template: template with slots {o}, or {a} and {b}.
        signature: the meaning.
        allowed_extra: main verbs to accept in addition to the lexicon's.
    """
    names = re.findall(r"([A-Z]\.\w+)", signature)
    slots = ["a", "b"] if any(name.startswith("L.") for name in names) else ["o"]
    found = Counter(re.findall(r"\{(\w+)\}", template))
    if set(found) != set(slots) or max(found.values()) > 2:
        return "slots"
    if word_count(template) > MAX_WORDS:
        return "too long"
    text = template.lower()
    for spelling, usual in _SPELLINGS.items():
        text = re.sub(spelling, usual, text)
    for phrase in _TRICKY:
        text = text.replace(phrase, "_" * len(phrase)) if _has(text, {phrase}) else text
    # Captions with two phases may mention opposite directions, and then the words for both are allowed.
    directions = _directions(signature)
    wrong = {word for way in directions if _OPPOSITE[way] not in directions for word in _WORDS[_OPPOSITE[way]].split()}
    if _has(text, wrong) or _opposite_verb(text, names):
        return "opposite direction"
    if not _has(template.lower(), set().union(*(_forms(name) for name in names if name in ROWS)) | set(allowed_extra)):
        return "unknown verb"
    return None


def _opposite_verb(text: str, names: list[str]) -> bool:
    """Whether the text contains a verb of the opposite primitive that none of the meaning's own primitives has."""
    opposite = {PRIMITIVES[REVERSED[PRIMITIVES.index(name)]] for name in names if name in PRIMITIVES} - set(names)
    own = set().union(*(_forms(name) for name in names if name in ROWS))
    verbs = set().union(*(_forms(name) for name in opposite)) if opposite else set()
    return _has(text, verbs - own)


class Paraphrases:
    """The templates of a file that pass the checks.

    Args:
        path: file of JSON lines.

    Raises:
        SettingError: if the file is missing, or a line is invalid.
    """

    def __init__(self, path: str) -> None:
        if not Path(path).is_file():
            raise SettingError(f"paraphrases: {path} is not a file; pass a file of JSON lines, or null for none.")
        self.templates: dict[str, list[str]] = {}
        self.dropped: Counter[str] = Counter()
        for number, line in enumerate(Path(path).read_text().splitlines(), 1):
            try:
                entry = json.loads(line)
                signature, lines = str(entry["signature"]), [str(text) for text in entry["paraphrases"]]
                extra = frozenset(str(verb) for verb in entry.get("allowed_extra", ()))
            except (ValueError, KeyError, TypeError) as error:
                raise SettingError(f"paraphrases: line {number} of {path} lacks 'signature' or 'paraphrases'.") from error
            self._add(signature, lines, extra)
        dropped = ", ".join(f"{count} ({reason})" for reason, count in self.dropped.items()) or "none"
        rank_zero_info(f"{path}: paraphrases of {len(self.templates)} meanings; dropped: {dropped}.")

    def _add(self, signature: str, lines: list[str], extra: frozenset[str]) -> None:
        kept = self.templates.setdefault(signature, [])
        for line in lines:
            reason = "repeated" if line in kept else fault(line, signature, extra)
            if reason is None:
                kept.append(line)
            else:
                self.dropped[reason] += 1

    def sentence(self, signature: str, subjects: list[str], rng: random.Random) -> str | None:
        """One of the wordings with the objects' names, or None if there is none."""
        templates = self.templates.get(signature)
        if not templates:
            return None
        template = rng.choice(templates)
        named = [with_article(subject) for subject in subjects]
        if len(named) > 1 and subjects[0] == subjects[1]:
            named = [f"another {subjects[0]}", named[1]]
        names = {"{o}": named[0], "{a}": named[-1], "{b}": named[0]}
        for slot, name in names.items():
            template = template.replace(slot, name)
        return template.lower()
