"""VIP: videos of people with the parts of their bodies and clothes, for label propagation (https://arxiv.org/abs/1808.00157)."""

from pathlib import Path

from torch import Tensor

from datamodules.lists.files import read_lines
from datamodules.sequences import LabelledSequenceData, LabelledVideo, UnreadableError, read_masks
from modules.core.errors import SettingError

PICTURES, MASKS = "Images", "Annotations/Category_ids"
CLASSES = 20
"""Background, hat, hair, sun-glasses, upper-clothes, dress, coat, socks, pants, gloves, scarf, skirt, torso-skin, face, and
right and left arms, legs and shoes."""


class VIPSequences(LabelledSequenceData):
    """VIP for `LabelPropagation`: pictures in `Images/<video>`, classes of pixels in `Annotations/Category_ids/<video>`.

    The list has a row per video: its name or, as in videowalk's and CropMAE's lists, its folder of pictures. Without one, all
    videos with annotations are taken; published numbers are those of the 50 validation videos.
    """

    measure = "parts"
    num_labels = CLASSES

    def find_videos(self) -> list[LabelledVideo]:
        """See `LabelledSequenceData.find_videos`."""
        if not (self.root / MASKS).is_dir():
            raise SettingError(f"data.root {self.root} contains no {MASKS}; pass the folder of VIP.")
        if self.listed is None:
            names = sorted(path.name for path in (self.root / MASKS).iterdir() if path.is_dir())
        else:
            names = [Path(line.split()[0]).name for line in read_lines(self.listed).values() if line.strip()]
        return self.with_masks(list(dict.fromkeys(names)), self.root / PICTURES, self.root / MASKS)

    def read_labels(self, video: LabelledVideo, stored: tuple[int, int]) -> dict[str, Tensor]:
        """See `LabelledSequenceData.read_labels`."""
        masks = read_masks(video, stored)
        if (largest := int(masks.max())) >= CLASSES:
            raise UnreadableError(f"class {largest} of 0 to {CLASSES - 1}")
        return {"mask": masks}
