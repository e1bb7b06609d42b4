"""JHMDB: short videos of people with 15 joints in every frame, for label propagation (https://doi.org/10.1109/ICCV.2013.396)."""

from pathlib import Path

import numpy as np
import torch
from scipy.io import loadmat
from torch import Tensor

from datamodules.lists.files import read_lines
from datamodules.sequences import FEWEST, FrameSize, LabelledSequenceData, LabelledVideo, UnreadableError, pictures_in
from datamodules.settings import choose_benchmark
from modules.core.errors import SettingError

PICTURES, JOINTS, SPLITS, FILE = "Rename_Images", "joint_positions", "splits", "joint_positions.mat"
TESTED = "2"
"""Mark of test videos in the official lists."""
SUFFIX = ".avi"


class JHMDBSequences(LabelledSequenceData):
    """JHMDB for `LabelPropagation`: pictures in `Rename_Images/<class>/<video>`, joints in `joint_positions/<class>/<video>/
    joint_positions.mat`, and the official lists `splits/<class>_test_split1.txt`, of which the test videos are taken.

    Joints are `pos_img` of these files, in pixels counted from 1. Frames after the last annotated one are left out.

    Args:
        root: folder of the data set.
        size: size of the frames that the encoder takes.
        listed: list of videos instead of the official ones, a row each: `<class>/<video>`, or, as in videowalk's and CropMAE's
            lists, the files of joints and the folder of pictures, which end in these.
        only: names `<class>/<video>` to take; null takes all of the list.
        max_frames: first frames of each video to take; null takes all.
        benchmark: official split: split1 (published numbers), split2 or split3.
    """

    measure = "joints"
    benchmarks = ("split1", "split2", "split3")

    def __init__(
        self,
        root: str,
        size: FrameSize = FrameSize(),  # noqa: B008  (never mutated; shows the defaults in --help)
        listed: str | None = None,
        only: list[str] | None = None,
        max_frames: int | None = None,
        benchmark: str | None = None,
    ) -> None:
        super().__init__(root, size, listed, only, max_frames)
        self.benchmark = choose_benchmark(type(self), self.benchmarks, benchmark)

    def find_videos(self) -> list[LabelledVideo]:
        """See `LabelledSequenceData.find_videos`."""
        found = []
        for name in self._names():
            folder, file = self.root / PICTURES / name, self.root / JOINTS / name / FILE
            for path, there in ((folder, folder.is_dir()), (file, file.is_file())):
                if not there:
                    raise SettingError(f"{path} does not exist; set data.root to the folder of JHMDB.")
            found.append(LabelledVideo(name, pictures_in(folder), [file]))
        return found

    def _names(self) -> list[str]:
        if self.listed is not None:
            rows = [line.split()[-1] for line in read_lines(self.listed).values() if line.strip()]
            return list(dict.fromkeys("/".join(Path(row).parts[-2:]) for row in rows))
        lists = sorted((self.root / SPLITS).glob(f"*_test_{self.benchmark}.txt"))
        if not lists:
            raise SettingError(
                f"{self.root / SPLITS} contains no official list of {self.benchmark}; set data.root to the folder of JHMDB, or "
                "data.listed to a list of videos."
            )
        names = []
        for path in lists:
            kind = path.name.removesuffix(f"_test_{self.benchmark}.txt")
            marked = (line.split() for line in read_lines(path).values() if line.strip())
            names += [f"{kind}/{row[0].removesuffix(SUFFIX)}" for row in marked if row[-1] == TESTED]
        return names

    def read_labels(self, video: LabelledVideo, stored: tuple[int, int]) -> dict[str, Tensor]:
        """See `LabelledSequenceData.read_labels`."""
        path = video.labels[0]
        try:
            found = np.asarray(loadmat(path)["pos_img"], dtype=np.float64)
        except Exception as error:
            # scipy raises errors of many kinds for broken files.
            raise UnreadableError(f"{path.name}: {type(error).__name__}") from error
        if found.ndim != 3 or found.shape[0] != 2 or found.shape[2] < FEWEST:
            raise UnreadableError(f"{path.name}: pos_img has the axes {found.shape}, not 2, joints, frames")
        # [2, J, T] -> [T, J, 2]
        joints = torch.from_numpy(found.transpose(2, 1, 0) - 1)[: len(video.frames)].contiguous()
        return {"joints": joints, "stored": torch.tensor(stored)}
