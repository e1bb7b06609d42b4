"""Precomputed features of collections of recordings, for methods that learn from feature sequences."""

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from datamodules.base import VideoDataModule
from datamodules.lists.listed import read_columns, read_streams
from datamodules.lists.manifest import Manifest, is_file
from datamodules.lists.packed import PackedStrings
from datamodules.streams.arrays import MARK
from datamodules.streams.features import collection_size
from datamodules.video.sampling import ViewSettings
from modules.core.batch import Kind
from modules.core.errors import SettingError


class FeatureSequences(VideoDataModule):
    """Features of recordings, as written by `embed`: `train.safetensors`, `train.csv`, and the same for `val` and `test`.

    The file contains `feature` [N, S, D], `length` and `time`, or one feature per recording, [N, D]; the list one row (path,
    label, caption) per recording. A list named in the settings must be next to its collection and have the same name
    (`lists.train features.csv` for `features.safetensors`).

    A sample is the sequence of one recording, with `length`; with `data.streams.feature.whole false`, only the steps within
    the clip are used. Features with one file per recording are read by `ListedStreams`.
    """

    offers: ClassVar[dict[str, Kind]] = {"feature": "feature"}
    gives = ("feature",)
    several: bool | None = None
    """Whether samples have several labels each, known once the first list (training) is read."""

    def read_official(self, split: str) -> Manifest | None:
        """See `VideoDataModule.read_official`."""
        return self.read_first(split, f"{split}.csv")

    def read_listed(self, path: Path, split: str) -> Manifest:
        """See `VideoDataModule.read_listed`."""
        collection = path.with_suffix(".safetensors")
        if not is_file(collection):
            raise SettingError(f"There is no {collection} next to the list {path}; put the features of its rows there.")
        if columns := read_columns(path, "feature"):
            raise SettingError(
                f"{path} has columns of streams ({', '.join(columns)}), which {type(self).__name__} does not read."
            )
        manifest = read_streams(path, self.root, "feature", several=self.several, is_collection=True)
        self.several = manifest.intervals is not None
        if len(manifest) != (size := collection_size(collection)):
            raise SettingError(f"{path} has {len(manifest)} rows, but {collection} has {size} recordings; write both again.")
        # The paths of the rows are the files that the features were computed from.
        rows = PackedStrings(f"{collection.absolute()}{MARK}{row}" for row in range(size))
        return replace(manifest, paths=rows)

    @property
    def test_views(self) -> ViewSettings | None:
        """None: complete sequences are read as in validation, and views only apply to clips."""
        return None if self.stream_settings.feature.whole else self.views
