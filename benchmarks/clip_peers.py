"""Peers for `benchmarks/clip_step.py`: VCOP, RSPNet and CVRL in plain PyTorch and torchvision.

They were written from descriptions of the methods before any measurement, and share no code with this project. Colours are
changed clip by clip, as in the official code of RSPNet and CVRL: the frames of a clip are stacked to one tall picture, to which
torchvision's functions are applied. Do not make the peers faster or slower, because figures would no longer be comparable.
"""

import copy
import itertools
import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import torchvision.transforms.functional as tv
from torch import Tensor, nn

GREY = (0.2989, 0.587, 0.114)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Changes(NamedTuple):
    """What happens to a clip before it is encoded."""

    jitter: list[tuple[str, float]]
    """changes of colour with their factors, in order"""
    grey: bool
    mirrored: bool
    sigma: float | None = None
    """standard deviation of the blur"""
    solarised: bool = False


def uniform(rng: random.Random, spans: dict[str, tuple[float, float]]) -> list[tuple[str, float]]:
    """Changes of colour in random order, with factors from these ranges."""
    drawn = [(name, rng.uniform(*span)) for name, span in spans.items()]
    rng.shuffle(drawn)
    return drawn


def planes(clip: Tensor) -> Tensor:
    """uint8 [T, H, W, 3] -> float [3, T, H, W] from 0 to 1."""
    return clip.permute(3, 0, 1, 2).float() / 255


class PlainPeer(nn.Module, ABC):
    """A method with its networks, its random numbers and its optimiser."""

    optimiser: torch.optim.Optimizer

    @abstractmethod
    def draw(self, count: int) -> Any:
        """Random numbers for `count` videos."""

    @abstractmethod
    def loss(self, video: Tensor, drawn: Any) -> Tensor:
        """Loss of a batch: uint8 [B, V, T, H, W, 3]."""

    def step(self, video: Tensor) -> None:
        """A training step."""
        self.loss(video, self.draw(len(video))).backward()
        self.optimiser.step()
        self.optimiser.zero_grad()


# --- VCOP ---


def c3d(width: int) -> nn.Sequential:
    """C3D with batch norm and global average pooling."""
    layers: list[nn.Module] = []
    inputs = 3
    for layer, factor in enumerate((1, 2, 4, 4, 8, 8, 8, 8)):
        outputs = factor * width
        layers += [nn.Conv3d(inputs, outputs, 3, padding=1), nn.BatchNorm3d(outputs), nn.ReLU(inplace=True)]
        if layer in (0, 1, 3, 5):
            layers.append(nn.MaxPool3d((1, 2, 2) if layer == 0 else 2))
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten())


class PlainVCOP(PlainPeer):
    """Which of the six orders do three clips have?

    Args:
        width: channels of the first convolution of C3D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.network = c3d(width)
        self.fc7, self.fc8 = nn.Linear(16 * width, 512), nn.Linear(3 * 512, 6)
        self.dropout = nn.Dropout(0.5)
        self.orders = list(itertools.permutations(range(3)))
        self.optimiser = torch.optim.SGD(self.parameters(), 1e-3, 0.9, weight_decay=5e-4)
        self.rng = random.Random(0)

    def draw(self, count: int) -> list[int]:
        """Number of the permutation of each video."""
        return [self.rng.randrange(6) for _ in range(count)]

    def loss(self, video: Tensor, drawn: list[int]) -> Tensor:
        """See `PlainPeer.loss`."""
        shuffled = torch.stack([clips[list(self.orders[label])] for clips, label in zip(video, drawn, strict=True)])
        clips = shuffled.flatten(0, 1).permute(0, 4, 1, 2, 3).float() / 255
        features = self.network(clips).view(len(video), 3, -1)
        pairs = [F.relu(self.fc7(torch.cat([features[:, i], features[:, j]], 1))) for i, j in ((0, 1), (0, 2), (1, 2))]
        logits = self.fc8(self.dropout(torch.cat(pairs, 1)))
        return F.cross_entropy(logits, torch.tensor(drawn, device=video.device))


# --- RSPNet ---


class BasicBlock(nn.Module):
    """Residual block of two convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(outputs)
        self.conv2 = nn.Conv3d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm3d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv3d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm3d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, H, W] -> [B, D, t, h, w]"""
        made = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        result: Tensor = self.relu(made + self.downsample(x))
        return result


def resnet18(width: int) -> nn.Sequential:
    """3D ResNet-18 with a stem of 7 x 7 x 7."""
    layers: list[nn.Module] = [
        nn.Conv3d(3, width, 7, (1, 2, 2), 3, bias=False),
        nn.BatchNorm3d(width),
        nn.ReLU(inplace=True),
        nn.MaxPool3d(3, 2, 1),
    ]
    inputs = width
    for stage in range(4):
        outputs = width * 2**stage
        layers += [BasicBlock(inputs, outputs, 1 if stage == 0 else 2), BasicBlock(outputs, outputs, 1)]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten())


class Draws(NamedTuple):
    """Random numbers of RSPNet."""

    first: list[Changes]
    """of the windows of the queries"""
    second: list[Changes]
    """of those of the keys"""
    order: list[int]
    """permutation of the videos; queries of the first half have speed 1"""


class PlainRSPNet(PlainPeer):
    """Momentum contrast of two windows, and which of two keys has the query's speed.

    Args:
        width: channels of the stem.
        queue: number of keys in the queue.
    """

    queue: Tensor

    def __init__(self, width: int, queue: int = 16384) -> None:
        super().__init__()
        self.encoder_q = nn.ModuleList([resnet18(width), nn.Linear(8 * width, 128), nn.Linear(8 * width, 128)])
        self.encoder_k = copy.deepcopy(self.encoder_q).requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(128, queue), dim=0))
        self.pointer, self.rng = 0, random.Random(0)
        self.optimiser = torch.optim.SGD(self.encoder_q.parameters(), 0.1, 0.9, weight_decay=1e-4)

    def draw(self, count: int) -> Draws:
        """See `PlainPeer.draw`."""
        spans = dict.fromkeys(("brightness", "contrast", "saturation"), (0.6, 1.4)) | {"hue": (-0.4, 0.4)}

        def changes() -> list[Changes]:
            rng = self.rng
            return [Changes(uniform(rng, spans), rng.random() < 0.2, rng.random() < 0.5) for _ in range(count)]

        return Draws(changes(), changes(), self.rng.sample(range(count), count))

    def augment(self, window: Tensor, changes: Changes) -> Tensor:
        """uint8 [T, H, W, 3] -> float [3, T, H, W], normalised."""
        shape = planes(window).shape
        tall = planes(window).reshape(3, -1, shape[3])
        if changes.grey:
            tall = tv.rgb_to_grayscale(tall, 3)
        for name, factor in changes.jitter:
            tall = getattr(tv, f"adjust_{name}")(tall, factor)
        if changes.mirrored:
            tall = tv.hflip(tall)
        return tv.normalize(tall, MEAN, STD).reshape(shape)

    def encode(self, branch: nn.ModuleList, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors of both heads: [B, 128] each."""
        features = branch[0](clips)
        return F.normalize(branch[1](features)), F.normalize(branch[2](features))

    @torch.no_grad()
    def follow(self) -> None:
        """Momentum update of the key branch."""
        for own, query in zip(self.encoder_k.parameters(), self.encoder_q.parameters(), strict=True):
            own.mul_(0.999).add_(query, alpha=0.001)

    def loss(self, video: Tensor, drawn: Draws) -> Tensor:
        """See `PlainPeer.loss`; windows are twice as long as clips."""
        first, second = (
            torch.stack([self.augment(window, changes) for window, changes in zip(video[:, number], own, strict=True)])
            for number, own in enumerate((drawn.first, drawn.second))
        )
        half, frames = len(video) // 2, video.shape[2] // 2
        slow = torch.zeros(len(video), dtype=torch.bool, device=video.device)
        slow[drawn.order[:half]] = True
        slow = slow.view(-1, 1, 1, 1, 1)
        query = torch.where(slow, first[:, :, :frames], first[:, :, ::2])
        near = torch.where(slow, second[:, :, :frames], second[:, :, ::2])
        far = torch.where(slow, second[:, :, ::2], second[:, :, :frames])
        with torch.no_grad():
            self.follow()
            far_a, far_m = self.encode(self.encoder_k, far)
            near_a, near_m = self.encode(self.encoder_k, near)
        own_a, own_m = self.encode(self.encoder_q, query)
        negatives = own_a @ self.queue.clone()
        target = torch.zeros(len(video), dtype=torch.int64, device=video.device)
        loss = query.new_zeros(())
        for key in (near_a, far_a):
            positive = (own_a * key).sum(1, keepdim=True)
            loss = loss + F.cross_entropy(torch.cat([positive, negatives], 1) / 0.07, target)
        right, wrong = (own_m * near_m).sum(1) / 0.07, (own_m * far_m).sum(1) / 0.07
        loss = loss + F.margin_ranking_loss(right, wrong, torch.ones_like(right), margin=2.0)
        self.queue[:, self.pointer : self.pointer + len(video)] = far_a.T
        self.pointer = (self.pointer + len(video)) % self.queue.shape[1]
        return loss


# --- CVRL ---


class SameConv(nn.Conv3d):
    """Convolution with TensorFlow's padding SAME."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
        super().__init__(inputs, outputs, kernel, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, H, W] -> [B, D, t, h, w]"""
        pads: list[int] = []
        for size, kernel, stride in zip(reversed(x.shape[2:]), self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(F.pad(x, pads) if any(pads) else x)


class SamePool(nn.Module):
    """Max pooling of 1 x 3 x 3 with stride 2 and the padding SAME, after a ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, H, W] -> [B, C, T, h, w]"""
        right, below = 1 - x.shape[4] % 2, 1 - x.shape[3] % 2
        return F.max_pool3d(F.pad(x, (1 - right, 1, 1 - below, 1)), (1, 3, 3), (1, 2, 2))


class Bottleneck(nn.Module):
    """Residual block with a temporal, a spatial and a 1 x 1 x 1 convolution."""

    def __init__(self, inputs: int, width: int, kernel: int, stride: int, first: bool) -> None:
        super().__init__()
        strides = (1, stride, stride)
        self.shortcut: nn.Module = nn.Identity()
        if first:
            self.shortcut = nn.Sequential(SameConv(inputs, 4 * width, (1, 1, 1), strides), nn.BatchNorm3d(4 * width))
        self.body = nn.Sequential(
            SameConv(inputs, width, (kernel, 1, 1), (1, 1, 1)),
            nn.BatchNorm3d(width),
            nn.ReLU(inplace=True),
            SameConv(width, width, (1, 3, 3), strides),
            nn.BatchNorm3d(width),
            nn.ReLU(inplace=True),
            SameConv(width, 4 * width, (1, 1, 1), (1, 1, 1)),
            nn.BatchNorm3d(4 * width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, H, W] -> [B, D, T, h, w]"""
        return F.relu(self.body(x) + self.shortcut(x), inplace=True)


def slow_only(width: int) -> nn.Sequential:
    """The R3D-50 of CVRL."""
    stem = SameConv(3, width, (5, 7, 7), (2, 2, 2))
    layers: list[nn.Module] = [stem, nn.BatchNorm3d(width), nn.ReLU(inplace=True), SamePool()]
    inputs = width
    for stage, (blocks, kernel) in enumerate(zip((3, 4, 6, 3), (1, 1, 3, 3), strict=True)):
        for block in range(blocks):
            inner = width * 2**stage
            layers.append(Bottleneck(inputs, inner, kernel, 2 if stage and not block else 1, not block))
            inputs = 4 * inner
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten())


class PlainCVRL(PlainPeer):
    """Two clips of a video against all other clips of the batch.

    Args:
        width: channels of the stem.
        hidden: width of the projection.
    """

    def __init__(self, width: int, hidden: int = 2048) -> None:
        super().__init__()
        self.network = slow_only(width)
        layers: list[nn.Module] = []
        for inputs in (32 * width, hidden, hidden):
            layers += [nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden, momentum=0.003), nn.ReLU(inplace=True)]
        self.projection = nn.Sequential(*layers, nn.Linear(hidden, 128))
        kernels, others = ([value for value in self.parameters() if (value.ndim > 1) == one] for one in (True, False))
        groups = [{"params": kernels, "weight_decay": 1e-6}, {"params": others, "weight_decay": 0.0}]
        self.optimiser = torch.optim.SGD(groups, 0.32, 0.9)
        self.rng = random.Random(0)

    def draw(self, count: int) -> list[list[Changes]]:
        """Changes of the first and of the second clips."""
        spans = dict.fromkeys(("brightness", "contrast", "saturation"), (0.2, 1.8)) | {"hue": (-0.2, 0.2)}

        def changes(blurred: float, solarised: float) -> Changes:
            rng = self.rng
            jitter = uniform(rng, spans) if rng.random() < 0.8 else []
            sigma = rng.uniform(0.1, 2) if rng.random() < blurred else None
            return Changes(jitter, rng.random() < 0.2, rng.random() < 0.5, sigma, rng.random() < solarised)

        return [[changes(*chances) for _ in range(count)] for chances in ((1.0, 0.0), (0.1, 0.2))]

    def augment(self, clip: Tensor, changes: Changes) -> Tensor:
        """uint8 [T, H, W, 3] -> float [3, T, H, W] from 0 to 1."""
        video = planes(clip.flip(2) if changes.mirrored else clip)
        for name, factor in changes.jitter:
            video = COLOURS[name](video, factor).clamp(0, 1)
        if changes.grey:
            video = (GREY[0] * video[0] + GREY[1] * video[1] + GREY[2] * video[2]).expand_as(video)
        if changes.sigma is not None:
            video = blurred(video, changes.sigma)
        return torch.where(video < 0.5, video, 1 - video) if changes.solarised else video

    def loss(self, video: Tensor, drawn: list[list[Changes]]) -> Tensor:
        """See `PlainPeer.loss`."""
        views = [
            torch.stack([self.augment(clip, changes) for clip, changes in zip(video[:, number], own, strict=True)])
            for number, own in enumerate(drawn)
        ]
        first, second = F.normalize(self.projection(self.network(torch.cat(views)))).chunk(2)
        target = torch.arange(len(video), device=video.device)
        itself = 1e9 * torch.eye(len(video), device=video.device)
        across = first @ second.T / 0.1
        one = torch.cat([across, first @ first.T / 0.1 - itself], 1)
        other = torch.cat([across.T, second @ second.T / 0.1 - itself], 1)
        return F.cross_entropy(one, target) + F.cross_entropy(other, target)


def turned(video: Tensor, shift: float) -> Tensor:
    """Another hue, by torchvision."""
    return tv.adjust_hue(video.flatten(1, 2), shift).view_as(video)


def saturated(video: Tensor, factor: float) -> Tensor:
    """Another saturation in HSV."""
    value, low = video.amax(0), video.amin(0)
    own = (value - low) / value.clamp_min(1e-12)
    return value - (value - video) * ((own * factor).clamp(0, 1) / own.clamp_min(1e-12))


def blurred(video: Tensor, sigma: float) -> Tensor:
    """Gaussian blur with zeros outside of the frames."""
    radius = video.shape[2] // 10 // 2
    places = torch.arange(-radius, radius + 1, device=video.device)
    kernel = torch.exp(-places.float().square() / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    frames = video.flatten(0, 1)[:, None]
    frames = F.conv2d(frames, kernel.view(1, 1, -1, 1), padding=(radius, 0))
    return F.conv2d(frames, kernel.view(1, 1, 1, -1), padding=(0, radius)).view_as(video)


def contrasted(video: Tensor, factor: float) -> Tensor:
    """Another contrast; TensorFlow has a mean for each channel."""
    mean = video.mean((1, 2, 3), keepdim=True)
    return (video - mean) * factor + mean


COLOURS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "brightness": lambda video, factor: video * factor,
    "contrast": contrasted,
    "saturation": saturated,
    "hue": turned,
}
