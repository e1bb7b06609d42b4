"""Parameter names of video CNNs: those of TubeletContrast and CtP, and of published files of other methods."""

from torch import Tensor

from modules.weights.names.cnn.clip_order import from_official as from_clip_order
from modules.weights.names.cnn.clip_order import is_clip_order, is_own_clip_order
from modules.weights.names.cnn.cvrl import from_tensorflow, is_tensorflow
from modules.weights.names.cnn.prp import from_official as from_prp
from modules.weights.names.cnn.prp import is_prp
from modules.weights.names.cnn.rspnet import from_official as from_rspnet
from modules.weights.names.cnn.rspnet import is_own_rspnet, is_rspnet

# Official code of TubeletContrast and CtP -> torchvision, with one table for R(2+1)D and one for R3D.
SHARED_NAMES = {
    ".bn1.": ".conv1.1.",
    ".bn2.": ".conv2.1.",
    ".downsample.conv.": ".downsample.0.",
    ".downsample_bn.": ".downsample.1.",
}


R2PLUS1D_NAMES = SHARED_NAMES | {
    "stem.conv_s.": "stem.0.",
    "stem.bn_s.": "stem.1.",
    "stem.conv_t.": "stem.3.",
    "stem.bn_t.": "stem.4.",
    ".conv1.conv_s.": ".conv1.0.0.",
    ".conv1.bn_s.": ".conv1.0.1.",
    ".conv1.conv_t.": ".conv1.0.3.",
    ".conv2.conv_s.": ".conv2.0.0.",
    ".conv2.bn_s.": ".conv2.0.1.",
    ".conv2.conv_t.": ".conv2.0.3.",
}


R3D_NAMES = SHARED_NAMES | {
    "stem.conv.": "stem.0.",
    "stem.bn.": "stem.1.",
    ".conv1.conv.": ".conv1.0.",
    ".conv2.conv.": ".conv2.0.",
}


# Prefixes of the encoder in published files of other methods. All encoders are torchvision's R(2+1)D-18 (official code of
# SEVERE): RSPNet, MoCo and VideoMoCo, SeLaVi and GDT, AVID-CMA, Pretext-Contrast, TCLR (with a change, see `VideoResNet`). In
# some files, stem and stages are numbered.
PUBLISHED_PREFIXES = (
    "encoder_q.encoder.base_network.",
    "encoder_q.",
    "video_network.base.",
    "video_model.",
    "base_network.",
    "0.",
)


PUBLISHED_HEADS = ("fc.", "linear", "head", "new_fc", "fc8", "encoder_fuse")


def backbone_part(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split weights into those of the backbone, without their prefix, and the rest.

    A file without any `backbone.*` is a bare backbone: all its weights are returned as the first part.
    """
    prefix = "backbone."
    inner = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    rest = {key: value for key, value in state.items() if not key.startswith(prefix)}
    return (inner, rest) if inner else (rest, {})


def from_published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the encoder of published files of MoCo, VideoMoCo, RSPNet, Pretext-Contrast, TCLR, GDT, SeLaVi and AVID-CMA to
    torchvision's names after `backbone.`. Official files of VCOP, RSPNet and PRP get the names of our methods. Other parts
    (heads, key branch, queue, audio network) and other files are unchanged. Of CVRL's TensorFlow arrays, the projection is
    renamed too.

    Args:
        state: weights, without the prefix `module.` of DataParallel.
    """
    if is_clip_order(state):
        return from_clip_order(state)
    if is_rspnet(state):
        return from_rspnet(state)
    if is_tensorflow(state):
        return from_tensorflow(state)
    if is_prp(state):
        return from_prp(state)
    prefix = next((one for one in PUBLISHED_PREFIXES if any(key.startswith(one) for key in state)), None)
    if prefix is None:
        return state
    renamed = {}
    for key, value in state.items():
        inner = key.removeprefix(prefix)
        if inner != key and not inner.startswith(PUBLISHED_HEADS):
            number, _, rest = inner.partition(".")
            if prefix.endswith("base_network."):
                inner = f"{'stem' if number == '0' else f'layer{number}'}.{rest}"
            key = f"backbone.{inner}"
        renamed[key] = value
    return renamed


def from_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename R3D and R(2+1)D weights of TubeletContrast and CtP (official code) to torchvision's names.

    Prefixes (`backbone.`, `key_encoder.`) are kept. Other names, including those of torchvision and of I3D, are unchanged.
    """
    if is_own_clip_order(state) or is_own_rspnet(state):
        return state
    names = R2PLUS1D_NAMES | R3D_NAMES
    return {_renamed(key, names): value for key, value in state.items()}


def to_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of `from_official`, for the weights of one network (only R(2+1)D has a `stem.3`)."""
    split = any("stem.3." in key for key in state)
    names = {ours: theirs for theirs, ours in (R2PLUS1D_NAMES if split else R3D_NAMES).items()}
    return {_renamed(key, names): value for key, value in state.items()}


def _renamed(key: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        if old in key:
            return key.replace(old, new)
    return key
