"""Weights from any file that this project reads, in one format, with a passport that says what they are.

Read: official pretraining and fine-tuned files of VideoMAE, VideoMAE V2, SMILE and SIGMA (also those that DeepSpeed wrote),
official files of TubeletContrast, the encoders in those of MoCo, VideoMoCo, RSPNet, CtP, Pretext-Contrast, TCLR, GDT, SeLaVi
and AVID-CMA, official files of skeleton contrast and VindLU, BERT's, OpenAI's CLIP (its image tower), DINO's and timm's vision
transformers, our .ckpt and .safetensors, and folders of `transformers`' VideoMAE. Written: .safetensors under our names,
official .pth, or a folder for `transformers`.

Names and shapes are compared with the network that the file claims to hold: what does not fit is an error, never left out
in silence. No file can run code: pickles are read with `weights_only=True`, and besides tensors, numbers, texts and plain
containers only `argparse.Namespace` is allowed in them (official files hold their command line); see
`modules.weights.files.read_checkpoint`.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from modules.convert.empty_networks import empty_network
from modules.convert.huggingface import model_config, preprocessor_config
from modules.convert.networks import (
    Converted,
    Format,
    Source,
    convert_cnn,
    convert_skeleton,
    convert_text,
    convert_tower,
    convert_video_text,
    is_cnn,
    is_tower,
)
from modules.convert.skeleton import Part, is_skeleton, official_file
from modules.core.errors import SettingError
from modules.core.files import sha256, to_json, write_json, write_whole
from modules.core.loading import LoadReport, compare
from modules.core.preprocessing import IMAGENET, Normalisation
from modules.core.tokens import Grid
from modules.weights.files import read_checkpoint, weight_file
from modules.weights.huggingface_config import class_names_of, norm_pix_loss_of, read_config
from modules.weights.names.huggingface import is_transformers, to_huggingface
from modules.weights.names.videomae import our_names, to_official
from modules.weights.names.vindlu import is_text, is_video_text
from modules.weights.origin import origin_of
from modules.weights.passport import PASSPORT_FORMAT, passport_of, passport_path
from modules.weights.run_config import config_text, facts_of_run, inside, norm_pix_loss_of_run, parse_config
from modules.weights.sizes import Architecture, Facts, infer_architecture

SUFFIXES = {"safetensors": ".safetensors", "official": ".pth"}
# How tensors of `Depth`, `SignalCNN` and `FusedClassification` are named, and no others.
OWN = ("network.", "scale.running_mean", "branches.")


def convert(
    source: Path,
    out: Path,
    to: Format = "safetensors",
    part: Part = "all",
    heads: int | None = None,
    decoder_heads: int | None = None,
    image_size: int | None = None,
    num_frames: int | None = None,
    tubelet_size: int | None = None,
    stride: int | None = None,
    run_config: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Rewrite weights in another format, with a passport beside them.

    Sizes that weights do not tell (heads, image_size, num_frames, tubelet_size, stride) are taken from the options, else from
    what lies with the file: config.yaml of our run, config.json of a transformers folder, or the passport in or beside it.
    Else they are those of the official networks: 224 pixels, 16 frames, tubelets of 2, heads by the width; the stride stays
    unknown.

    Args:
        source: file or folder to read: official .pth of VideoMAE, VideoMAE V2, SMILE or SIGMA, a folder or file of DeepSpeed,
            a published video CNN, an official file of skeleton contrast or VindLU, a BERT, a tower of CLIP, DINO or timm, our
            .ckpt or .safetensors, or a folder of transformers' VideoMAE or BERT.
        out: file to write (.safetensors, or .pth for official), or the folder for huggingface. The passport lies beside the
            file as <name>.json (weights.pth.json), or in the folder as passport.json; a .safetensors file holds it too.
        to: safetensors under our names; official names in a .pth; or huggingface, a folder for transformers.
        part: all, or the backbone (encoder) alone; partner is the second encoder of skeleton contrast.
        heads: attention heads of the encoder or tower.
        decoder_heads: attention heads of the decoder; half of the encoder's if unknown.
        image_size: side of the square clips in pixels.
        num_frames: frames per clip.
        tubelet_size: frames per token.
        stride: video frames from one frame of a clip to the next, for the passport.
        run_config: config.yaml of the run that made the weights, where it is not in the run's folder.
        overwrite: replace what is there.

    Raises:
        SettingError: if the file cannot be read, does not fit the network that it claims to be, or a size must be passed.
    """
    check_out(source, out, to, overwrite)
    found = read_source(source, run_config)
    asked = {
        "num_heads": heads,
        "decoder_heads": decoder_heads,
        "image_size": image_size,
        "num_frames": num_frames,
        "tubelet_size": tubelet_size,
        "stride": stride,
    }
    facts = found.facts | {name: value for name, value in asked.items() if value is not None}
    for name in asked:
        if facts.get(name, 1) < 1:
            raise SettingError(f"--{'heads' if name == 'num_heads' else name} is {facts[name]}; it must be at least 1.")
    if any(key.removeprefix("backbone.").startswith(OWN) for key in found.weights):
        raise SettingError(
            f"{found.path} holds an encoder of depth or of sensors, or several, for which other code bases have no form; "
            "model.backbone.checkpoint reads the file as it is."
        )
    if is_skeleton(found.weights):
        converted = convert_skeleton(found, part, to)
    elif part == "partner":
        raise SettingError(f"--part partner is for skeleton contrast, which {found.path} does not hold; pass --part backbone.")
    elif is_video_text(found.weights):
        converted = convert_video_text(found, facts, part, to)
    elif is_text(found.weights):
        converted = convert_text(found, to)
    elif is_tower(found.weights):
        converted = convert_tower(found, facts, to)
    elif is_cnn(found.weights):
        converted = convert_cnn(found, facts, part, to)
    else:
        converted = convert_video(found, facts, part)
    converted.passport.update(what_applies(converted.passport, found.path))
    write(converted, out, to)
    rank_zero_info(f"Wrote {out} and its passport.")


def check_out(source: Path, out: Path, to: Format, overwrite: bool) -> None:
    """Refuse a destination before anything is read.

    Raises:
        SettingError: if it has the wrong suffix, is the source, or exists and `overwrite` is off.
    """
    wanted = SUFFIXES.get(to)
    if wanted is not None and out.suffix != wanted:
        raise SettingError(f"--out {out} does not end in {wanted}, as --to {to} writes; change one of them.")
    if wanted is None and out.is_file():
        raise SettingError(f"--out {out} is a file, but --to huggingface writes a folder; pass another name.")
    if out.exists() and source.exists() and out.samefile(source):
        raise SettingError(f"--out {out} is the source itself; pass another name.")
    there = [
        path
        for path in (out, passport_path(out, to == "huggingface"))
        if path.is_file() or (path.is_dir() and any(path.iterdir()))
    ]
    if there and not overwrite:
        raise SettingError(f"--out: {there[0]} exists; pass another name, or --overwrite true to replace it.")


# --- Reading ---


def read_source(source: Path, run_config: Path | None, setting: str = "--source") -> Source:
    """Read weights, and what lies with them about where they come from; errors name the setting."""
    path = weight_file(source, setting)
    checkpoint = read_checkpoint(path, setting)
    earlier = passport_of(source) or {}
    config = config_text(path, run_config, checkpoint.record) or earlier.get("config")
    settings = parse_config(config) if config is not None else {}
    facts = {name: value for name, value in inside(earlier, "architecture").items() if type(value) is int}
    for ours, theirs in (("num_frames", "frames"), ("stride", "stride")):
        if isinstance(earlier.get(theirs), int):
            facts.setdefault(ours, earlier[theirs])
    origin = origin_of(path, checkpoint)
    # Only checkpoints of runs record the clips of pretraining apart from the network's own.
    kept = inside(checkpoint.record, "backbone")
    clips = ("pretrained_frames", "pretrained_size", "num_frames", "image_size")
    facts |= {name: kept[name] for name in clips if type(kept.get(name)) is int}
    norm_pix_loss = earlier.get("norm_pix_loss")
    # What is passed corrects the passport; the config in the passport may itself have been corrected by options.
    if run_config is None:
        facts = facts_of_run(settings) | facts
        norm_pix_loss = norm_pix_loss_of_run(settings) if norm_pix_loss is None else norm_pix_loss
    else:
        facts |= facts_of_run(settings)
        norm_pix_loss = norm_pix_loss_of_run(settings)
    class_names = checkpoint.record.get("class_names") or earlier.get("class_names")
    if is_transformers(checkpoint.weights) and not is_video_text(checkpoint.weights):
        beside = path.parent / "config.json"
        facts |= read_config(beside, setting)
        class_names = class_names_of(beside) or class_names
        # Left out by transformers, it is true; left out by us, nothing was known.
        norm_pix_loss = norm_pix_loss_of(beside, default=norm_pix_loss if earlier else True)
    if "normlize_target" in checkpoint.args:  # the spelling of the official scripts
        norm_pix_loss = bool(checkpoint.args["normlize_target"])
    for key, value in checkpoint.weights.items():
        if value.ndim == 5 and "patch_embed" in key:
            facts |= {"tubelet_size": value.shape[2], "patch_size": value.shape[4]}
    passport = {
        # Everything that an earlier passport says is kept, but for the kind of network, which the weights show.
        **{name: value for name, value in earlier.items() if name != "kind"},
        "method": checkpoint.record.get("method") or earlier.get("method") or inside(settings, "model").get("class_path"),
        "config": config,
        "metrics": checkpoint.record.get("metrics") or earlier.get("metrics"),
        "source": {"file": path.name, "sha256": sha256(path), "made_from": earlier.get("source")},
        "normalisation": (origin.normalisation or IMAGENET).as_record(),
        "class_names": class_names,
        "norm_pix_loss": norm_pix_loss,
    }
    return Source(path, checkpoint.weights, passport, facts, earlier.get("kind"), origin)


def what_applies(passport: dict[str, Any], path: Path) -> dict[str, Any]:
    """Class names of a network that has classes, and `norm_pix_loss` of a decoder that predicts pixels; else null."""
    sizes = passport["architecture"]
    names, classes = passport["class_names"], sizes.get("num_classes")
    if names and classes and len(names) != classes:
        rank_zero_info(f"{path} has {classes} classes, but {len(names)} names are known: left out.")
    outputs = sizes.get("decoder_out")
    is_pixels = outputs and not sizes["num_prototypes"] and outputs == 3 * sizes["tubelet_size"] * sizes["patch_size"] ** 2
    if is_pixels and passport["norm_pix_loss"] is False:
        rank_zero_info(f"The decoder of {path} predicts plain pixels: train it further with model.target.normalise false.")
    return {
        "class_names": list(names) if names and classes == len(names) else None,
        "norm_pix_loss": passport["norm_pix_loss"] if is_pixels else None,
    }


# --- Networks ---


def convert_video(source: Source, facts: Facts, part: Part) -> Converted:
    """A network of the VideoMAE family under our names.

    Raises:
        SettingError: if it does not fit.
    """
    weights = vit_weights(source)
    may_leave: tuple[str, ...] = ()
    kept = weights
    if part == "backbone":
        kept = {key: value for key, value in weights.items() if key.startswith("backbone.")}
        may_leave = tuple(key for key in weights if key not in kept)
    architecture = infer_architecture(kept, facts, str(source.path))
    # A fine-tuned network pools before it normalises, so its encoder has no final norm.
    may_miss = () if architecture.kind == "pretraining" else ("backbone.norm.",)
    own = dict(empty_network(architecture).state_dict())
    hint = " (--part backbone reads the encoder alone)" if part == "all" and architecture.kind != "encoder" else ""
    report = compare(own, weights, source.path, f"{architecture.kind} network{hint}", may_miss, may_leave)
    say(source.path, architecture, facts, report)
    passport = {
        "format": PASSPORT_FORMAT,
        "kind": architecture.kind,
        **source.passport,
        "architecture": asdict(architecture),
        "frames": architecture.num_frames,
        "stride": facts.get("stride"),
    }
    return Converted({key: weights[key] for key in report.matched}, passport, architecture)


def vit_weights(source: Source) -> dict[str, Tensor]:
    """Weights of any network of the VideoMAE family under the names of `Architecture.empty_network`.

    Raises:
        SettingError: if it is no such network.
    """
    weights = our_names(source.weights)
    if "patch_embed.weight" in weights:
        return {f"backbone.{key}": value for key, value in weights.items()}
    if "backbone.patch_embed.weight" in weights:
        return weights
    names = ", ".join(list(source.weights)[:3])
    raise SettingError(
        f"{source.path} holds no vision transformer that we know (its tensors: {names}, ...); pass another file."
    )


def say(path: Path, sizes: Architecture, facts: Facts, report: LoadReport) -> None:
    """Print what was read and what was assumed."""
    decoder = ""
    if sizes.decoder_dim is not None:
        decoder = f", decoder {sizes.decoder_dim} wide with {sizes.decoder_depth} blocks of {sizes.decoder_heads} heads"
    if sizes.num_prototypes is not None:
        decoder += f", {sizes.num_prototypes} prototypes of {sizes.decoder_out} values"
    rank_zero_info(
        f"Read {path} ({sizes.kind} network): {sizes.embed_dim} wide, {sizes.depth} blocks of {sizes.num_heads} heads, "
        f"tokens of {sizes.tubelet_size} x {sizes.patch_size} x {sizes.patch_size}{decoder}: {report}."
    )
    taken = {"image_size": sizes.image_size, "num_frames": sizes.num_frames, "tubelet_size": sizes.tubelet_size}
    assumed = [f"{name} {value}" for name, value in taken.items() if name not in facts]
    if assumed:
        rank_zero_info(
            f"Nothing beside the weights says {', '.join(assumed)}: assumed, as in official files; options change them."
        )


# --- Writing ---


def write(converted: Converted, out: Path, to: Format) -> None:
    """Write weights and passport; each file appears whole or not at all.

    Raises:
        SettingError: if the place cannot be written to, or the format cannot hold the network.
    """
    weights, passport, sizes = converted
    metadata = {"format": "pt"}
    files: list[tuple[Path, Callable[[Path], object]]] = []
    if sizes is not None and to != "safetensors" and sizes.interpolates:
        raise SettingError(
            f"--to {to} has no place for position codes that are interpolated from clips of {sizes.pretrained_frames} frames "
            f"of {sizes.pretrained_size} px; pass --to safetensors."
        )
    if sizes is not None and to == "huggingface":
        if sizes.num_prototypes is not None:
            raise SettingError("--to huggingface has no place for SIGMA's prototypes; pass --part backbone.")
        normalisation = Normalisation.of_record(passport["normalisation"]) or IMAGENET
        if normalisation.channels != "RGB":
            raise SettingError("--to huggingface has no place for clips of blue, green and red; pass --to safetensors.")
        named = plain(to_huggingface(weights, sizes))
        preprocessor = preprocessor_config(sizes.image_size, normalisation)
        final_norm = "backbone.norm.weight" in weights
        config = model_config(sizes, final_norm, passport["norm_pix_loss"], passport["class_names"])
        files.append((out / "model.safetensors", lambda part: save_file(named, part, metadata)))
        files.append((out / "preprocessor_config.json", lambda part: write_json(part, preprocessor)))
        files.append((out / "config.json", lambda part: write_json(part, config)))
    elif sizes is not None and to == "official":
        state = plain(official_names(weights, sizes))
        files.append((out, lambda part: torch.save({"model": state}, part)))
    elif to == "official":
        skeletons = official_file(plain(weights))
        files.append((out, lambda part: torch.save(skeletons, part)))
    else:
        metadata["passport"] = to_json(passport)
        files.append((out, lambda part: save_file(plain(weights), part, metadata)))
    files.append((passport_path(out, to == "huggingface"), lambda part: write_json(part, passport)))
    try:
        for path, save in files:
            write_whole(path, save)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise SettingError(f"--out {out} cannot be written ({error}); pass another place or make room.") from error


def official_names(weights: dict[str, Tensor], sizes: Architecture) -> dict[str, Tensor]:
    """Names of the official pretraining network, or of the official fine-tuning network, which has no final norm."""
    side = sizes.image_size // sizes.patch_size
    grid = Grid(sizes.num_frames // sizes.tubelet_size, side, side, sizes.tubelet_size, sizes.patch_size)
    state = to_official(weights, grid)
    if sizes.kind != "classifier":
        return state
    return {key.removeprefix("encoder."): value for key, value in state.items() if not key.startswith("encoder.norm.")}


def plain(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that are contiguous and share no memory, as safetensors wants them."""
    return {key: value.detach().clone(memory_format=torch.contiguous_format) for key, value in weights.items()}
