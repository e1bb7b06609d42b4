"""Skeletons as images: HCN (https://arxiv.org/abs/1804.06055) without its fully connected layers, as in skeleton contrast
(https://arxiv.org/abs/2108.03656, official code). Parameters have the official names.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.backbones.intermediates import Layers, maps
from modules.backbones.skeleton.base import JOINTS, SkeletonEncoder
from modules.core.errors import SettingError, check_range


def motion(skeleton: Tensor) -> Tensor:
    """Differences of consecutive frames, interpolated to the same number of frames: [B, 3, T, J, M] -> the same shape."""
    step = skeleton.diff(dim=2)
    flat = F.interpolate(step.flatten(3), size=(skeleton.shape[2], step[0, 0, 0].numel()), mode="bilinear")
    return flat.view_as(skeleton)


class HCN(SkeletonEncoder):
    """Hierarchical co-occurrence network: convolutions over time, then with joints as channels. 519,424 parameters by default.

    Both persons share the same layers; positions and motions have separate ones. The output is the maximum over the persons.

    Args:
        width: channels of the first layer; the last feature map has four times as many. 64 is the published network.
        window: frames per clip, a multiple of 16.
        dropout: probability of dropping a channel, after three layers.
        checkpoint: file with weights; see `load`.

    Raises:
        SettingError: if a size does not fit, or the checkpoint does not.
    """

    def __init__(self, width: int = 64, window: int = 64, dropout: float = 0.5, checkpoint: str | None = None) -> None:
        super().__init__()
        if width < 2 or window < 16 or window % 16:
            raise SettingError(
                f"HCN has width {width} and window {window}; set width to 2 or more and window to a multiple of 16."
            )
        check_range("model.backbone", 0, 1, dropout=dropout)
        self.window = self.num_frames = window
        self.embed_dim = 4 * width * (window // 16) ** 2
        for path in ("", "m"):
            for number, layer in enumerate(self._path(width, window, dropout), 1):
                self.add_module(f"conv{number}{path}", layer)
        self.conv5 = self._pooled(2 * width, 2 * width, nn.ReLU(), nn.Dropout2d(dropout))
        self.conv6 = self._pooled(2 * width, 4 * width, nn.ReLU(), nn.Dropout2d(dropout))
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.xavier_uniform_(part.weight)
                nn.init.zeros_(part.bias)  # type: ignore[arg-type]
        if checkpoint is not None:
            self.load(checkpoint)

    @staticmethod
    def _pooled(inputs: int, outputs: int, *between: nn.Module) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), *between, nn.MaxPool2d(2))

    @classmethod
    def _path(cls, channels: int, window: int, dropout: float) -> list[nn.Module]:
        """Layers for positions or for motions."""
        return [
            nn.Sequential(nn.Conv2d(3, channels, 1), nn.ReLU()),
            nn.Conv2d(channels, window, (3, 1), padding=(1, 0)),
            cls._pooled(JOINTS, channels // 2),
            cls._pooled(channels // 2, channels, nn.Dropout2d(dropout)),
        ]

    def layers(self, clip: Tensor) -> Layers:
        """See `Layered.layers`: the layers after positions and motions are joined. The grid, which `forward_features` returns,
        is the maximum over the two persons, [B, C, T / 16, T / 16] after the last layer.

        Raises:
            SettingError: if the clips are not of `window` frames.
        """
        self.check(clip)
        frames, persons = clip.shape[2], clip.shape[4]
        if frames != self.window:
            raise SettingError(f"HCN has window {self.window}, but clips have {frames} frames; make them equal.")
        paths = []
        for path, part in (("", clip), ("m", motion(clip))):
            hidden = part.movedim(4, 1).flatten(0, 1)
            hidden = self.get_submodule(f"conv2{path}")(self.get_submodule(f"conv1{path}")(hidden))
            hidden = self.get_submodule(f"conv3{path}")(hidden.transpose(1, 3))
            paths.append(self.get_submodule(f"conv4{path}")(hidden))
        return maps(
            torch.cat(paths, dim=1), [self.conv5, self.conv6], lambda hidden: hidden.unflatten(0, (-1, persons)).amax(1)
        )

    def forward(self, skeleton: Tensor) -> Tensor:
        """The last feature map, flattened: [B, 3, T, J, M] -> [B, D]."""
        return self.forward_features(skeleton).flatten(1)

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Parameters of each layer, of both paths together."""
        numbers = sorted({name[4] for name, _ in self.named_children()})
        return [[value for name, value in self.named_parameters() if name.startswith(f"conv{number}")] for number in numbers]
