"""Relations of tokens, distilled from a frozen teacher: a setting of masked methods, and the alignment of VideoREPA.

Paper: VideoREPA, https://arxiv.org/abs/2505.23656, which aligns a text-to-video diffusion model with a video encoder. The loss
(`modules/losses/relation.py`) compares cosine similarities of pairs of tokens, so any teacher fits any student.

`RelationSettings` adds this loss to a masked method. This use is ours, not the paper's: the student's tokens are those that the
encoder outputs for visible tokens, so only pairs of visible tokens are related. The teacher sees the complete clip.

`Alignment` and `teacher_clip` are the path of the paper from a diffusion model to the loss, for those who train one. They agree
with the official code (tests/parity/test_videorepa.py), which however computes everything from the convolution on in bfloat16.
The diffusion model is not part of this project.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.backbones.vit.video_vit import VideoViT
from modules.core.errors import SettingError, check_positive, check_range
from modules.core.preprocessing import IMAGENET
from modules.layers.targets import Target
from modules.losses.relation import Pairs, subset_relation_loss
from modules.training.compilation import Compilable

REDUCTION = 3
"""Side of a cell of the student's map, and of the teacher's frames, that becomes one position."""


@dataclass
class RelationSettings:
    """Token relation distillation: cosine similarities of pairs of visible tokens are trained to be like those of a teacher.

    Defaults are VideoREPA's, for another student (a diffusion model).

    Args:
        teacher: frozen encoder, whose features are used unchanged (`normalise: false`): ClipTarget, TimmTarget for DINO and
            others, or EncoderTarget for any encoder of videos of this project.
        weight: factor on the loss, which is added to that of the method.
        margin: difference of two cosines that costs nothing.
        pairs: `all` pairs of tokens, those of the same slice (`spatial`), or those of different slices (`temporal`).

    Raises:
        SettingError: if a number is out of range, or the teacher normalises its features.
    """

    teacher: Target
    weight: float = 0.5
    margin: float = 0.1
    pairs: Pairs = "all"

    def __post_init__(self) -> None:
        check_positive("model.relations", weight=self.weight)
        check_range("model.relations", 0, 2, margin=self.margin)
        if getattr(self.teacher, "normalise", False):
            raise SettingError(
                f"model.relations.teacher is a {type(self.teacher).__name__} that normalises its features, which changes their "
                "relations; set model.relations.teacher.normalise to false."
            )

    def check(self, backbone: VideoViT) -> None:
        """Check before the first step that the teacher fits the encoder."""
        self.teacher.check(backbone, "model.relations.teacher")

    def compiled_parts(self) -> list[nn.Module]:
        """Modules to compile: those of the teacher."""
        return self.teacher.compiled_parts() if isinstance(self.teacher, Compilable) else []

    def loss(self, tokens: Tensor, clip: Tensor, visible: Tensor, backbone: VideoViT) -> Tensor:
        """Loss of encoded tokens, without the weight.

        Args:
            tokens: [R * B, Nv, D], output of the encoder; with several masks per clip, in mask-major order.
            clip: uint8 [B, T, H, W, 3]
            visible: int64 [R * B, Nv], the indices of these tokens.
            backbone: the encoder.
        """
        grid = backbone.grid
        teacher = self.teacher.of_tokens(clip, visible, grid, backbone.normalisation)
        return subset_relation_loss(tokens, teacher, visible // grid.slice_tokens, self.margin, self.pairs)


class Alignment(nn.Module):
    """From the hidden state of a text-to-video diffusion model to tokens that `token_relation_loss` takes (VideoREPA).

    Three linear layers with SiLU; the first latent frame, which stands for a single frame of the video, is dropped; each of the
    others, which stands for four, is interpolated to two; and a convolution over cells of 3 x 3 positions.

    Args:
        in_dim: width of the hidden state.
        hidden: width between the linear layers (2048 in the official code).
        out_dim: width of the output (the teacher's in the official code, which the loss does not need).
    """

    def __init__(self, in_dim: int, hidden: int, out_dim: int) -> None:
        super().__init__()
        self.projector = nn.Sequential(
            nn.Linear(in_dim, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, out_dim)
        )
        self.downsampler = nn.Conv2d(out_dim, out_dim, REDUCTION, REDUCTION)

    def upsample(self, projected: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Drop the first latent frame and double the others in time (trilinear, corners not aligned).

        Args:
            projected: [B, t * h * w, D]
            grid: t, h, w of the latent frames.

        Returns:
            [B, 2 * (t - 1), D, h, w]
        """
        maps = projected.transpose(1, 2).unflatten(2, grid)[:, :, 1:]
        frames, *size = maps.shape[2:]
        doubled = F.interpolate(maps, (2 * frames, *size), mode="trilinear", align_corners=False)
        return doubled.transpose(1, 2)

    def forward(self, hidden: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Tokens of a hidden state.

        Args:
            hidden: [B, t * h * w, in_dim], in the order t, h, w, without those of the text.
            grid: t, h, w of the latent frames.

        Returns:
            [B, 2 * (t - 1), h // 3 * w // 3, out_dim]
        """
        maps = self.upsample(self.projector(hidden), grid)
        reduced: Tensor = self.downsampler(maps.flatten(0, 1)).unflatten(0, maps.shape[:2])
        return reduced.flatten(3).transpose(2, 3)


@torch.no_grad()
def teacher_clip(video: Tensor) -> Tensor:
    """What the teacher sees of the clips of a diffusion model: all frames but the first, at a third of their size (VideoREPA).

    The resize is bicubic without antialiasing, after the normalisation, so values may leave the range of pixels.

    Args:
        video: float [B, 3, T, H, W] from -1 to 1.

    Returns:
        float [B, 3, T - 1, H // 3, W // 3], with ImageNet's normalisation.
    """
    pixels = 255 * (video[:, :, 1:] + 1) / 2
    frames = IMAGENET.apply_planes(pixels).transpose(1, 2)
    size = (video.shape[3] // REDUCTION, video.shape[4] // REDUCTION)
    small = F.interpolate(frames.flatten(0, 1), size, mode="bicubic", align_corners=False)
    result: Tensor = small.unflatten(0, frames.shape[:2]).transpose(1, 2)
    return result
