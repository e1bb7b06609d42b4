"""Long recordings (a child's view, lectures, operations): several clips of a stretch of a file, read in one pass."""

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
    """A folder, or lists, of recordings of minutes to hours. A sample is a stretch of one of them, an epoch every stretch once.

    The `clip.clips` clips of a sample lie in its stretch, as `clip.sampler` draws them, and are cut out in one pass over the
    file, which is opened once. Other streams follow the same plan. Folders are classes and splits as in `VideoFolder`.

    How many stretches a file has follows from the length that it states: at the first start, the heads of all files are read,
    sixteen at once, and what they say is kept below `durations`, so that later starts only see whether files have changed.
    Files that cannot be opened count as one broken sample each, and so does every stretch that a file states and does not have.

    As with every video, a whole file is looked through when it is first read from, so that frames are found exactly. What that
    shows is kept below `durations`, too: it is done once, and not by every worker, whose memory holds some hundred files.

    Args:
        root: folder of the recordings; relative paths in lists start here.
        stretch: seconds of a file that a sample's clips are from.
        lists: lists of recordings, in the place of folders.
        clip: frames, stride, size, crop and number of clips.
        batch_size: stretches per batch and device; a batch holds batch_size x clip.clips x clip.repeat clips.
        reading: worker processes, decoder, and how much broken files are put up with.
        views: clips and crops of each stretch in tests.
        probe_samples: see `VideoDataModule`.
        seed: likewise.
        streams: likewise.
        durations: folder for the lengths of files, and for where their frames are: some kilobytes per minute at most.

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
        """See `VideoDataModule.read_split`: of stretches."""
        manifest = super().read_split(split)
        if manifest is None:
            return None
        named = hashlib.sha256(f"{self.root.resolve()} {split}".encode("utf-8", "surrogateescape")).hexdigest()[:16]
        seconds = seconds_of_files(manifest, self.durations / f"{named}.json", self.reading.decode_timeout)
        stretches = cut_into_stretches(manifest, seconds, self.stretch)
        rank_zero_info(f"{len(manifest)} recordings for {split} in {manifest.root}: {len(stretches)} stretches.")
        return stretches

    def _dataset(self, manifest: Manifest, train: bool, views: ViewSettings | None, guard: WorkerGuard) -> VideoClipDataset:
        dataset = super()._dataset(manifest, train, views, guard)
        dataset.facts = self.durations / "frames"
        return dataset
