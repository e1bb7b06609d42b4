"""Callbacks that monitor a run: probes, pictures, speed. Only `ModelEMA` changes weights, by averaging them."""

from callbacks.collapse import CollapseAlarm
from callbacks.films.interpolations import Interpolations
from callbacks.films.propagated import PropagatedVideos
from callbacks.neighbours import Neighbours
from callbacks.online_knn import OnlineKNN
from callbacks.online_linear import OnlineLinear
from callbacks.pictures import Pictures
from callbacks.probe_report import ProbeReport
from callbacks.result_file import BestOnTest, ResultFile
from callbacks.retrieved import RetrievedPictures
from callbacks.stream_sheet import StreamSheet
from callbacks.throughput import Throughput
from modules.runs.last_checkpoint import LastCheckpoint
from modules.runs.nonfinite import NonFiniteGuard
from modules.runs.progress import LossProgressBar
from modules.training.averaging import ModelEMA

__all__ = [
    "BestOnTest",
    "CollapseAlarm",
    "Interpolations",
    "LastCheckpoint",
    "LossProgressBar",
    "ModelEMA",
    "Neighbours",
    "NonFiniteGuard",
    "OnlineKNN",
    "OnlineLinear",
    "Pictures",
    "ProbeReport",
    "PropagatedVideos",
    "ResultFile",
    "RetrievedPictures",
    "StreamSheet",
    "Throughput",
]
