"""Model cards: a page next to weights that describes the network, how to load it, its input, and its origin."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from modules.convert.huggingface import CLASSES
from modules.convert.networks import Format
from modules.core.preprocessing import Normalisation
from modules.weights.licence import UNKNOWN, started_from
from modules.weights.passport import PASSPORT_FORMAT, passport_path
from modules.weights.run_config import inside, parse_config

LIBRARIES = {"huggingface": "transformers", "onnx": "onnx"}
PARTS = {"clip_tower": "image tower of CLIP", "timm_tower": "image tower", "text": "text encoder"}
"""Kinds that are parts of methods."""
WHOLES = {
    "pretraining": "encoder and decoder",
    "contrast": "encoder and momentum contrast",
    "order": "encoder and classifier of the order of clips",
    "playback": "encoder, classifier of playback rates and decoder",
    "rotation": "encoder and classifier of angles",
    "video_text": "encoders of videos and texts",
}
NO_PARAMETERS = ("running_mean", "running_var", "num_batches_tracked", "queue.keys", "queue.pointer")
SHOWN_CLASSES = 400


def card_path(out: Path, folder: bool) -> Path:
    """Path of the card of a file or folder."""
    return out / "README.md" if folder else out.with_name(f"{out.name}.md")


def count_parameters(weights: dict[str, Tensor]) -> int:
    """Number of learned parameters."""
    return sum(value.numel() for name, value in weights.items() if not name.endswith(NO_PARAMETERS))


def model_card(passport: dict[str, Any], out: Path, to: Format, parameters: int) -> str:
    """The card in the format of Hugging Face.

    Args:
        passport: passport of the weights.
        out: file or folder of the weights.
        to: its format.
        parameters: number of parameters of the network.
    """
    config = passport.get("config")
    settings = parse_config(config) if config else {}
    method = str(passport.get("method") or "").rpartition(".")[2]
    kind = passport["kind"]
    head = {
        "license": passport.get("license") or UNKNOWN,
        "library_name": LIBRARIES.get(to, "pytorch"),
        "pipeline_tag": "video-classification" if kind == "classifier" else "feature-extraction",
        "tags": ["video", "self-supervised-learning", *([method.lower()] if method else [])],
    }
    what = (PARTS | WHOLES).get(kind, kind)
    sections = {
        "What it is": [
            f"{method or 'A network'}: {what}, {parameters:,} parameters.\n",
            *_bullets(passport["architecture"]),
        ],
        "Load it": _loading(passport, out, to),
        "Feed it": _feeding(passport),
        "Training": _training(settings),
        "Results": _bullets(passport.get("metrics") or {}) or ["No result was recorded."],
        "Classes": _classes(passport.get("class_names")),
        "Source and licence": _source(passport, settings),
    }
    body = (f"## {title}\n\n" + "\n".join(lines) for title, lines in sections.items() if lines)
    front = yaml.safe_dump(head, sort_keys=False, allow_unicode=True)
    beside = passport_path(out, to == "huggingface").name
    end = f"Everything above, and the settings of the run, is in `{beside}` ({PASSPORT_FORMAT})."
    return "\n".join([f"---\n{front}---\n", f"# {out.name}\n", "\n\n".join(body), f"\n{end}\n"])


def _bullets(values: dict[str, Any]) -> list[str]:
    return [f"* {name}: {_number(value)}" for name, value in values.items() if value is not None and value is not False]


def _number(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_number(one)}" for name, one in value.items())
    return f"{value:.6g}" if isinstance(value, float) else str(value)


# --- How to use it ---


def _loading(passport: dict[str, Any], out: Path, to: Format) -> list[str]:
    if to == "onnx":
        return [f"In the folder of the file, with `numpy` and `onnxruntime`:\n\n```python\n{_onnx(passport, out)}```"]
    if to == "export":
        return [f"In the folder of the file, with `torch`:\n\n```python\n{_program(passport, out)}```"]
    if to == "huggingface":
        return [f"In this folder, with `transformers`:\n\n```python\n{_transformers(passport)}```"]
    if passport["kind"] in PARTS:
        setting = "model.text.checkpoint" if passport["kind"] == "text" else "model.target.checkpoint"
        snippet = f'from safetensors.torch import load_file\n\nweights = load_file("{out.name}")\n'
        return [
            f"In the folder of the file:\n\n```python\n{snippet}```",
            f"\nMethods of this project that have such a part take the file as `--{setting}`.",
            *(["`load_backbone` makes an encoder of clips of it, frame by frame."] if passport["kind"] != "text" else []),
        ]
    lines = [f"In the folder of the file, with this project installed:\n\n```python\n{_ours(passport, out)}```"]
    if passport["kind"] == "classifier":
        lines.append("\n`--model.init_from` takes the file with its classifier, `--model.backbone.checkpoint` its encoder.")
    return lines


def _ours(passport: dict[str, Any], out: Path) -> str:
    return (
        "import torch\n"
        "from modules.convert.load import load_backbone\n\n"
        f'network = load_backbone("{out.name}")\n'
        f"clips = {_random(passport)}\n"
        "with torch.inference_mode():\n"
        "    features = network(network.preprocess(clips))\n"
        "print(features.shape)\n"
    )


def _random(passport: dict[str, Any]) -> str:
    """Python code for two random clips in the format of the data."""
    sizes = passport["architecture"]
    frames, side = passport.get("frames") or 16, sizes.get("image_size") or 112
    if sizes.get("stream") == "signal":
        return f"torch.randn(2, {sizes['channels']}, {passport.get('frames') or 96})  # channels, steps"
    if sizes.get("stream") == "feature":
        return f"torch.randn(2, {frames}, {sizes['input_dim']})  # steps, values of a feature"
    if isinstance(sizes.get("backbone"), dict) or isinstance(sizes.get("partner"), dict):
        return f"torch.randn(2, 3, {frames}, 25, 2)  # coordinates, frames, joints, persons"
    if sizes.get("stream") == "depth":
        return f"torch.randint(0, 6000, (2, {frames}, {side}, {side}, 1)).to(torch.uint16)  # millimetres"
    return f"torch.randint(0, 256, (2, {frames}, {side}, {side}, 3), dtype=torch.uint8)  # frames as they are decoded"


def _onnx(passport: dict[str, Any], out: Path) -> str:
    given, shape = passport["input"], [2, *passport["input"]["shape"][1:]]
    random = (
        f"np.random.randn{tuple(shape)}.astype(np.float32)"
        if given["type"] == "float32"
        else f"np.random.randint(0, 256, {shape}).astype(np.{given['type']})"
    )
    name = passport["output"]["name"]
    return (
        "import numpy as np\n"
        "import onnxruntime\n\n"
        f'session = onnxruntime.InferenceSession("{out.name}", providers=["CPUExecutionProvider"])\n'
        f"clips = {random}  # as they are decoded\n"
        f'({name},) = session.run(["{name}"], {{"{given["name"]}": clips}})\n'
        f"print({name}.shape)\n"
    )


def _program(passport: dict[str, Any], out: Path) -> str:
    given, shape = passport["input"], [2, *passport["input"]["shape"][1:]]
    random = f"torch.randn({shape})"
    if given["type"] != "float32":
        random = f"torch.randint(0, 256, {shape}).to(torch.{given['type']})"
    name = passport["output"]["name"]
    return (
        "import torch\n\n"
        f'network = torch.export.load("{out.name}").module()\n'
        f"clips = {random}  # as they are decoded\n"
        "with torch.inference_mode():\n"
        f"    {name} = network(clips)\n"
        f"print({name}.shape)\n"
    )


def _transformers(passport: dict[str, Any]) -> str:
    sizes, kind = passport["architecture"], passport["kind"]
    frames, side = sizes["num_frames"], sizes["image_size"]
    tokens = frames // sizes["tubelet_size"] * (side // sizes["patch_size"]) ** 2
    normalisation = passport["normalisation"]
    call = {
        "encoder": "features = model(pixels).last_hidden_state.mean(1)\nprint(features.shape)",
        "classifier": "logits = model(pixels).logits\nprint([model.config.id2label[i] for i in logits.argmax(1).tolist()])",
        "pretraining": (
            f"hidden = (torch.rand({tokens}).argsort() < {tokens * 9 // 10}).repeat(2, 1)\n"
            "prediction = model(pixels, bool_masked_pos=hidden).logits\nprint(prediction.shape)"
        ),
    }[kind]
    return (
        "import torch\n"
        f"from transformers import {CLASSES[kind]}\n\n"
        f'model = {CLASSES[kind]}.from_pretrained(".").eval()\n'
        f"clips = torch.randint(0, 256, (2, {frames}, {side}, {side}, 3), dtype=torch.uint8)  # frames as they are decoded\n"
        f"mean, std = torch.tensor({list(normalisation['mean'])}), torch.tensor({list(normalisation['std'])})\n"
        "pixels = ((clips / 255 - mean) / std).permute(0, 1, 4, 2, 3)\n"
        "torch.set_grad_enabled(False)\n"
        f"{call}\n"
    )


def _feeding(passport: dict[str, Any]) -> list[str]:
    given, result = passport.get("input"), passport.get("output")
    normalisation = Normalisation.of_record(passport.get("normalisation"))
    lines: dict[str, Any] = {}
    if given is not None and result is not None:
        lines["input"] = f"`{given['name']}`, {given['type']} {_shape(given)} ({given['axes']}), as decoded and cropped"
        lines["output"] = f"`{result['name']}`, {result['type']} {_shape(result)}"
    else:
        lines |= {"frames": passport.get("frames"), "side in pixels": passport["architecture"].get("image_size")}
    lines["stride"] = passport.get("stride") or ("not recorded" if normalisation is not None else None)
    if normalisation is not None:
        inside_it = " (done inside the network)" if given is not None else ", of pixels from 0 to 1"
        lines["normalisation"] = f"{normalisation}{inside_it}"
    return _bullets(lines)


def _shape(given: dict[str, Any]) -> str:
    return "[" + ", ".join(map(str, given["shape"])) + "]"


# --- Where it comes from ---


def _training(settings: dict[str, Any]) -> list[str]:
    if not settings:
        return ["The settings of its training are not known."]
    data = inside(settings, "data")
    return _bullets(
        {
            "data": str(data.get("class_path") or "unknown").rpartition(".")[2],
            "epochs": inside(settings, "trainer").get("max_epochs"),
            "batch size": inside(data, "init_args").get("batch_size"),
            "seed": settings.get("seed_everything"),
            "started from": ", ".join(Path(file).name for file in started_from(settings)) or "random weights",
        }
    )


def _classes(names: Iterable[str] | None) -> list[str]:
    given = list(names or [])
    more = [f"and {len(given) - SHOWN_CLASSES} more, see the passport."] if len(given) > SHOWN_CLASSES else []
    return [f"{number}. {name}" for number, name in enumerate(given[:SHOWN_CLASSES])] + more


def _source(passport: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    lines, source = [], passport.get("source")
    while source:
        lines.append(f"* made from `{source['file']}`, sha256 `{source['sha256']}`")
        source = source.get("made_from")
    if passport.get("license"):
        return [*lines, f"* licence: {passport['license']}"]
    note = passport.get("license_note")
    started = started_from(settings)
    return [
        *lines,
        "* licence: unknown; none is stated with the weights (`convert --license NAME` sets one).",
        *([f"* {note}"] if note else []),
        *([f"* The licence of {Path(started[0]).name}, which it was initialised from, also applies."] if started else []),
    ]
