"""What the data modules of generated videos have in common: loaders, and where in the epoch the training is."""

from abc import ABC, abstractmethod
from typing import Any, Literal

from lightning import LightningDataModule
from torch.utils.data import Dataset

from datamodules.loading.loader import EpochSampler, LoaderMemory, ResumableLoader
from datamodules.loading.single_pass import SinglePass
from datamodules.settings import LoadSettings
from datamodules.video.sampling import ClipSettings
from modules.core.batch import Batch, Kind, Preparation
from modules.core.errors import MAX_SEED, SettingError, check_whole

Part = Literal["train", "val", "test", "probe"]


class GeneratedData(SinglePass, LightningDataModule, ABC):
    """Generated videos, split into training and validation.

    Args:
        clip: frames, size, clips and repeat; the other fields are for files.
        batch_size: videos per batch and process.
        reading: worker processes.
        train_videos: videos to train on.
        val_videos: videos to validate and test on.
        probe_samples: number of training videos in `probe_dataloader`.
        seed: of the videos and of their order.

    Raises:
        SettingError: if a number is out of range, or there is no complete batch.
    """

    shows_complete_frames = True
    """Whether `clip.crop` is not used."""
    preparation: Preparation | None = None
    """What the method does with batches of training and validation as soon as they are read."""

    def __init__(
        self,
        clip: ClipSettings,
        batch_size: int,
        reading: LoadSettings,
        train_videos: int,
        val_videos: int,
        probe_samples: int,
        seed: int,
    ) -> None:
        super().__init__()
        check_whole("data", 1, batch_size=batch_size, train_videos=train_videos, val_videos=val_videos)
        check_whole("data", 1, probe_samples=probe_samples)
        check_whole("data", 0, MAX_SEED, seed=seed)
        self.clip, self.batch_size, self.reading, self.seed = clip, batch_size, reading, seed
        self.train_videos, self.val_videos = train_videos, val_videos
        self.probe_samples = min(probe_samples, train_videos)
        self._train_loader = LoaderMemory()

    @property
    @abstractmethod
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of their numbers."""

    @abstractmethod
    def dataset(self, part: Part) -> Dataset[Batch]:
        """The samples of a loader, which are served in complete batches; of `probe`, at least `probe_samples`."""

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def streams(self) -> dict[str, Kind]:
        """Streams of a batch."""
        return {"video": "video"}

    @property
    def samples_read(self) -> dict[str, dict[str, int]]:
        """Videos of training and validation; none of them can be unreadable."""
        return {name: {"used": count, "missed": 0} for name, count in (("train", self.train_videos), ("val", self.val_videos))}

    def check_batch(self) -> None:
        """Refuse settings without a complete batch.

        Raises:
            SettingError: if a batch has more videos than the training set.
        """
        if self.batch_size > self.train_videos:
            raise SettingError(
                f"data.batch_size is {self.batch_size} but data.train_videos is {self.train_videos}: an epoch would have "
                "no full batch; lower the first or raise the second."
            )

    def check_unrelated(self, reason: str) -> None:
        """Refuse samplers and crops that relate the clips of a video to each other.

        Args:
            reason: why they cannot be used, after "but".

        Raises:
            SettingError: for such a sampler or crop.
        """
        for name in ("sampler", "crop"):
            rule = getattr(self.clip, name)
            if rule.related:
                raise SettingError(
                    f"data.clip.{name} is {type(rule).__name__}, but {reason}; leave it out, or use videos from files."
                )

    def _loader(self, part: Part) -> ResumableLoader:
        dataset, trainer = self.dataset(part), self.trainer
        count = self.probe_samples if part == "probe" else len(dataset)  # type: ignore[arg-type]
        ranks = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
        sampler = EpochSampler(count, self.seed, part == "train", *ranks)
        workers, ahead = self.reading.num_workers, self.reading.prefetch_factor
        prepare = self.preparation if part in ("train", "val") else None
        return ResumableLoader(dataset, sampler, self.batch_size, workers, _collated, prefetch_factor=ahead, prepare=prepare)

    def train_dataloader(self) -> ResumableLoader:
        """Training videos in random order; the last, incomplete batch is dropped."""
        return self._train_loader.keep(self._loader("train"))

    def val_dataloader(self) -> ResumableLoader:
        """Validation videos in fixed order."""
        return self._loader("val")

    def test_dataloader(self) -> ResumableLoader:
        """Test videos in fixed order."""
        return self._loader("test")

    def probe_dataloader(self) -> ResumableLoader:
        """The first `probe_samples` training videos, as in evaluation, in fixed order."""
        return self._loader("probe")

    def state_dict(self) -> dict[str, Any]:
        """Position of training within the epoch."""
        return {"loader": self._train_loader.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the position within the epoch."""
        self._train_loader.load_state_dict(state["loader"])


def _collated(batch: Batch) -> Batch:
    """Batches are complete as they come."""
    return batch
