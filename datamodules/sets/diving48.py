"""Diving48: competitive dives in 48 classes, with the corrected labels of its second version."""

from pathlib import Path

from datamodules.base import VideoDataModule
from datamodules.lists.files import read_json
from datamodules.lists.folders import by_stem
from datamodules.lists.manifest import Manifest
from datamodules.lists.official import class_label, find_file, found_manifest
from modules.core.errors import SettingError

CLASSES = 48


class Diving48(VideoDataModule):
    """Diving48, version 2. Validation uses the test videos; class 30 has no video in either list.

    Reads Diving48_V2_train.json and Diving48_V2_test.json, and Diving48_vocab.json for names of classes, from the folder of
    the lists or its folders annotations and labels. Videos are found by name. Labels of version 1 are wrong and are not
    used. A mirrored dive has the same class: take-off (forward, back, reverse, inward), somersaults, twists and position do
    not depend on left and right.
    """

    splits = needed = ("train", "val")

    def read_official(self, split: str) -> Manifest | None:
        """See `VideoDataModule.read_official`."""
        return self.read_first(split, f"Diving48_V2_{'train' if split == 'train' else 'test'}.json")

    def read_listed(self, path: Path, split: str) -> Manifest:
        """See `VideoDataModule.read_listed`."""
        vocabulary = find_file(path.parent, ("",), ["Diving48_vocab.json"])
        names = [f"dive {label}" for label in range(CLASSES)] if vocabulary is None else read_vocabulary(vocabulary)
        return read_diving_list(path, names, self.root)


def read_vocabulary(path: Path) -> list[str]:
    """Names of the 48 classes: take-off, somersaults, twists and position.

    Raises:
        SettingError: if there are not 48.
    """
    entries = read_json(path)
    if not isinstance(entries, list) or len(entries) != CLASSES:
        raise SettingError(f"{path} is not a list of {CLASSES} classes; copy the official file again.")
    return [", ".join(map(str, entry)) if isinstance(entry, list) else str(entry) for entry in entries]


def read_diving_list(path: Path, class_names: list[str], root: Path) -> Manifest:
    """An official list of {vid_name, label, start_frame, end_frame}; the videos are already cut, so the frame numbers are not
    used.

    Raises:
        SettingError: if an entry lacks name or label, or the label is out of range.
    """
    entries = read_json(path)
    rows = []
    for number, entry in enumerate(entries if isinstance(entries, list) else [entries]):
        if not isinstance(entry, dict) or not {"vid_name", "label"} <= entry.keys():
            raise SettingError(f"{path}: entry {number} is {entry!r:.200}; expected an object with vid_name and label.")
        rows.append((str(entry["vid_name"]), class_label(str(entry["label"]), CLASSES, f"Entry {number} of {path}")))
    return found_manifest(root, rows, by_stem(root), path, class_names)
