"""Base class of skeleton encoders: the body of Kinect v2 (NTU RGB+D, PKU-MMD) and loading of weights.

An encoder takes clips [B, 3, T, J, M]: coordinates, frames, joints, persons. It makes the form that it works on itself.
"""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from modules.backbones.checks import check_bodies
from modules.backbones.intermediates import Layered
from modules.backbones.loading import prefixes_of
from modules.core.errors import SettingError
from modules.core.loading import LoadReport, load_strictly
from modules.weights.files import read_weights
from modules.weights.names.skeleton_contrast import gru_from_official

JOINTS, PERSONS = 25, 2
# Child and parent of each bone; joint 0 is the base of the spine, 1 its middle, 20 the spine between the shoulders.
BONES = (
    *((0, 1), (1, 20), (2, 20), (3, 2)),
    *((4, 20), (5, 4), (6, 5), (7, 6), (21, 22), (22, 7)),
    *((8, 20), (9, 8), (10, 9), (11, 10), (23, 24), (24, 11)),
    *((12, 0), (13, 12), (14, 13), (15, 14)),
    *((16, 0), (17, 16), (18, 17), (19, 18)),
)
# Where an encoder may be in a file: a method of ours, the official method, a bare encoder.
PREFIXES = ("backbone.", "partner.", "encoder_q.", "encoder_r.", "")


class SkeletonEncoder(Layered, nn.Module, ABC):
    """An encoder of skeletons. A subclass sets `embed_dim` and builds its layers, then loads a checkpoint if there is one."""

    embed_dim: int
    """length of a pooled feature"""
    kind: Literal["skeleton"] = "skeleton"

    def preprocess(self, clip: Tensor) -> Tensor:
        """float [B, 3, T, J, M], as it is: each encoder makes its own form of it."""
        return clip

    def check(self, skeleton: Tensor) -> None:
        """Refuse clips that the encoder was not built for.

        Raises:
            SettingError: if they are not float [B, 3, T, 25, 2].
        """
        check_bodies(skeleton, next(self.parameters()), JOINTS, PERSONS, type(self).__name__)

    def forward_features(self, skeleton: Tensor) -> Tensor:
        """float [B, 3, T, J, M] -> sequence or map with the features in dimension 2 or 1.

        Raises:
            SettingError: if these are not two persons of 25 joints.
        """
        return self.layers(skeleton).through()

    @abstractmethod
    def forward(self, skeleton: Tensor) -> Tensor:
        """float [B, 3, T, J, M] -> pooled [B, D]."""

    def init_head(self, last: nn.Linear) -> None:
        """Start the last layer of a projection head as the official code does for this encoder: Glorot, no bias."""
        nn.init.xavier_uniform_(last.weight)
        nn.init.zeros_(last.bias)

    def no_weight_decay(self) -> set[str]:
        """Parameters that an optimiser must not decay, besides biases and one-dimensional ones: none here."""
        return set()

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Parameters from the input to the output, for layer-wise learning rates."""
        groups = (list(part.parameters()) for part in self.children())
        return [group for group in groups if group]

    def load(self, path: str) -> LoadReport:
        """Load weights strictly; everything else in the file (heads, key branches, queues) is reported as left over.

        Args:
            path: our .ckpt or .safetensors of a method or of the encoder alone, or an official file of pretraining
                (`encoder_q.*`, `encoder_r.*`; whichever fits this encoder) or of the encoder with a classifier.

        Returns:
            The report that was printed.

        Raises:
            SettingError: if the file cannot be read, or lacks a weight, or has another one or another shape.
        """
        weights = read_weights(path, "the checkpoint of an encoder")
        own = self.state_dict().keys()
        for prefix in dict.fromkeys((*PREFIXES, *prefixes_of(list(weights)))):
            inner = gru_from_official({key.removeprefix(prefix): v for key, v in weights.items() if key.startswith(prefix)})
            if own & inner.keys():
                rest = {key: value for key, value in weights.items() if not key.startswith(prefix)}
                return load_strictly(self, rest | inner, path, may_leave=(*rest, "fc."))
        raise SettingError(f"{path} contains no {type(self).__name__} (its tensors: {', '.join(list(weights)[:3])}, ...).")


def adjacency() -> Tensor:
    """Each joint with itself, from its child, and from its parent; columns of the last two sum to 1. float [3, J, J]."""
    inward = torch.zeros(JOINTS, JOINTS)
    children, parents = zip(*BONES, strict=True)
    inward[list(parents), list(children)] = 1
    inward, outward = (edges / edges.sum(0).clamp_min(1) for edges in (inward, inward.T))
    return torch.stack([torch.eye(JOINTS), inward, outward])
