"""Does a method learn? Small networks, generated clips, one fixed readout, several seeds; one study per method.

    python benchmarks/learning.py smile                            # under an hour on two CPU cores, minutes on a GPU
    python benchmarks/learning.py tubelet_contrast                 # the same
    python benchmarks/learning.py sigma                            # the same
    python benchmarks/learning.py skeleton_contrast                # the same
    python benchmarks/learning.py locomotion                       # the same
    python benchmarks/learning.py order_and_contrast --utd DIR     # the same; DIR is UTD-MHAD, may be left out; resumes
    python benchmarks/learning.py masks_and_pairs --davis DIR      # the same; --drones DIR and --utd DIR add data; resumes
    python benchmarks/learning.py prediction --utd DIR             # the same
    python benchmarks/learning.py utd_mhad --root DIR              # real recordings; an hour on two CPU cores
    python benchmarks/learning.py smile --size.steps 40 --seeds 1  # only to see it run

Every study (`benchmarks/studies`) compares, at equal budget, rows that its method's paper compares, beside chance, the
untrained network and a supervised network of the same size. How features are read was written before any run and is the
same for all rows of a study. Colours, fills, proportions and background seeds of test clips are not those of training
clips. Numbers are means over seeds, with the spread (largest minus smallest).
"""

import sys
from collections.abc import Callable
from pathlib import Path

from jsonargparse import auto_cli

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.studies.locomotion import locomotion
from benchmarks.studies.masks_and_pairs import masks_and_pairs
from benchmarks.studies.order_and_contrast import order_and_contrast
from benchmarks.studies.prediction import prediction
from benchmarks.studies.sigma import sigma
from benchmarks.studies.skeleton_contrast import skeleton_contrast
from benchmarks.studies.smile import smile
from benchmarks.studies.tubelet_contrast import tubelet_contrast
from benchmarks.studies.utd_mhad import utd_mhad
from modules.core.errors import SettingError

if __name__ == "__main__":
    studies: list[Callable[..., None]] = [
        smile,
        sigma,
        skeleton_contrast,
        tubelet_contrast,
        locomotion,
        order_and_contrast,
        masks_and_pairs,
        prediction,
        utd_mhad,
    ]
    try:
        auto_cli(studies, as_positional=False)
    except SettingError as error:
        sys.exit(f"error: {error}")
