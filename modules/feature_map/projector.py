"""Files for TensorBoard's projector: `tensorboard --logdir NAME.projector`."""

import math
from pathlib import Path

from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from torch import Tensor

from modules.core.files import write_whole

SPRITE_LIMIT = 8192
"""Maximum side of a sprite image that the projector accepts, in pixels."""
THUMBNAIL = 64


def write_projector(folder: Path, feature: Tensor, columns: dict[str, list[str]], pictures: list[Image.Image] | None) -> None:
    """Write the features, a table of their points, and a picture of each.

    Args:
        folder: folder to write to.
        feature: float32 [P, D].
        columns: columns of the table, with a value for each point.
        pictures: square pictures of the points; None for none.
    """
    config = ProjectorConfig()
    told = config.embeddings.add(tensor_name="features", tensor_path="tensors.tsv", metadata_path="metadata.tsv")
    sprite = folder / "sprite.png"
    if pictures is not None:
        per_row = math.ceil(math.sqrt(len(pictures)))
        side = min(THUMBNAIL, SPRITE_LIMIT // per_row)
        sheet = Image.new("RGB", (per_row * side, per_row * side))
        for number, picture in enumerate(pictures):
            sheet.paste(picture.resize((side, side)), (number % per_row * side, number // per_row * side))
        told.sprite.image_path = sprite.name
        told.sprite.single_image_dim.extend([side, side])
        write_whole(sprite, lambda path: sheet.save(path, "PNG"))
    else:
        sprite.unlink(missing_ok=True)
    rows = [list(columns), *(list(row) for row in zip(*columns.values(), strict=True))]
    table = "".join("\t".join(_cell(value) for value in row) + "\n" for row in rows)
    numbers = "".join("\t".join(f"{value:.6g}" for value in row) + "\n" for row in feature.tolist())
    write_whole(folder / "metadata.tsv", lambda path: path.write_text(table, encoding="utf-8"))
    write_whole(folder / "tensors.tsv", lambda path: path.write_text(numbers))
    write_whole(folder / "projector_config.pbtxt", lambda path: path.write_text(text_format.MessageToString(config)))


def _cell(value: str) -> str:
    """Remove characters that would end a cell or a line, or cannot be written."""
    return " ".join(value.split()).encode("utf-8", "replace").decode("utf-8")
