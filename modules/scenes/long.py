"""Long generated videos of labelled segments. Any part of a video can be made without the rest.

A segment shows one object that performs one of `MOTION_CLASSES` over its entire length, with its own start, speed and heading,
in front of the video's background. A video has a class, which a fraction of its segments show.
Axis letters: `N` videos, `G` segments, `V` windows, `T` frames, `S` steps, `D` width of a feature.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from modules.core.errors import SettingError, check_positive, check_range, check_whole
from modules.core.randomness import device_generator
from modules.motion.appearance import SHAPES
from modules.scenes.backgrounds import Background, make_backgrounds
from modules.scenes.classes import MOTION_CLASSES, Change, Draws, Path, Split, changes_at, starting
from modules.scenes.objects import CHUNK_PIXELS, draw_objects

OBJECT_SIZE = (0.22, 0.55)
VIDEO, SEGMENT, WINDOW = 101, 102, 1000
"""Versions of the draws for videos, segments, and window positions in epoch 0; short clips have other versions."""
MOST = 4096
"""Maximum number of segments per video; segments are indexed from the video's index times this."""
LONGEST = 3600.0
PACE = (5.0, 1.0, 4.0)
"""Weights of the motion in features: of sides of the picture, radians and logarithms of sizes per second."""
PROJECTION = 20
"""Seed of the projection of features, the same for all data sets."""


@dataclass
class LongSettings:
    """Settings of long generated videos.

    Args:
        duration: Shortest and longest video in seconds, with a uniform distribution of the logarithm.
        segment: Shortest and longest segment in seconds; the last one ends with the video.
        share: Fraction of the segments that show the class of the video, in addition to one that always does. The others show
            random classes.
        smooth: Objects start and end each phase of their motion at rest, instead of having constant speed.
        fps: Frames per second within a window.
        backgrounds: Kinds of background, equally frequent.
    """

    duration: tuple[float, float] = (10.0, 60.0)
    segment: tuple[float, float] = (2.0, 6.0)
    share: float = 0.5
    smooth: bool = False
    fps: float = 8.0
    backgrounds: list[Background] = field(default_factory=lambda: ["black"])

    def __post_init__(self) -> None:
        for name, most in (("duration", LONGEST), ("segment", LONGEST)):
            low, high = getattr(self, name)
            check_range("data.long", 1, most, **{f"{name}.0": low, f"{name}.1": high})
            if low > high:
                raise SettingError(f"data.long.{name} is {[low, high]}; pass the shortest first and then the longest.")
        check_positive("data.long", fps=self.fps)
        check_range("data.long", 0, 1, share=self.share)
        if not isinstance(self.smooth, bool):
            raise SettingError(f"data.long.smooth is {self.smooth}; it must be true or false.")
        if "images" in self.backgrounds or not self.backgrounds or len(set(self.backgrounds)) < len(self.backgrounds):
            raise SettingError(
                f"data.long.backgrounds is {list(self.backgrounds)}; pass one or more of black, gradient, noise and texture."
            )

    @property
    def most(self) -> int:
        """Maximum number of segments of a video."""
        return math.ceil(self.duration[1] / self.segment[0])


@dataclass
class FeatureSettings:
    """Features of a long video instead of its frames, see `LongVideos.features`.

    Args:
        step: Seconds between features; each describes a part of the video of this length.
        width: Length of a feature.
        noise: Standard deviation of the added noise; that of a feature without noise is about 1.
    """

    step: float = 1.0
    width: int = 128
    noise: float = 0.3

    def __post_init__(self) -> None:
        check_range("data.features", 0.05, LONGEST, step=self.step)
        check_whole("data.features", 1, 4096, width=self.width)
        check_range("data.features", 0, 100, noise=self.noise)


class LongVideos:
    """Content of some long videos. Video n only depends on (seed, split, n) and the settings.

    Args:
        index: int64 [N], indices of the videos; all tensors are made on its device.
        split: split, which determines draws, colours and backgrounds.
        seed: seed of the data set.
        settings: settings of the videos.
    """

    def __init__(self, index: Tensor, split: Split, seed: int, settings: LongSettings) -> None:
        self.index, self.split, self.seed, self.settings = index, split, seed, settings
        draws = self._draws(index, VIDEO)
        shortest, longest = settings.duration
        self.duration = shortest * (longest / shortest) ** draws.uniform("duration")
        """float64 [N], seconds"""
        lengths = draws.many("lengths", settings.most, *settings.segment)
        starts = torch.cat([torch.zeros_like(lengths[:, :1]), lengths.cumsum(1)], 1)
        bounds = torch.minimum(starts, self.duration[:, None])
        self.start, self.end = bounds[:, :-1].contiguous(), bounds[:, 1:]
        """float64 [N, G], seconds; unused segments start and end at the end of the video"""
        self.there = self.end > self.start
        """bool [N, G], which segments exist"""
        self.label = index.remainder(len(MOTION_CLASSES))
        """int64 [N], the class of each video"""
        motion = (draws.many("motions", settings.most) * len(MOTION_CLASSES)).long()
        own = draws.many("own", settings.most) < settings.share
        sure = (draws.uniform("sure") * self.there.sum(1)).long()
        own |= torch.arange(settings.most, device=index.device) == sure[:, None]
        self.motion = torch.where(own, self.label[:, None], motion).masked_fill(~self.there, -1)
        """int64 [N, G], the class of each segment; -1 after the end of a video"""

    def _draws(self, numbers: Tensor, version: int) -> Draws:
        return Draws(self.seed, self.split, numbers, version)

    def segment_at(self, seconds: Tensor) -> Tensor:
        """Indices of the segments at times float64 [N, S]: int64 [N, S]."""
        return torch.searchsorted(self.start, seconds.contiguous(), right=True).minimum(self.there.sum(1, keepdim=True)) - 1

    def windows(self, count: int, frames: int, epoch: int | None) -> Tensor:
        """Timestamps of the frames of windows, one in each of `count` equal parts of a video: float64 [N, V, T], in seconds.

        Args:
            count: V
            frames: T
            epoch: epoch, which determines random positions within the parts; None uses their centres.
        """
        place = self.index.new_full((len(self.index), count), 0.5, dtype=torch.float64)
        if epoch is not None:
            place = self._draws(self.index, WINDOW + epoch).many("window", count)
        length = (frames - 1) / self.settings.fps
        start = (torch.arange(count, device=place.device) + place) / count * (self.duration[:, None] - length)
        return start[..., None] + torch.arange(frames, device=place.device) / self.settings.fps

    def labels(self, moments: Tensor) -> Tensor:
        """Class at the centre of windows with timestamps float64 [N, V, T]: int64 [N, V]."""
        return self.motion.gather(1, self.segment_at((moments[..., 0] + moments[..., -1]) / 2))

    def _move(self, video: Tensor, segment: Tensor, seconds: Tensor) -> tuple[Draws, Change, Path]:
        """Motion of the objects of R segments, of videos int64 [R], at times float64 [R, M]. Outside their segments, they
        rest.
        """
        start, end = self.start[video, segment][:, None], self.end[video, segment][:, None]
        draws = self._draws(self.index[video] * MOST + segment, SEGMENT)
        progress = ((seconds - start) / (end - start)).clamp(0, 1)
        # This limits the rotation, so that it cannot look like one in the opposite direction.
        frames = max(2, round(self.settings.segment[0] * self.settings.fps))
        change = changes_at(draws, self.motion[video, segment], progress, frames, False, self.settings.smooth)
        return draws, change, starting(draws, change, OBJECT_SIZE)

    def render(self, moments: Tensor, size: int) -> Tensor:
        """Frames at any times float64 [N, ...] in seconds: uint8 [N, ..., size, size, 3]. Only these frames are computed."""
        flat = moments.reshape(len(moments), -1)
        segment = self.segment_at(flat).flatten()
        video = torch.arange(len(flat), device=flat.device).repeat_interleave(flat.shape[1])
        parts = []
        for rows in torch.arange(len(video), device=flat.device).split(max(1, CHUNK_PIXELS // size**2)):
            own, seconds = video[rows], flat.flatten()[rows][:, None]
            looks, _, path = self._move(own, segment[rows], seconds)
            scene, kinds = self._draws(self.index[own], VIDEO), self.settings.backgrounds
            still = make_backgrounds(scene, scene.integer("background", len(kinds)), kinds, size, None)
            side = path.size * size
            extent = torch.stack([side * looks.banded("aspect", 0.7, 1).float()[:, None], side], dim=-1)
            kind = looks.integer("object", len(SHAPES))
            centre = path.centre * size
            parts.append(draw_objects(looks, kind, still[:, None], centre, extent, path.angle, OBJECT_SIZE[0])[0])
        return torch.cat(parts).view(*moments.shape, size, size, 3)

    def features(self, number: int, settings: FeatureSettings) -> tuple[Tensor, Tensor, Tensor]:
        """Synthetic features of a video, one per step, similar to those of an encoder that sees motion.

        A feature is a fixed random projection of the segment at the centre of a step, plus noise. The projected values are the
        object's shift, rotation and growth in the first and second half of the step, its position at the centre (on the torus,
        the circle and the scale of sizes), and its shape. So the class of a segment can be recognised as far as motion of that
        length allows; the class of a video is that of many of its segments.

        Args:
            number: index of the video among the N.
            settings: settings of the features.

        Returns:
            float32 [S, D], the centre of each step in seconds float32 [S], and its class int64 [S]; S is the number of complete
            steps, at least 1.
        """
        device, duration = self.index.device, float(self.duration[number])
        steps = max(1, int(duration / settings.step))
        middle = (torch.arange(steps, device=device).double() + 0.5) * settings.step
        middle = middle.clamp(max=duration)
        segment = self.segment_at(middle.expand(len(self.index), -1))[number]
        seconds = middle[:, None] + settings.step * torch.tensor([-0.5, 0, 0.5], device=device, dtype=torch.float64)
        looks, change, path = self._move(torch.full_like(segment, number), segment, seconds)
        moved = torch.cat([change.shift, torch.deg2rad(change.turn)[..., None], change.growth[..., None]], -1).diff(dim=1)
        rate = moved / (settings.step / 2) * moved.new_tensor([PACE[0], *PACE])
        x, y = (2 * math.pi * path.centre[:, 1].double()).unbind(-1)
        turn = torch.deg2rad(path.angle[:, 1].double())
        scale = (path.size[:, 1].double() / OBJECT_SIZE[0]).log() * (2 * math.pi / math.log(OBJECT_SIZE[1] / OBJECT_SIZE[0]))
        circles = [part for place in (x, y, turn, scale) for part in (place.sin(), place.cos())]
        shape = torch.nn.functional.one_hot(looks.integer("object", len(SHAPES)), len(SHAPES)).double()
        shown = torch.cat([rate.flatten(1), torch.stack(circles, 1), shape], 1)
        projection = torch.randn(shown.shape[1], settings.width, generator=device_generator("cpu", PROJECTION))
        # The squared norm of its input is about 8.
        feature = shown @ (projection.double() / 8**0.5).to(device)
        if settings.noise > 0:
            # Uniform noise of this standard deviation costs a third of normal noise.
            bound = settings.noise * 3**0.5
            draws = self._draws(self.index[number : number + 1], VIDEO)
            feature = feature + draws.many("noise", steps * settings.width, -bound, bound).view_as(feature)
        return feature.float(), middle.float(), self.motion[number, segment]
