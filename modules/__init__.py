"""Methods, one file each."""

from modules.moco import MoCo
from modules.smile import SMILE
from modules.tubelet_contrast import TubeletContrast
from modules.videomae import VideoMAE

__all__ = ["SMILE", "MoCo", "TubeletContrast", "VideoMAE"]
