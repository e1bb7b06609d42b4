"""Data sets, one small file each. A data module knows files and labels; it never normalises, masks or pastes."""

from datamodules.folder import VideoFolder
from datamodules.kinetics import Kinetics400, Kinetics600, Kinetics700, MiniKinetics
from datamodules.ntu import NTU60, NTU120, NTUVideos
from datamodules.pku_mmd import PKUMMD
from datamodules.something_something import SSv2
from datamodules.synthetic import SyntheticMotion
from datamodules.synthetic_skeleton import SyntheticSkeleton

__all__ = [
    "NTU60",
    "NTU120",
    "PKUMMD",
    "Kinetics400",
    "Kinetics600",
    "Kinetics700",
    "MiniKinetics",
    "NTUVideos",
    "SSv2",
    "SyntheticMotion",
    "SyntheticSkeleton",
    "VideoFolder",
]
