"""Export of networks to other runtimes: ONNX, and programs of `torch.export`.

An exported network takes decoded and cropped clips and normalises them itself: uint8 [B, T, H, W, 3] pixels, uint16
[B, T, H, W, 1] millimetres, float32 [B, 3, T, J, M] skeletons, [B, C, L] signals or [B, S, D] features, padded with 0 at the
end. It returns pooled features [B, D], or for a classifier the scores of its classes [B, K]. The batch may have any size; the
other sizes are those of the clips that the network was built for.
"""

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_info
from safetensors import SafetensorError
from torch import Tensor, nn

from modules.backbones.frame_tower import FrameTower
from modules.backbones.sequence.transformer import SequenceTransformer
from modules.backbones.signal.cnn import SignalCNN
from modules.backbones.skeleton.base import JOINTS, PERSONS, SkeletonEncoder
from modules.backbones.vit.video_vit import VideoViT
from modules.convert.load import Loaded, build_backbone
from modules.convert.skeleton import Part, is_skeleton
from modules.convert.skeleton import our_names as skeleton_names
from modules.convert.source import Source
from modules.core.errors import SettingError
from modules.core.files import to_json, write_whole
from modules.core.loading import load_strictly
from modules.downstream.classification import Classification
from modules.downstream.classifier_weights import attention_of_run, own_names
from modules.layers.attentive import AttentiveSettings

Runtime = Literal["onnx", "export"]
OPSET = 20
"""ONNX opset; onnxruntime 1.20, the oldest version that the extra allows, supports up to 21"""
HIGHEST = 1e-5
"""largest accepted difference of outputs, relative to the largest output"""
LARGEST = 1_900_000_000
"""largest size of the weights in one .onnx file, in bytes; protocol buffers are limited to 2 GiB"""
PASSPORT = "passport.json"
INPUT = "clip"


class Deployed(nn.Module):
    """An encoder, with or without a classifier, that takes decoded clips.

    Args:
        encoder: `Encoder`.
        classifier: classifier that returns scores; None returns features.
    """

    def __init__(self, encoder: nn.Module, classifier: Classification | None) -> None:
        super().__init__()
        self.encoder, self.classifier = encoder, classifier

    def forward(self, clip: Tensor) -> Tensor:
        """Clips -> features [B, D] or scores [B, K]."""
        fed: Tensor = self.encoder.preprocess(clip)  # type: ignore[operator]
        if self.classifier is None:
            result: Tensor = self.encoder(fed)
            return result
        normed = self.classifier.standardise(self.classifier.fc_norm(self.classifier.features(fed)))
        pooled = self.classifier.attention(normed)
        scores: Tensor = self.classifier.classifier(pooled)
        return scores


class Built(NamedTuple):
    """A network to export."""

    network: Deployed
    reference: Callable[[Tensor], Tensor]
    """clips -> expected outputs, computed with the original modules"""
    clips: Tensor
    """three random clips"""
    loaded: Loaded
    output: str
    """`features` or `logits`"""


def build(source: Source, part: Part, num_frames: int | None, image_size: int | None) -> Built:
    """The network of weights, and clips to test it.

    Args:
        source: weights.
        part: `all` includes the classifier if the weights have one; otherwise, only the encoder is built.
        num_frames: frames of its clips, or steps of its signals; None uses those of the weights.
        image_size: side of its clips in pixels; None uses that of the weights.

    Raises:
        SettingError: if the weights contain no encoder, or the size of its clips is unknown.
    """
    loaded = build_backbone(source, num_frames, image_size)
    encoder: Any = loaded.network
    clips = random_clips(loaded, source, image_size, num_frames)
    weights = skeleton_names(source.weights) if is_skeleton(source.weights) else own_names(source.weights)
    if part != "all" or "head.weight" not in weights:
        return Built(Deployed(encoder, None), lambda clip: encoder(encoder.preprocess(clip)), clips, loaded, "features")
    attention = attention_of(source, weights)
    mode: Any = "finetune" if attention is None else "attentive"
    network = getattr(encoder, "network", encoder)  # that of depth
    pools = mode == "finetune" and isinstance(network, VideoViT | FrameTower)
    if pools and weights["head.weight"].shape[1] != network.embed_dim:
        network.pooling = "time"
    classifier = Classification(encoder, len(weights["head.weight"]), mode, attention=attention or AttentiveSettings())
    counters = tuple(key for key in classifier.state_dict() if key.endswith("num_batches_tracked"))
    load_strictly(classifier, weights, source.path, may_miss=counters)
    classifier.eval()

    def reference(clip: Tensor) -> Tensor:
        return classifier.logits(classifier.features(encoder.preprocess(clip)))

    return Built(Deployed(encoder, classifier), reference, clips, loaded, "logits")


def attention_of(source: Source, weights: dict[str, Tensor]) -> AttentiveSettings | None:
    """Attention of a classifier, whose heads only the config of its run states; None if it has none.

    Args:
        source: file of the classifier.
        weights: its weights under the names of `Classification`.

    Raises:
        SettingError: if there is no config, or the attention sees several clips together.
    """
    if not any(key.startswith("attention.") for key in weights):
        return None
    known = attention_of_run(source.passport["config"])
    # Of the others, only attention with a query of its own has any number of heads.
    if known is None and "attention.query" in weights:
        raise SettingError(
            f"No file with {source.path} states the heads of its attention; pass the run's config.yaml with --run_config."
        )
    if known is not None and known.clips > 1:
        raise SettingError(
            f"An exported network takes one clip, but the attention in {source.path} sees {known.clips} together; pass --part "
            "backbone to export the encoder."
        )
    return known or AttentiveSettings()


def random_clips(loaded: Loaded, source: Source, image_size: int | None, num_frames: int | None) -> Tensor:
    """Three random clips in the format of the data.

    Raises:
        SettingError: if their size is unknown.
    """
    encoder: Any = loaded.network
    g = torch.Generator().manual_seed(0)
    frames = num_frames or getattr(encoder, "num_frames", None) or loaded.passport.get("frames")
    if frames is None:
        name = "steps of its signals" if isinstance(encoder, SignalCNN) else "frames of its clips"
        raise SettingError(f"No file with {source.path} states the {name}; pass them with --num_frames.")
    if isinstance(encoder, SignalCNN):
        return torch.randn(3, encoder.channels, frames, generator=g)
    if isinstance(encoder, SequenceTransformer):
        return torch.randn(3, frames, encoder.input_dim, generator=g)
    if isinstance(encoder, SkeletonEncoder):
        return torch.randn(3, 3, frames, JOINTS, PERSONS, generator=g)
    side = image_size or loaded.size
    if side is None:
        raise SettingError(f"No file with {source.path} states the side of its clips; pass it with --image_size.")
    if encoder.kind == "depth":
        return torch.randint(0, 6000, (3, frames, side, side, 1), generator=g).to(torch.uint16)
    return torch.randint(0, 256, (3, frames, side, side, 3), generator=g).to(torch.uint8)


def check_installed(to: Runtime) -> None:
    """Check that the packages for a format are installed, before anything is read.

    Raises:
        SettingError: if one is missing.
    """
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if to == "onnx" and find_spec(name) is None]
    if missing:
        raise SettingError(f'--to onnx needs {", ".join(missing)}; install them with pip install -e ".[export]".')


def described(built: Built, passport: dict[str, Any]) -> dict[str, Any]:
    """The passport of an exported network, with a description of its input and output."""
    clips = built.clips
    shape: list[int | str] = ["batch", *clips.shape[1:]]
    given = {"name": INPUT, "type": str(clips.dtype).removeprefix("torch."), "shape": shape}
    with torch.no_grad():
        outputs = built.reference(clips).shape[1]
    kinds = {"video": "BTHWC", "depth": "BTHWC", "skeleton": "BCTJM", "signal": "BCL", "feature": "BSD"}
    axes = kinds[built.network.encoder.kind]  # type: ignore[index]
    names = passport["class_names"]
    return passport | {
        "class_names": names if built.output == "logits" and names and len(names) == outputs else None,
        "norm_pix_loss": None,
        "frames": clips.shape[1 if axes in ("BTHWC", "BSD") else 2],
        "kind": "classifier" if built.output == "logits" else "encoder",
        "input": given | {"axes": axes, "normalisation": "inside"},
        "output": {"name": built.output, "type": "float32", "shape": ["batch", outputs]},
    }


def write_runtime(built: Built, passport: dict[str, Any], out: Path, to: Runtime) -> float:
    """Export a network, run the file, and keep it only if its outputs are the same.

    Args:
        built: network and clips.
        passport: its passport, which is also written into the file.
        out: .onnx or .pt2 file.
        to: format.

    Returns:
        The largest difference of outputs, relative to the largest output.

    Raises:
        SettingError: if the network cannot be exported, or the outputs of the file differ.
    """
    size = sum(value.numel() * value.element_size() for value in built.network.state_dict().values())
    if to == "onnx" and size > LARGEST:
        raise SettingError(f"--to onnx cannot store {size / 1e9:.1f} GB of weights in one file; pass --to export.")
    found: list[float] = []

    def save(path: Path) -> None:
        try:
            with _quiet():
                program = _program(built)
                run = (_write_onnx if to == "onnx" else _write_program)(built, program, passport, path)
        except Exception as error:
            first = str(error).strip().partition("\n")[0]
            raise SettingError(
                f"--to {to} cannot export this {type(built.network.encoder).__name__} ({type(error).__name__}: {first:.200}); "
                "pass --to safetensors."
            ) from error
        found.append(difference(built, run))
        if not found[0] <= HIGHEST:
            raise SettingError(
                f"Outputs of {out} would differ from the network's by {found[0]:.1e} of the largest, above {HIGHEST:g}, so it "
                "is not kept; pass --to safetensors."
            )

    try:
        write_whole(out, save)
    except (OSError, SafetensorError) as error:
        raise SettingError(f"--out {out} cannot be written ({error}); pass another path or free some space.") from error
    rank_zero_info(f"Outputs of {out} and of the network differ by {found[0]:.1e} of the largest, for one clip and for three.")
    return found[0]


@torch.no_grad()
def difference(built: Built, run: Callable[[Tensor], Tensor]) -> float:
    """Largest difference between the outputs of a file and of the network, for one clip and for three, relative to the largest
    output."""
    worst = 0.0
    for count in (1, 3):
        expected, found = built.reference(built.clips[:count]), run(built.clips[:count])
        if found.shape != expected.shape:
            return float("inf")
        worst = max(worst, float((found - expected).abs().max() / expected.abs().max()))
    return worst


@torch.no_grad()
def _program(built: Built) -> torch.export.ExportedProgram:
    # Run the network once before tracing, so that cached constants, such as those of normalisation, are not fake tensors.
    built.network.eval()(built.clips)
    # BEiT's fused attention with biases cannot be exported to ONNX; the unfused one is equal.
    fused = [one for one in built.network.modules() if getattr(one, "relative_position_bias_table", None) is not None]
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    for one in fused:
        one.fused_attn = False  # type: ignore[assignment]
    try:
        batch = {0: torch.export.Dim("batch", min=1)}
        return torch.export.export(built.network, (built.clips,), dynamic_shapes=(batch,))
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
        for one in fused:
            one.fused_attn = True  # type: ignore[assignment]


def _write_program(
    built: Built, program: torch.export.ExportedProgram, passport: dict[str, Any], path: Path
) -> Callable[[Tensor], Tensor]:
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files={PASSPORT: to_json(passport)})
    with path.open("rb") as file:
        module = torch.export.load(file).module()
    return lambda clips: module(clips)


def _write_onnx(
    built: Built, program: torch.export.ExportedProgram, passport: dict[str, Any], path: Path
) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    made: Any = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=OPSET,
        input_names=[INPUT],
        output_names=[built.output],
        external_data=False,
        verbose=False,
    )
    for value in (*made.model.graph.inputs, *made.model.graph.outputs):
        value.shape[0] = "batch"
    made.model.metadata_props["passport"] = to_json(passport)
    if passport.get("class_names"):
        made.model.metadata_props["class_names"] = json.dumps(passport["class_names"])
    made.save(str(path), external_data=False)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda clips: torch.from_numpy(session.run(None, {INPUT: clips.numpy()})[0])


@contextmanager
def _quiet() -> Iterator[None]:
    """Context that suppresses the output of exporters."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
