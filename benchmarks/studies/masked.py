"""Common parts of the studies of masked methods: a small video transformer, its readout, and its supervised peer."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.studies.harness import StudySize, random_rows, train
from modules.backbones.vit.video_vit import VideoViT
from modules.core.tokens import Pooling, pool_tokens
from modules.scenes.classes import MOTION_CLASSES
from modules.scenes.objects import SyntheticClips

# Time slices are separate because a mean over time cannot distinguish a motion from its reverse.
READOUT: Pooling = "time"


@dataclass
class ViTSize(StudySize):
    """A small video transformer and its masks; pretraining and probes use one family of backgrounds.

    Args:
        patch: side of a token in pixels.
        embed_dim: width of the encoder.
        depth: blocks of the encoder.
        mask_ratio: share of hidden tokens.
    """

    patch: int = 8
    embed_dim: int = 96
    depth: int = 4
    mask_ratio: float = 0.5


def encoder(size: ViTSize, seed: int) -> VideoViT:
    """The network of every row, with the seed's initial weights."""
    torch.manual_seed(seed)
    return VideoViT("micro", size.side, size.frames, size.patch, embed_dim=size.embed_dim, depth=size.depth)


@torch.no_grad()
def features(backbone: VideoViT, video: Tensor) -> Tensor:
    """The fixed readout of frozen tokens: uint8 [N, T, H, W, 3] -> [N, t * D]."""
    backbone.eval()
    parts = [
        pool_tokens(backbone.forward_features(backbone.preprocess(chunk)).float(), backbone.grid[:3], READOUT)
        for chunk in video.split(256)
    ]
    return torch.cat(parts)


def train_supervised(clips: SyntheticClips, size: ViTSize, seed: int) -> VideoViT:
    """The same encoder trained on the probe's labelled clips to classify the motion."""
    backbone = encoder(size, seed)
    head = nn.Linear(backbone.grid.t * size.embed_dim, len(MOTION_CLASSES))
    network = nn.ModuleList([backbone, head]).to(clips.video.device)

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        rows = random_rows(len(clips.video), size.batch, generator)
        tokens = backbone.forward_features(backbone.preprocess(clips.video[rows]))
        return F.cross_entropy(head(pool_tokens(tokens, backbone.grid[:3], READOUT)), clips.motion[rows])

    losses = train(network, loss_of, size.steps, size.lr, seed)
    print(f"  seed {seed}: supervised: loss {losses[0]:.2f} to {losses[-1]:.2f}", flush=True)
    return backbone
