"""PRP: tell at which rate a video is played, and draw it slower.

Paper: Video Playback Rate Perception, https://arxiv.org/abs/2006.11476 (CVPR 2020). A clip is every frame, or every 2nd, 4th
or 8th frame of a video. An encoder sees 16 of them. A head tells which of the four rates it is (discriminative perception); a
decoder draws twice as many frames over the same time (generative perception), so half of them are frames that the encoder
did not see. Errors of the decoder count more where something moves: differences of frames, pooled and scaled to 0.8 .. 2, are
the motion attention. The loss is the mean of the weighted squared errors, plus a tenth of the cross-entropy of the rate.

Shapes for C3D at 16 x 112 x 112: window [B, 128, 112, 112, 3], clip [B, 3, 16, 112, 112], map [B, 512, 2, 7, 7], drawn clip and
motion attention [B, 3, 32, 112, 112], scores [B, 4].

Rates, frames, motion attention, network, losses and gradients agree with the official code
(https://github.com/yuanyao366/PRP, tests/parity/test_prp.py). As there:

* at rate 1, the frames between those of the clip are means of their neighbours, which do not count in the loss.
* pixels are compared in the range 0 to 1. Those that the encoder sees are normalised as its weights expect; the recipe sets 0
  to 1.
* there is a centred crop and no mirroring (recipe).

Differences from the official code:

* the data give a window as long as the largest rate needs, and a clip of a lower rate starts anywhere in it, uniformly. The
  official code draws the start in the complete video, so short videos give it more clips of low rates. Rates are drawn on the
  device for each clip.
* the learning rate is a function of the epoch; the official code lowers it when the validation loss stops falling.
* no dropout. The tensors that this is compared with are those of evaluation, so dropout in training would not be seen.
* rates, number of frames and the pooling of the motion attention are settings, and other encoders of the same downsampling
  (8 x 16 x 16) are accepted, such as R3D-18 and R(2+1)D-18.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.backbones.cnn.base import VideoCNN
from modules.core.batch import Batch
from modules.core.device import constant
from modules.core.errors import SettingError, check_range, check_whole
from modules.core.output import StepOutput
from modules.layers.drawing.clips import captioned, to_uint8
from modules.layers.playback import SPATIAL, ClipDecoder, RateHead
from modules.training.method import Method
from modules.training.optim import SGDSettings

SLOWER = 2
"""Frames of the drawn clip for each frame of the given one."""
COMPARED = 4
"""Frames of which the motion attention of a piece takes the differences."""
TEMPORAL = 8
"""Frames of the clip for one frame of the encoder's map."""


@dataclass
class AttentionSettings:
    """Motion attention: weights of the squared errors.

    Args:
        low: weight where least moves.
        high: weight where most moves.
        patch: side of the squares in which differences are averaged, in pixels.
        stride: distance of neighbouring squares, in pixels.
    """

    low: float = 0.8
    high: float = 2.0
    patch: int = 28
    stride: int = 7

    def __post_init__(self) -> None:
        check_range("model.attention", 0, low=self.low, high=self.high)
        check_whole("model.attention", 1, patch=self.patch, stride=self.stride)


class Playback(NamedTuple):
    """Clips at their rates, and what the decoder should draw."""

    clip: Tensor
    """uint8 [B, T, H, W, 3], what the encoder sees"""
    slow: Tensor
    """float [B, 3, 2 T, H, W] from 0 to 1, the same time at half the rate"""
    real: Tensor
    """bool [B, 2 T], which of these are frames of the video; the others are means of their neighbours"""
    attention: Tensor
    """float [B, 3, 2 T, H, W], weights of their errors"""


def frames_at(video: Tensor, place: Tensor) -> Tensor:
    """Frames of each video: [B, L, ...] and int64 [B, N] -> [B, N, ...]."""
    row = torch.arange(len(video), device=video.device)
    return video[row.view(-1, *[1] * (place.ndim - 1)), place]


def play(video: Tensor, rate: Tensor, start: Tensor, frames: int, fastest: int, attention: AttentionSettings) -> Playback:
    """Clips of different rates, all at once.

    Args:
        video: uint8 [B, L, H, W, 3]
        rate: int64 [B], frames of the video for each frame of the clip.
        start: int64 [B], first frame; the clip uses `frames` x rate frames from there.
        frames: frames of the clip, T.
        fastest: the largest rate.
        attention: motion attention.
    """
    rate, start = rate[:, None], start[:, None]
    clip = frames_at(video, start + rate * torch.arange(frames, device=video.device))
    # Half frames from the start, so that all are whole numbers.
    place = rate * torch.arange(SLOWER * frames, device=video.device)
    last = frames * rate - 1
    before, after = (frames_at(video, start + (place + half).div(2, rounding_mode="floor").minimum(last)) for half in (0, 1))
    slow = ((before.float() + after.float()) / 510).permute(0, 4, 1, 2, 3)
    weights = motion_attention(video, start, frames, fastest, attention)
    # Each of the pieces of the clip has the weights of its part of the slow clip.
    piece = (torch.arange(SLOWER * frames, device=video.device) * rate).div(SLOWER * frames, rounding_mode="floor")
    return Playback(clip, slow, place % 2 == 0, frames_at(weights, piece).transpose(1, 2))


def motion_attention(video: Tensor, start: Tensor, frames: int, pieces: int, settings: AttentionSettings) -> Tensor:
    """Weights of the errors in each piece of `frames` frames: mean squared differences of four of its frames in squares,
    scaled to `low` .. `high` per colour, and enlarged. A piece in which nothing moves has weights of 1.

    Args:
        video: uint8 [B, L, H, W, 3]
        start: int64 [B, 1], first frame of the first piece.
        frames: frames of a piece.
        pieces: number of pieces, P. Those behind the end of the video are of no use.
        settings: squares and range.

    Returns:
        float [B, P, 3, H, W]
    """
    device, (length, height, width) = video.device, video.shape[1:4]
    within = torch.arange(COMPARED, device=device) * (frames - 1) // (COMPARED - 1)
    place = start[:, :, None] + frames * torch.arange(pieces, device=device)[:, None] + within
    shown = frames_at(video, place.clamp(max=length - 1)).float() / 255
    moved = (shown[:, :, 1:] - shown[:, :, :-1]).square().permute(0, 1, 5, 2, 3, 4).flatten(0, 1)
    size, stride = settings.patch, settings.stride
    pooled = F.avg_pool3d(moved, (COMPARED - 1, size, size), (COMPARED - 1, stride, stride)).squeeze(2)
    lowest, highest = pooled.amin((2, 3), keepdim=True), pooled.amax((2, 3), keepdim=True)
    weight = settings.low + (settings.high - settings.low) * (pooled - lowest + 1e-6) / (highest - lowest + 1e-6)
    weight = torch.where(pooled.amax((1, 2, 3), keepdim=True) > 0, weight, 1.0)
    return F.interpolate(weight, (height, width), mode="bilinear").unflatten(0, (-1, pieces))


def attended_error(drawn: Tensor, played: Playback) -> Tensor:
    """Mean of the weighted squared errors of the real frames of each clip, then over clips: a scalar."""
    error = (played.attention * (drawn.float() - played.slow).square()).mean((1, 3, 4))
    return (error * played.real).sum(1).div(played.real.sum(1)).mean()


class PRP(Method):
    """Playback rate perception (https://arxiv.org/abs/2006.11476).

    Args:
        backbone: encoder, kept after pretraining; its map must be downsampled by 8 x 16 x 16.
        frames: frames that the encoder sees, T. data.clip.frames must be this times the largest rate.
        rates: playback rates, from which one is drawn for each clip.
        attention: weights of the decoder's errors.
        rate_weight: weight of the cross-entropy of the rate; the decoder's loss has weight 1.
        optim: optimiser and schedule.

    Raises:
        SettingError: if rates and frames do not fit each other.
    """

    def __init__(
        self,
        backbone: VideoCNN,
        frames: int = 16,
        rates: Sequence[int] = (1, 2, 4, 8),
        attention: AttentionSettings = AttentionSettings(),  # noqa: B008  (never mutated; shows the defaults in --help)
        rate_weight: float = 0.1,
        optim: SGDSettings = SGDSettings(),  # noqa: B008
    ) -> None:
        super().__init__(optim)
        check_whole("model", COMPARED, frames=frames)
        check_range("model", 0, rate_weight=rate_weight)
        self.rates = tuple(rates)
        if len(set(self.rates)) < 2 or len(set(self.rates)) < len(self.rates) or min(self.rates) < 1:
            raise SettingError(f"model.rates is {list(self.rates)}; set it to two or more different numbers from 1 on.")
        if any(SLOWER * frames % rate for rate in self.rates):
            raise SettingError(f"model.rates {list(self.rates)} must divide {SLOWER * frames}, twice model.frames; change one.")
        # For short clips, padding leaves one frame of the map.
        doublings = (SLOWER * frames // max(1, frames // TEMPORAL)).bit_length() - 1
        self.backbone = backbone
        self.frames, self.attention, self.rate_weight = frames, attention, rate_weight
        self.rate_head = RateHead(backbone.embed_dim, len(self.rates))
        self.decoder = ClipDecoder(backbone.embed_dim, doublings)

    @property
    def window(self) -> int:
        """Frames of a video that the largest rate needs."""
        return self.frames * max(self.rates)

    def check_clip(self) -> None:
        """Compare the window of the data with the rates, before the first step."""
        super().check_clip()
        clip = getattr(getattr(self.trainer, "datamodule", None), "clip", None)
        if clip is not None:
            self._check_size(clip.frames, clip.size)

    def _check_size(self, frames: int, side: int) -> None:
        if frames < self.window:
            raise SettingError(
                f"data.clip.frames is {frames}, but {self.frames} frames at rate {max(self.rates)} need {self.window}; raise "
                "it, or lower model.frames or model.rates."
            )
        if side % SPATIAL or side < self.attention.patch:
            raise SettingError(
                f"data.clip.size is {side}; set it to a multiple of {SPATIAL} that is at least model.attention.patch, "
                f"{self.attention.patch}."
            )

    def inputs(self, batch: Batch, encoder: str = "backbone") -> Tensor:
        """As many frames as in training, evenly over each clip of the data: [B, V, T, H, W, 3]."""
        clips = super().inputs(batch, encoder)
        every = max(1, clips.shape[2] // self.frames)
        return clips[:, :, : every * self.frames : every]

    def draw(self, video: Tensor, generator: torch.Generator) -> tuple[Playback, Tensor]:
        """Play each window at a random rate, from a random frame.

        Returns:
            the clips, and their rates as int64 [B], positions in `rates`.
        """
        self._check_size(video.shape[1], min(video.shape[2:4]))
        count, device = len(video), video.device
        label = torch.randint(len(self.rates), (count,), generator=generator, device=device)
        rate = constant(self.rates, torch.int64, device)[label]
        room = video.shape[1] - self.frames * rate
        start = (torch.rand(count, generator=generator, device=device) * (room + 1)).long()
        return play(video, rate, start, self.frames, max(self.rates), self.attention), label

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        """Play, encode, tell the rate and draw. Videos are [B, V, L, H, W, 3]."""
        played, label = self.draw(super().inputs(batch).flatten(0, 1), generator)
        maps = self.backbone.forward_features(self.normalise(played.clip))  # type: ignore[operator]
        scores, drawn = self.rate_head(maps).float(), self.decoder(maps)
        if drawn.shape != played.slow.shape:
            raise SettingError(
                f"The map of model.backbone has {tuple(maps.shape[2:])} places for {self.frames} frames; choose a network with "
                f"a map downsampled by {TEMPORAL} x {SPATIAL} x {SPATIAL}, and model.frames 4 or a multiple of {TEMPORAL}."
            )
        reconstruction, rate = attended_error(drawn, played), F.cross_entropy(scores, label)
        guess = scores.argmax(1)
        return {
            "loss": reconstruction + self.rate_weight * rate,
            "log": {
                "reconstruction": reconstruction.detach(),
                "rate": rate.detach(),
                "rate_accuracy": (guess == label).float().mean(),
                "chance": scores.new_full((), 1 / len(self.rates)),
            },
            # Of the slow clip, the frames between those of the clip.
            "show": {
                "clip": played.clip,
                "between": to_uint8(played.slow[:, :, 1::2]),
                "reconstruction": to_uint8(drawn.detach().float()[:, :, 1::2]),
                "attention": played.attention[:, :, 1::2],
                "label": label,
                "guess": guess,
            },
        }

    def pictures(self, output: StepOutput) -> dict[str, Tensor]:
        """The clip, the true frames between its frames, what the decoder draws there, the motion attention, and the rates."""
        show, (low, high) = output["show"], (self.attention.low, self.attention.high)
        names = [f"rate {rate}" for rate in self.rates]
        texts = [
            f"{names[label]}, guessed {names[guess]}"
            for label, guess in zip(show["label"].tolist(), show["guess"].tolist(), strict=True)
        ]
        return {
            "captioned": captioned(show["clip"], texts),
            "clip": show["clip"],
            "between": show["between"],
            "reconstruction": show["reconstruction"],
            "attention": to_uint8((show["attention"] - low) / max(high - low, 1e-6)),
        }

    def picture_notes(self) -> dict[str, str]:
        """What the frames between are at rate 1."""
        return {"between": "true frames between those of the clip; at rate 1 there are none, and these are means of neighbours"}
