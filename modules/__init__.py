"""Methods, one file each, and the masks that the masked ones choose from."""

from modules.layers.masking import RandomMask, RunningCellMask, TrajectoryMask, TubeMask
from modules.layers.noise_masking import Green3D, NoiseMask
from modules.layers.optim_blue import OptimBlueMask
from modules.moco import MoCo
from modules.sigma import SIGMA
from modules.skeleton_contrast import SkeletonContrast
from modules.smile import SMILE
from modules.tubelet_contrast import TubeletContrast
from modules.videomae import VideoMAE

__all__ = [
    "SIGMA",
    "SMILE",
    "Green3D",
    "MoCo",
    "NoiseMask",
    "OptimBlueMask",
    "RandomMask",
    "RunningCellMask",
    "SkeletonContrast",
    "TrajectoryMask",
    "TubeMask",
    "TubeletContrast",
    "VideoMAE",
]
