"""Cut-outs with captions: correct pictures for names, and shapes without cut-outs."""

import re
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from main import main
from modules.backbones.text.bert import TextSettings
from modules.core.errors import SettingError
from modules.language.captions import Captioner
from modules.language.tokenizers import Tokenizer, TokenizerSettings, lexicon_pieces
from modules.methods.locomotion import LocoMotion
from modules.motion.appearance import COLOURS, ObjectBank, blur_to_size, hsv_to_rgb, premultiplied, shape_alpha
from modules.motion.render import paste
from modules.scenes.captioned import TEXTURE, CaptionSettings, Cast, Stage, training_shapes
from modules.scenes.captioned_paste import (
    STROKE,
    CaptionedPasteSettings,
    CutOuts,
    ShapePictures,
    inside,
    noun_of,
    paste_plan,
    plan_and_tell,
)
from modules.scenes.classes import Draws
from tests.methods.test_locomotion import generator, given
from tests.registry import video_batch

ROOT = Path(__file__).parents[2]
RECIPE = ["fit", f"--config={ROOT / 'configs/locomotion.yaml'}", f"--config={ROOT / 'configs/debug/tiny_text.yaml'}"]
PAINTS = {"aerosol_can": (250, 0, 0), "hot-air_balloon": (0, 250, 0), "bow_(weapon)": (0, 0, 250)}
NOUNS = ("aerosol can", "hot air balloon", "bow")
SLIDE = CaptionSettings(primitives=("T.right",), phases=(1, 0, 0), relations=0, together=0, verbs="plain")
TOGETHER = CaptionSettings(primitives=("T",), phases=(1, 0, 0), relations=0, together=1)


def write_objects(root: Path, *categories: str, sides: tuple[int, int] = (20, 20)) -> str:
    """Three plain pictures per category, the third of them paler."""
    for category in categories:
        (root / category).mkdir(parents=True)
        for n, shade in enumerate((1.0, 1.0, 0.8)):
            colour = tuple(int(shade * value) for value in PAINTS[category])
            Image.new("RGBA", sides, (*colour, 255)).save(root / category / f"{n}.png")
    return str(root)


class Told(NamedTuple):
    """Clips and their captions."""

    clip: Tensor
    texts: list[str]
    signature: Tensor


def told(count: int, settings: CaptionSettings, objects: ObjectBank | None, side: int = 48, seed: int = 0) -> Told:
    black = torch.zeros(count, 6, side, side, 3, dtype=torch.uint8)
    number = torch.randint(1 << 62, (count,), generator=generator(seed))
    cut_outs = CutOuts(objects) if objects is not None else None
    plan = plan_and_tell(number, 6, side, settings, Captioner(settings.verbs), cut_outs)
    return Told(paste_plan(black, plan, objects or ShapePictures()), plan.texts, plan.signature)


def colours_in(clip: Tensor) -> list[set[int]]:
    """Which channels each clip [B, T, H, W, 3] has."""
    return [{c for c in range(3) if int(one[..., c].max()) > 120} for one in clip]


def test_what_is_pasted_is_what_is_named(tmp_path: Path) -> None:
    made = told(60, SLIDE, ObjectBank(write_objects(tmp_path, *PAINTS), side=16))
    found = set()
    for text, seen in zip(made.texts, colours_in(made.clip), strict=True):
        match = re.fullmatch(r"an? (?:(?:small|large) )?(aerosol can|hot air balloon|bow|object) moves to the right.*", text)
        assert match, text
        assert len(seen) == 1
        if match[1] != "object":
            assert seen == {NOUNS.index(match[1])}, text
        found.add(match[1])
    assert found == {*NOUNS, "object"}


def test_two_objects_of_a_clip_have_different_nouns(tmp_path: Path) -> None:
    made = told(40, TOGETHER, ObjectBank(write_objects(tmp_path, *PAINTS), side=16))
    both = 0
    for text, seen in zip(made.texts, colours_in(made.clip), strict=True):
        named = {number for number, noun in enumerate(NOUNS) if re.search(rf"\b{noun}\b", text)}
        assert len(seen) == 2
        assert named <= seen, text
        both += len(named) == 2
    # Each is called nothing but 'object' with a probability of 0.15.
    assert both > 15


def test_one_noun_is_enough(tmp_path: Path) -> None:
    bank = ObjectBank(write_objects(tmp_path, "aerosol_can"), side=16)
    # Any picture then goes with any.
    assert len(CutOuts(bank).draw(Draws(0, "train", torch.arange(200))).unique(dim=0)) == 9
    made = told(30, TOGETHER, bank)
    assert colours_in(made.clip) == [{0}] * 30
    same = [text for text in made.texts if text.count("aerosol can") == 2]
    assert same
    assert all("another aerosol can" in text for text in same)


def test_pictures_are_equally_likely_and_a_function_of_the_clip(tmp_path: Path) -> None:
    bank = CutOuts(ObjectBank(write_objects(tmp_path, *PAINTS), side=16))
    index = bank.draw(Draws(0, "train", torch.arange(9000)))
    for k in range(2):
        assert (index[:, k].bincount(minlength=9) - 1000).abs().max() < 5 * 1000**0.5
    pairs = (index[:, 0] * 9 + index[:, 1]).bincount(minlength=81).view(9, 9)
    nouns = torch.tensor([NOUNS.index(noun) for noun in bank.nouns])
    assert torch.equal(pairs > 0, nouns[:, None] != nouns)
    assert torch.equal(bank.draw(Draws(0, "train", torch.arange(20, 30))), index[20:30])


def test_boxes_have_the_aspect_of_the_picture(tmp_path: Path) -> None:
    settings = CaptionSettings(primitives=("P.still",), phases=(1, 0, 0), relations=0, together=0, object_size=(0.4, 0.5))
    for sides in ((60, 20), (20, 60)):
        root = write_objects(tmp_path / str(sides[0]), "aerosol_can", sides=sides)
        seen = told(12, settings, ObjectBank(root, side=16), side=96).clip[:, 0, ..., 0] > 60
        extent = torch.stack([seen.any(1).sum(1), seen.any(2).sum(1)], dim=1).float()
        assert ((extent[:, 0] / extent[:, 1]).log2() - torch.tensor(sides[0] / sides[1]).log2()).abs().max() < 0.3


def test_a_picture_fills_its_box_and_does_not_leave_it() -> None:
    boxes = torch.tensor([[[[4.0, 2], [2, 1]], [[2.0, 3], [2, 3]]]])
    fitted = inside(boxes, torch.tensor([[1.0, 4.0]]))
    assert fitted.tolist() == [[[[2.0, 2], [1, 1]], [[2.0, 0.5], [2, 0.5]]]]


def test_names() -> None:
    names = {
        "aerosol_can": "aerosol can",
        "Hot-air_balloon": "hot air balloon",
        "bow_(weapon)": "bow",
        "bird's_nest": "birds nest",
    }
    assert {category: noun_of(category) for category in names} == names
    assert noun_of("(1)") == "object"


def test_without_cut_outs_shapes_are_pasted() -> None:
    """Equal to the code before cut-outs, bit for bit."""
    made = told(12, CaptionSettings(), None, side=32)
    number = torch.randint(1 << 62, (12,), generator=generator())
    cast = Cast(number, Stage(6, 32, "train", 0), CaptionSettings(), training_shapes())
    captions = Captioner()(cast.script, cast.names)
    assert made.texts == [caption.text for caption in captions]
    assert made.signature.tolist() == [caption.signature_id for caption in captions]
    colour = torch.stack([hsv_to_rgb(*torch.tensor(value)) for value in COLOURS.values()])[cast.colour.flatten()]
    alpha = shape_alpha(cast.kind.flatten(), torch.full((24,), STROKE), TEXTURE)
    textures = premultiplied(colour[:, None, None], alpha).unflatten(0, (12, 2))
    record = cast.script.at(6, (32, 32))
    black = torch.zeros(12, 6, 32, 32, 3, dtype=torch.uint8)
    assert torch.equal(made.clip, paste(black, record, blur_to_size(textures, record.size.mean(2))))


def vocabulary(path: Path, *more: str) -> TokenizerSettings:
    """The words of captions without the letters that others could be spelled in, and more."""
    pieces = [piece for piece in lexicon_pieces() if len(piece.removeprefix("##")) > 1]
    path.write_text("\n".join([*pieces, "a", *more]) + "\n")
    return TokenizerSettings(str(path), max_tokens=16)


def method(root: str, tokenizer: TokenizerSettings) -> LocoMotion:
    text = TextSettings(32, 2, 1, 2, mlp_ratio=2, positions=16, dropout=0)
    return LocoMotion(given().backbone, text, tokenizer, paste=CaptionedPasteSettings(ObjectBank(root, side=16), SLIDE))


def test_the_method_pastes_cut_outs(tmp_path: Path) -> None:
    root = write_objects(tmp_path / "objects", "aerosol_can")
    made = method(root, vocabulary(tmp_path / "vocab.txt", "aero", "##sol", "can"))
    batch = video_batch(4)
    batch.stream("video").data = torch.zeros_like(batch.stream("video").data)
    output = made.step(batch, generator())
    assert colours_in(output["show"]["clip"]) == [{0}] * 4
    assert any("aerosol can moves to the right" in text for text in output["show"]["texts"])


def test_words_that_the_tokenizer_does_not_know_are_refused(tmp_path: Path) -> None:
    root = write_objects(tmp_path / "objects", "aerosol_can", "bow_(weapon)")
    advice = r".*pass the vocab\.txt of bert-base-uncased as model\.tokenizer\.vocabulary"
    # The lexicon would split it into letters.
    assert Tokenizer(TokenizerSettings()).unknown not in Tokenizer(TokenizerSettings())(["aerosol"])
    with pytest.raises(SettingError, match=f"does not know the word 'aerosol'{advice}"):
        method(root, TokenizerSettings(max_tokens=16))
    with pytest.raises(SettingError, match=f"does not know the word 'bow'{advice}"):
        method(root, vocabulary(tmp_path / "vocab.txt", "aero", "##sol", "can"))


def test_a_bank_without_a_folder_is_refused() -> None:
    with pytest.raises(SettingError, match=r"model\.paste\.objects\.root is null"):
        CutOuts(ObjectBank(shapes=8, side=16))


def test_the_command_line_takes_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data=SyntheticMotion", "--data.train_videos=8", "--data.val_videos=4", "--data.batch_size=4"]
    objects = [*data, "--model.paste.objects", "ObjectBank", "--model.paste.objects.root"]
    with pytest.raises(SettingError, match=r"model\.paste\.objects\.root \S+nowhere contains no <category>/<file>\.png"):
        main([*RECIPE, *objects, str(tmp_path / "nowhere")])
    root = write_objects(tmp_path / "objects", "aerosol_can")
    with pytest.raises(SettingError, match="does not know the word 'aerosol'"):
        main([*RECIPE, *objects, root])
    with pytest.raises(SystemExit):
        main([*RECIPE, *objects, root, "--print_config"])
    shown = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["paste"]["objects"]
    assert (shown["class_path"].rpartition(".")[2], shown["init_args"]["root"]) == ("ObjectBank", root)
