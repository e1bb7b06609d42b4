"""What watches a run: probes, pictures, speed. None of it changes a trained weight."""

from callbacks.collapse import CollapseAlarm
from callbacks.online_knn import OnlineKNN
from callbacks.online_linear import OnlineLinear
from callbacks.pictures import Pictures
from callbacks.probe_report import ProbeReport
from callbacks.throughput import Throughput
from modules.core.last_checkpoint import LastCheckpoint
from modules.core.nonfinite import NonFiniteGuard

__all__ = [
    "CollapseAlarm",
    "LastCheckpoint",
    "NonFiniteGuard",
    "OnlineKNN",
    "OnlineLinear",
    "Pictures",
    "ProbeReport",
    "Throughput",
]
