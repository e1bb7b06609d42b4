"""Peers for benchmarks of training steps: the same training in other implementations.

There are two peers. `transformers` is the library's VideoMAE (for SMILE with its CLIP as teacher), configured as by its users.
The plain loop does the same as the official code of VideoMAE and SMILE, in the same way: augmentation in NumPy and PIL, sample
by sample, in the loader; boolean masks; a pixel target computed from the normalised clip in the training loop; attention
without fused kernels. For SMILE, objects are pasted frame by frame into PIL images, the teacher runs in float32, and every mask
is a separate pass. It contains no lines of the official code.

The peers were written before any measurement. Do not make them faster or slower, because figures would no longer be
comparable.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn

from modules.backbones.vit.video_vit import VideoViT
from modules.core.preprocessing import IMAGENET
from modules.masks.tokens import TubeMask
from modules.weights.sizes import PRESETS

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FRAMES, SIDE, PATCH, TUBELET = 16, 224, 16, 2
SLICES, CELLS = FRAMES // TUBELET, SIDE // PATCH
TOKENS = SLICES * CELLS * CELLS
Frames = np.ndarray
"""Decoded frames of a video: uint8 [T, h, w, 3]."""


@dataclass
class Contender:
    """An implementation of training, in two parts; `load` runs in loader workers.

    Args:
        load: makes a batch from decoded frames, on the CPU.
        step: a training step on that batch.
    """

    load: Callable[[], Any]
    step: Callable[[Any], None]


# --- transformers ---


def transformers_config(size: str) -> Any:
    """Sizes of our encoder and decoder."""
    from transformers import VideoMAEConfig

    preset = PRESETS[size]
    return VideoMAEConfig(
        hidden_size=preset.embed_dim,
        num_hidden_layers=preset.depth,
        num_attention_heads=preset.num_heads,
        intermediate_size=4 * preset.embed_dim,
        decoder_hidden_size=preset.embed_dim // 2,
        decoder_num_attention_heads=preset.num_heads // 2,
        decoder_intermediate_size=2 * preset.embed_dim,
        decoder_num_hidden_layers=4,
        norm_pix_loss=True,
    )


def transformers_videomae(size: str, device: torch.device, ratio: float, clip: Tensor) -> Callable[[], None]:
    """A step of `transformers.VideoMAEForPreTraining`, on normalised clips and boolean masks.

    Args:
        size: encoder preset.
        device: device to train on.
        ratio: mask ratio.
        clip: uint8 [B, T, H, W, 3]
    """
    from transformers import VideoMAEForPreTraining

    network: nn.Module = VideoMAEForPreTraining(transformers_config(size))
    network.to(device)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    generator = torch.Generator(device).manual_seed(0)
    grid = VideoViT("micro", depth=1).grid

    def step() -> None:
        video = IMAGENET.apply(clip).transpose(1, 2)
        masked = TubeMask(ratio).draw(len(clip), grid, generator).targets
        hidden = torch.zeros(len(clip), grid.tokens, dtype=torch.bool, device=device).scatter_(1, masked, True)
        network(video, bool_masked_pos=hidden).loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def transformers_smile(size: str, device: torch.device, ratio: float, clip: Tensor) -> Callable[[], None]:
    """A step of SMILE with two masks, from parts of `transformers`: VideoMAE with CLIP's image tower as its target.

    The library neither pastes objects nor masks along them: clips are unchanged and masks are tubes, which is faster.
    The teacher runs once, the student once per mask.

    Args:
        size: encoder preset.
        device: device to train on.
        ratio: mask ratio.
        clip: uint8 [B, T, H, W, 3]
    """
    from transformers import CLIPVisionConfig, CLIPVisionModel, VideoMAEForPreTraining

    width, depth, heads = PRESETS["base" if size == "large" else size][:3]
    tower = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        image_size=SIDE,
        patch_size=PATCH,
    )
    teacher: Any = CLIPVisionModel(tower).to(device).eval().requires_grad_(False)
    # In older versions, the norm is one level deeper.
    norm = getattr(teacher, "vision_model", teacher).post_layernorm
    network: Any = VideoMAEForPreTraining(transformers_config(size))
    network.decoder.head = nn.Linear(network.config.decoder_hidden_size, width)
    network.to(device)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    generator = torch.Generator(device).manual_seed(0)
    grid = VideoViT("micro", depth=1).grid

    def predict(video: Tensor, hidden: Tensor) -> Tensor:
        tokens = network.encoder_to_decoder(network.videomae(video, bool_masked_pos=hidden).last_hidden_state)
        B, _, D = tokens.shape
        codes = network.position_embeddings.expand(B, -1, -1).type_as(tokens).to(device)
        seen, places = codes[~hidden].reshape(B, -1, D), codes[hidden].reshape(B, -1, D)
        both = torch.cat([tokens + seen, network.mask_token + places], dim=1)
        return network.decoder(both, places.shape[1]).logits

    def step() -> None:
        video = IMAGENET.apply(clip).transpose(1, 2)
        with torch.no_grad():
            states = teacher(video[:, ::TUBELET].flatten(0, 1)).last_hidden_state
            labels = norm(states)[:, 1:].reshape(len(clip), TOKENS, width)
            labels = (labels - labels.mean(1, keepdim=True)) / (labels.std(1, keepdim=True) + 1e-6)
        losses = []
        for _ in range(2):
            masked = TubeMask(ratio).draw(len(clip), grid, generator).targets
            hidden = torch.zeros(len(clip), grid.tokens, dtype=torch.bool, device=device).scatter_(1, masked, True)
            losses.append(F.mse_loss(predict(video, hidden), labels[hidden].reshape(len(clip), -1, width)))
        torch.stack(losses).mean().backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


# --- The plain loop: network ---


def sine_table(length: int, width: int) -> Tensor:
    """Fixed position codes: float [1, length, width]."""
    rates = 1 / np.power(10000, 2 * (np.arange(width) // 2) / width)
    angles = np.arange(length)[:, None] * rates[None]
    angles[:, 0::2], angles[:, 1::2] = np.sin(angles[:, 0::2]), np.cos(angles[:, 1::2])
    return torch.tensor(angles, dtype=torch.float32)[None]


class PlainAttention(nn.Module):
    """Self-attention, written out."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]"""
        B, N, D = x.shape
        bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias, requires_grad=False), self.v_bias])
        q, k, v = F.linear(x, self.qkv.weight, bias).reshape(B, N, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        attention = ((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1)
        result: Tensor = self.proj((attention @ v).transpose(1, 2).reshape(B, N, D))
        return result


class PlainBlock(nn.Module):
    """A block of a vision transformer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = PlainAttention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]"""
        x = x + self.attn(self.norm1(x))
        result: Tensor = x + self.mlp(self.norm2(x))
        return result


class PlainMAE(nn.Module):
    """Encoder and decoder of VideoMAE.

    Args:
        size: preset of the encoder; the decoder is half as wide and has four blocks.
        out_dim: width of a prediction.
    """

    def __init__(self, size: str, out_dim: int) -> None:
        super().__init__()
        width, depth, heads = PRESETS[size][:3]
        self.patch_embed = nn.Conv3d(3, width, (TUBELET, PATCH, PATCH), (TUBELET, PATCH, PATCH))
        self.positions, self.decoder_positions = sine_table(TOKENS, width), sine_table(TOKENS, width // 2)
        self.blocks = nn.ModuleList(PlainBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.to_decoder = nn.Linear(width, width // 2, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width // 2))
        self.decoder_blocks = nn.ModuleList(PlainBlock(width // 2, max(1, heads // 2)) for _ in range(4))
        self.decoder_norm = nn.LayerNorm(width // 2, eps=1e-6)
        self.head = nn.Linear(width // 2, out_dim)

    def forward(self, video: Tensor, mask: Tensor) -> Tensor:
        """Predict masked tokens.

        Args:
            video: float [B, 3, T, H, W], normalised.
            mask: bool [B, N], true where a token is hidden.

        Returns:
            [B, Nm, D]
        """
        x = self.patch_embed(video).flatten(2).transpose(1, 2)
        x = x + self.positions.type_as(x).to(x.device).clone().detach()
        B, _, D = x.shape
        x = x[~mask].reshape(B, -1, D)
        for block in self.blocks:
            x = block(x)
        x = self.to_decoder(self.norm(x))
        codes = self.decoder_positions.expand(B, -1, -1).type_as(x).to(x.device).clone().detach()
        seen, hidden = codes[~mask].reshape(B, -1, D // 2), codes[mask].reshape(B, -1, D // 2)
        x = torch.cat([x + seen, self.mask_token + hidden], dim=1)
        for block in self.decoder_blocks:
            x = block(x)
        result: Tensor = self.head(self.decoder_norm(x[:, -hidden.shape[1] :]))
        return result


class PlainTeacher(nn.Module):
    """A frozen image tower on the first frame of each tubelet.

    Args:
        size: preset.
    """

    def __init__(self, size: str) -> None:
        super().__init__()
        width, depth, heads = PRESETS["base" if size == "large" else size][:3]
        self.width = width
        self.patch_embed = nn.Conv2d(3, width, PATCH, PATCH, bias=False)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 1 + CELLS * CELLS, width))
        self.norm_pre, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.blocks = nn.ModuleList(PlainBlock(width, heads) for _ in range(depth))

    def forward(self, video: Tensor) -> Tensor:
        """float [B, 3, T, H, W] -> [B, N, D]"""
        B = len(video)
        frames = video[:, :, ::TUBELET].transpose(1, 2).flatten(0, 1)
        x = self.patch_embed(frames).flatten(2).transpose(1, 2)
        x = self.norm_pre(torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1) + self.positions)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 1:].reshape(B, TOKENS, self.width)


# --- The plain loop: what its loader does with each sample ---


def crop_frames(frames: Frames, rng: np.random.Generator) -> list[Image.Image]:
    """The same random crop of all frames, at 224 px."""
    height, width = frames.shape[1:3]
    sides = [int(min(height, width) * scale) for scale in (1, 0.875, 0.75, 0.66)]
    pairs = [(w, h) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1]
    w, h = pairs[rng.integers(len(pairs))]
    x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
    pictures = [Image.fromarray(frame) for frame in frames]
    return [picture.crop((x, y, x + w, y + h)).resize((SIDE, SIDE), Image.Resampling.BILINEAR) for picture in pictures]


def to_tensor(pictures: list[Image.Image]) -> Tensor:
    """float [3, T, H, W], normalised."""
    planes = torch.from_numpy(np.concatenate([np.asarray(picture) for picture in pictures], axis=2))
    planes = planes.permute(2, 0, 1).contiguous().float().div(255)
    for number, plane in enumerate(planes):
        plane.sub_(MEAN[number % 3]).div_(STD[number % 3])
    return planes.view(FRAMES, 3, SIDE, SIDE).transpose(0, 1)


def tube_mask(ratio: float, rng: np.random.Generator) -> np.ndarray:
    """bool [N]"""
    cells = CELLS * CELLS
    hidden = int(ratio * cells)
    frame = np.hstack([np.zeros(cells - hidden), np.ones(hidden)])
    rng.shuffle(frame)
    return np.tile(frame, (SLICES, 1)).flatten().astype(bool)


def object_pictures(count: int = 64) -> list[Image.Image]:
    """Cut-out objects as RGBA pictures, already read from their files."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(count):
        picture = Image.new("RGBA", (96, 96))
        colour = (*(int(value) for value in rng.integers(0, 256, 3)), 255)
        ImageDraw.Draw(picture).ellipse((4, 4, 91, 91), fill=colour)
        pictures.append(picture)
    return pictures


def key_frames(rng: np.random.Generator) -> list[int]:
    """First and last frame, and up to two frames in between."""
    inner = int(rng.choice(3, p=[0.5, 0.3, 0.2]))
    distance = FRAMES / (inner + 1)
    jitter = int(distance / 3)
    ticks = [int(distance * i) + int(rng.integers(-jitter, max(jitter, 1))) for i in range(1, inner + 1)]
    return sorted({0, FRAMES - 1, *(min(max(tick, 0), FRAMES - 1) for tick in ticks)})


def between(values: list[float], keys: list[int], rng: np.random.Generator) -> np.ndarray:
    """Interpolate values at key frames to all frames, segment by segment."""
    result = np.empty(FRAMES)
    for segment in range(len(keys) - 1):
        first, last = keys[segment], keys[segment + 1]
        start, end = values[segment], values[segment + 1]
        kind = rng.choice(3, p=[0.7, 0.15, 0.15])
        for frame in range(first, last + 1):
            u = (frame - first) / (last - first)
            if kind == 1:
                u = u * u
            elif kind == 2:
                u = 1 - (1 - u) ** 2
            result[frame] = start + (end - start) * u
    return result


def random_ramp(start: float, change: Callable[[float, int], float], rng: np.random.Generator) -> np.ndarray:
    """A quantity that changes at each key frame."""
    keys = key_frames(rng)
    values = [start]
    for first, last in itertools.pairwise(keys):
        values.append(change(values[-1], last - first))
    return between(values, keys, rng)


def random_motion(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [T, 4] and angles [T] of one object."""
    scale, ratio = rng.choice([32, 48, 56, 64, 96, 128]), rng.choice([0.5, 0.67, 0.75, 1, 1.33, 1.5, 2])
    sides = [scale * math.sqrt(ratio), scale / math.sqrt(ratio)]
    extent = int(rng.integers(40, 180))
    centres, sizes = [], []
    for side in sides:
        side = float(np.clip(side * math.exp(rng.uniform(-0.18, 0.18)), 1, SIDE - 1))
        points = gaussian_filter1d(rng.uniform(1 + side / 2, SIDE - 1 - side / 2, 48), 8, mode="reflect")
        points = (points - points.min()) / (points.max() - points.min()) * extent + rng.integers(0, SIDE - extent)
        centres.append(np.clip(points, 0, SIDE - 1)[np.linspace(0, 47, FRAMES).round().astype(int)].astype(int))
        grow = random_ramp(side, lambda value, gap: value * math.exp(rng.uniform(-0.025 * gap, 0.025 * gap)), rng)
        sizes.append(grow)
    angles = random_ramp(0.0, lambda value, gap: value + rng.uniform(-6 * gap, 6 * gap), rng)
    low, high = ([centre + sign * size / 2 for centre, size in zip(centres, sizes, strict=True)] for sign in (-1, 1))
    return np.stack([*low, *high], axis=1).round().astype(int), angles.astype(int)


def paste_objects(pictures: list[Image.Image], objects: list[Image.Image], rng: np.random.Generator) -> np.ndarray:
    """Draw two moving objects into the frames, in place; returns their boxes [2, T, 4]."""
    motions = [random_motion(rng) for _ in range(2)]
    areas = [np.prod((boxes[:, 2:] - boxes[:, :2]).mean(0)) for boxes, _ in motions]
    for number in np.argsort(areas)[::-1]:
        boxes, angles = motions[number]
        picture = objects[rng.integers(len(objects))]
        base = boxes[rng.integers(FRAMES)]
        picture = picture.resize((max(1, base[2] - base[0]), max(1, base[3] - base[1])))
        for frame in range(FRAMES):
            x1, y1, x2, y2 = (int(value) for value in boxes[frame])
            drawn = picture.resize((max(1, x2 - x1), max(1, y2 - y1)))
            drawn = drawn.rotate(-int(angles[frame]), Image.Resampling.BILINEAR, expand=True)
            pictures[frame].paste(drawn, ((x1 + x2 - drawn.width) // 2, (y1 + y2 - drawn.height) // 2), drawn)
    return np.stack([boxes for boxes, _ in motions])


def trajectory_mask(boxes: np.ndarray, ratio: float, rng: np.random.Generator) -> np.ndarray:
    """Hide 90 % of the tokens that objects touch, and tubes elsewhere; in all as many as a tube mask: bool [N]."""
    tube = tube_mask(ratio, rng).reshape(SLICES, CELLS, CELLS)
    wanted = int(tube.sum())
    touched = np.zeros_like(tube)
    for own in boxes:
        for number in range(SLICES):
            x1, y1 = np.minimum(own[2 * number, :2], own[2 * number + 1, :2]) // PATCH
            x2, y2 = -(-np.maximum(own[2 * number, 2:], own[2 * number + 1, 2:]) // PATCH)
            touched[number, max(0, y1) : max(0, y2 + 1), max(0, x1) : max(0, x2 + 1)] = True
    mask = tube.copy()
    mask[touched] = True
    inside = np.argwhere(touched)
    for place in rng.permutation(inside)[: int(0.1 * len(inside))]:
        mask[tuple(place)] = False
    extra = int(mask.sum()) - wanted
    places = np.argwhere(mask & ~touched) if extra > 0 else np.argwhere(~mask & ~touched)
    for place in rng.permutation(places)[: abs(extra)]:
        mask[tuple(place)] = extra < 0
    extra = int(mask.sum()) - wanted
    places = np.argwhere(mask) if extra > 0 else np.argwhere(~mask)
    for place in rng.permutation(places)[: abs(extra)]:
        mask[tuple(place)] = extra < 0
    return mask.flatten()


# --- The plain loop: training ---


def cubes(video: Tensor) -> Tensor:
    """[B, 3, T, H, W] -> [B, N, P, 3]"""
    B = len(video)
    parts = video.reshape(B, 3, SLICES, TUBELET, CELLS, PATCH, CELLS, PATCH)
    return parts.permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(B, TOKENS, TUBELET * PATCH * PATCH, 3)


def plain_videomae(
    size: str, device: torch.device, ratio: float, frames: list[Frames], autocast: Callable[[], Any]
) -> Contender:
    """VideoMAE as a plain loop.

    Args:
        size: encoder preset.
        device: device to train on.
        ratio: mask ratio.
        frames: decoded frames of each sample.
        autocast: creates the context of the network's pass.
    """
    network = PlainMAE(size, 3 * TUBELET * PATCH * PATCH).to(device)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4)
    rng = np.random.default_rng(0)

    def load() -> tuple[Tensor, Tensor]:
        samples = [(to_tensor(crop_frames(own, rng)), torch.from_numpy(tube_mask(ratio, rng))) for own in frames]
        return torch.stack([clip for clip, _ in samples]), torch.stack([mask for _, mask in samples])

    def step(batch: tuple[Tensor, Tensor]) -> None:
        video, mask = batch[0].to(device, non_blocking=True), batch[1].to(device, non_blocking=True)
        with torch.no_grad():
            mean, std = (torch.as_tensor(values).to(device)[None, :, None, None, None] for values in (MEAN, STD))
            parts = cubes(video * std + mean)
            parts = (parts - parts.mean(dim=2, keepdim=True)) / (parts.var(dim=2, unbiased=True, keepdim=True).sqrt() + 1e-6)
            labels = parts.flatten(2)
            labels = labels[mask].reshape(len(video), -1, labels.shape[2])
        with autocast():
            loss = F.mse_loss(network(video, mask), labels)
        if not math.isfinite(loss.item()):
            raise SystemExit("the loss is not finite")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return Contender(load, step)


def plain_smile(
    size: str,
    device: torch.device,
    ratio: float,
    frames: list[Frames],
    autocast: Callable[[], Any],
    teacher_once: bool = False,
) -> Contender:
    """SMILE with two masks per clip as a plain loop.

    Args:
        size: encoder preset.
        device: device to train on.
        ratio: mask ratio.
        frames: decoded frames of each sample.
        autocast: creates the context of the network's pass.
        teacher_once: the two passes share the teacher's features, as in the official code, and the pasted clips; otherwise the
            loader yields every clip twice, each with its own objects, mask and features.
    """
    teacher = PlainTeacher(size).to(device).eval().requires_grad_(False)
    network = PlainMAE(size, teacher.width).to(device)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4)
    rng, objects = np.random.default_rng(0), object_pictures()

    def load_once() -> tuple[Tensor, Tensor]:
        clips, masks = [], []
        for own in frames:
            pictures = crop_frames(own, rng)
            boxes = paste_objects(pictures, objects, rng)
            clips.append(to_tensor(pictures))
            masks.append(torch.from_numpy(trajectory_mask(boxes, ratio, rng)))
        return torch.stack(clips), torch.stack(masks)

    def load() -> list[tuple[Tensor, Tensor]]:
        return [load_once() for _ in range(1 if teacher_once else 2)]

    def features(video: Tensor) -> Tensor:
        with torch.no_grad():
            labels = teacher(video)
            return (labels - labels.mean(dim=1, keepdim=True)) / (labels.var(dim=1, unbiased=True, keepdim=True).sqrt() + 1e-6)

    def step(batches: list[tuple[Tensor, Tensor]]) -> None:
        passes = []
        for clips, masks in batches:
            video, mask = clips.to(device, non_blocking=True), masks.to(device, non_blocking=True)
            labels = features(video)
            passes.append((video, mask, labels))
            if teacher_once:
                passes.append((video, mask[torch.randperm(len(mask), device=device)], labels))
        optimiser.zero_grad()
        predictions, targets = [], []
        for video, mask, labels in passes:
            with autocast():
                predictions.append(network(video, mask))
            targets.append(labels[mask].reshape(len(video), -1, labels.shape[2]))
        with autocast():
            loss = F.mse_loss(torch.cat(predictions), torch.cat(targets))
        if not math.isfinite(loss.item()):
            raise SystemExit("the loss is not finite")
        loss.backward()
        optimiser.step()

    return Contender(load, step)
