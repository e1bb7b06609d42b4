"""Base class of skeleton encoders: the skeleton of Kinect v2 (NTU RGB+D, PKU-MMD) and loading of weights.

An encoder takes clips [B, 3, T, J, M]: coordinates, frames, joints, persons. It converts them to the layout that it needs.
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
# Prefixes of an encoder's weights in a file: a method of this project, the official method, a bare encoder.
PREFIXES = ("backbone.", "partner.", "encoder_q.", "encoder_r.", "")


class SkeletonEncoder(Layered, nn.Module, ABC):
    """An encoder of skeletons. A subclass sets `embed_dim` and builds its layers, then loads a checkpoint if there is one."""

    embed_dim: int
    """length of a pooled feature"""
    kind: Literal["skeleton"] = "skeleton"

    def preprocess(self, clip: Tensor) -> Tensor:
        """Return float [B, 3, T, J, M] unchanged. Each encoder converts it to its own layout."""
        return clip

    def check(self, skeleton: Tensor) -> None:
        """Check that clips have the shape that the encoder was built for.

        Raises:
            SettingError: if they are not float [B, 3, T, 25, 2].
        """
        check_bodies(skeleton, next(self.parameters()), JOINTS, PERSONS, type(self).__name__)

    def forward_features(self, skeleton: Tensor) -> Tensor:
        """float [B, 3, T, J, M] -> sequence or feature map, with the features in dimension 2 or 1.

        Raises:
            SettingError: if the clips do not have two persons of 25 joints.
        """
        return self.layers(skeleton).through()

    @abstractmethod
    def forward(self, skeleton: Tensor) -> Tensor:
        """float [B, 3, T, J, M] -> pooled [B, D]."""

    def init_head(self, last: nn.Linear) -> None:
        """Initialise the last layer of a projection head as in the official code of this encoder: Glorot, zero bias."""
        nn.init.xavier_uniform_(last.weight)
        nn.init.zeros_(last.bias)

    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay, in addition to biases and one-dimensional parameters: none here."""
        return set()

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Parameters grouped by layer, from the input to the output, for layer-wise learning rates."""
        groups = (list(part.parameters()) for part in self.children())
        return [group for group in groups if group]

    def load(self, path: str) -> LoadReport:
        """Load weights strictly. All other weights in the file (heads, key branches, queues) are reported as left over.

        Args:
            path: a .ckpt or .safetensors file of this project, of a method or of the encoder only; or an official file of
                pretraining (`encoder_q.*`, `encoder_r.*`, whichever fits this encoder) or of the encoder with a classifier.

        Returns:
            The report that was printed.

        Raises:
            SettingError: if the file cannot be read, or weights are missing, unexpected or of another shape.
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
    """Adjacency matrices: identity, inward (child to parent), outward; columns of the last two sum to 1. float [3, J, J]."""
    inward = torch.zeros(JOINTS, JOINTS)
    children, parents = zip(*BONES, strict=True)
    inward[list(parents), list(children)] = 1
    inward, outward = (edges / edges.sum(0).clamp_min(1) for edges in (inward, inward.T))
    return torch.stack([torch.eye(JOINTS), inward, outward])
