"""Generated long videos of labelled segments: windows of them, or feature sequences; no files, no download."""

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.generated.base import GeneratedData, Part
from datamodules.loading.loader import SampleKey
from datamodules.settings import LoadSettings
from datamodules.video.sampling import ClipSettings
from modules.core.batch import Batch, Kind, Stream, stack_padded
from modules.core.errors import SettingError
from modules.scenes.classes import MOTION_CLASSES, Split
from modules.scenes.long import FeatureSettings, LongSettings, LongVideos


class LongVideoDataset(Dataset[Batch]):
    """Long videos 0 .. count - 1 of a split, made when they are asked for, in whole batches.

    `extra` of a batch has `segment` float32 [B, G, 2], first and last second of each segment, and `segment_class` int64 [B, G],
    -1 where a video has no more. Of windows it has `segment_label` int64 [B, V], the class in the middle of each; of features
    `step_time` float32 [B, S], seconds of the middle of each step, and `step_label` int64 [B, S], its class, -1 behind the end.

    Args:
        count: videos.
        split: which draws.
        seed: of the data set.
        long: what the videos are made of.
        clip: frames, size, number and copies of windows.
        features: of what features are made; None for windows.
        train: windows lie elsewhere in every epoch; False takes the middles of their parts.
    """

    def __init__(
        self,
        count: int,
        split: Split,
        seed: int,
        long: LongSettings,
        clip: ClipSettings,
        features: FeatureSettings | None,
        train: bool,
    ) -> None:
        self.count, self.split, self.seed, self.train = count, split, seed, train
        self.long, self.clip, self.features = long, clip, features

    def __len__(self) -> int:
        return self.count

    def __getitems__(self, keys: list[SampleKey]) -> Batch:
        """A whole batch at once; all of its keys are of one epoch."""
        index = torch.tensor([key.row for key in keys])
        videos = LongVideos(index, self.split, self.seed, self.long)
        stream, extra = self._windows(videos, keys[0].epoch) if self.features is None else self._features(videos, self.features)
        most = int(videos.there.sum(1).max())
        bounds = torch.stack([videos.start, videos.end], -1)[:, :most].float()
        extra |= {"segment": bounds, "segment_class": videos.motion[:, :most]}
        return Batch(index, videos.label, {stream.kind: stream}, extra=extra)

    def _windows(self, videos: LongVideos, epoch: int) -> tuple[Stream, dict[str, Tensor]]:
        moments = videos.windows(self.clip.clips, self.clip.frames, epoch if self.train else None)
        shown = videos.render(moments, self.clip.size), moments[..., [0, -1]].float(), videos.labels(moments)
        data, time, label = (x.repeat_interleave(self.clip.repeat, 1) if self.clip.repeat > 1 else x for x in shown)
        return Stream("video", data, time=time), {"segment_label": label}

    def _features(self, videos: LongVideos, settings: FeatureSettings) -> tuple[Stream, dict[str, Tensor]]:
        made = [videos.features(number, settings) for number in range(len(videos.index))]
        features, times, labels = (list(column) for column in zip(*made, strict=True))
        length = torch.tensor([len(one) for one in features])
        half = settings.step / 2
        time = torch.stack([torch.stack([one[0] - half, one[-1] + half]) for one in times])[:, None]
        extra = {"step_time": stack_padded(times), "step_label": stack_padded(labels, value=-1)}
        return Stream("feature", stack_padded(features)[:, None], time=time, length=length), extra


class SyntheticLongVideos(GeneratedData):
    """Generated videos of 10 seconds to 20 minutes, made of labelled segments; needs no files.

    Each segment shows one object that moves according to one of the classes of `SyntheticMotion`, which no single
    frame reveals. A batch has windows spread over each video, or with `features` one feature sequence per video.
    `label` is the class of a video, shown by about half of its segments (`long.share`). Nothing is cached:
    samples are generated on demand. Training and validation share classes but no colours, patterns or backgrounds.

    Args:
        clip: Frames and size of windows, windows per video (`clips`, one in each of as many equal parts) and `repeat`; the
            other fields are for files.
        batch_size: Videos per batch and process.
        reading: Worker processes, which generate the samples.
        train_videos: Videos to train on.
        val_videos: Videos to validate on.
        long: Content of the videos.
        features: Feature sequences instead of windows; null returns windows.
        probe_samples: Number of training videos in `probe_dataloader`.
        seed: Seed of the videos and of their order.
    """

    flips_change_labels = True
    clips_in_order = True
    """Windows follow each other in time, without a sampler that says so."""

    def __init__(
        self,
        clip: ClipSettings = ClipSettings(frames=8, size=32, clips=4),  # noqa: B008  (never mutated; shows the defaults)
        batch_size: int = 16,
        reading: LoadSettings = LoadSettings(num_workers=2),  # noqa: B008
        train_videos: int = 2048,
        val_videos: int = 256,
        long: LongSettings = LongSettings(),  # noqa: B008
        features: FeatureSettings | None = None,
        probe_samples: int = 512,
        seed: int = 0,
    ) -> None:
        super().__init__(clip, batch_size, reading, train_videos, val_videos, probe_samples, seed)
        self.long, self.features = long, features
        self._check()

    def _check(self) -> None:
        self.check_batch()
        self.check_unrelated("windows of generated videos are in equal parts and show complete frames")
        seconds, shortest = (self.clip.frames - 1) / self.long.fps, self.long.duration[0]
        if self.features is None and seconds > shortest:
            raise SettingError(
                f"data.clip.frames is {self.clip.frames}, {seconds:g} s at data.long.fps {self.long.fps:g}, but the shortest "
                f"video has {shortest:g} s; lower it, or raise data.long.duration or data.long.fps."
            )
        if self.features is not None and self.features.step > shortest:
            raise SettingError(
                f"data.features.step is {self.features.step:g} s, but the shortest video has {shortest:g} s; lower it, or "
                "raise data.long.duration."
            )

    @property
    def class_names(self) -> list[str]:
        """Names of the classes of videos and of segments, in the order of their numbers."""
        return [one.name for one in MOTION_CLASSES]

    @property
    def streams(self) -> dict[str, Kind]:
        """Streams of a batch."""
        return {"video": "video"} if self.features is None else {"feature": "feature"}

    def setup(self, stage: str) -> None:
        """Check the settings, which may have changed since; samples are made when they are asked for."""
        self._check()

    def dataset(self, part: Part) -> LongVideoDataset:
        """Videos that are made when they are asked for. Probes read training videos with the windows of evaluation."""
        count = {"train": self.train_videos, "probe": self.probe_samples}.get(part, self.val_videos)
        split: Split = "train" if part in ("train", "probe") else "val"
        return LongVideoDataset(count, split, self.seed, self.long, self.clip, self.features, part == "train")
