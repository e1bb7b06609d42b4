"""Methods, one file each, and the masks that the masked ones choose from."""

from modules.downstream.arrow_of_time import ArrowOfTime
from modules.downstream.classification import Classification
from modules.downstream.counting import RepetitionCounting
from modules.downstream.detection import ActionDetection
from modules.downstream.fusion import FusedClassification
from modules.downstream.propagation.task import LabelPropagation
from modules.downstream.retrieval import NearestNeighbours
from modules.downstream.video_text_retrieval import VideoTextRetrieval
from modules.masks.blocks import MultiBlockMask
from modules.masks.blue_noise import OptimBlueMask
from modules.masks.clip import CenterMask, TemporalMask, UniformMask
from modules.masks.noise import Green3D, NoiseMask
from modules.masks.sequences import ImportantSteps, RandomSteps
from modules.masks.tokens import RandomMask, RunningCellMask, TubeMask
from modules.masks.trajectory import TrajectoryMask
from modules.methods.cropmae import CropMAE
from modules.methods.crossvideomae import CrossVideoMAE
from modules.methods.cvrl import CVRL
from modules.methods.locomotion import LocoMotion
from modules.methods.lvmae import LVMAE
from modules.methods.moco import MoCo
from modules.methods.odd_one_out import OddOneOut
from modules.methods.opn import OPN
from modules.methods.prp import PRP
from modules.methods.rotnet import RotNet
from modules.methods.rspnet import RSPNet
from modules.methods.shuffle_and_learn import ShuffleAndLearn
from modules.methods.siammae import SiamMAE
from modules.methods.sigma import SIGMA
from modules.methods.skeleton_contrast import SkeletonContrast
from modules.methods.smile import SMILE
from modules.methods.stmae import STMAE
from modules.methods.tubelet_contrast import TubeletContrast
from modules.methods.vcop import VCOP
from modules.methods.videomae import VideoMAE
from modules.methods.vjepa import VJEPA
from modules.training.optim import AdamSettings, AdamWSettings, PhasedSettings, SGDSettings, StepSGDSettings

__all__ = [
    "CVRL",
    "LVMAE",
    "OPN",
    "PRP",
    "SIGMA",
    "SMILE",
    "STMAE",
    "VCOP",
    "VJEPA",
    "ActionDetection",
    "AdamSettings",
    "AdamWSettings",
    "ArrowOfTime",
    "CenterMask",
    "Classification",
    "CropMAE",
    "CrossVideoMAE",
    "FusedClassification",
    "Green3D",
    "ImportantSteps",
    "LabelPropagation",
    "LocoMotion",
    "MoCo",
    "MultiBlockMask",
    "NearestNeighbours",
    "NoiseMask",
    "OddOneOut",
    "OptimBlueMask",
    "PhasedSettings",
    "RSPNet",
    "RandomMask",
    "RandomSteps",
    "RepetitionCounting",
    "RotNet",
    "RunningCellMask",
    "SGDSettings",
    "ShuffleAndLearn",
    "SiamMAE",
    "SkeletonContrast",
    "StepSGDSettings",
    "TemporalMask",
    "TrajectoryMask",
    "TubeMask",
    "TubeletContrast",
    "UniformMask",
    "VideoMAE",
    "VideoTextRetrieval",
]
