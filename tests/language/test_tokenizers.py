"""Sentences to numbers: the lexicon covers all captions, files are read like BERT's, errors are one sentence."""

from pathlib import Path

import pytest
import torch

from modules.core.errors import SettingError
from modules.language.captions import Captioner
from modules.language.tokenizers import SPECIAL, Tokenizer, TokenizerSettings
from modules.scenes.captioned import CaptionSettings
from modules.scenes.captioned_paste import plan_and_tell


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join([*SPECIAL, "un", "##aff", "##able", "runs", "a", "cafe", "##s", "left"]) + "\n")
    return path


def test_words_are_cut_into_the_longest_pieces(file: Path) -> None:
    tokenizer = Tokenizer(TokenizerSettings(str(file)))
    ids = tokenizer(["Unaffable: a CAFÉ-runs!", "left zebra"])
    names = [[tokenizer.pieces[number] for number in row] for row in ids.tolist()]
    assert names[0] == ["[CLS]", "un", "##aff", "##able", "a", "cafe", "runs"]
    assert names[1] == ["[CLS]", "left", "[UNK]", *["[PAD]"] * 4]
    assert tokenizer.text(ids[0].tolist()) == "unaffable a cafe runs"
    assert torch.equal(tokenizer.maskable(ids), torch.tensor([[False] + [True] * 6, [False] + [True] * 2 + [False] * 4]))


def test_signs_are_words_of_their_own(tmp_path: Path) -> None:
    pieces = ["rock", "&", "roll", "don", "\u2019", "t", "$", "5", "50", "%", "ok"]
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, *pieces]) + "\n")
    tokenizer = Tokenizer(TokenizerSettings(str(tmp_path / "vocab.txt")))
    ids = tokenizer(["Rock&roll, don\u2019t! $5 (50%) ok~"])[0].tolist()
    assert [tokenizer.pieces[number] for number in ids] == ["[CLS]", *pieces]


def test_sentences_are_cut_at_their_longest_length(file: Path) -> None:
    long = "a " * 50
    assert Tokenizer(TokenizerSettings(str(file), max_tokens=8))([long]).shape == (1, 8)
    ended = Tokenizer(TokenizerSettings(str(file), add_sep=True, max_tokens=8))
    assert ended([long, "a"])[:, -1].tolist() == [ended.sep, ended.pad]
    assert ended([long, "a"])[1, 2] == ended.sep


def test_lexicon_knows_all_words_of_captions() -> None:
    tokenizer = Tokenizer(TokenizerSettings(max_tokens=64))
    texts = []
    for verbs in ("lexicon", "held_out"):
        number = torch.randint(1 << 62, (400,), generator=torch.Generator().manual_seed(1))
        texts += plan_and_tell(number, 8, 4, CaptionSettings(), Captioner(verbs)).texts
    ids = tokenizer(texts)
    assert not (ids == tokenizer.unknown).any()
    whole = [[number for number in row if number >= len(SPECIAL)] for row in ids.tolist()]
    assert [tokenizer.text(row) for row in whole] == [text.replace(",", "").replace("-", " ") for text in texts]
    assert [len(row) for row in whole] == [len(text.split()) for text in texts]
    assert len(set(tokenizer.pieces)) == len(tokenizer)


def test_other_words_are_spelled_by_the_lexicon() -> None:
    tokenizer = Tokenizer(TokenizerSettings())
    ids = tokenizer(["xqz 7"])[0].tolist()
    assert tokenizer.unknown not in ids
    assert tokenizer.text(ids) == "xqz 7"


def test_faults_of_the_file_are_told(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"cannot be read; pass the vocab\.txt that belongs to the weights, or null"):
        Tokenizer(TokenizerSettings(str(tmp_path / "none.txt")))
    (tmp_path / "words.txt").write_text("[PAD]\n[CLS]\n")
    with pytest.raises(SettingError, match=r"has no line \[MASK\]; pass a BERT vocabulary"):
        Tokenizer(TokenizerSettings(str(tmp_path / "words.txt")))
    with pytest.raises(SettingError, match=r"max_tokens is 2"):
        Tokenizer(TokenizerSettings(max_tokens=2))
