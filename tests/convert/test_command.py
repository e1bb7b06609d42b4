"""All input formats, one output format with a passport, and one-sentence errors for invalid input."""

import argparse
import hashlib
import json
import os
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from jsonargparse import auto_cli
from safetensors.torch import load_file, save_file
from torch import Tensor

from modules.backbones.vit.video_vit import VideoViT
from modules.convert.command import convert
from modules.core.errors import SettingError
from modules.layers.heads import VideoClassifier
from modules.layers.masked_autoencoder import MaskedAutoencoder
from modules.weights.files import read_weights
from modules.weights.names.videomae import encoder_weights, from_official, to_official
from modules.weights.passport import read_passport
from tests.parity.cases import load_case, part
from tests.registry import METHODS, tiny_cnn, tiny_vit
from tests.weights.test_files import Evil

SIZES = {"heads": 2, "image_size": 32, "num_frames": 4}
CONFIG = """
model:
  class_path: modules.VideoMAE
  init_args:
    backbone:
      class_path: modules.backbones.vit.video_vit.VideoViT
      init_args: {size: micro, embed_dim: 32, num_heads: 2, image_size: 32, num_frames: 4, patch_size: 8, tubelet_size: 2}
    decoder: {heads: 1}
data:
  class_path: datamodules.SyntheticMotion
  init_args:
    clip: {frames: 4, size: 32, stride: 3}
"""


def start(path: str) -> None:
    """Build a masked autoencoder from the weights of a whole method."""
    method = METHODS[0].build()
    assert isinstance(method, MaskedAutoencoder)
    method.start_from(path)


def without_key_bias(state: dict[str, Tensor]) -> dict[str, Tensor]:
    state = {name: value.clone() for name, value in state.items()}
    for name, value in state.items():
        if name.endswith("qkv.bias"):
            value[len(value) // 3 : 2 * len(value) // 3] = 0
    return state


@pytest.fixture
def pretraining() -> dict[str, Tensor]:
    """Encoder and decoder of a tiny VideoMAE under our names, every weight random."""
    method = METHODS[0].build()
    return without_key_bias({name: torch.randn_like(value) for name, value in method.state_dict().items()})


@pytest.fixture
def classifier() -> dict[str, Tensor]:
    """A tiny fine-tuned network under our names, whose encoder has no final norm."""
    state = VideoClassifier(tiny_vit(), 5).state_dict()
    return without_key_bias(
        {name: torch.randn_like(value) for name, value in state.items() if not name.startswith("backbone.norm.")}
    )


def official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    names = to_official(state, tiny_vit().grid)
    return names if "mask_token" in names else {name.removeprefix("encoder."): value for name, value in names.items()}


def assert_equal(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(actual[name], value), name


# Entries that DeepSpeed and the official scripts save next to the weights.
OFFICIAL_EXTRAS = {"optimizer": {"state": {}, "param_groups": [{"lr": 1e-3}]}, "epoch": 799, "scaler": {"scale": 1.0}}
DEEPSPEED_EXTRAS = {
    "buffer_names": [],
    "optimizer": None,
    "param_shapes": [OrderedDict(weight=torch.Size([2, 3]))],
    "sparse_tensor_module_names": set(),
    "global_steps": 3,
    "ds_version": "0.5.8",
    "args": argparse.Namespace(window_size=(8, 14, 14), lr=1e-3),
}


@pytest.mark.parametrize("form", ["official", "bare", "ddp", "deepspeed", "lightning", "safetensors"])
@pytest.mark.parametrize("kind", ["pretraining", "classifier"])
def test_every_form_becomes_the_same_file(form: str, kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    expected: dict[str, Tensor] = request.getfixturevalue(kind)
    names = official(expected)
    source = tmp_path / "source"
    content = {
        "official": {"model": names, "args": argparse.Namespace(patch_size=(8, 8)), **OFFICIAL_EXTRAS},
        "bare": names,
        "ddp": {"state_dict": {f"module.{name}": value for name, value in names.items()}},
        "deepspeed": {"module": names, **DEEPSPEED_EXTRAS},
        "lightning": {"state_dict": expected, "pytorch-lightning_version": "2.6.6", "loops": {}, "callbacks": {}},
    }.get(form)
    if form == "deepspeed":
        source.mkdir()
        torch.save(content, source / "mp_rank_00_model_states.pt")
    elif form == "safetensors":
        source = source.with_suffix(".safetensors")
        save_file(expected, source)
    else:
        torch.save(content, source)
    convert(source, tmp_path / "out" / "weights.safetensors", **SIZES)
    assert_equal(load_file(tmp_path / "out" / "weights.safetensors"), expected)
    written = ["weights.safetensors", "weights.safetensors.json", "weights.safetensors.md"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == written
    modes = {path.stat().st_mode for path in (tmp_path / "out").iterdir()}
    assert len(modes) == 1
    assert read_passport(tmp_path / "out" / "weights.safetensors")["kind"] == kind


def test_bare_encoder_gets_its_prefix(tmp_path: Path) -> None:
    backbone = tiny_vit()
    torch.save(backbone.state_dict(), tmp_path / "source.pt")
    convert(tmp_path / "source.pt", tmp_path / "out.safetensors", **SIZES)
    weights = load_file(tmp_path / "out.safetensors")
    assert_equal(encoder_weights(weights), dict(backbone.state_dict()))
    assert read_passport(tmp_path / "out.safetensors")["kind"] == "encoder"


@pytest.mark.parametrize("kind", ["pretraining", "classifier"])
def test_around_through_every_format(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """official -> ours -> transformers -> ours -> official changes no bit; sizes are kept."""
    expected = official(request.getfixturevalue(kind))
    torch.save({"model": expected}, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "b.safetensors", **SIZES, stride=2)
    convert(tmp_path / "b.safetensors", tmp_path / "c", to="huggingface")
    convert(tmp_path / "c", tmp_path / "d.safetensors")
    convert(tmp_path / "d.safetensors", tmp_path / "e.pth", to="official")
    assert_equal(torch.load(tmp_path / "e.pth", weights_only=True)["model"], expected)
    first, last = read_passport(tmp_path / "b.safetensors"), read_passport(tmp_path / "e.pth")
    assert last["architecture"] == first["architecture"]
    assert first["stride"] == last["stride"] == 2


@pytest.mark.parametrize("case", ["pretrain_forward_loss", "finetune_forward"])
def test_official_code_has_these_names(case: str, tmp_path: Path) -> None:
    """Weights of the official code are exported under exactly its names."""
    tensors, info = load_case("videomae", case)
    sizes, state = info["constructor"], part(tensors, "state.")
    heads = sizes.get("num_heads", sizes.get("encoder_num_heads"))
    torch.save(state, tmp_path / "a.pth")
    settings = {"image_size": sizes["img_size"], "num_frames": sizes.get("num_frames", sizes.get("all_frames"))}
    convert(tmp_path / "a.pth", tmp_path / "b.safetensors", heads=heads, **settings)
    convert(tmp_path / "b.safetensors", tmp_path / "c.pth", to="official")
    assert_equal(torch.load(tmp_path / "c.pth", weights_only=True)["model"], state)
    if case == "pretrain_forward_loss":
        architecture = read_passport(tmp_path / "c.pth")["architecture"]
        assert architecture["decoder_heads"] == sizes["decoder_num_heads"]


def test_backbone_alone(pretraining: dict[str, Tensor], tmp_path: Path) -> None:
    """Also from a file with unknown parts; the encoder can load it as its checkpoint."""
    extra = {"memory": torch.randn(7, 3), "predictor.0.weight": torch.randn(4, 4)}
    torch.save({"model": official(pretraining) | extra}, tmp_path / "source.pth")
    out = tmp_path / "out.safetensors"
    with pytest.raises(SettingError, match=r"--part backbone .* 2 left over \(memory, predictor\.0\.weight\)"):
        convert(tmp_path / "source.pth", out, **SIZES)
    convert(tmp_path / "source.pth", out, part="backbone", **SIZES)
    expected = {name: value for name, value in pretraining.items() if name.startswith("backbone.")}
    assert_equal(load_file(out), expected)
    assert read_passport(out)["architecture"]["decoder_dim"] is None
    loaded = VideoViT("micro", 32, 4, 8, embed_dim=32, depth=2, num_heads=2, checkpoint=str(out))
    assert torch.equal(loaded.norm.weight, expected["backbone.norm.weight"])


def test_written_files_start_methods(pretraining: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"state_dict": pretraining}, tmp_path / "last.ckpt")
    for out, to in (("a.safetensors", "safetensors"), ("b.pth", "official")):
        convert(tmp_path / "last.ckpt", tmp_path / out, to=to, **SIZES)
        method = METHODS[0].build()
        method.start_from(str(tmp_path / out))
        assert_equal(dict(method.state_dict()), pretraining)


def test_unknown_heads_must_be_passed(pretraining: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(official(pretraining), tmp_path / "source.pth")
    with pytest.raises(SettingError, match="no published network is 32 wide; pass --heads"):
        convert(tmp_path / "source.pth", tmp_path / "out.safetensors", image_size=32, num_frames=4)
    with pytest.raises(SettingError, match="5 heads do not divide it; pass --heads"):
        convert(tmp_path / "source.pth", tmp_path / "out.safetensors", heads=5)
    with pytest.raises(SettingError, match="3 heads do not divide the decoder's width 16; pass --decoder_heads"):
        convert(tmp_path / "source.pth", tmp_path / "out.safetensors", heads=2, decoder_heads=3)
    assert not list(tmp_path.glob("out*"))


# --- Passports ---


def test_passport_of_a_run(pretraining: dict[str, Tensor], tmp_path: Path) -> None:
    """Method, config and sizes come from the run's folder; metrics from the checkpoint; all of it from a record."""
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text(CONFIG)
    torch.save({"state_dict": pretraining}, checkpoint)
    out = tmp_path / "out.safetensors"
    convert(checkpoint, out)
    passport = read_passport(out)
    assert json.loads((tmp_path / "out.safetensors.json").read_text()) == passport
    assert passport["method"] == "modules.VideoMAE"
    assert passport["config"] == CONFIG
    assert passport["metrics"] is None
    assert (passport["frames"], passport["stride"]) == (4, 3)
    assert passport["normalisation"] == {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    sizes = passport["architecture"]
    assert (sizes["embed_dim"], sizes["depth"], sizes["num_heads"], sizes["mlp_ratio"]) == (32, 2, 2, 4.0)
    assert (sizes["patch_size"], sizes["tubelet_size"], sizes["image_size"], sizes["num_frames"]) == (8, 2, 32, 4)
    assert (sizes["decoder_dim"], sizes["decoder_depth"], sizes["decoder_heads"], sizes["decoder_out"]) == (16, 1, 1, 384)
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert passport["source"] == {"file": "last.ckpt", "sha256": digest, "made_from": None}

    record = {"method": "modules.SMILE", "metrics": {"val/loss": torch.tensor(0.5)}, "config": CONFIG + "# recorded\n"}
    torch.save({"state_dict": pretraining, "record": record}, checkpoint)
    convert(checkpoint, out, overwrite=True)
    passport = read_passport(out)
    assert (passport["method"], passport["metrics"]) == ("modules.SMILE", {"val/loss": 0.5})
    assert passport["config"].endswith("# recorded\n")


def test_passport_goes_on_with_the_weights(pretraining: dict[str, Tensor], tmp_path: Path) -> None:
    record = {"method": "modules.SMILE", "metrics": {"val/loss": 0.5}, "config": CONFIG}
    torch.save({"state_dict": pretraining, "record": record}, tmp_path / "last.ckpt")
    convert(tmp_path / "last.ckpt", tmp_path / "a.safetensors")
    first = read_passport(tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "b", to="huggingface", part="backbone")
    second = read_passport(tmp_path / "b")
    for name in ("method", "metrics", "config", "stride", "frames", "normalisation"):
        assert second[name] == first[name]
    assert second["kind"] == "encoder"
    assert second["source"]["made_from"] == first["source"]


def test_options_win_over_files(pretraining: dict[str, Tensor], tmp_path: Path) -> None:
    """They are kept in a second conversion, unless a config is passed."""
    torch.save({"state_dict": pretraining}, tmp_path / "last.ckpt")
    (tmp_path / "my.yaml").write_text(CONFIG)
    settings = {"run_config": tmp_path / "my.yaml"}
    convert(tmp_path / "last.ckpt", tmp_path / "a.safetensors", heads=4, stride=1, **settings)
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "c.safetensors", **settings)
    for name, expected in (("a", (4, 1, 4)), ("b", (4, 1, 4)), ("c", (2, 3, 4))):
        passport = read_passport(tmp_path / f"{name}.safetensors")
        assert (passport["architecture"]["num_heads"], passport["stride"], passport["frames"]) == expected


def plain_pixels(normalise: bool | None) -> str:
    """Settings of a run that predicts pixels; None omits the setting, whose default is true."""
    arguments = "" if normalise is None else f"\n      init_args: {{normalise: {str(normalise).lower()}}}"
    target = f"  init_args:\n    target:\n      class_path: modules.layers.targets.PixelTarget{arguments}\n"
    return CONFIG.replace("  init_args:\n", target, 1)


@pytest.mark.parametrize("normalise", [None, True, False])
def test_plain_pixels_stay_plain(
    normalise: bool | None, pretraining: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The target of a decoder is stored for transformers, and restored when a folder is converted back."""
    config, expected = plain_pixels(normalise), normalise is not False
    torch.save({"state_dict": pretraining, "record": {"config": config}}, tmp_path / "last.ckpt")
    with caplog.at_level("INFO"):
        convert(tmp_path / "last.ckpt", tmp_path / "hf", to="huggingface")
        assert json.loads((tmp_path / "hf" / "config.json").read_text())["norm_pix_loss"] is expected
        # As from another source: without our passport.
        (tmp_path / "hf" / "passport.json").unlink()
        convert(tmp_path / "hf", tmp_path / "back.safetensors")
    assert read_passport(tmp_path / "back.safetensors")["norm_pix_loss"] is expected
    assert ("pixels that are not normalised: to continue training, set model.target.normalise" in caplog.text) is not expected
    convert(tmp_path / "back.safetensors", tmp_path / "encoder.safetensors", part="backbone")
    assert read_passport(tmp_path / "encoder.safetensors")["norm_pix_loss"] is None


def test_official_scripts_say_what_they_predict(pretraining: dict[str, Tensor], tmp_path: Path) -> None:
    for number, normalise in enumerate((True, False)):
        command = argparse.Namespace(normlize_target=normalise)
        torch.save({"model": official(pretraining), "args": command}, tmp_path / "source.pth")
        convert(tmp_path / "source.pth", tmp_path / str(number), to="huggingface", **SIZES)
        assert json.loads((tmp_path / str(number) / "config.json").read_text())["norm_pix_loss"] is normalise


def test_unknown_pixels_are_said(pretraining: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(official(pretraining), tmp_path / "source.pth")
    with caplog.at_level("INFO"):
        convert(tmp_path / "source.pth", tmp_path / "hf", to="huggingface", **SIZES)
    assert "norm_pix_loss" not in json.loads((tmp_path / "hf" / "config.json").read_text())
    assert "It is unknown whether the predicted pixels were normalised" in caplog.text
    convert(tmp_path / "hf", tmp_path / "back.safetensors")
    assert read_passport(tmp_path / "back.safetensors")["norm_pix_loss"] is None


NAMES = ["wave", "jump", "applying cream", "fall", "air drumming"]


def test_class_names_go_with_the_classifier(classifier: dict[str, Tensor], tmp_path: Path) -> None:
    """From our run to transformers, from a folder without our passport to our passport, and never with another head."""
    torch.save({"state_dict": classifier, "record": {"class_names": NAMES}}, tmp_path / "last.ckpt")
    convert(tmp_path / "last.ckpt", tmp_path / "hf", to="huggingface", **SIZES)
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["id2label"] == {str(number): name for number, name in enumerate(NAMES)}
    assert config["label2id"] == {name: number for number, name in enumerate(NAMES)}
    (tmp_path / "hf" / "passport.json").unlink()
    convert(tmp_path / "hf", tmp_path / "back.safetensors")
    assert read_passport(tmp_path / "back.safetensors")["class_names"] == NAMES
    convert(tmp_path / "back.safetensors", tmp_path / "encoder.safetensors", part="backbone")
    assert read_passport(tmp_path / "encoder.safetensors")["class_names"] is None
    torch.save({"state_dict": classifier, "record": {"class_names": NAMES[:3]}}, tmp_path / "last.ckpt")
    convert(tmp_path / "last.ckpt", tmp_path / "few", to="huggingface", **SIZES)
    assert json.loads((tmp_path / "few" / "config.json").read_text())["id2label"]["4"] == "LABEL_4"


def test_nothing_known_is_lost_on_a_long_way(pretraining: dict[str, Tensor], tmp_path: Path) -> None:
    """ckpt -> safetensors -> pth -> transformers -> safetensors: the last passport equals the first one."""
    record = {"method": "modules.VideoMAE", "metrics": {"val/loss": 0.5}, "config": plain_pixels(False)}
    torch.save({"state_dict": pretraining, "record": record}, tmp_path / "last.ckpt")
    way = [("a.safetensors", "safetensors"), ("b.pth", "official"), ("c", "huggingface"), ("d.safetensors", "safetensors")]
    source = tmp_path / "last.ckpt"
    passports = []
    for name, to in way:
        convert(source, tmp_path / name, to=to)
        source = tmp_path / name
        if to == "safetensors" and not passports:
            # Unknown entries of later versions are kept, too.
            content = read_passport(source) | {"licence": "as the data"}
            save_file(load_file(source), source, {"format": "pt", "passport": json.dumps(content)})
        passports.append(read_passport(source))
    chain = passports[-1].pop("source")
    for earlier in reversed(passports[:-1]):
        chain = chain["made_from"]
        assert chain == earlier.pop("source")
        assert earlier == passports[-1]
    assert chain["file"] == "last.ckpt"
    assert_equal(load_file(tmp_path / "d.safetensors"), pretraining)


@pytest.mark.parametrize("clip", ["stride: 3", "sampler: {class_path: Dense, init_args: {stride: 3}}"])
def test_frames_of_a_network_that_takes_any_number(clip: str, tmp_path: Path) -> None:
    """Those of the run, also in a second conversion; runs of earlier versions had the stride next to the frames."""
    config = f"data:\n  init_args:\n    clip: {{frames: 8, size: 32, {clip}}}\n"
    torch.save({"state_dict": tiny_cnn_weights(), "record": {"config": config}}, tmp_path / "last.ckpt")
    convert(tmp_path / "last.ckpt", tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    for name in "ab":
        passport = read_passport(tmp_path / f"{name}.safetensors")
        assert (passport["frames"], passport["stride"]) == (8, 3)
    torch.save(tiny_cnn_weights(), tmp_path / "bare.pth")
    convert(tmp_path / "bare.pth", tmp_path / "c.safetensors", num_frames=32, stride=2)
    convert(tmp_path / "c.safetensors", tmp_path / "d.safetensors")
    assert read_passport(tmp_path / "d.safetensors")["frames"] == 32


def test_a_checkpoint_without_settings_knows_its_clips(pretraining: dict[str, Tensor], tmp_path: Path) -> None:
    """As written from Python, without the command line."""
    content = {"state_dict": pretraining, "record": {"backbone": METHODS[0].build().backbone.facts()}}
    torch.save(content, tmp_path / "last.ckpt")
    convert(tmp_path / "last.ckpt", tmp_path / "official.pth", "official", heads=2, decoder_heads=1)
    known = read_passport(tmp_path / "official.pth")["architecture"]
    assert (known["num_frames"], known["image_size"]) == (4, 32)


def tiny_cnn_weights() -> dict[str, Tensor]:
    return {f"backbone.{name}": value for name, value in tiny_cnn().state_dict().items()}


# --- Folders ---


@pytest.mark.parametrize("form", ["huggingface", "huggingface alone", "deepspeed"])
def test_folders_start_encoders_and_methods(form: str, pretraining: dict[str, Tensor], tmp_path: Path) -> None:
    """Folders of `convert`, transformers and DeepSpeed can be read without conversion."""
    folder = tmp_path / "folder"
    if form == "deepspeed":
        folder.mkdir()
        torch.save({"module": official(pretraining), **DEEPSPEED_EXTRAS}, folder / "mp_rank_00_model_states.pt")
    else:
        torch.save({"state_dict": pretraining}, tmp_path / "last.ckpt")
        convert(tmp_path / "last.ckpt", folder, to="huggingface", **SIZES)
        if form == "huggingface alone":
            (folder / "passport.json").unlink()
    encoder = VideoViT("micro", 32, 4, 8, embed_dim=32, depth=2, num_heads=2, checkpoint=str(folder))
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, pretraining[f"backbone.{name}"]), name
    method = METHODS[0].build()
    method.start_from(str(folder))
    assert_equal(dict(method.state_dict()), pretraining)


def test_other_heads_are_refused(pretraining: dict[str, Tensor], tmp_path: Path) -> None:
    """The number of heads is not in any tensor, but in a folder and a passport."""
    torch.save({"state_dict": pretraining}, tmp_path / "last.ckpt")
    for name, to in (("hf", "huggingface"), ("a.safetensors", "safetensors"), ("b.pth", "official")):
        convert(tmp_path / "last.ckpt", tmp_path / name, to=to, heads=4, decoder_heads=1, image_size=32, num_frames=4)
        message = r"model\.%s names .* has num_heads 4, but model\.backbone\.num_heads is 2"
        with pytest.raises(SettingError, match=message % r"backbone\.checkpoint"):
            VideoViT("micro", 32, 4, 8, embed_dim=32, depth=2, num_heads=2, checkpoint=str(tmp_path / name))
        with pytest.raises(SettingError, match=message % "init_from"):
            start(str(tmp_path / name))
    convert(tmp_path / "last.ckpt", tmp_path / "c.safetensors", heads=2, decoder_heads=2, image_size=32, num_frames=4)
    with pytest.raises(SettingError, match=r"has decoder_heads 2, but model\.decoder\.heads is 1"):
        start(str(tmp_path / "c.safetensors"))


def test_a_folder_of_another_network_is_refused(pretraining: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"state_dict": pretraining}, tmp_path / "last.ckpt")
    convert(tmp_path / "last.ckpt", tmp_path / "hf", to="huggingface", **SIZES)
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    with pytest.raises(SettingError, match=r"model\.backbone\.checkpoint: .*config\.json has hidden_act 'relu'"):
        VideoViT("micro", 32, 4, 8, embed_dim=32, depth=2, num_heads=2, checkpoint=str(tmp_path / "hf"))


@pytest.mark.parametrize("normalise", [True, False])
def test_a_start_from_other_pixels_is_said(
    normalise: bool, pretraining: dict[str, Tensor], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    torch.save({"state_dict": pretraining, "record": {"config": plain_pixels(normalise)}}, tmp_path / "last.ckpt")
    convert(tmp_path / "last.ckpt", tmp_path / "hf", to="huggingface")
    start(str(tmp_path / "hf"))
    said = "whose decoder predicts plain pixels; to train it further, set model.target.normalise false"
    assert any(said in str(one.message) for one in recwarn) is not normalise


# --- Errors ---


@pytest.mark.parametrize("lost", ["q", "v"])
def test_half_a_bias_is_refused_wherever_it_is_read(lost: str, pretraining: dict[str, Tensor], tmp_path: Path) -> None:
    kept = "v" if lost == "q" else "q"
    names = {key: value for key, value in official(pretraining).items() if key != f"encoder.blocks.0.attn.{lost}_bias"}
    torch.save({"model": names}, tmp_path / "source.pth")
    message = rf"source\.pth does not fit.* 1 missing \(.*blocks\.0\.attn\.qkv\.bias\), 1 left over \(.*\.{kept}_bias\)"
    with pytest.raises(SettingError, match=message):
        VideoViT("micro", 32, 4, 8, embed_dim=32, depth=2, num_heads=2, checkpoint=str(tmp_path / "source.pth"))
    with pytest.raises(SettingError, match=message):
        start(str(tmp_path / "source.pth"))
    with pytest.raises(SettingError, match=message):
        convert(tmp_path / "source.pth", tmp_path / "out.safetensors", **SIZES)


def test_what_does_not_fit_is_an_error(pretraining: dict[str, Tensor], tmp_path: Path) -> None:
    source, out = tmp_path / "source.pth", tmp_path / "out.safetensors"
    names = official(pretraining)

    def refused(weights: dict[str, Tensor], message: str, **settings: int) -> None:
        torch.save({"model": weights}, source)
        with pytest.raises(SettingError, match=message):
            convert(source, out, **(SIZES | settings))
        assert not list(tmp_path.glob("out*"))

    def lacking(*gone: str) -> dict[str, Tensor]:
        return {name: value for name, value in names.items() if not name.startswith(gone)}

    refused(lacking("encoder.norm.bias"), r"1 missing \(backbone\.norm\.bias\)")
    refused(lacking("decoder.norm."), r"2 missing \(decoder\.norm\.weight, decoder\.norm\.bias\)")
    refused(names | {"extra": torch.ones(1)}, r"1 left over \(extra\)")
    refused(names | {"mask_token": torch.ones(1, 1, 3)}, r"decoder\.mask_token \[1, 1, 3\] for \[1, 1, 16\]")
    refused(lacking("encoder.blocks.0.attn.v_bias"), r"1 left over \(backbone\.blocks\.0\.attn\.q_bias\)")
    refused(lacking("encoder.blocks."), r"backbone\.blocks\.0\.mlp\.fc1\.weight is missing")
    refused(lacking("encoder.patch_embed."), "contains no known vision transformer")
    refused(names, "tokens of 8 do not divide image_size 36; pass the right --image_size", image_size=36)
    refused(names, "tokens of 2 do not divide num_frames 5; pass the right --num_frames", num_frames=5)
    refused(names, "--heads is 0; it must be at least 1", heads=0)
    refused({"conv1.weight": torch.ones(4, 3, 7, 7), "fc.bias": torch.ones(3)}, "contains no known vision transformer")
    refused({"class_embedding": torch.ones(4)}, "no patch embedding")
    refused(pretraining, "not a square patch of 3 frames in three colours; pass .* --tubelet_size", tubelet_size=3)


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    with pytest.raises(SettingError, match=r"--source names .*gone\.pth, which does not exist"):
        convert(tmp_path / "gone.pth", out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingError, match=r"the folder .*empty contains none of model\.safetensors"):
        convert(tmp_path / "empty", out)
    (tmp_path / "short.safetensors").write_bytes(b"1234")
    with pytest.raises(SettingError, match=r"short\.safetensors, which cannot be read"):
        convert(tmp_path / "short.safetensors", out)


def test_a_transformers_folder_needs_its_config(classifier: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(official(classifier), tmp_path / "source.pth")
    convert(tmp_path / "source.pth", tmp_path / "folder", to="huggingface", **SIZES)
    (tmp_path / "folder" / "config.json").unlink()
    with pytest.raises(SettingError, match=r"config\.json is not the config of a model"):
        convert(tmp_path / "folder", tmp_path / "out.safetensors")


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "is not YAML"), ("- 1", "contains no settings"), (None, "does not exist")]
)
def test_bad_run_configs(text: str | None, message: str, pretraining: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"state_dict": pretraining}, tmp_path / "last.ckpt")
    if text is not None:
        (tmp_path / "my.yaml").write_text(text)
    with pytest.raises(SettingError, match=message):
        convert(tmp_path / "last.ckpt", tmp_path / "out.safetensors", run_config=tmp_path / "my.yaml")


def test_nothing_is_overwritten_unasked(pretraining: dict[str, Tensor], tmp_path: Path) -> None:
    source, out = tmp_path / "source.pth", tmp_path / "out.safetensors"
    torch.save(official(pretraining), source)
    convert(source, out, **SIZES)
    before = out.read_bytes()
    with pytest.raises(SettingError, match=r"out\.safetensors exists; pass another name, or --overwrite true"):
        convert(source, out, part="backbone", **SIZES)
    assert out.read_bytes() == before
    out.unlink()
    with pytest.raises(SettingError, match=r"out\.safetensors\.json exists"):
        convert(source, out, **SIZES)
    convert(source, out, overwrite=True, **SIZES)
    convert(source, tmp_path / "folder", to="huggingface", **SIZES)
    with pytest.raises(SettingError, match="folder exists"):
        convert(source, tmp_path / "folder", to="huggingface", **SIZES)
    with pytest.raises(SettingError, match=r"does not end in \.pth"):
        convert(source, out, to="official", overwrite=True)
    with pytest.raises(SettingError, match="is a file, but --to huggingface writes a folder"):
        convert(source, out, to="huggingface", overwrite=True)
    with pytest.raises(SettingError, match="is the source itself"):
        convert(out, out, overwrite=True)


def test_a_failed_write_leaves_what_was_there(
    pretraining: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "source.pth", tmp_path / "out.safetensors"
    torch.save(official(pretraining), source)
    convert(source, out, **SIZES)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SettingError, match=r"out\.safetensors cannot be written \(.*No space left on device\)"):
        convert(source, out, part="backbone", overwrite=True, **SIZES)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_malicious_files_do_not_run(pretraining: dict[str, Tensor], tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    torch.save({"model": official(pretraining), "args": Evil(trace)}, tmp_path / "source.pth")
    (tmp_path / "folder").mkdir()
    os.link(tmp_path / "source.pth", tmp_path / "folder" / "pytorch_model.bin")
    for source in ("source.pth", "folder"):
        with pytest.raises(SettingError, match="could run code and is not read"):
            convert(tmp_path / source, tmp_path / "out.safetensors", **SIZES)
    assert not trace.exists()
    assert not list(tmp_path.glob("out*"))


def test_command_line(pretraining: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"model": official(pretraining)}, tmp_path / "source.pth")
    out = tmp_path / "out.safetensors"
    words = [f"--source={tmp_path / 'source.pth'}", f"--out={out}", "--heads=2", "--image_size=32", "--num_frames=4"]
    auto_cli(convert, args=words, as_positional=False)
    assert_equal(read_weights(out, "x"), from_official(official(pretraining)))
    auto_cli(convert, args=[*words, "--overwrite=true", "--part=backbone"], as_positional=False)
    assert read_passport(out)["kind"] == "encoder"
