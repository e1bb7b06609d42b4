"""Data sets, one small file each. A data module knows files and labels; it never normalises, masks or pastes."""

from datamodules.activitynet import ActivityNet
from datamodules.ava import AVA
from datamodules.cached_features import CachedFeatures
from datamodules.charades import Charades
from datamodules.diving48 import Diving48
from datamodules.epic_kitchens import EpicKitchens100
from datamodules.finegym import FineGym
from datamodules.folder import VideoFolder
from datamodules.hmdb51 import HMDB51
from datamodules.jester import Jester
from datamodules.kinetics import Kinetics400, Kinetics600, Kinetics700, MiniKinetics
from datamodules.ntu import NTU60, NTU120, NTUVideos
from datamodules.pku_mmd import PKUMMD
from datamodules.something_something import SSv1, SSv2
from datamodules.synthetic import SyntheticMotion
from datamodules.synthetic_skeleton import SyntheticSkeleton
from datamodules.ucf101 import UCF101
from datamodules.ucfrep import UCFRep
from datamodules.video_text import MSRVTT, DiDeMo, SSv2Text, VideoText

__all__ = [
    "AVA",
    "HMDB51",
    "MSRVTT",
    "NTU60",
    "NTU120",
    "PKUMMD",
    "UCF101",
    "ActivityNet",
    "CachedFeatures",
    "Charades",
    "DiDeMo",
    "Diving48",
    "EpicKitchens100",
    "FineGym",
    "Jester",
    "Kinetics400",
    "Kinetics600",
    "Kinetics700",
    "MiniKinetics",
    "NTUVideos",
    "SSv1",
    "SSv2",
    "SSv2Text",
    "SyntheticMotion",
    "SyntheticSkeleton",
    "UCFRep",
    "VideoFolder",
    "VideoText",
]
