"""Weights under transformers' names: bit-identical after a round trip, equal outputs in its own networks."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from modules.backbones.vit.decoder import DecoderSettings, MaskedDecoder
from modules.backbones.vit.video_vit import VideoViT
from modules.convert.command import convert
from modules.convert.huggingface import model_config, preprocessor_config
from modules.core.errors import SettingError
from modules.core.preprocessing import HALF, IMAGENET
from modules.core.preprocessing import normalise as normalise_clip
from modules.core.tokens import gather_tokens
from modules.downstream.classification import Classification
from modules.layers.heads import VideoClassifier
from modules.layers.targets import PixelTarget
from modules.masks.base import mask_from_bool
from modules.masks.tokens import TubeMask
from modules.methods.videomae import VideoMAE
from modules.training.optim import AdamWSettings
from modules.weights.huggingface_config import read_config
from modules.weights.licence import front_matter
from modules.weights.names.huggingface import from_huggingface, to_huggingface
from modules.weights.names.videomae import from_official, to_official
from modules.weights.passport import read_passport
from modules.weights.sizes import Architecture, infer_architecture
from tests.parity.cases import load_case, part

FACTS = {"num_heads": 2, "image_size": 32, "num_frames": 4, "patch_size": 8, "tubelet_size": 2}


def network(kind: str, out_dim: int = 384) -> nn.Module:
    """A network of width 32 with random weights and without key bias."""
    backbone = VideoViT("micro", 32, 4, 8, embed_dim=32, depth=2, num_heads=2)
    built = {
        "encoder": lambda: nn.ModuleDict({"backbone": backbone}),
        "pretraining": lambda: nn.ModuleDict(
            {"backbone": backbone, "decoder": MaskedDecoder(backbone, out_dim, DecoderSettings(1))}
        ),
        "classifier": lambda: VideoClassifier(backbone, 5),
    }[kind]()
    with torch.no_grad():
        for name, value in built.named_parameters():
            is_scale = "norm" in name and name.endswith("weight")
            value.copy_(is_scale + 0.3 * torch.randn_like(value))
            if name.endswith("qkv.bias"):
                third = len(value) // 3
                value[third : 2 * third] = 0
    if kind == "classifier":
        del built.backbone.norm
    return built.eval()


def assert_equal(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(actual[name], value), name


@pytest.mark.parametrize("kind", ["encoder", "pretraining", "classifier"])
def test_names_there_and_back(kind: str) -> None:
    """official -> ours -> transformers -> ours -> official: no bit changes, and new names of biases can also be read."""
    built = network(kind)
    grid = VideoViT("micro", 32, 4, 8).grid
    official = to_official(dict(built.state_dict()), grid)
    ours = from_official(official)
    sizes = infer_architecture(ours, FACTS, "test")
    assert sizes.kind == kind
    theirs = to_huggingface(ours, sizes)
    assert not any("blocks" in name or "qkv" in name for name in theirs)
    newer = {name.replace("q_bias", "query.bias").replace("v_bias", "value.bias"): value for name, value in theirs.items()}
    for names in (theirs, newer):
        back = from_huggingface(names)
        assert_equal(back, ours)
        assert_equal(to_official(back, grid), official)


def test_an_incomplete_attention_is_not_filled_with_zeros() -> None:
    ours = dict(network("encoder").state_dict())
    theirs = to_huggingface(ours, infer_architecture(ours, FACTS, "test"))
    missing = "encoder.layer.1.attention.attention."
    for name in ("key.weight", "v_bias"):
        short = {key: value for key, value in theirs.items() if key != missing + name}
        fused = f"backbone.blocks.1.attn.qkv.{'weight' if name == 'key.weight' else 'bias'}"
        assert fused not in from_huggingface(short)


def test_clip_decoder_does_not_fit() -> None:
    ours = dict(network("pretraining", out_dim=100).state_dict())
    with pytest.raises(SettingError, match=r"100 values per token.*384 of a token's pixels; pass --part backbone"):
        to_huggingface(ours, infer_architecture(ours, FACTS, "test"))


@pytest.mark.parametrize("kind", ["encoder", "pretraining", "classifier"])
def test_config_tells_the_sizes_again(kind: str, tmp_path: Path) -> None:
    sizes = infer_architecture(dict(network(kind).state_dict()), FACTS, "test")
    (tmp_path / "config.json").write_text(json.dumps(model_config(sizes, final_norm=kind != "classifier")))
    facts = read_config(tmp_path / "config.json")
    assert {name: facts[name] for name in FACTS} == FACTS
    if kind == "pretraining":
        assert facts["decoder_heads"] == sizes.decoder_heads


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "vivit"}, "'vivit' network"),
        ({"hidden_act": "relu"}, "hidden_act 'relu'"),
        ({"num_channels": 1}, "num_channels 1"),
        ({"layer_norm_eps": 1e-3}, "layer_norm_eps 0.001"),
        ({"use_mean_pooling": False}, "use_mean_pooling False"),
        ({"layer_norm_eps": "small"}, "layer_norm_eps 'small'"),
        ({"image_size": [224, 112]}, r"image_size \[224, 112\]; only integers and squares"),
        ({"num_frames": None}, "num_frames None; only integers"),
        (None, "is not the config of a model"),
    ],
)
def test_other_networks_are_refused(change: dict | None, message: str, tmp_path: Path) -> None:
    config = model_config(Architecture(32, 2, 2, 8, 2, 4.0, 32, 4, num_classes=5), final_norm=False)
    (tmp_path / "config.json").write_text("[]" if change is None else json.dumps(config | change))
    with pytest.raises(SettingError, match=message):
        read_config(tmp_path / "config.json")


# --- In transformers' own networks ---


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """Within 1e-5 of the largest value."""
    assert actual.shape == expected.shape
    assert float((actual - expected).abs().max() / expected.abs().max()) < 1e-5


def written(kind: str, weights: dict[str, Tensor], folder: Path) -> Path:
    """The folder that the command writes from an official file."""
    grid = VideoViT("micro", 32, 4, 8).grid
    torch.save({"model": to_official(weights, grid)}, folder / "source.pth")
    out = folder / kind
    convert(folder / "source.pth", out, to="huggingface", heads=2, image_size=32, num_frames=4)
    return out


@pytest.fixture(scope="module")
def transformers() -> object:
    return pytest.importorskip("transformers", reason="outputs are compared with transformers, which is not installed")


def load(transformers: object, name: str, folder: Path) -> nn.Module:
    """Load like users do, without missing or unused weights."""
    model, info = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


@torch.no_grad()
def test_encoder_outputs(transformers: object, tmp_path: Path) -> None:
    ours = network("encoder")
    model = load(transformers, "VideoMAEModel", written("encoder", dict(ours.state_dict()), tmp_path))
    video = torch.randn(2, 3, 4, 32, 32)
    assert_close(model(video.transpose(1, 2)).last_hidden_state, ours.backbone.forward_features(video))


@torch.no_grad()
def test_encoder_without_norm_outputs(transformers: object, tmp_path: Path) -> None:
    ours = network("encoder")
    weights = {key: value for key, value in ours.state_dict().items() if not key.startswith("backbone.norm.")}
    model = load(transformers, "VideoMAEModel", written("encoder", weights, tmp_path))
    video = torch.randn(2, 3, 4, 32, 32)
    assert_close(model(video.transpose(1, 2)).last_hidden_state, ours.backbone.forward_features(video, norm=False))


@torch.no_grad()
def test_pretraining_outputs(transformers: object, tmp_path: Path) -> None:
    ours = network("pretraining")
    model = load(transformers, "VideoMAEForPreTraining", written("pretraining", dict(ours.state_dict()), tmp_path))
    video = torch.randn(2, 3, 4, 32, 32)
    hidden = torch.rand(2, 32).argsort(1) < 24
    mask = mask_from_bool(hidden)
    tokens = ours.backbone.forward_features(video, mask.visible)
    expected = ours.decoder(tokens, mask.visible, mask.targets)
    assert_close(model(video.transpose(1, 2), bool_masked_pos=hidden).logits, expected)


@torch.no_grad()
@pytest.mark.parametrize("normalise", [True, False])
def test_pretraining_loss(normalise: bool, transformers: object, tmp_path: Path) -> None:
    """transformers computes the loss of the training, for pixels with or without normalisation per cube."""
    method = VideoMAE(
        VideoViT("micro", 32, 4, 8, embed_dim=32, depth=2, num_heads=2),
        PixelTarget(normalise),
        TubeMask(0.5),
        DecoderSettings(1),
    )
    method.load_state_dict(network("pretraining").state_dict())
    target = {"class_path": "modules.layers.targets.PixelTarget", "init_args": {"normalise": normalise}}
    config = json.dumps({"model": {"init_args": {"target": target}}})
    torch.save({"state_dict": method.state_dict(), "record": {"config": config}}, tmp_path / "last.ckpt")
    convert(tmp_path / "last.ckpt", tmp_path / "hf", to="huggingface", heads=2, decoder_heads=1, image_size=32, num_frames=4)
    model = load(transformers, "VideoMAEForPreTraining", tmp_path / "hf")
    clip = torch.randint(0, 256, (2, 4, 32, 32, 3), dtype=torch.uint8)
    hidden = torch.rand(2, 32).argsort(1) < 24
    mask = mask_from_bool(hidden)
    video = normalise_clip(clip)
    tokens = method.backbone.forward_features(video, mask.visible)
    prediction = method.decoder(tokens, mask.visible, mask.targets)
    expected = method.loss(prediction, gather_tokens(method.target(video, method.backbone.grid), mask.targets), None)
    assert_close(model(video.transpose(1, 2), bool_masked_pos=hidden).loss, expected)


@torch.no_grad()
def test_class_names_in_transformers(transformers: object, tmp_path: Path) -> None:
    names = ["wave", "jump", "applying cream", "fall", "air drumming"]
    torch.save({"state_dict": network("classifier").state_dict(), "record": {"class_names": names}}, tmp_path / "last.ckpt")
    convert(tmp_path / "last.ckpt", tmp_path / "hf", to="huggingface", heads=2, image_size=32, num_frames=4)
    model = load(transformers, "VideoMAEForVideoClassification", tmp_path / "hf")
    assert model.config.id2label == dict(enumerate(names))
    model.save_pretrained(tmp_path / "saved")
    convert(tmp_path / "saved", tmp_path / "back.safetensors")
    assert read_passport(tmp_path / "back.safetensors")["class_names"] == names


@torch.no_grad()
def test_classifier_outputs(transformers: object, tmp_path: Path) -> None:
    ours = network("classifier")
    folder = written("classifier", dict(ours.state_dict()), tmp_path)
    model = load(transformers, "VideoMAEForVideoClassification", folder)
    video = torch.randn(2, 3, 4, 32, 32)
    assert_close(model(video.transpose(1, 2)).logits, ours(video))


@torch.no_grad()
def test_a_fine_tuned_run_and_its_card(transformers: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint of a classifier gives the run's scores of pixels there, and the snippet of the card runs unchanged."""
    torch.manual_seed(0)
    method = Classification(VideoViT("micro", 32, 4, 8, embed_dim=32, depth=2, num_heads=2), 5, optim=AdamWSettings()).eval()
    for name, value in method.named_parameters():
        if "bias" in name or name == "head.weight":
            torch.nn.init.normal_(value, std=0.3)
    method.normalise = HALF.apply
    kept = {"state_dict": method.state_dict(), "record": {"class_names": list("abcde"), "backbone": method.backbone.facts()}}
    kept["record"]["backbone"]["normalisation"] = HALF.as_record()
    torch.save(kept, tmp_path / "last.ckpt")
    convert(tmp_path / "last.ckpt", tmp_path / "hf", to="huggingface", heads=2, license="cc-by-nc-4.0")
    model = load(transformers, "VideoMAEForVideoClassification", tmp_path / "hf")
    clip = torch.randint(0, 256, (2, 4, 32, 32, 3), dtype=torch.uint8)
    pictures = json.loads((tmp_path / "hf" / "preprocessor_config.json").read_text())
    mean, std = (torch.tensor(pictures[f"image_{name}"]) for name in ("mean", "std"))
    pixels = ((clip / 255 - mean) / std).permute(0, 1, 4, 2, 3)
    assert_close(model(pixels).logits, method.logits(method.features(method.normalise(clip))))
    assert front_matter(tmp_path / "hf" / "README.md")["license"] == "cc-by-nc-4.0"
    for kind, folder in (("classifier", tmp_path / "hf"), ("encoder", None), ("pretraining", None)):
        monkeypatch.chdir(tmp_path)
        (tmp_path / kind).mkdir()
        place = folder or written(kind, dict(network(kind).state_dict()), tmp_path / kind)
        monkeypatch.chdir(place)
        snippet = (place / "README.md").read_text().split("```python\n")[1].split("```")[0]
        exec(compile(snippet, "card", "exec"), {})  # in a process of its own it takes seconds more


@torch.no_grad()
@pytest.mark.parametrize("case", ["pretrain_forward_loss", "finetune_forward"])
def test_official_tensors_in_transformers(case: str, transformers: object, tmp_path: Path) -> None:
    """The outputs of the official code, from its weights, in transformers' networks."""
    tensors, info = load_case("videomae", case)
    sizes, video = info["constructor"], tensors["input.video"].transpose(1, 2)
    torch.save({"module": part(tensors, "state.")}, tmp_path / "mp_rank_00_model_states.pt")
    convert(
        tmp_path,
        tmp_path / "out",
        to="huggingface",
        heads=sizes.get("num_heads", sizes.get("encoder_num_heads")),
        decoder_heads=sizes.get("decoder_num_heads"),
        image_size=sizes["img_size"],
        num_frames=sizes.get("num_frames", sizes.get("all_frames")),
    )
    if case == "finetune_forward":
        model = load(transformers, "VideoMAEForVideoClassification", tmp_path / "out")
        assert_close(model(video).logits, tensors["output.logits"])
    else:
        model = load(transformers, "VideoMAEForPreTraining", tmp_path / "out")
        output = model(video, bool_masked_pos=tensors["input.mask"].bool())
        assert_close(output.logits, tensors["output.prediction"])
        assert_close(output.loss, tensors["output.loss_normalised"].reshape(()))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["encoder", "pretraining", "classifier"])
def test_what_transformers_saves_is_read(kind: str, transformers: object, tmp_path: Path) -> None:
    """A folder written by `save_pretrained` is converted back to our weights bit for bit."""
    expected = dict(network(kind).state_dict())
    folder = written(kind, expected, tmp_path)
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    load(transformers, name, folder).save_pretrained(tmp_path / "saved")
    convert(tmp_path / "saved", tmp_path / "back.pth", to="official")
    official = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert_equal(from_official(official), expected)


def test_pictures_are_prepared_as_ours(transformers: object, tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor_config(32, IMAGENET)))
    clip = torch.randint(0, 256, (1, 4, 32, 32, 3), dtype=torch.uint8)
    for name in ("VideoMAEImageProcessor", "VideoMAEVideoProcessor"):
        if not hasattr(transformers, name):
            continue
        processor = getattr(transformers, name).from_pretrained(tmp_path)
        frames = list(clip[0].numpy()) if "Image" in name else clip.permute(0, 1, 4, 2, 3)
        given = processor(frames, return_tensors="pt")["pixel_values"]
        assert float((given.transpose(1, 2) - normalise_clip(clip)).abs().max()) < 1e-5
