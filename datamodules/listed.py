"""Recordings with any streams, defined by lists."""

from pathlib import Path

from datamodules.base import VideoDataModule
from datamodules.lists.listed import FURTHER, read_columns, read_streams
from datamodules.lists.manifest import Manifest, is_file
from datamodules.settings import ListSettings, ReadSettings, SubsetSettings
from datamodules.streams.settings import StreamSettings
from datamodules.video.sampling import ClipSettings, ViewSettings
from modules.core.batch import Kind
from modules.core.errors import SettingError, check_positive, given


class ListedStreams(VideoDataModule):
    """Recordings with any streams, from csv lists with a header and one row per sample (docs/streams.md).

    * `path`: file of the main stream, relative to `root` or absolute;
    * `start`, `end`: the part of the file that makes up the sample, in seconds, for all streams; empty for the start or end of
      the file;
    * `label`: integers from 0, or names; separated by semicolons if there are several; `caption`: a sentence;
    * `audio`, `depth`, `flow`, `mask`, `skeleton`, `signal`, `track`, `feature`, `picture`: files of further streams, or
      `name:kind` for several streams of a kind. An empty cell means that the sample lacks the stream.

    The default lists are `train.csv`, `val.csv` and `test.csv` in `root`. A batch has the main
    stream and every stream with a column, unless `streams.names` selects some of them; `audio` needs no column if it is the
    sound of the videos.

    Args:
        root: folder that relative paths in lists are relative to.
        lists: the lists; the default is the files in `root`.
        clip: frames, stride, size, crop and number of clips.
        batch_size: samples per batch and device; a batch contains batch_size x clip.clips x clip.repeat clips.
        reading: worker processes, decoder, and tolerance for broken files.
        subset: part of the training samples to train on.
        views: clips and crops of each test sample.
        probe_samples: number of labelled training samples for online probes; see `VideoDataModule`.
        seed: random seed of order, frames and crops; null takes the run's seed.
        streams: the streams of a batch, and how they are read.
        main: kind of the files in the column `path`.
        window: cut each row into windows of this many seconds; each window is a sample. The remainder at the end, and
            a window that ends exactly there (as in IMU-video), are left out.

    Raises:
        SettingError: if a value is out of range, or a list is missing or has an unknown column.
    """

    def __init__(
        self,
        root: str,
        lists: ListSettings = ListSettings(),  # noqa: B008  (never mutated; shows the defaults in --help)
        clip: ClipSettings = ClipSettings(),  # noqa: B008
        batch_size: int = 16,
        reading: ReadSettings = ReadSettings(),  # noqa: B008
        subset: SubsetSettings = SubsetSettings(),  # noqa: B008
        views: ViewSettings = ViewSettings(),  # noqa: B008
        probe_samples: int | None = None,
        seed: int | None = None,
        streams: StreamSettings = StreamSettings(),  # noqa: B008
        main: Kind = "video",
        window: float | None = None,
    ) -> None:
        check_positive("data", **given(window=window))
        if main not in FURTHER:
            raise SettingError(f"data.main is {main}; it must be one of {', '.join(FURTHER)}.")
        self.main, self.window = main, window
        self.several: bool | None = None
        """Whether samples have several labels each; known once the first list (training) is read."""
        folder = Path(lists.folder or root)
        first = lists.of("train") or folder / "train.csv"
        self.columns = read_columns(first, main)
        own: dict[str, Kind] = {main: main} | self.columns
        sound: dict[str, Kind] = {"audio": "audio"} if main == "video" else {}
        # Per instance, because other lists may have other streams.
        self.offers = own | {name: kind for name, kind in sound.items() if name not in own}  # type: ignore[misc]
        self.gives = tuple(own)  # type: ignore[misc]
        super().__init__(root, lists, clip, batch_size, reading, subset, views, None, probe_samples, seed, streams)

    @property
    def flips_change_labels(self) -> bool:  # type: ignore[override]
        """Whether samples have captions, which may depend on left and right."""
        return self.train_manifest is not None and self.train_manifest.texts is not None

    def read_official(self, split: str) -> Manifest | None:
        """See `VideoDataModule.read_official`."""
        path = self.list_folder / f"{split}.csv"
        return self.read_listed(path, split) if is_file(path) else None

    def read_listed(self, path: Path, split: str) -> Manifest:
        """See `VideoDataModule.read_listed`."""
        columns = read_columns(path, self.main)
        if columns != self.columns:
            raise SettingError(
                f"{path} has columns for the streams {', '.join(columns) or 'none'}, but the training list for "
                f"{', '.join(self.columns) or 'none'}; give all lists the same columns."
            )
        manifest = read_streams(path, self.root, self.main, self.window, self.several)
        if self.several is None:
            self.several = manifest.intervals is not None
        return manifest
