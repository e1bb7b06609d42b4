"""Encoders, one file per family. Importing them here makes their short names known to the command line."""

from modules.backbones.cnn.base import VideoCNN
from modules.backbones.cnn.c3d import C3D
from modules.backbones.cnn.caffenet import CaffeNet
from modules.backbones.cnn.clip_order import ClipOrderResNet
from modules.backbones.cnn.i3d import I3D
from modules.backbones.cnn.resnet import VideoResNet
from modules.backbones.cnn.resnet3d import ResNet3D
from modules.backbones.cnn.s3d import S3D, S3DG
from modules.backbones.cnn.slow_only import SlowOnly
from modules.backbones.depth import Depth
from modules.backbones.frame_tower import FrameTower
from modules.backbones.sequence.transformer import SequenceTransformer
from modules.backbones.signal.cnn import SignalCNN
from modules.backbones.skeleton.base import SkeletonEncoder
from modules.backbones.skeleton.gcn import AGCN
from modules.backbones.skeleton.gru import BiGRU
from modules.backbones.skeleton.hcn import HCN
from modules.backbones.vit.beit_video import BEiTVideo
from modules.backbones.vit.spacetime_vit import SpacetimeViT
from modules.backbones.vit.video_vit import VideoViT
from modules.backbones.vit.vjepa_vit import VJEPAViT

__all__ = [
    "AGCN",
    "C3D",
    "HCN",
    "I3D",
    "S3D",
    "S3DG",
    "AnyEncoder",
    "BEiTVideo",
    "BiGRU",
    "CaffeNet",
    "ClipOrderResNet",
    "Depth",
    "FrameTower",
    "ResNet3D",
    "SequenceTransformer",
    "SignalCNN",
    "SlowOnly",
    "SpacetimeViT",
    "VJEPAViT",
    "VideoResNet",
    "VideoViT",
]

AnyEncoder = VideoViT | VideoCNN | BEiTVideo | FrameTower | SkeletonEncoder | Depth | SignalCNN | SequenceTransformer
"""What methods take that serve every kind of stream. Of a protocol (`modules.backbones.encoder.Encoder`), the command line
would not find the classes by their short names."""
