"""Facts about the network that weights come from, which its tensors do not contain, such as the normalisation of its input."""

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from modules.core.files import read_json
from modules.core.preprocessing import (
    BGR_TO_ONE,
    KINETICS,
    TO_ONE,
    Origin,
    known_origin,
)
from modules.weights.files import Checkpoint
from modules.weights.hub import local_path
from modules.weights.names.cnn.clip_order import is_clip_order
from modules.weights.names.cnn.cvrl import is_tensorflow
from modules.weights.names.cnn.prp import is_prp
from modules.weights.names.cnn.video_cnn import PUBLISHED_PREFIXES
from modules.weights.names.huggingface import is_transformers
from modules.weights.names.videomae import is_official
from modules.weights.passport import passport_of
from modules.weights.run_config import facts_of_run, inside, parse_config


def origin_of(path: str | Path, checkpoint: Checkpoint) -> Origin:
    """Facts from the passport of a file, or from what its run or the official script saved with the weights.

    Args:
        path: file or folder.
        checkpoint: its content.
    """
    passport = passport_of(path)
    if passport is not None:
        return known_origin(str(path), passport.get("normalisation"), passport.get("architecture"))
    kept = checkpoint.record.get("backbone")
    if isinstance(kept, dict):
        return known_origin(str(path), kept.get("normalisation"), kept)
    config = checkpoint.record.get("config")
    if isinstance(config, str) and config:
        # Checkpoints of earlier versions only contain the config.
        settings = parse_config(config)
        eps = inside(settings, "model", "init_args", "backbone", "init_args").get("bn_eps")
        return known_origin(str(path), None, facts_of_run(settings) | {"bn_eps": eps})
    if is_transformers(checkpoint.weights):
        return transformers_origin(path)
    command = {"image_size": checkpoint.args.get("input_size"), "num_frames": checkpoint.args.get("num_frames")}
    return known_origin(str(path), None, command)


def transformers_origin(path: str | Path) -> Origin:
    """Facts from the files that `transformers` writes next to the weights of its VideoMAE.

    Args:
        path: folder, or the weight file in it.
    """
    path = local_path(path)
    folder = path if path.is_dir() else path.parent
    network, pictures = (read_json(folder / name) for name in ("config.json", "preprocessor_config.json"))
    # It omits settings that have their default.
    facts = {"num_frames": 16, "image_size": 224} | network if network.get("model_type") == "videomae" else {}
    normalisation = {"mean": pictures.get("image_mean"), "std": pictures.get("image_std")}
    if pictures.get("do_normalize") is False:
        normalisation = {"mean": [0.0] * 3, "std": [1.0] * 3}
    return known_origin(str(path), normalisation, facts)


# Clips and widths of all published networks of the VideoMAE family; 1408 is ViT-g.
PUBLISHED_FRAMES, PUBLISHED_SIDE = 16, 224


PUBLISHED_WIDTHS = (384, 768, 1024, 1280, 1408)


def origin_of_encoder(path: str, content: Checkpoint) -> Origin:
    """`origin_of` for the VideoMAE family. Published files do not record their clip sizes, which are the same for all."""
    origin = origin_of(path, content)
    if origin.frames is None and origin.size is None and is_official(content.weights):
        width = next(len(value) for key, value in content.weights.items() if key.endswith("patch_embed.proj.weight"))
        if width in PUBLISHED_WIDTHS:
            return replace(origin, usual=(PUBLISHED_FRAMES, PUBLISHED_SIDE))
    return origin


# Number of classes of torchvision's published video networks.
KINETICS_CLASSES = 400


def published_origin(state: dict[str, Tensor], origin: Origin) -> Origin:
    """Complete the origin of a published file with facts that follow from its parameter names.

    Args:
        state: weights under the file's own names.
        origin: origin of the file.
    """
    if is_tensorflow(state):
        known = origin.normalisation or TO_ONE, origin.bn_eps or 1e-5, origin.padding or "same"
        return replace(origin, normalisation=known[0], bn_eps=known[1], padding=known[2])
    normalisation, eps = None, None
    head = state.get("fc.weight", state.get("classifier.1.weight"))
    if head is not None and "features.0.0.0.weight" in state:
        normalisation, eps = KINETICS if len(head) == KINETICS_CLASSES else None, 1e-3
    elif head is not None and "stem.0.weight" in state:
        normalisation, eps = KINETICS if len(head) == KINETICS_CLASSES else None, 1e-5
    elif "0.stem.0.weight" in state:
        normalisation, eps = BGR_TO_ONE, 1e-5
    elif is_clip_order(state) or is_prp(state):
        normalisation, eps = TO_ONE, 1e-5
    elif any(old in key for key in state for old in ("stem.conv.", "stem.conv_s.")):
        eps = 1e-3
    elif any(key.startswith(PUBLISHED_PREFIXES) for key in state):
        # S3D-G of RSPNet; all others are residual networks or C3D.
        eps = 1e-3 if any("sepConv1." in key for key in state) else 1e-5
    return replace(origin, normalisation=origin.normalisation or normalisation, bn_eps=origin.bn_eps or eps)
