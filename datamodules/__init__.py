"""Data sets, one small file each, and the samplers and crops they can use.

A data module handles files and labels; it never normalises, masks or pastes.
"""

from datamodules.cached_features import CachedFeatures
from datamodules.folder import VideoFolder
from datamodules.generated.boxes import SyntheticBoxes
from datamodules.generated.long import SyntheticLongVideos
from datamodules.generated.motion import SyntheticMotion
from datamodules.generated.repetitions import SyntheticRepetitions
from datamodules.generated.sequences import SyntheticSequences
from datamodules.generated.skeleton import SyntheticSkeleton
from datamodules.generated.tasks import SyntheticTasks
from datamodules.listed import ListedStreams
from datamodules.mixed import MixedData
from datamodules.recordings import LongRecordings
from datamodules.sets.activitynet import ActivityNet
from datamodules.sets.audioset import AudioSet
from datamodules.sets.ava import AVA
from datamodules.sets.charades import Charades
from datamodules.sets.davis import DAVIS2016, DAVIS2017, DAVIS2016Sequences, DAVIS2017Sequences
from datamodules.sets.diving48 import Diving48
from datamodules.sets.drone_air import DroneAir
from datamodules.sets.epic_kitchens import EpicKitchens100
from datamodules.sets.esc50 import ESC50
from datamodules.sets.feature_sequences import FeatureSequences
from datamodules.sets.finegym import FineGym
from datamodules.sets.hmdb51 import HMDB51
from datamodules.sets.jester import Jester
from datamodules.sets.jhmdb import JHMDBSequences
from datamodules.sets.kinetics import Kinetics400, Kinetics600, Kinetics700, MiniKinetics
from datamodules.sets.ntu import NTU60, NTU120, NTUVideos
from datamodules.sets.ntu_streams import NTUStreams
from datamodules.sets.pku_mmd import PKUMMD
from datamodules.sets.something_something import SSv1, SSv2
from datamodules.sets.speech_commands import SpeechCommands
from datamodules.sets.ucf101 import UCF101
from datamodules.sets.ucfrep import UCFRep
from datamodules.sets.utd_mhad import UTDMHAD
from datamodules.sets.vggsound import VGGSound
from datamodules.sets.video_text import MSRVTT, DiDeMo, SSv2Text, VideoText
from datamodules.sets.vip import VIPSequences
from datamodules.streamed import StreamedVideos
from datamodules.video.crops import Centre, MultiScale, Nested, RandomResized, Shared, Square, Stretched
from datamodules.video.samplers import (
    DecreasingGap,
    Dense,
    FramePair,
    Jittered,
    Looped,
    OrderedClips,
    Partitioned,
    Segments,
    Spanning,
    Strided,
    Timed,
    Wrapped,
)

__all__ = [
    "AVA",
    "DAVIS2016",
    "DAVIS2017",
    "ESC50",
    "HMDB51",
    "MSRVTT",
    "NTU60",
    "NTU120",
    "PKUMMD",
    "UCF101",
    "UTDMHAD",
    "ActivityNet",
    "AudioSet",
    "CachedFeatures",
    "Centre",
    "Charades",
    "DAVIS2016Sequences",
    "DAVIS2017Sequences",
    "DecreasingGap",
    "Dense",
    "DiDeMo",
    "Diving48",
    "DroneAir",
    "EpicKitchens100",
    "FeatureSequences",
    "FineGym",
    "FramePair",
    "JHMDBSequences",
    "Jester",
    "Jittered",
    "Kinetics400",
    "Kinetics600",
    "Kinetics700",
    "ListedStreams",
    "LongRecordings",
    "Looped",
    "MiniKinetics",
    "MixedData",
    "MultiScale",
    "NTUStreams",
    "NTUVideos",
    "Nested",
    "OrderedClips",
    "Partitioned",
    "RandomResized",
    "SSv1",
    "SSv2",
    "SSv2Text",
    "Segments",
    "Shared",
    "Spanning",
    "SpeechCommands",
    "Square",
    "StreamedVideos",
    "Stretched",
    "Strided",
    "SyntheticBoxes",
    "SyntheticLongVideos",
    "SyntheticMotion",
    "SyntheticRepetitions",
    "SyntheticSequences",
    "SyntheticSkeleton",
    "SyntheticTasks",
    "Timed",
    "UCFRep",
    "VGGSound",
    "VIPSequences",
    "VideoFolder",
    "VideoText",
    "Wrapped",
]
