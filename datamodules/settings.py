"""Groups of settings shared by several data modules."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

from datamodules.video.decode import Decoder
from modules.core.errors import MAX_SEED, SettingError, check_positive, check_range, check_whole, given


@dataclass
class LoadSettings:
    """How samples are read.

    Args:
        num_workers: Worker processes per device.
        prefetch_factor: Batches that each worker prefetches.
    """

    num_workers: int = 4
    prefetch_factor: int = 2

    def __post_init__(self) -> None:
        check_whole("data.reading", 0, num_workers=self.num_workers)
        check_whole("data.reading", 1, prefetch_factor=self.prefetch_factor)


@dataclass
class ReadSettings:
    """How videos are read, and how broken ones are handled.

    Args:
        num_workers: Decoding worker processes per device.
        decoder: Decoding library; decord and torchcodec are optional extras.
        decode_timeout: Seconds after which a file counts as broken; null waits forever. Checked between frames. A worker that
            is still blocked 10 s later is ended, and the file is not read again; with num_workers 0 the run is
            not protected from files that block or crash the decoder.
        max_bad_fraction: Maximum fraction of broken files among the training files read since the start of the process; above
            it, the run stops and lists them. Applied once 100 different files have been read.
        prefetch_factor: Batches that each worker prefetches; larger values smooth out slow files, but need memory.
    """

    num_workers: int = 4
    decoder: Decoder = "pyav"
    decode_timeout: float | None = 60.0
    max_bad_fraction: float = 0.05
    prefetch_factor: int = 2

    def __post_init__(self) -> None:
        check_whole("data.reading", 0, num_workers=self.num_workers)
        check_whole("data.reading", 1, prefetch_factor=self.prefetch_factor)
        check_positive("data.reading", **given(decode_timeout=self.decode_timeout))
        check_range("data.reading", 0, 1, max_bad_fraction=self.max_bad_fraction)
        if self.decoder not in get_args(Decoder):
            raise SettingError(f"data.reading.decoder is {self.decoder}; it must be one of {', '.join(get_args(Decoder))}.")
        if self.decoder != "pyav" and find_spec(self.decoder) is None:
            raise SettingError(
                f"data.reading.decoder is {self.decoder}, which is not installed; run pip install {self.decoder}, or choose "
                "pyav."
            )


@dataclass
class ListSettings:
    """The lists of videos; the default is the data set's usual files in its root.

    Args:
        train: List of training videos; null uses the data set's usual file in `folder`.
        val: List of validation videos; null uses the data set's usual file in `folder`.
        test: List of test videos; null uses the data set's test split if it has one with labels, otherwise the validation
            videos.
        folder: Folder of the data set's official lists; null uses the root.
    """

    train: str | None = None
    val: str | None = None
    test: str | None = None
    folder: str | None = None

    def of(self, split: str) -> Path | None:
        """The list set for 'train', 'val' or 'test'; None if it is not set."""
        named = {"train": self.train, "val": self.val, "test": self.test}[split]
        return Path(named) if named else None


@dataclass
class SubsetSettings:
    """Which part of the training videos to train on, and which to validate on instead.

    Args:
        fraction: Fraction of the videos, the same for every class.
        low_shot: Approximate number of videos, the same number for every class, rounded up (SEVERE, official code: 1000, with
            seed 99999); null uses `fraction` instead.
        seed: Random seed of the selection; TubeletContrast uses 12345, 99999 and 4567980 (official code).
        validation: Fraction of the training videos, the same for every class, that is held out first and used for validation
            instead of the data set's own validation videos. These are then used for the test if there is no test set. 0 holds
            out none.
    """

    fraction: float = 1.0
    low_shot: int | None = None
    seed: int = 12345
    validation: float = 0.0

    def __post_init__(self) -> None:
        check_share(self.fraction)
        check_range("data.subset", 0, 0.9, validation=self.validation)
        check_whole("data.subset", 1, **given(low_shot=self.low_shot))
        check_whole("data.subset", 0, MAX_SEED, seed=self.seed)
        if self.low_shot is not None and self.fraction < 1:
            raise SettingError(
                f"data.subset.low_shot is {self.low_shot} and data.subset.fraction {self.fraction}; set only one of them."
            )


@dataclass
class RecordingSubset:
    """The part of the skeleton training recordings to train on.

    Args:
        fraction: Fraction of the recordings.
        per_class: Whether the fraction is taken of every class, rounded up, or of all recordings, rounded down.
        seed: Random seed of the selection.
    """

    fraction: float = 1.0
    per_class: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_share(self.fraction)
        check_whole("data.subset", 0, MAX_SEED, seed=self.seed)


def check_share(fraction: float) -> None:
    """Refuse a fraction that is not above 0 and at most 1."""
    check_positive("data.subset", fraction=fraction)
    check_range("data.subset", 0, 1, fraction=fraction)


def choose_benchmark(kind: type, benchmarks: tuple[str, ...], wanted: str | None) -> str:
    """The benchmark from the settings, otherwise the first of the data set.

    Args:
        kind: class of the data module.
        benchmarks: names of the benchmarks of the data set; may be empty.
        wanted: `data.benchmark`.

    Returns:
        Its name; empty if the data set has none.

    Raises:
        SettingError: if the data set has no such benchmark.
    """
    if wanted is not None and wanted not in benchmarks:
        choice = f"choose {', '.join(benchmarks)}" if benchmarks else "leave it out"
        raise SettingError(f"data.benchmark is {wanted}, which {kind.__name__} does not have; {choice}.")
    return wanted or next(iter(benchmarks), "")
