"""PKU-MMD: skeletons of labelled intervals, cut out and prepared by `python main.py prepare pku`."""

import numpy as np

from datamodules.skeleton.base import PreparedSkeletons, Split
from datamodules.skeleton.raw import PKU_CLASSES
from datamodules.skeleton.store import open_store
from modules.core.errors import SettingError


class PKUMMD(PreparedSkeletons):
    """PKU-MMD (benchmarks part1_xsub, part1_xview, part2_xsub, part2_xview): labelled intervals of 51 actions.

    Part 1 has about 21,500 intervals; part 2 is smaller and harder, with 41 of these actions. xsub validates on other people,
    xview on another camera.
    """

    num_classes = PKU_CLASSES
    benchmarks = ("part1_xsub", "part1_xview", "part2_xsub", "part2_xview")

    def load(self) -> Split:
        """See `SkeletonDataModule.load`."""
        part, benchmark = int(self.benchmark[4]), self.benchmark[6:]
        command = f"python main.py prepare pku --part {part} --raw DIR --labels DIR --splits DIR --out DIR"
        recordings = open_store(self.root, "pku", command)
        held = recordings.header["part"]
        if held != part:
            raise SettingError(
                f"data.root {self.root} contains part {held} of PKU-MMD; set data.benchmark to part{held}_{benchmark}, or "
                f"data.root to the folder of part {part}."
            )
        split = recordings.header["splits"][benchmark]
        videos = np.array([name.rpartition("_")[0] for name in recordings.name.tolist()])
        train, val = (np.flatnonzero(np.isin(videos, split[name])) for name in ("train", "val"))
        return Split(recordings, train, val)
