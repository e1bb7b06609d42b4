"""Generated clips that differ in speed, phase, direction or order alone, or show several motions; no files, no download."""

from datamodules.generated.base import GeneratedData, Part
from datamodules.generated.motion import ClipPool, check_frames
from datamodules.settings import LoadSettings
from datamodules.video.sampling import ClipSettings
from modules.core.errors import SettingError
from modules.scenes.classes import Split
from modules.scenes.tasks.motions import CLASS_NAMES, Task, make_task


class SyntheticTasks(GeneratedData):
    """Labelled clips for one question about motion, over black; needs no files. No single frame reveals the label.

    All clips are generated at set-up and kept in memory. Training and validation share classes, but no colours, patterns or
    proportions of objects. For the tasks, see `modules.scenes.tasks.motions.make_task`.

    Args:
        task: what the label says: speed, phase, direction, order (6 classes), several (13 labels of which each clip has two,
            for model.labels.per_sample several), or slowing (one class, for ArrowOfTime).
        clip: frames and size; the other fields are for files.
        batch_size: clips per batch and process.
        reading: worker processes. The clips are in memory, so 0 is best.
        train_videos: clips to train on.
        val_videos: clips to validate and test on.
        probe_samples: number of training clips for online probes.
        seed: seed of the clips and of their order.

    Raises:
        SettingError: if a number is out of range, or videos should have several clips.
    """

    flips_change_labels = True

    def __init__(
        self,
        task: Task,
        clip: ClipSettings = ClipSettings(frames=16, size=32),  # noqa: B008  (never mutated; shows the defaults in --help)
        batch_size: int = 64,
        reading: LoadSettings = LoadSettings(num_workers=0),  # noqa: B008
        train_videos: int = 1024,
        val_videos: int = 512,
        probe_samples: int = 1024,
        seed: int = 0,
    ) -> None:
        super().__init__(clip, batch_size, reading, train_videos, val_videos, probe_samples, seed)
        self.task = task
        self._pools: dict[Split, ClipPool] = {}
        self._check()

    def _check(self) -> None:
        check_frames("data.clip.frames", self.clip.frames)
        self.check_batch()
        self.check_unrelated("generated clips are not parts of one video")
        if self.clip.views > 1:
            raise SettingError("SyntheticTasks has one clip per video; set data.clip.clips and data.clip.repeat to 1.")

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of their numbers."""
        return CLASS_NAMES[self.task]

    def setup(self, stage: str | None = None) -> None:
        """Make the clips, unless they are made already."""
        if self._pools:
            return
        self._check()
        frames, size = self.clip.frames, self.clip.size
        counts: dict[Split, int] = {"train": self.train_videos, "val": self.val_videos}
        for split, count in counts.items():
            clips = make_task(self.task, count, frames, size, split, self.seed)
            self._pools[split] = ClipPool(clips.video[:, None], clips, clips.label, repeat=1)

    def dataset(self, part: Part) -> ClipPool:
        """Clips in memory; a test has the validation clips."""
        self.setup()
        return self._pools["train" if part in ("train", "probe") else "val"]
