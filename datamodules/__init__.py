"""Data sets, one small file each. A data module knows files and labels; it never normalises, masks or pastes."""

from datamodules.folder import VideoFolder
from datamodules.kinetics import Kinetics400, Kinetics600, Kinetics700, MiniKinetics
from datamodules.something_something import SSv2
from datamodules.synthetic import SyntheticMotion

__all__ = ["Kinetics400", "Kinetics600", "Kinetics700", "MiniKinetics", "SSv2", "SyntheticMotion", "VideoFolder"]
