"""Spatial augmentation of skeletons, batched on the device (https://arxiv.org/abs/2108.03656, official code).

Each clip is either sheared completely, or some of its joints are jittered or zeroed, in all frames and for both persons. Each
of these changes multiplies a joint's coordinates by a matrix, so one product is enough.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from modules.core.errors import SettingError


class SkeletonDraws(NamedTuple):
    """Random draws for a batch of clips."""

    sheared: Tensor
    """bool [B], clips that are sheared; joints of the others are jittered"""
    chosen: Tensor
    """bool [B, J], joints that jitter changes"""
    zeroed: Tensor
    """bool [B], whether jitter moves the chosen joints to the origin instead of multiplying them by a matrix"""
    matrix: Tensor
    """float [B, 3, 3], matrix of the shear, whose diagonal is replaced by 1, or of the jitter, multiplied from the right"""


def joint_matrices(draws: SkeletonDraws) -> Tensor:
    """The matrix by which each joint's coordinates are multiplied from the left: float [B, J, 3, 3]."""
    identity = torch.eye(3, device=draws.matrix.device)
    shear = torch.where(identity > 0, identity, draws.matrix)
    jitter = torch.where(draws.zeroed[:, None, None], 0, draws.matrix.transpose(1, 2))
    jittered = torch.where(draws.chosen[..., None, None], jitter[:, None], identity)
    return torch.where(draws.sheared[:, None, None, None], shear[:, None], jittered)


def transform_joints(skeleton: Tensor, matrices: Tensor) -> Tensor:
    """Multiply coordinates by the matrix of their joint.

    Args:
        skeleton: float [B, 3, T, J, M]
        matrices: float [B, J, 3, 3]
    """
    columns = matrices.permute(3, 0, 2, 1)[..., None, :, None]
    # Sums of products instead of a matrix product, which some devices compute with lower precision.
    return sum(column * skeleton[:, None, axis] for axis, column in enumerate(columns))


@dataclass
class SkeletonAugmentation:
    """Exactly one of shear and jitter for each clip. The defaults are the paper's (official code).

    Args:
        shear_probability: probability that a clip is sheared; joints of the others are jittered.
        joints: number of joints changed by jitter.
        zero_probability: probability that jitter moves these joints to the origin; otherwise they are multiplied by a random
            matrix.
        strength: entries of the random matrices are drawn from -strength to strength.
    """

    shear_probability: float = 0.5
    joints: int = 15
    zero_probability: float = 0.5
    strength: float = 1.0

    def check(self) -> None:
        """Check the settings.

        Raises:
            SettingError: naming the setting.
        """
        for name in ("shear_probability", "zero_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingError(f"model.augmentation.{name} is {getattr(self, name)}; it must be from 0 to 1.")
        if self.joints < 0:
            raise SettingError(f"model.augmentation.joints is {self.joints}; it must be at least 0.")

    def draw(self, clips: int, joints: int, generator: torch.Generator) -> SkeletonDraws:
        """Draw for `clips` clips of skeletons with `joints` joints."""

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator, device=generator.device)

        sheared = uniform(clips) < self.shear_probability
        chosen = uniform(clips, joints).argsort(1).argsort(1) < self.joints
        zeroed = uniform(clips) < self.zero_probability
        return SkeletonDraws(sheared, chosen, zeroed, self.strength * (2 * uniform(clips, 3, 3) - 1))

    def __call__(self, skeleton: Tensor, generator: torch.Generator) -> Tensor:
        """float [B, 3, T, J, M] -> the same shape."""
        draws = self.draw(len(skeleton), skeleton.shape[3], generator)
        return transform_joints(skeleton, joint_matrices(draws))
