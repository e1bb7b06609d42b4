"""Files of BERT in the text encoder: its names, old and new, against the sentences and words of `transformers`' own network."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from modules.backbones.text.bert import TextEncoder, TextSettings
from modules.backbones.vit.beit_video import BEiTVideo
from modules.convert.command import convert
from modules.core.errors import SettingError
from modules.weights.passport import read_passport
from tests.registry import FRAMES, SIDE, tiny_locomotion

WORDS, VIDEO = 40, 8


@pytest.fixture
def bert() -> Any:
    """A BERT as it is pretrained, tiny, with noise in all its tensors."""
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
    config = transformers.BertConfig(vocab_size=WORDS, max_position_embeddings=12, type_vocab_size=2, **sizes)
    network = transformers.BertForPreTraining(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def encoder(checkpoint: Path | None, vocabulary: int = WORDS) -> TextEncoder:
    torch.manual_seed(1)
    settings = TextSettings(32, 3, 1, 2, 1.5, 12, checkpoint=None if checkpoint is None else str(checkpoint))
    return TextEncoder(settings, vocabulary, VIDEO).eval()


def named(network: Any, form: str) -> dict[str, Tensor]:
    """Weights under the names of files: those of today, of 2018, or of an encoder without heads."""
    state = {key: value.clone() for key, value in network.state_dict().items()}
    if form == "old":
        state["bert.embeddings.position_ids"] = torch.arange(12)[None]
        turned = (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))
        for new, old in turned:
            state = {key.replace(new, old): value for key, value in state.items()}
    if form == "encoder":
        state = {key.removeprefix("bert."): value for key, value in state.items() if key.startswith("bert.")}
    return state


def sentences() -> tuple[Tensor, Tensor]:
    ids = torch.randint(1, WORDS, (3, 7), generator=torch.Generator().manual_seed(2))
    return ids, torch.arange(7) < torch.tensor([[7], [4], [6]])


@torch.no_grad()
@pytest.mark.parametrize("form", ["new", "old", "encoder", "converted"])
def test_bert_file(form: str, bert: Any, tmp_path: Path) -> None:
    if form == "old":
        path = tmp_path / "pytorch_model.bin"
        torch.save(named(bert, form), path)
    else:
        path = tmp_path / "model.safetensors"
        save_file(named(bert, form), path)
    if form == "converted":
        convert(tmp_path, tmp_path / "text.safetensors")
        path = tmp_path / "text.safetensors"
        passport = read_passport(path)
        found = passport["architecture"]
        assert (passport["kind"], found["embed_dim"], found["depth"], found["vocabulary"]) == ("text", 32, 3, WORDS)
    text = encoder(path)
    ids, there = sentences()
    expected = bert(input_ids=ids, attention_mask=there.long(), output_hidden_states=True)
    assert torch.allclose(text.encode(ids, there), expected.hidden_states[2], atol=1e-5)
    # Without cross-attention, which BERT does not have, the fusion layer equals BERT's last layer.
    text.layers[2].cross = None
    tokens = text.fuse(text.encode(ids, there), there, torch.zeros(3, 1, VIDEO))
    assert torch.allclose(tokens, expected.hidden_states[3], atol=1e-5)
    if form != "encoder":
        assert torch.allclose(text.name_words(tokens), expected.prediction_logits, atol=1e-5)


def test_wrong_files_are_told(bert: Any, tmp_path: Path) -> None:
    state = named(bert, "new")
    save_file(state, tmp_path / "bert.safetensors")
    with pytest.raises(
        SettingError, match=r"has 40 words, but the tokenizer has 41; pass the vocabulary .* model\.tokenizer\.voca"
    ):
        encoder(tmp_path / "bert.safetensors", WORDS + 1)
    with pytest.raises(SettingError, match=r"model\.text\.checkpoint names .*none\.bin, which does not exist; pass the path"):
        encoder(tmp_path / "none.bin")
    state = {key: value for key, value in state.items() if not key.endswith("self.value.bias")}
    save_file(state, tmp_path / "part.safetensors")
    with pytest.raises(SettingError, match=r"does not fit this TextEncoder: .*layers\.0\.attention\.key_value\.bias"):
        encoder(tmp_path / "part.safetensors")
    save_file({"embeddings.word_embeddings.weight": torch.zeros(5, 32)}, tmp_path / "words.safetensors")
    with pytest.raises(SettingError, match="is not a complete text encoder, positions is missing; pass another file"):
        convert(tmp_path / "words.safetensors", tmp_path / "out.safetensors")
    with pytest.raises(SettingError, match="is a text encoder: pass --to safetensors"):
        convert(tmp_path / "bert.safetensors", tmp_path / "out.pth", to="official")


@torch.no_grad()
def test_parts_of_a_whole_method(tmp_path: Path) -> None:
    method = tiny_locomotion().eval()
    save_file({key: value.clone() for key, value in method.state_dict().items()}, tmp_path / "method.safetensors")
    settings = TextSettings(32, 3, 1, 2, 2, 40, checkpoint=str(tmp_path / "method.safetensors"))
    text = TextEncoder(settings, len(method.tokenizer), 32).eval()
    tower = BEiTVideo("micro", SIDE, FRAMES, 8, 32, 2, 2, checkpoint=str(tmp_path / "method.safetensors")).eval()
    for part, own in ((text, method.text), (tower, method.backbone)):
        assert all(torch.equal(value, own.state_dict()[key]) for key, value in part.state_dict().items())


def test_converted_text_is_converted_again(bert: Any, tmp_path: Path) -> None:
    save_file(named(bert, "new"), tmp_path / "bert.safetensors")
    convert(tmp_path / "bert.safetensors", tmp_path / "one.safetensors")
    convert(tmp_path / "one.safetensors", tmp_path / "two.safetensors")
    one, two = load_file(tmp_path / "one.safetensors"), load_file(tmp_path / "two.safetensors")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
