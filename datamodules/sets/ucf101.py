"""UCF101: 101 actions in 13,320 videos, with the official lists of three splits."""

from pathlib import Path

from datamodules.base import VideoDataModule
from datamodules.lists.files import read_lines
from datamodules.lists.manifest import Manifest
from datamodules.lists.official import by_place, found_manifest
from modules.core.errors import SettingError


class UCF101(VideoDataModule):
    """UCF101. Results are usually the mean over the three splits; validation uses the test videos.

    Videos are `<Class>/v_<Class>_g01_c01.avi` at any depth below `root`, or have another suffix. Lists are classInd.txt,
    trainlist01.txt, testlist01.txt and so on, or rows 'path label' in lists.train and lists.val. Benchmarks are the official
    splits: split1, split2, split3.
    """

    benchmarks = ("split1", "split2", "split3")
    splits = ("train", "val")
    places = ("", "ucfTrainTestlist", "annotations", "labels")

    def read_official(self, split: str) -> Manifest | None:
        """See `VideoDataModule.read_official`."""
        name = f"{'train' if split == 'train' else 'test'}list0{self.benchmark[-1]}.txt"
        classes, listed = self.find_list("classInd.txt"), self.find_list(name)
        if classes is None or listed is None:
            raise self.lacks("classInd.txt" if classes is None else name)
        return read_ucf_list(listed, read_classes(classes), self.root)


def read_classes(path: Path) -> list[str]:
    """Class names in the order of their labels, from lines '1 ApplyEyeMakeup' that count from 1.

    Raises:
        SettingError: if a line has another format, or the labels are not 1, 2, 3 and so on.
    """
    names: dict[int, str] = {}
    for number, line in read_lines(path).items():
        label, _, name = line.strip().partition(" ")
        if not (label.isdecimal() and name) or int(label) in names:
            raise SettingError(f"Line {number} of {path} is {line.strip()!r}; expected a new label from 1, and a class.")
        names[int(label)] = name.strip()
    if sorted(names) != list(range(1, len(names) + 1)):
        raise SettingError(f"{path} skips labels between 1 and {max(names)}; copy the official file again.")
    return [names[label] for label in sorted(names)]


def read_ucf_list(path: Path, class_names: list[str], root: Path) -> Manifest:
    """Read an official list of lines '<Class>/<file>.avi'; training lists also have the label of the class, from 1.

    The class is taken from the folder: files of HandstandPushups are called v_HandStandPushups_....

    Raises:
        SettingError: if a line contains an unknown class, or a label that does not belong to its folder.
    """
    number = {name: label for label, name in enumerate(class_names)}
    rows = []
    for line_number, line in read_lines(path).items():
        words = line.split()
        folder, _, file = words[0].partition("/")
        if folder not in number or not file or words[1:] not in ([], [str(number[folder] + 1)]):
            raise SettingError(
                f"Line {line_number} of {path} is {line.strip()!r}; expected <class>/<file> with a class of classInd.txt, "
                "and its label there or none."
            )
        rows.append((f"{folder}/{Path(file).stem}", number[folder]))
    return found_manifest(root, rows, by_place(root), path, class_names, ".avi")
