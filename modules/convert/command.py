"""Conversion of weights from any supported file to another format, with a passport that describes them.

Supported inputs: official pretraining and fine-tuned files of VideoMAE, VideoMAE V2, SMILE, SIGMA (also as written by
DeepSpeed), MAE-ST, V-JEPA and V-JEPA 2, official files of CropMAE, SiamMAE, TubeletContrast, VCOP and RSPNet, the encoders in
those of MoCo, VideoMoCo, CtP, Pretext-Contrast, TCLR, GDT, SeLaVi and AVID-CMA, arrays of CVRL exported from TensorFlow,
official files of skeleton contrast and VindLU, BERT, the image tower of OpenAI's CLIP, vision transformers of DINO and timm,
.ckpt and .safetensors files of this project, and folders of `transformers`' VideoMAE. Outputs: .safetensors under this
project's names, official .pth (for CVRL, with TensorFlow's names and layout), a folder for `transformers`, or a network for
other runtimes (`modules.convert.export`); each with a passport and a model card.

Names and shapes are compared with the network that the file should contain. Weights that do not fit are an error and are never
dropped silently. No file can run code: pickles are read with `weights_only=True`, and the only class allowed besides tensors,
numbers, strings and plain containers is `argparse.Namespace` (official files contain their command line); see
`modules.weights.files.read_checkpoint`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from modules.backbones.vit.vjepa_vit import ROTARY, position_table
from modules.convert.card import card_path, count_parameters, model_card
from modules.convert.export import build, check_installed, described, write_runtime
from modules.convert.frame_tower import convert_frame_tower, is_frame_tower
from modules.convert.huggingface import model_config, preprocessor_config
from modules.convert.networks import (
    Converted,
    Format,
    convert_beit,
    convert_cnn,
    convert_skeleton,
    convert_text,
    convert_tower,
    convert_video,
    convert_video_text,
    is_beit,
    is_cnn,
    is_tower,
)
from modules.convert.skeleton import Part, is_skeleton, official_file
from modules.convert.source import read_source
from modules.convert.streams import convert_depth, convert_signal, is_depth, is_signal, refuse_several
from modules.core.errors import SettingError
from modules.core.files import to_json, write_json, write_whole
from modules.core.preprocessing import IMAGENET, Normalisation
from modules.core.tokens import Grid
from modules.weights.names.cnn.cvrl import to_tensorflow
from modules.weights.names.huggingface import to_huggingface
from modules.weights.names.siamese_mae import to_official as siamese_official
from modules.weights.names.spacetime import to_spacetime
from modules.weights.names.videomae import to_official
from modules.weights.names.vindlu import is_text, is_video_text
from modules.weights.names.vjepa import Codes, to_vjepa
from modules.weights.passport import passport_path
from modules.weights.sizes import Architecture

SUFFIXES = {"safetensors": ".safetensors", "official": ".pth", "onnx": ".onnx", "export": ".pt2"}


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
    license: str | None = None,
    overwrite: bool = False,
) -> None:
    """Convert weights to another format, with a passport and a model card next to them.

    Sizes that cannot be read from weights (heads, image_size, num_frames, tubelet_size, stride) are taken from the options,
    else from files next to the weights: config.yaml of a run, config.json of a transformers folder, or the passport in or next
    to the file. Otherwise, they are those of the official networks: 224 pixels, 16 frames, tubelets of 2, heads by the width;
    the stride remains unknown. For onnx and export, image_size and num_frames are those of the clips that the written network
    will take; position codes are interpolated to them.

    onnx and export write one network that takes uint8 clips [B, T, H, W, 3] as decoded and cropped, normalises them, and
    returns features [B, D] or the scores of a classifier [B, K]. The file is run on random clips, and only kept if its outputs
    equal the network's.

    Args:
        source: file or folder to read: official .pth of VideoMAE, VideoMAE V2, SMILE, SIGMA, MAE-ST or V-JEPA, a folder or
            file of DeepSpeed, a published video CNN, an official file of skeleton contrast or VindLU, a BERT, a tower of CLIP,
            DINO or timm, a .ckpt or .safetensors of this project, or a folder of transformers' VideoMAE or BERT.
        out: file to write (.safetensors, .pth for official, .onnx for onnx, .pt2 for export), or the folder for huggingface.
            The passport is written next to the file as <name>.json (weights.pth.json), or in the folder as passport.json; all
            files but .pth also contain it. The model card is <name>.md, or README.md in the folder.
        to: safetensors, with this project's names; official, a .pth with official names; huggingface, a folder for
            transformers; onnx; or export, a program of torch.export.
        part: all, or only the backbone (encoder); partner is the second encoder of skeleton contrast. For onnx and export, all
            is the encoder with the classifier if there is one.
        heads: attention heads of the encoder or tower.
        decoder_heads: attention heads of the decoder; half of the encoder's if unknown.
        image_size: side of the square clips in pixels.
        num_frames: frames per clip.
        tubelet_size: frames per token.
        stride: video frames from one frame of a clip to the next, for the passport.
        run_config: config.yaml of the run that trained the weights, if it is not in the run's folder.
        license: licence of the weights, such as cc-by-nc-4.0, for passport and model card; null keeps the known one.
        overwrite: replace existing files.

    Raises:
        SettingError: if the file cannot be read, does not fit the expected network, or a size must be passed.
    """
    check_out(source, out, to, overwrite)
    if to == "onnx" or to == "export":
        check_installed(to)
    found = read_source(source, run_config)
    if license is not None:
        if not license.strip() or "\n" in license:
            raise SettingError(f"--license is {license!r}; pass a name on one line, such as cc-by-nc-4.0.")
        found.passport["license"] = license.strip()
    asked = {
        "num_heads": heads,
        "decoder_heads": decoder_heads,
        "image_size": image_size,
        "num_frames": num_frames,
        "tubelet_size": tubelet_size,
        "stride": stride,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    facts = found.facts | given
    for name in asked:
        if facts.get(name, 1) < 1:
            raise SettingError(f"--{'heads' if name == 'num_heads' else name} is {facts[name]}; it must be at least 1.")
    if to == "onnx" or to == "export":
        if part == "partner":
            raise SettingError(f"--part partner cannot be written as {to}; convert it to safetensors first, then that file.")
        # The options are the sizes of the clips that the written network will take, not those of the weights.
        facts |= {name: found.facts[name] for name in ("num_frames", "image_size") if name in found.facts}
        built = build(found._replace(facts=facts), part, num_frames, image_size)
        passport = described(built, dict(built.loaded.passport))
        write_runtime(built, passport, out, to)
        write_beside(passport, out, to, sum(value.numel() for value in built.network.parameters()))
        rank_zero_info(f"Wrote {out}, its passport and its model card.")
        return
    refuse_several(found)
    if is_depth(found.weights):
        converted = convert_depth(found, facts, part, to)
    elif is_signal(found.weights):
        converted = convert_signal(found, part, to)
    elif is_skeleton(found.weights):
        converted = convert_skeleton(found, part, to)
    elif part == "partner":
        raise SettingError(f"--part partner is for skeleton contrast, but {found.path} has none; pass --part backbone.")
    elif is_video_text(found.weights):
        converted = convert_video_text(found, facts, part, to)
    elif is_beit(found.weights):
        converted = convert_beit(found, facts, part, to)
    elif is_frame_tower(found.weights):
        converted = convert_frame_tower(found, facts, part, to)
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
    rank_zero_info(f"Wrote {out}, its passport and its model card.")


def check_out(source: Path, out: Path, to: Format, overwrite: bool) -> None:
    """Check the destination before anything is read.

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
        for path in (out, passport_path(out, to == "huggingface"), card_path(out, to == "huggingface"))
        if path.is_file() or (path.is_dir() and any(path.iterdir()))
    ]
    if there and not overwrite:
        raise SettingError(f"--out: {there[0]} exists; pass another name, or --overwrite true to replace it.")


def what_applies(passport: dict[str, Any], path: Path) -> dict[str, Any]:
    """Class names if the network is a classifier, and `norm_pix_loss` if a decoder predicts pixels; else None."""
    sizes = passport["architecture"]
    names, classes = passport["class_names"], sizes.get("num_classes")
    if names and classes and len(names) != classes:
        rank_zero_info(f"{path} has {classes} classes, but {len(names)} names are known: the names are dropped.")
    outputs = sizes.get("decoder_out")
    is_pixels = outputs and not sizes["num_prototypes"] and outputs == 3 * sizes["tubelet_size"] * sizes["patch_size"] ** 2
    if is_pixels and passport["norm_pix_loss"] is False:
        rank_zero_info(
            f"The decoder of {path} predicts pixels that are not normalised: to continue training, set model.target.normalise "
            "to false."
        )
    return {
        "class_names": list(names) if names and classes == len(names) else None,
        "norm_pix_loss": passport["norm_pix_loss"] if is_pixels else None,
    }


# --- Writing ---


def write(converted: Converted, out: Path, to: Format) -> None:
    """Write weights and passport; each file is written atomically.

    Raises:
        SettingError: if the files cannot be written, or the format does not support the network.
    """
    weights, passport, sizes = converted
    metadata = {"format": "pt"}
    files: list[tuple[Path, Callable[[Path], object]]] = []
    if sizes is not None and to != "safetensors" and sizes.interpolates:
        raise SettingError(
            f"--to {to} does not support position codes that are interpolated from clips of {sizes.pretrained_frames} frames "
            f"of {sizes.pretrained_size} px; pass --to safetensors."
        )
    other = sizes is not None and (sizes.learned is not None or sizes.cosine_attention or sizes.codes is not None)
    if other and to == "huggingface":
        raise SettingError(
            "--to huggingface is for VideoMAE, which has neither learned positions nor cosine attention nor the positions of "
            "V-JEPA; pass --to safetensors or official."
        )
    if sizes is not None and to == "huggingface":
        if sizes.num_prototypes is not None:
            raise SettingError("--to huggingface does not support SIGMA's prototypes; pass --part backbone.")
        normalisation = Normalisation.of_record(passport["normalisation"]) or IMAGENET
        if normalisation.channels != "RGB":
            raise SettingError("--to huggingface does not support the channel order BGR; pass --to safetensors.")
        named = plain(to_huggingface(weights, sizes))
        preprocessor = preprocessor_config(sizes.image_size, normalisation)
        final_norm = "backbone.norm.weight" in weights
        config = model_config(sizes, final_norm, passport["norm_pix_loss"], passport["class_names"])
        files.append((out / "model.safetensors", lambda part: save_file(named, part, metadata)))
        files.append((out / "preprocessor_config.json", lambda part: write_json(part, preprocessor)))
        files.append((out / "config.json", lambda part: write_json(part, config)))
    elif sizes is not None and sizes.codes is not None and to == "official":
        entries = {name: plain(state) for name, state in official_entries(weights, sizes, sizes.codes).items()}
        files.append((out, lambda part: torch.save(entries, part)))
    elif sizes is not None and to == "official":
        state = plain(official_names(weights, sizes))
        files.append((out, lambda part: torch.save({"model": state}, part)))
    elif to == "official" and passport["architecture"].get("backbone") == "SlowOnly":
        arrays = plain(to_tensorflow(weights))
        files.append((out, lambda part: torch.save(arrays, part)))
    elif to == "official" and passport["architecture"].get("backbone") == "FrameTower":
        siamese = plain(siamese_official(weights))
        files.append((out, lambda part: torch.save({"model": siamese}, part)))
    elif to == "official":
        skeletons = official_file(plain(weights))
        files.append((out, lambda part: torch.save(skeletons, part)))
    else:
        metadata["passport"] = to_json(passport)
        files.append((out, lambda part: save_file(plain(weights), part, metadata)))
    try:
        for path, save in files:
            write_whole(path, save)
        write_beside(passport, out, to, count_parameters(weights))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise SettingError(f"--out {out} cannot be written ({error}); pass another path or free some space.") from error


def write_beside(passport: dict[str, Any], out: Path, to: Format, parameters: int) -> None:
    """Write passport and model card."""
    folder = to == "huggingface"
    card = model_card(passport, out, to, parameters)
    write_whole(passport_path(out, folder), lambda part: write_json(part, passport))
    write_whole(card_path(out, folder), lambda part: part.write_text(card))


def official_names(weights: dict[str, Tensor], sizes: Architecture) -> dict[str, Tensor]:
    """Names of the official pretraining network, or of the official fine-tuning network, which has no final norm."""
    grid = grid_of(sizes)
    if sizes.learned is not None:
        if sizes.num_classes is not None and not sizes.pools_class:
            raise SettingError("MAE-ST's official classifier takes the class token, this one does not; pass --to safetensors.")
        return to_spacetime(weights, grid)
    state = to_official(weights, grid)
    if sizes.kind != "classifier":
        return state
    return {key.removeprefix("encoder."): value for key, value in state.items() if not key.startswith("encoder.norm.")}


def grid_of(sizes: Architecture) -> Grid:
    """Grid of the clips of a network."""
    side = sizes.image_size // sizes.patch_size
    return Grid(sizes.num_frames // sizes.tubelet_size, side, side, sizes.tubelet_size, sizes.patch_size)


def official_entries(weights: dict[str, Tensor], sizes: Architecture, codes: Codes) -> dict[str, dict[str, Tensor]]:
    """The entries of an official checkpoint of V-JEPA, with tables of positions unless they are rotary.

    Raises:
        SettingError: if the network is a classifier.
    """
    if sizes.num_classes is not None:
        raise SettingError("--to official does not support classifiers of V-JEPA; pass --part backbone, or --to safetensors.")
    grid = grid_of(sizes)
    widths = {"backbone": sizes.embed_dim, "online": sizes.embed_dim, "predictor": sizes.decoder_dim}
    tables = {
        part: position_table(codes, grid, grid, width)
        for part, width in widths.items()
        if width is not None and codes not in ROTARY and any(key.startswith(f"{part}.") for key in weights)
    }
    return to_vjepa(weights, grid, tables)


def plain(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of the tensors that are contiguous and share no memory, as safetensors requires."""
    return {key: value.detach().clone(memory_format=torch.contiguous_format) for key, value in weights.items()}
