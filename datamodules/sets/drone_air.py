"""Clips of airplanes, birds, drones and helicopters in the sky, in visible and in infrared light."""

from pathlib import Path

from datamodules.base import VideoDataModule
from datamodules.lists.manifest import Manifest, make_manifest
from datamodules.lists.official import read_table
from datamodules.video.picture_folder import LAST_NUMBER
from modules.core.errors import SettingError

CLASSES = ["airplane", "bird", "drone", "helicopter"]
LIST = "labels.csv"
SENSORS = {"visible": "V", "infrared": "IR"}
HELD_OUT = 4
"""The last of this many parts of a class, by video number, is for validation; neighbours often share a flight."""


class DroneAir(VideoDataModule):
    """Windows around flying objects, cut out of the Drone-detection dataset (Svanstrom et al., Data in Brief 2021):
    visible/<class>/*.mp4, infrared/<class>/*.mp4 and labels.csv (path, sensor, label, source_video).

    Benchmarks: visible, infrared. The data set has no official split: for each class, the quarter of the videos with the
        highest
    numbers is for validation, so that training and validation share no video and no flight.
    """

    benchmarks = ("visible", "infrared")
    splits = ("train", "val")
    places = ("",)

    def read_official(self, split: str) -> Manifest | None:
        """See `VideoDataModule.read_official`."""
        path = self.find_list(LIST)
        if path is None:
            raise self.lacks(LIST)
        return self._read(path, split)

    def _read(self, path: Path, split: str) -> Manifest:
        wanted = SENSORS[self.benchmark]
        rows: list[tuple[str, int, int]] = []
        for line, row in read_table(path, ("path", "sensor", "label", "source_video")):
            number = LAST_NUMBER.search(row["source_video"])
            if row["label"] not in CLASSES or number is None or row["sensor"] not in SENSORS.values():
                raise SettingError(
                    f"Line {line} of {path} has the class {row['label']!r}, the sensor {row['sensor']!r} and the video "
                    f"{row['source_video']!r}; expected one of {', '.join(CLASSES)}, V or IR, and a name with a number."
                )
            if row["sensor"] == wanted:
                rows.append((row["path"], CLASSES.index(row["label"]), int(number.group())))
        kept = [(file, label) for file, label, number in rows if (number < _first_held_out(rows, label)) == (split == "train")]
        return make_manifest(self.root, kept, path, CLASSES)


def _first_held_out(rows: list[tuple[str, int, int]], label: int) -> int:
    """Number of the first validation video of a class."""
    numbers = sorted({number for _, other, number in rows if other == label})
    return numbers[len(numbers) * (HELD_OUT - 1) // HELD_OUT]
