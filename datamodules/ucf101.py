"""UCF101: 101 actions in 13,320 videos, with the official lists of three splits."""

from pathlib import Path
from typing import Literal

from datamodules.base import VideoDataModule
from datamodules.video.decode import Decoder
from datamodules.video.manifest import Manifest, read_lines
from datamodules.video.official import by_place, find_file, found_manifest
from datamodules.video.sampling import ClipSettings, ViewSettings
from modules.core.errors import SettingError

FOLDERS = ("", "ucfTrainTestlist", "annotations", "labels")
CLASSES = 101


class UCF101(VideoDataModule):
    """UCF101. Results are usually the mean over the three splits; the test videos are those that validate.

    Args:
        root: folder of the videos, `<Class>/v_<Class>_g01_c01.avi` at any depth; other suffixes do as well.
        split: which of the official splits.
        lists: folder of classInd.txt, trainlist01.txt, testlist01.txt and so on; null looks in `root`.
        clip: frames, stride, size, crop and number of clips.
        batch_size: videos per batch and device; a batch holds batch_size x clip.clips x clip.repeat clips.
        num_workers: worker processes per device that decode.
        seed: order, frames and crops are functions of it; null takes the run's seed.
        probe_samples: training videos that online probes read, with centre crops.
        fraction: share of the training videos to train on, the same of every class.
        subset_seed: which videos these are.
        max_bad_fraction: share of broken files above which the run stops, see `VideoDataModule`.
        decode_timeout: seconds after which a file counts as broken; null waits for ever.
        decoder: library that decodes.
        views: clips and crops of each test video.
    """

    def __init__(
        self,
        root: str,
        split: Literal[1, 2, 3] = 1,
        lists: str | None = None,
        clip: ClipSettings = ClipSettings(),  # noqa: B008  (never mutated; shows the defaults in --help)
        batch_size: int = 16,
        num_workers: int = 4,
        seed: int | None = None,
        probe_samples: int = 2048,
        fraction: float = 1.0,
        subset_seed: int = 12345,
        max_bad_fraction: float = 0.05,
        decode_timeout: float | None = 60.0,
        decoder: Decoder = "pyav",
        views: ViewSettings = ViewSettings(),  # noqa: B008
    ) -> None:
        super().__init__(
            root,
            clip=clip,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
            probe_samples=probe_samples,
            fraction=fraction,
            subset_seed=subset_seed,
            max_bad_fraction=max_bad_fraction,
            decode_timeout=decode_timeout,
            decoder=decoder,
            views=views,
        )
        self.split, self.lists = split, Path(lists) if lists else self.root

    def read_split(self, split: str) -> Manifest | None:
        """See `VideoDataModule.read_split`."""
        if split == "test":
            return None
        classes = find_file(self.lists, FOLDERS, ["classInd.txt"])
        listed = find_file(self.lists, FOLDERS, [f"{'train' if split == 'train' else 'test'}list{self.split:02d}.txt"])
        if classes is None or listed is None:
            raise SettingError(
                f"{self.lists} holds no {'classInd.txt' if classes is None else f'list of split {self.split} ({split})'}; set "
                "data.lists to the folder of the official lists."
            )
        names = read_classes(classes)
        return read_ucf_list(listed, names, self.root)


def read_classes(path: Path) -> list[str]:
    """Class names in the order of their labels, from lines '1 ApplyEyeMakeup' that count from 1.

    Raises:
        SettingError: if a line is of another form, or the labels are not 1, 2, 3 and so on.
    """
    names: dict[int, str] = {}
    for number, line in read_lines(path).items():
        label, _, name = line.strip().partition(" ")
        if not (label.isdecimal() and name) or int(label) in names:
            raise SettingError(f"Line {number} of {path} is {line.strip()!r}; expected a new label from 1, and a class.")
        names[int(label)] = name.strip()
    if sorted(names) != list(range(1, len(names) + 1)):
        raise SettingError(f"{path} leaves out labels between 1 and {max(names)}; copy the official file again.")
    return [names[label] for label in sorted(names)]


def read_ucf_list(path: Path, class_names: list[str], root: Path) -> Manifest:
    """An official list: '<Class>/<file>.avi', in training lists with a label from 1, which the folder's name repeats.

    The class is taken from the folder: files of HandstandPushups are called v_HandStandPushups_....

    Raises:
        SettingError: if a line names no known class, or a label that is not that of its folder.
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
