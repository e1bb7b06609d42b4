"""Labelled clips of objects that move over static backgrounds, generated on the fly: no files, no download.

The class of a clip is the motion of its object; `modules.scenes.classes` explains why no single frame reveals it, and what
that costs. The other labels are the object's shape and the kind of background, drawn independently of the motion;
`modules.scenes.objects` says what training and validation do not share.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.generated.base import GeneratedData, Part
from datamodules.loading.loader import SampleKey
from datamodules.settings import LoadSettings
from datamodules.video.readers import VideoInfo
from datamodules.video.samplers import OrderedClips
from datamodules.video.sampling import ClipSettings
from modules.core.batch import Batch, Kind, Stream, Text
from modules.core.errors import SettingError
from modules.motion.appearance import SHAPES
from modules.motion.primitives import PRIMITIVES
from modules.scenes.backgrounds import Background, load_images
from modules.scenes.captioned import CaptionedClips, CaptionSettings, Stage, captioned_clips, retrieval_clips
from modules.scenes.classes import GROWTH, MOTION_CLASSES, Split
from modules.scenes.objects import SyntheticClips, make_clips
from modules.scenes.streams import WorldStreams
from modules.scenes.tasks.motions import TaskClips
from modules.scenes.textures import make_grounds
from modules.scenes.world import WorldSettings
from modules.scenes.world_pictures import WorldClips, clip_bytes, join_clips, make_world

MIN_FRAMES = 4
MAX_OBJECT_SIZE = 0.7
"""A square of this side, turned by 45 degrees, still fits the frame, so that no object overlaps itself on the torus."""
MAX_POOL_BYTES = 8 << 30
IMAGE_SPARE = 1.25
"""Pictures are kept this much larger than a frame, so that crops differ."""


class ClipPool(Dataset[Batch]):
    """Finished clips in memory, served in whole batches.

    `extra` of a batch has two further labels: `object`, index into `SHAPES` or -1, and `background`, index into
    `data.scene.backgrounds`; with captions also `signature`, equal where captions say the same in whatever words; of the
    generated world with identities also `identity`, number of the object within its split.

    Args:
        video: uint8 [N, V, T, H, W, 3].
        clips: Labels of the N videos, and their captions if they have any.
        label: int64 [N], what is served as `label`.
        repeat: Copies of each clip.
        streams: All streams of the generated world, with the video; None takes the video alone.
    """

    def __init__(
        self,
        video: Tensor,
        clips: SyntheticClips | CaptionedClips | WorldClips | TaskClips,
        label: Tensor,
        repeat: int,
        streams: dict[str, Stream | Text] | None = None,
    ) -> None:
        self.video = video
        self.clips = clips
        self.label = label
        self.repeat = repeat
        self.streams = {"video": Stream("video", video)} if streams is None else streams

    def __len__(self) -> int:
        return len(self.video)

    def __getitems__(self, keys: list[SampleKey]) -> Batch:
        """A whole batch at once."""
        index = torch.tensor([key.row for key in keys])
        streams = {name: take(stream, index, repeat=self.repeat) for name, stream in self.streams.items()}
        extra = {"object": self.clips.object[index], "background": self.clips.background[index]}
        if isinstance(self.clips, CaptionedClips):
            texts = self.clips.texts
            streams["text"] = Text([[texts[key.epoch % len(texts)][key.row]] for key in keys])
            extra["signature"] = self.clips.signature[index]
        if isinstance(self.clips, WorldClips) and self.clips.identity is not None:
            extra["identity"] = self.clips.identity[index]
        return Batch(index, self.label[index], streams, extra=extra)


def take(stream: Stream | Text, rows: Tensor | slice, views: slice = slice(None), repeat: int = 1) -> Stream | Text:
    """Some views of a stream of some clips, so many copies of each."""
    if isinstance(stream, Text):
        numbers = rows.tolist() if isinstance(rows, Tensor) else range(len(stream.sentences))[rows]
        return Text([stream.sentences[row] for row in numbers])
    fields = {name: getattr(stream, name) for name in ("data", "valid", "time", "box", "length")}
    taken = {name: value[rows][:, views] for name, value in fields.items() if value is not None}
    if repeat > 1:
        taken = {name: value.repeat_interleave(repeat, dim=1) for name, value in taken.items()}
    return Stream(stream.kind, **taken)


def check_frames(setting: str, frames: int) -> None:
    """Raises a `SettingError` that names the setting for clips too short for motion."""
    if frames < MIN_FRAMES:
        raise SettingError(f"{setting} is {frames}; motion in two phases needs at least {MIN_FRAMES}.")


def check_backgrounds(setting: str, backgrounds: Sequence[str]) -> None:
    """Raises a `SettingError` that names the setting if there is no kind of background, or one twice."""
    if not backgrounds or len(set(backgrounds)) < len(backgrounds):
        raise SettingError(f"{setting} is {list(backgrounds)}; name at least one kind and none twice.")


@dataclass
class SceneSettings:
    """Content of generated clips besides the motion.

    Args:
        backgrounds: Kinds of background, equally frequent.
        background_folder: Folder of pictures for the background "images"; every fifth file is for validation.
        objects: False trains on empty backgrounds (label -1), for methods that paste their own objects. Validation
            and probes still have moving objects.
        object_size: Smallest and largest side of an object, as a fraction of the frame's side.
        distractors: Adds small random drifts of position, angle and size that are not part of the class.
        ground: The frame is filled with a grey texture that moves according to the class, instead of objects over static
            backgrounds (`backgrounds`, `object_size` and `objects` are not used). Nothing wraps around then.
    """

    backgrounds: list[Background] = field(default_factory=lambda: ["black"])
    background_folder: str | None = None
    objects: bool = True
    object_size: tuple[float, float] = (0.22, 0.55)
    distractors: bool = False
    ground: bool = False

    def __post_init__(self) -> None:
        check_backgrounds("data.scene.backgrounds", self.backgrounds)
        if "images" in self.backgrounds and self.background_folder is None:
            raise SettingError(
                "data.scene.backgrounds has 'images' but data.scene.background_folder is not set; name a folder of pictures or "
                "drop 'images'."
            )
        low, high = self.object_size
        if not 0 < low <= high <= MAX_OBJECT_SIZE or (low < high < GROWTH[1] ** 0.5 * low):
            raise SettingError(
                f"data.scene.object_size is {list(self.object_size)}; pass the smallest and largest side as fractions of the "
                f"frame's side, above 0 and at most {MAX_OBJECT_SIZE}."
            )


class SyntheticMotion(GeneratedData):
    """Labelled clips of objects moving over still backgrounds; needs no files.

    All clips are generated once, at set-up, and kept in memory as uint8. By construction, no single frame reveals the motion
    class: positions, angles and sizes wrap around (a torus, a circle, a sawtooth), start anywhere on them with
    equal probability, and so are distributed alike in all classes at every frame. As a consequence, many clips show an
    object that leaves on one side and enters on the other, or that jumps from the largest to the smallest size.
    Training and validation share classes but no colours, fill patterns, aspects, stroke widths or backgrounds.

    Args:
        clip: Frames, size, clips and repeat. Clips of one video show the same object and class with their own start, speed
            and heading; repeated copies are equal. With the sampler OrderedClips, they are instead parts of one motion, in its
            order and with its gaps. The other fields are for files.
        batch_size: Videos per batch and process.
        reading: Worker processes. The clips are in memory, so 0 is best.
        train_videos: Videos to train on.
        val_videos: Videos to validate on, with other objects and backgrounds.
        label: Content of `label`: the motion class or the shape of the object.
        scene: What the clips show.
        captions: Clips of captioned motion instead of the classes, with sentences as the stream `text`; null keeps the classes.
            Nothing wraps around then, `label` is the primitive motion, and the test clips are pairs that only differ
            in their motion (see `modules.scenes.captioned.retrieval_clips`).
        world: Additional effects: several objects that occlude each other, hops, identities.
        streams: Streams in addition to the video: flow, depth, masks, audio and so on.
        probe_samples: Number of training videos in `probe_dataloader`.
        seed: Seed of the clips and of their order.
    """

    def __init__(
        self,
        clip: ClipSettings = ClipSettings(frames=8, size=32),  # noqa: B008  (never mutated; shows the defaults in --help)
        batch_size: int = 64,
        reading: LoadSettings = LoadSettings(num_workers=0),  # noqa: B008
        train_videos: int = 8192,
        val_videos: int = 1024,
        label: Literal["motion", "object"] = "motion",
        scene: SceneSettings = SceneSettings(),  # noqa: B008
        captions: CaptionSettings | None = None,
        world: WorldSettings = WorldSettings(),  # noqa: B008
        streams: WorldStreams = WorldStreams(),  # noqa: B008
        probe_samples: int = 2048,
        seed: int = 0,
    ) -> None:
        super().__init__(clip, batch_size, reading, train_videos, val_videos, probe_samples, seed)
        self.label, self.scene, self.captions, self.world, self.further = label, scene, captions, world, streams
        self._pools: dict[str, ClipPool] = {}
        self._check()

    @property
    def class_names(self) -> list[str]:
        """Names of the classes of `label`, in the order of their numbers."""
        if self.label == "object":
            return list(SHAPES)
        return [c.name for c in MOTION_CLASSES] if self.captions is None else list(PRIMITIVES)

    @property
    def streams(self) -> dict[str, Kind]:
        """Streams of a batch."""
        text: dict[str, Kind] = {} if self.captions is None else {"text": "text"}
        return {"video": "video", **text, **self.further.kinds}

    @property
    def parts(self) -> OrderedClips | None:
        """How clips are cut out of one longer motion; None if each is a motion of its own."""
        sampler = self.clip.sampler
        return sampler if isinstance(sampler, OrderedClips) else None

    @property
    def _of_world(self) -> bool:
        """Whether clips show more than `make_clips` does."""
        return self.world != WorldSettings() or self.further != WorldStreams()

    @property
    def flips_change_labels(self) -> bool:
        """Whether a mirrored clip may have another label: motions and sentences say left and right, shapes do not."""
        return self.label == "motion" or "text" in self.streams

    def _check(self) -> None:
        check_frames("data.clip.frames", self.clip.frames)
        self.check_batch()
        if self.scene.ground and (self.captions is not None or self.label == "object" or not self.scene.objects):
            raise SettingError(
                "data.scene.ground: a moving ground has no objects to paste, label or describe; set data.scene.ground to "
                "false, or data.captions to null, data.label to motion and data.scene.objects to true."
            )
        if self.captions is not None:
            self.captions.check(self.clip.frames)
            if self.clip.clips > 1 or not self.scene.objects:
                raise SettingError(
                    "data.captions: captioned videos have one clip and moving objects; set data.clip.clips to 1 and "
                    "data.scene.objects to true, or data.captions to null."
                )
        if self.parts is None:
            self.check_unrelated("generated clips are not parts of one video")
        elif self.captions is not None or self._of_world or self.clip.crop.related:
            raise SettingError(
                "data.clip.sampler is OrderedClips, which generated videos only have without data.captions, data.world, "
                "data.streams and related crops; leave these out, or use another sampler."
            )
        plain = self.captions is None and not self.scene.ground and self.scene.objects
        if self._of_world and not plain:
            raise SettingError(
                "data.world and data.streams need objects that move according to a class; set data.captions to null, "
                "data.scene.ground to false and data.scene.objects to true, or leave data.world and data.streams out."
            )
        videos = (self.train_videos + self.val_videos) * self.clip.clips
        each = self.clip.frames * self.clip.size**2 * 3
        if self._of_world:
            each = clip_bytes(self._stage("train"), self.world, self.further)
        needed = videos * each
        if needed > MAX_POOL_BYTES:
            lower = "data.train_videos, data.clip.size or data.clip.frames"
            with_streams = f" with {', '.join(self.further.kinds)}" if self.further.kinds else ""
            raise SettingError(
                f"data.train_videos: {videos} clips of {self.clip.frames} x {self.clip.size} x {self.clip.size} pixels"
                f"{with_streams} would take {needed / 2**30:.0f} GiB of memory, more than {MAX_POOL_BYTES / 2**30:.0f}; "
                f"lower {lower}{', or leave some of data.streams out' if with_streams else ''}."
            )

    def check(self, stage: str) -> None:
        """Check the background pictures before a network is built; `setup` does not repeat it."""
        self.setup(stage)

    def setup(self, stage: str | None = None) -> None:
        """Makes the clips, unless they are made already."""
        if self._pools:
            return
        self._check()
        if self.captions is not None:
            self._pools = self._captioned(self.captions)
            return
        if self._of_world:
            self._pools = self._worlds()
            return
        train = self._make("train", self.train_videos, self.scene.objects, self.clip.clips)
        if self.scene.objects:
            rows = slice(0, self.probe_samples)
            probe = ClipPool(train.video[rows, :1], train.clips, train.label[rows], repeat=1)
        else:
            probe = self._make("train", self.probe_samples, True, 1)
            probe.repeat = 1
        self._pools = {"train": train, "probe": probe, "val": self._make("val", self.val_videos, True, self.clip.clips)}

    def _images(self, split: Split) -> Tensor | None:
        folder = self.scene.background_folder
        if folder is None or "images" not in self.scene.backgrounds:
            return None
        return load_images(Path(folder), split, round(self.clip.size * IMAGE_SPARE))

    def _stage(self, split: Split) -> Stage:
        return Stage(self.clip.frames, self.clip.size, split, self.seed, self.scene.backgrounds)

    def _worlds(self) -> dict[str, ClipPool]:
        pools: dict[str, ClipPool] = {}
        counts: dict[Split, int] = {"train": self.train_videos, "val": self.val_videos}
        for split, count in counts.items():
            stage = replace(self._stage(split), images=self._images(split))
            made = [
                make_world(count, stage, self.world, self.further, self.scene.object_size, self.scene.distractors, view)
                for view in range(self.clip.clips)
            ]
            streams = {name: join_clips([one.streams[name] for one in made], axis=1) for name in made[0].streams}
            clips = replace(made[0], streams=streams)
            label = clips.object if self.label == "object" else clips.motion
            pools[split] = ClipPool(clips.video, clips, label, self.clip.repeat, streams)
        train, rows = pools["train"], slice(0, self.probe_samples)
        first = {name: take(stream, rows, slice(0, 1)) for name, stream in train.streams.items()}
        pools["probe"] = ClipPool(train.video[rows, :1], train.clips, train.label[rows], 1, first)
        return pools

    def _captioned(self, captions: CaptionSettings) -> dict[str, ClipPool]:
        stages = {split: replace(self._stage(split), images=self._images(split)) for split in ("train", "val")}
        made = {
            "train": captioned_clips(self.train_videos, stages["train"], captions, captions.wordings),
            "val": captioned_clips(self.val_videos, stages["val"], captions),
            "test": retrieval_clips(stages["val"], captions),
        }
        pools = {}
        for name, clips in made.items():
            label = clips.object if self.label == "object" else clips.motion
            pools[name] = ClipPool(clips.video[:, None], clips, label, self.clip.repeat)
        first = slice(0, self.probe_samples)
        probe = pools["train"]
        pools["probe"] = ClipPool(probe.video[first], probe.clips, probe.label[first], 1)
        return pools

    def _make(self, split: Split, count: int, objects: bool, views: int) -> ClipPool:
        images = self._images(split)
        if self.parts is not None:
            length = self.parts.span(views, self.clip.frames)
            motion = self._clips(split, count, objects, images, 0, length)
            frames = self.parts.draw(VideoInfo(length, 1.0, 0, 0), views, self.clip.frames, None)
            made, video = [motion], motion.video[:, torch.from_numpy(frames)]
        else:
            made = [self._clips(split, count, objects, images, view, self.clip.frames) for view in range(views)]
            video = made[0].video[:, None] if views == 1 else torch.stack([m.video for m in made], dim=1)
        label = made[0].object if self.label == "object" else made[0].motion
        return ClipPool(video, made[0], label, self.clip.repeat)

    def _clips(self, split: Split, count: int, objects: bool, images: Tensor | None, view: int, frames: int) -> SyntheticClips:
        size, scene = self.clip.size, self.scene
        if scene.ground:
            return make_grounds(count, frames, size, split, self.seed, scene.distractors, view)
        return make_clips(
            count,
            frames,
            size,
            split,
            self.seed,
            scene.backgrounds,
            images,
            scene.object_size,
            objects=objects,
            distractors=scene.distractors,
            view=view,
        )

    def dataset(self, part: Part) -> ClipPool:
        """Clips in memory; a test has the validation clips, or with captions the pairs that differ in their motion alone."""
        self.setup()
        return self._pools["val" if part == "test" and self.captions is None else part]
