"""What masked autoencoders share."""

from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from modules.core.loading import load_strictly
from modules.weights.files import read_checkpoint
from modules.weights.names.videomae import our_names
from modules.weights.origin import origin_of_encoder
from modules.weights.passport import check_heads, said_of


def start_from(method: nn.Module, path: str) -> None:
    """Load a whole method (encoder and decoder) strictly, from our .ckpt or .safetensors, an official .pth, or a folder.

    Args:
        method: with `backbone`, `decoder` and `target`.
        path: value of model.init_from.

    Raises:
        SettingError: if it does not fit.
    """
    content = read_checkpoint(path, "model.init_from")
    load_strictly(method, our_names(content.weights), path)
    check_heads(path, "model.init_from", method.backbone.num_heads, method.decoder.num_heads)  # type: ignore[union-attr, arg-type]
    method.adopt(origin_of_encoder(path, content))  # type: ignore[operator]
    known, own = said_of(path, "model.init_from").get("norm_pix_loss"), getattr(method.target, "normalise", None)
    if known is not None and own != known:
        rank_zero_warn(
            f"model.init_from names {path}, whose decoder predicts {'normalised' if known else 'plain'} pixels; to train "
            f"it further, set model.target.normalise {str(known).lower()}."
        )
