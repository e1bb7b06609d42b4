"""Networks of the benchmark `real_motion` and their readout, fixed before any run.

The readout is the tokens (or places of the last map) averaged per time slice, one slice after the other, since a mean over time
cannot distinguish a motion from its reverse. A ViT has 8 slices of 96 values, the CNN 2 of 64.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from benchmarks.real.data import FRAMES, SIDE, colour
from modules.backbones.cnn.resnet import VideoResNet
from modules.backbones.vit.video_vit import VideoViT
from modules.methods.moco import VideoCNN

CHUNK = 64
RAW_FRAMES, RAW_SIDE = 8, 20


class Raw(nn.Module):
    """Pixels of 8 frames averaged to 20 x 20, or their differences over time, instead of a network.

    Args:
        differences: of successive frames.
    """

    def __init__(self, differences: bool) -> None:
        super().__init__()
        self.differences = differences

    def forward(self, video: Tensor) -> Tensor:
        """uint8 [N, 16, 48, 48] -> [N, 8, 1, 400]; with differences [N, 7, 1, 400]."""
        small = adaptive_avg_pool2d(video[:, :: FRAMES // RAW_FRAMES].float() / 255, RAW_SIDE).flatten(2)
        return (small.diff(dim=1) if self.differences else small)[:, :, None]


Network = VideoViT | VideoCNN | Raw


def vit(seed: int, patch: int = 8) -> VideoViT:
    """The small video transformer of masked methods, with the seed's initial weights."""
    torch.manual_seed(seed)
    return VideoViT("micro", SIDE, FRAMES, patch, embed_dim=96, depth=4)


def cnn(seed: int) -> VideoCNN:
    """The small R3D-18 of contrastive methods (configs/utd_mhad/depth.yaml), with the seed's initial weights."""
    torch.manual_seed(seed)
    return VideoResNet("r3d_18", 8, channels_last=False)


def fresh(kind: Literal["vit", "cnn"], seed: int) -> VideoViT | VideoCNN:
    """A network of this kind, with the seed's initial weights."""
    return vit(seed) if kind == "vit" else cnn(seed)


def tokens(network: Network, video: Tensor) -> Tensor:
    """uint8 [N, 16, 48, 48] -> [N, t, n, D]: n tokens in each of t time slices."""
    if isinstance(network, Raw):
        return network(video)
    found = network.forward_features(network.preprocess(colour(video)))
    if isinstance(network, VideoViT):
        return found.float().unflatten(1, (network.grid.t, -1))
    return found.float().flatten(3).permute(0, 2, 3, 1)


def read(network: Network, video: Tensor) -> Tensor:
    """The readout of a batch, [N, t * D], with gradients."""
    return slices(tokens(network, video))


def slices(found: Tensor) -> Tensor:
    """The readout of tokens: [N, t, n, D] -> [N, t * D]."""
    return found.mean(2).flatten(1)


@torch.no_grad()
def frozen(network: Network, video: Tensor) -> Tensor:
    """Tokens of the frozen network in evaluation mode, see `tokens`."""
    network.eval()
    return torch.cat([tokens(network, part) for part in video.split(CHUNK)])
