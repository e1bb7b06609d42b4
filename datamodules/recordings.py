"""Long recordings (egocentric video, lectures, surgery): several clips per segment of a file, read in one pass."""

import hashlib
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info

from datamodules.folder import VideoFolder
from datamodules.lists.durations import cut_into_stretches, seconds_of_files
from datamodules.lists.manifest import Manifest
from datamodules.loading.worker_guard import WorkerGuard
from datamodules.settings import ListSettings, ReadSettings
from datamodules.streams.settings import StreamSettings
from datamodules.video.dataset import VideoClipDataset
from datamodules.video.sampling import ClipSettings, ViewSettings
from modules.core.errors import check_positive, check_writable


class LongRecordings(VideoFolder):
    """Recordings of minutes to hours, from a folder or lists. A sample is a segment of a recording; an epoch covers every
    segment once.

    The `clip.clips` clips of a sample are drawn by `clip.sampler` within its segment, and read in one pass over the file,
    which is opened once. Other streams follow the same plan. Folders are classes and splits as in `VideoFolder`.

    The number of segments follows from the duration stated in a file's header: at the first start, the headers of all files
    are read, sixteen in parallel, and cached below `durations`, so that later starts only check whether files have changed.
    Files that cannot be opened count as one broken sample each, and so does every segment beyond the actual end of a file.

    Like every video, a file is completely scanned when it is first used, so that frames are found
    exactly. The result is also cached below `durations`, so that a file is scanned once and not by every worker.

    Args:
        root: folder of the recordings; relative paths in lists are relative to it.
        stretch: length of a segment in seconds.
        lists: lists of recordings, instead of folders.
        clip: frames, stride, size, crop and number of clips.
        batch_size: segments per batch and device; a batch contains batch_size x clip.clips x clip.repeat clips.
        reading: worker processes, decoder, and tolerance for broken files.
        views: clips and crops of each segment in tests.
        probe_samples: see `VideoDataModule`.
        seed: see `VideoDataModule`.
        streams: see `VideoDataModule`.
        durations: cache folder for the durations of files and the positions of their frames: at most some kilobytes per minute.

    Raises:
        SettingError: as `VideoDataModule` does.
    """

    def __init__(
        self,
        root: str,
        stretch: float = 60.0,
        lists: ListSettings = ListSettings(),  # noqa: B008  (never mutated; shows the defaults in --help)
        clip: ClipSettings = ClipSettings(clips=4),  # noqa: B008
        batch_size: int = 16,
        reading: ReadSettings = ReadSettings(),  # noqa: B008
        views: ViewSettings = ViewSettings(),  # noqa: B008
        probe_samples: int | None = None,
        seed: int | None = None,
        streams: StreamSettings = StreamSettings(),  # noqa: B008
        durations: str = "runs/durations",
    ) -> None:
        super().__init__(
            root, lists, clip, batch_size, reading, views=views, probe_samples=probe_samples, seed=seed, streams=streams
        )
        check_positive("data", stretch=stretch)
        check_writable("data.durations", Path(durations))
        self.stretch, self.durations = stretch, Path(durations)

    def read_split(self, split: str) -> Manifest | None:
        """See `VideoDataModule.read_split`; a row is a segment."""
        manifest = super().read_split(split)
        if manifest is None:
            return None
        named = hashlib.sha256(f"{self.root.resolve()} {split}".encode("utf-8", "surrogateescape")).hexdigest()[:16]
        seconds = seconds_of_files(manifest, self.durations / f"{named}.json", self.reading.decode_timeout)
        stretches = cut_into_stretches(manifest, seconds, self.stretch)
        rank_zero_info(f"{len(manifest)} recordings for {split} in {manifest.root}: {len(stretches)} segments.")
        return stretches

    def _dataset(self, manifest: Manifest, train: bool, views: ViewSettings | None, guard: WorkerGuard) -> VideoClipDataset:
        dataset = super()._dataset(manifest, train, views, guard)
        dataset.facts = self.durations / "frames"
        return dataset
