"""Tokenisation with BERT's word pieces, from a vocabulary file or from the lexicon of motion captions.

A word is cut into the longest pieces of the vocabulary from left to right (WordPiece, BERT, official code). The lexicon's
vocabulary is created at run time and needs no file: it contains all words of `modules.language.grammar`, names of shapes and
colours, and single letters for other words. Sentences are cleaned as in VindLU (official code): lower case, no punctuation.
They start with [CLS] and have no [SEP] at the end, as for its checkpoints.
"""

import re
import string
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from modules.core.errors import SettingError, check_range
from modules.language.grammar import vocabulary
from modules.motion.appearance import COLOURS, SHAPES

PAD, UNKNOWN, CLS, SEP, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LONGEST_WORD = 100
NOUNS = (*(name.replace("_", " ") for name in SHAPES), *COLOURS, "shape", "patch")


@dataclass
class TokenizerSettings:
    """Settings of the tokeniser.

    Args:
        vocabulary: text file with one word piece per line (vocab.txt of bert-base-uncased); null uses the lexicon of motion
            captions.
        add_sep: end sentences with [SEP], as in the original BERT, but not in VindLU.
        max_tokens: longest sentence in tokens, including [CLS]; longer sentences are cut.
    """

    vocabulary: str | None = None
    add_sep: bool = False
    max_tokens: int = 32

    def __post_init__(self) -> None:
        check_range("model.tokenizer", 2, max_tokens=self.max_tokens)


def lexicon_pieces() -> list[str]:
    """The vocabulary of the lexicon: special tokens, letters and digits, the words of motion captions."""
    letters = string.ascii_lowercase + string.digits
    words = [word for word in vocabulary(NOUNS) if len(word) > 1]
    return [*SPECIAL, *letters, *(f"##{letter}" for letter in letters), *words]


def read_vocabulary(path: str) -> list[str]:
    """The lines of a vocabulary file.

    Raises:
        SettingError: if it cannot be read or lacks a special token.
    """
    try:
        pieces = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(
            f"model.tokenizer.vocabulary names {path}, which cannot be read; pass the vocab.txt that belongs to the weights, "
            "or null for the lexicon of motion captions."
        ) from error
    lacking = sorted(set(SPECIAL) - set(pieces))
    if lacking:
        raise SettingError(
            f"model.tokenizer.vocabulary names {path}, which has no line {lacking[0]}; pass a BERT vocabulary with one "
            "word piece per line."
        )
    return pieces


def clean(text: str) -> list[str]:
    """Words of a sentence in lower case, without accents, as VindLU and then BERT clean them (official codes).

    Common punctuation is removed, hyphens and slashes separate words, and other signs (%, $, a curly apostrophe) are separate
    words. <person> becomes a word.
    """
    text = re.sub(r"[,.'!?\"()*#:;~]", "", text.lower().replace("<person>", "person"))
    letters = (sign for sign in unicodedata.normalize("NFD", text) if unicodedata.category(sign) != "Mn")
    return "".join(" " if sign in "-/" else f" {sign} " if is_punctuation(sign) else sign for sign in letters).split()


def is_punctuation(sign: str) -> bool:
    """Whether BERT treats a character as punctuation: Unicode's, and all of ASCII except letters, digits and blanks."""
    return unicodedata.category(sign)[0] == "P" or sign in string.punctuation


class Tokenizer:
    """Cuts sentences into word pieces.

    Args:
        settings: vocabulary and length.

    Raises:
        SettingError: if the vocabulary file cannot be used.
    """

    def __init__(self, settings: TokenizerSettings) -> None:
        if settings.max_tokens < 3:
            raise SettingError(f"model.tokenizer.max_tokens is {settings.max_tokens}; it must be at least 3.")
        self.settings = settings
        self.pieces = lexicon_pieces() if settings.vocabulary is None else read_vocabulary(settings.vocabulary)
        self.numbers = {piece: number for number, piece in enumerate(self.pieces)}
        self.pad, self.unknown, self.cls, self.sep, self.mask = (self.numbers[name] for name in SPECIAL)
        self._known: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return len(self.pieces)

    def __call__(self, texts: list[str]) -> Tensor:
        """Token ids of sentences, padded to the longest of them.

        Args:
            texts: B sentences.

        Returns:
            int64 [B, L], with `pad` after the end.
        """
        room = self.settings.max_tokens - 1 - self.settings.add_sep
        end = [self.sep] if self.settings.add_sep else []
        rows = [[self.cls, *[number for word in clean(text) for number in self._cut(word)][:room], *end] for text in texts]
        longest = max(map(len, rows))
        return torch.tensor([row + [self.pad] * (longest - len(row)) for row in rows])

    def maskable(self, ids: Tensor) -> Tensor:
        """Which tokens may be masked, bool: all except padding and [CLS] (VindLU, official code)."""
        return (ids != self.pad) & (ids != self.cls)

    def text(self, ids: list[int]) -> str:
        """The sentence for token ids, without padding, [CLS] and [SEP]."""
        silent = (self.pad, self.cls, self.sep)
        return " ".join(self.pieces[number] for number in ids if number not in silent).replace(" ##", "")

    def _cut(self, word: str) -> list[int]:
        if word not in self._known:
            self._known[word] = self._pieces(word)
        return self._known[word]

    def _pieces(self, word: str) -> list[int]:
        found: list[int] = []
        start = 0
        while start < len(word):
            ends = range(len(word), start, -1)
            names = ("##" * (start > 0) + word[start:end] for end in ends)
            fitting = next((name for name in names if name in self.numbers), None)
            if fitting is None or len(word) > LONGEST_WORD:
                return [self.unknown]
            found.append(self.numbers[fitting])
            start += len(fitting) - 2 * (start > 0)
        return found
