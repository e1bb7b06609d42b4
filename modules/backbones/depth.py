"""Depth as grey images, for encoders of video."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from modules.backbones.checks import check_raw
from modules.backbones.cnn.base import VideoCNN
from modules.backbones.frame_tower import FrameTower
from modules.backbones.intermediates import Layered, Layers
from modules.backbones.loading import load_encoder
from modules.backbones.vit.beit_video import BEiTVideo
from modules.backbones.vit.video_vit import VideoViT
from modules.core.errors import SettingError, check_range
from modules.core.loading import LoadReport
from modules.core.preprocessing import Origin, say
from modules.weights.files import read_checkpoint
from modules.weights.origin import origin_of
from modules.weights.passport import passport_of
from modules.weights.run_config import inside


class Depth(Layered, nn.Module):
    """An encoder of video, applied to depth.

    Distances from `near` to `far` (in millimetres) become 0 to 1. Distances outside the range are clamped, and pixels without
    a measurement become 0. The result is repeated to three channels and normalised like the network's own clips. The default
    range of 0 to 4500 mm and the repeated channels are this project's choice; they could not be compared with papers on depth
    (such as https://arxiv.org/abs/2108.03329).

    Args:
        network: encoder of video; its `checkpoint` may contain weights that were trained on colour.
        near: distance that becomes 0, in millimetres.
        far: distance that becomes 1, in millimetres.
        checkpoint: file with weights that were trained on depth; see `load_encoder`.

    Raises:
        SettingError: if the range is empty, or the checkpoint does not fit.
    """

    kind: Literal["depth"] = "depth"

    def __init__(
        self,
        network: VideoViT | VideoCNN | BEiTVideo | FrameTower,
        near: float = 0.0,
        far: float = 4500.0,
        checkpoint: str | None = None,
    ) -> None:
        super().__init__()
        check_range("model.backbone", 0, 65535, near=near, far=far)
        if near >= far:
            raise SettingError(f"model.backbone.near is {near:g} and model.backbone.far {far:g}; far must be above near.")
        self.network, self.near, self.far = network, near, far
        self.embed_dim = network.embed_dim
        for name in ("num_frames", "image_size", "grid"):  # of networks for clips of one size
            if hasattr(network, name):
                setattr(self, name, getattr(network, name))
        if checkpoint is not None:
            self.load(checkpoint)

    def load(self, path: str) -> LoadReport:
        """Load weights strictly (see `load_encoder`), and use the preprocessing that they were trained with.

        Raises:
            SettingError: if the file cannot be read or does not fit.
        """
        content = read_checkpoint(path, "model.backbone.checkpoint")
        report = load_encoder(self, content.weights, path)
        say(self.adopt(origin_of(path, content)))
        kept = inside(content.record, "backbone") or inside(passport_of(path), "architecture")
        trained = (kept.get("near"), kept.get("far"))
        if None not in trained and trained != (self.near, self.far):
            say(
                [
                    f"model.backbone.near and far are {self.near:g} and {self.far:g}, though {path} was trained with "
                    f"{trained[0]:g} and {trained[1]:g}."
                ]
            )
        return report

    def preprocess(self, clip: Tensor) -> Tensor:
        """uint16 millimetres [B, T, H, W, 1] -> float32 [B, 3, T, H, W], normalised as the network's weights expect."""
        check_raw(clip, 1, type(self).__name__)
        far = clip.float()
        grey = ((far - self.near) / (self.far - self.near)).clamp(0, 1)
        grey = torch.where(far > 0, grey, 0)
        return self.network.preprocess(255 * grey.expand(*grey.shape[:-1], 3))

    def forward_features(self, depth: Tensor) -> Tensor:
        """Tokens or feature map of the network, from the output of `preprocess`."""
        return self.network.forward_features(depth)

    @property
    def feature_dim(self) -> int:
        """Feature length of the network; see `Layered.feature_dim`."""
        return self.network.feature_dim

    def layers(self, clip: Tensor) -> Layers:
        """Layers of the network; see `Layered.layers`."""
        return self.network.layers(clip)

    def forward(self, depth: Tensor) -> Tensor:
        """Pooled features [B, D] of the network, from the output of `preprocess`."""
        features: Tensor = self.network(depth)
        return features

    def no_weight_decay(self) -> set[str]:
        """Names of the network's parameters without weight decay."""
        return {f"network.{name}" for name in self.network.no_weight_decay()}

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Layer groups of the network."""
        return self.network.layer_groups()

    def adopt(self, origin: Origin) -> list[str]:
        """See `PixelInput.adopt`."""
        return self.network.adopt(origin)

    def facts(self) -> dict[str, Any]:
        """What `adopt` needs when a checkpoint is loaded."""
        return self.network.facts() | {"near": self.near, "far": self.far}
