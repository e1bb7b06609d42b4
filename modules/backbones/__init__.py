"""Encoders, one file per family. Importing them here makes their short names known to the command line."""

from modules.backbones.beit_video import BEiTVideo
from modules.backbones.i3d import I3D
from modules.backbones.skeleton_gcn import AGCN
from modules.backbones.skeleton_gru import BiGRU
from modules.backbones.skeleton_hcn import HCN
from modules.backbones.video_cnn import S3D, VideoResNet
from modules.backbones.video_vit import VideoViT

__all__ = ["AGCN", "HCN", "I3D", "S3D", "BEiTVideo", "BiGRU", "VideoResNet", "VideoViT"]
