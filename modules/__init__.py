"""Methods, one file each."""

from modules.smile import SMILE
from modules.videomae import VideoMAE

__all__ = ["SMILE", "VideoMAE"]
