"""VCOP: clips of one video are shuffled, and the network says in which order they were.

Paper: Self-supervised spatiotemporal learning via video clip order prediction (CVPR 2019; it is not on arXiv). It extends the
sorting of frames, OPN (https://arxiv.org/abs/1708.01246), to clips. Three clips with gaps between them are cut from a video,
each with its own crop, and shuffled. All go through the same encoder. The features of every pair go through a shared layer,
and a linear layer on all pairs predicts which of the 3! = 6 permutations it was. The label is the number of the permutation
in lexicographic order; its entry k is the original index of the clip at place k.

Shapes at the published size: clips [B, 3, 16, 112, 112, 3] with gaps of 8 frames (64 frames in all), features [B, 3, 512],
3 pairs of 1024, logits [B, 6].

Differences from the official code:

* all clips of a batch are one batch for the encoder, so that batch norm's statistics are those of B * 3 clips. The official
  code encodes one place after the other, with statistics of B clips each; `by_place: true` does so. In evaluation mode, both
  are equal.
* all frames of a clip have the same crop. The official code intends that, but with torchvision 0.8 or later each frame gets
  its own crop, because torchvision then draws from another generator than the one that is seeded.
* in validation, clips are from the middle of the video and crops from the middle of the frame; the official code draws both
  at random. The permutations are random in both.
* videos that are too short for a tuple count as broken and are replaced; the official code leaves them out of its list.

With several processes, batch norm must see the whole batch (trainer.sync_batchnorm) for loss and gradients to equal those of
one process with the joined batch.
"""

import itertools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.backbones.cnn.base import VideoCNN
from modules.backbones.depth import Depth
from modules.backbones.vit.beit_video import BEiTVideo
from modules.backbones.vit.video_vit import VideoViT
from modules.core.batch import Batch, Kind
from modules.core.errors import SettingError, check_range, check_whole
from modules.core.output import StepOutput
from modules.layers.drawing.clips import draw_places, to_uint8
from modules.layers.tuple_head import TupleHead
from modules.training.method import Method
from modules.training.optim import SGDSettings

MOST_PLACES = 6
"""Longest tuple; it has 720 permutations."""


class VCOP(Method):
    """Video clip order prediction (CVPR 2019).

    `val/top1` is the fraction of unseen tuples whose order is predicted correctly; `val/chance` is that of a guess, 1 / n!.

    Args:
        backbone: encoder of videos or of depth, kept after pretraining.
        places: clips of a tuple, n.
        hidden: outputs of the layer on a pair.
        dropout: dropout rate of all pairs together.
        by_place: encode the first clips of all tuples, then the second ones, and so on, as in the official training; batch
            norm's statistics are then those of one place.
        optim: optimiser and schedule. The learning rate is the same for any batch size.

    Raises:
        SettingError: if a value is out of range.
    """

    orders: Tensor

    def __init__(
        self,
        backbone: VideoCNN | VideoViT | BEiTVideo | Depth,
        places: int = 3,
        hidden: int = 512,
        dropout: float = 0.5,
        by_place: bool = False,
        optim: SGDSettings = SGDSettings(base_lr=1e-3, weight_decay=5e-4),  # noqa: B008  (never mutated; shown in --help)
    ) -> None:
        super().__init__(optim)
        check_whole("model", 2, MOST_PLACES, places=places)
        check_whole("model", 1, hidden=hidden)
        check_range("model", 0, 1, dropout=dropout)
        self.backbone, self.places, self.by_place = backbone, places, by_place
        kind: Kind = backbone.kind
        self.stream, self.kinds = kind, (kind,)
        self.head = TupleHead(backbone.feature_dim, places, math.factorial(places), hidden=hidden, dropout=dropout)
        self.register_buffer("orders", torch.tensor(list(itertools.permutations(range(places)))), persistent=False)

    def take_data(self, data: Any) -> None:
        """Check that the clips of a video are in order.

        Raises:
            SettingError: if the data say that they are not.
        """
        super().take_data(data)
        given = getattr(getattr(data, "clip", None), "ordered", True)
        if not getattr(data, "clips_in_order", given):
            raise SettingError(
                "VCOP predicts the order of clips, but data.clip.sampler does not give them in order; set it to OrderedClips."
            )

    def shuffle(self, video: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Put the clips of each tuple into a random order.

        Args:
            video: uint8 [B, n, T, H, W, 3], clips in the order of the video.
            generator: source of randomness.

        Returns:
            the clips in their new order, and the number of the permutation, int64 [B].
        """
        label = torch.randint(len(self.orders), (len(video),), generator=generator, device=video.device)
        row = torch.arange(len(video), device=video.device)[:, None]
        return video[row, self.orders[label]], label

    def encode(self, clips: Tensor) -> Tensor:
        """Features of the normalised clips of tuples: float [B, n, 3, T, H, W] -> [B, n, D]."""
        if self.by_place:
            return torch.stack([self.backbone(place) for place in clips.unbind(1)], 1)
        features: Tensor = self.backbone(clips.flatten(0, 1))
        return features.unflatten(0, clips.shape[:2])

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        """Shuffle, encode, classify. Videos are [B, n, T, H, W, 3]."""
        video = self.inputs(batch)
        if video.shape[1] != self.places:
            raise SettingError(
                f"VCOP needs a tuple of {self.places} clips of each video, not {video.shape[1]}; set data.clip.clips to "
                f"{self.places}."
            )
        clips, label = self.shuffle(video, generator)
        shown = clips.flatten(0, 1)
        ready = self.normalise(shown)
        if isinstance(self.backbone, Depth):
            shown = to_uint8(self.backbone.network.normalisation.restore(ready))
        logits = self.head(self.encode(ready.unflatten(0, clips.shape[:2])))
        guess = logits.detach().argmax(1)
        return {
            "loss": F.cross_entropy(logits, label),
            "log": {"top1": (guess == label).float().mean(), "chance": logits.new_full((), 1 / len(self.orders))},
            "show": {"clip": shown, "order": self.orders[label], "guess": self.orders[guess]},
        }

    def pictures(self, output: StepOutput) -> dict[str, Tensor]:
        """The clips as the network gets them, with their true and their predicted place in the video."""
        show = output["show"]
        clips = show["clip"].unflatten(0, (-1, self.places))
        return {
            f"place_{place + 1}": draw_places(clips[:, place], show["order"][:, place], show["guess"][:, place], self.places)
            for place in range(self.places)
        }

    def picture_notes(self) -> dict[str, str]:
        """How to read the bars."""
        note = "bars show the place in the video: above the true one, below the predicted one (green if right)"
        return {f"place_{place + 1}": note for place in range(self.places)}
