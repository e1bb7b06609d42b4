"""Generated moving skeletons with labelled actions: no files, no download."""

import numpy as np

from datamodules.settings import LoadSettings, RecordingSubset
from datamodules.skeleton.base import SkeletonDataModule, Split
from datamodules.skeleton.clips import SkeletonClipSettings
from datamodules.skeleton.normalise import normalise
from datamodules.skeleton.store import Recordings, count_persons
from modules.core.errors import MAX_SEED, check_range, check_whole
from modules.scenes.classes import Split as Half
from modules.scenes.skeletons import ACTIONS, make_skeletons

CHUNK = 256


class SyntheticSkeleton(SkeletonDataModule):
    """Generated people of 25 joints who perform twelve actions, 45 to 150 frames long; needs no files.

    All recordings are generated once, at set-up, pre-processed like real ones, and kept in memory. Training and validation
    share actions but no bodies. `modules.scenes.skeletons` explains why a single pose reveals little about the action.

    Args:
        clip: clips per recording, frames, and how training crops are drawn.
        batch_size: recordings per batch and device; a batch contains batch_size x clip.clips clips.
        reading: worker processes. The recordings are in memory, so 0 is best.
        subset: part of the training recordings to train on.
        train_clips: recordings to train on.
        val_clips: recordings to validate on, of other bodies.
        second_person: fraction of recordings in which a second person stands still next to the actor.
        noise: maximum error of a coordinate, in metres.
        probe_samples: number of training recordings for probes, with centre crops.
        seed: seed of the recordings, their order and crops.
    """

    num_classes = len(ACTIONS)

    def __init__(
        self,
        clip: SkeletonClipSettings = SkeletonClipSettings(),  # noqa: B008  (never mutated; shows the defaults in --help)
        batch_size: int = 64,
        reading: LoadSettings = LoadSettings(num_workers=0),  # noqa: B008
        subset: RecordingSubset = RecordingSubset(),  # noqa: B008
        train_clips: int = 2048,
        val_clips: int = 512,
        second_person: float = 0.2,
        noise: float = 0.01,
        probe_samples: int = 2048,
        seed: int = 0,
    ) -> None:
        super().__init__(clip, batch_size, reading, subset, probe_samples, seed)
        self.train_clips, self.val_clips, self.second_person, self.noise = train_clips, val_clips, second_person, noise
        check_whole("data", 1, train_clips=train_clips, val_clips=val_clips)
        check_whole("data", 0, MAX_SEED, seed=seed)
        check_range("data", 0, 1, second_person=second_person)
        check_range("data", 0, noise=noise)

    @property
    def class_names(self) -> list[str]:
        """Names of the actions, in the order of their labels."""
        return list(ACTIONS)

    def load(self) -> Split:
        """See `SkeletonDataModule.load`."""
        halves = [self._make("train", self.train_clips), self._make("val", self.val_clips)]
        joints, length, persons, label = (np.concatenate(parts) for parts in zip(*halves, strict=True))
        rows = np.arange(len(length))
        facts = f"SyntheticSkeleton {self.seed} {self.train_clips} {self.second_person} {self.noise}"
        recordings = Recordings(joints, length, persons, label, rows.astype(np.str_), {"source_sha256": facts})
        return Split(recordings, rows[: self.train_clips], rows[self.train_clips :])

    def _make(self, half: Half, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        flat, lengths, persons, labels = [], [], [], []
        for first in range(0, count, CHUNK):
            size = min(CHUNK, count - first)
            made = make_skeletons(size, half, self.seed, first, self.second_person, self.noise)
            for recording, length in zip(made.joints.numpy(), made.length.tolist(), strict=True):
                joints = normalise(recording[:, :length]).transpose(1, 3, 2, 0)
                persons.append(count_persons(joints))
                flat.append(joints[..., : persons[-1]].ravel())
            lengths.append(made.length.numpy())
            labels.append(made.action.numpy())
        return np.concatenate(flat), np.concatenate(lengths), np.array(persons, np.int64), np.concatenate(labels)
