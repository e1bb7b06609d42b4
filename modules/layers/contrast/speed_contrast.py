"""Momentum contrast of clips at two speeds: the trained parts of RSPNet besides its encoder."""

from typing import NamedTuple

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from modules.core.distributed import shuffled
from modules.core.run import run_of
from modules.layers.contrast.momentum import follow, frozen_copy
from modules.layers.contrast.momentum_contrast import ContrastSettings, MomentumContrast
from modules.layers.heads import projection
from modules.losses.contrast import Contrast, ranking, unit_rows


class Projected(NamedTuple):
    """Clips in the spaces of both heads: unit rows [B, out_dim]."""

    appearance: Tensor
    speed: Tensor


class Compared(NamedTuple):
    """Output of `SpeedContrast.compare_speeds`."""

    same: Contrast
    """appearance of the query against the key of the same speed"""
    other: Contrast
    """appearance of the query against the key of the other speed"""
    ranking: Tensor
    """loss of the speeds, with gradient"""
    right: Tensor
    """bool [B], whether the key of the same speed is nearer to the query than that of the other speed"""
    right_share: Tensor
    """mean of `right`"""


class SpeedContrast(MomentumContrast):
    """Two heads on one encoder (RSPNet, https://arxiv.org/abs/2011.07949): `head` compares what is seen, as in
    `MomentumContrast`, and `speed_head` at which speed.

    The queue contains the appearance of keys of the other speed only, as in the official code. It is trimmed to a multiple of
    the batch.

    Args:
        backbone: encoder of the query branch, which remains an attribute of the method. It pools clips to [B, D].
        settings: heads, queue and key branch.
    """

    def __init__(self, backbone: nn.Module, settings: ContrastSettings) -> None:
        super().__init__(backbone, settings)
        width = int(backbone.embed_dim)  # type: ignore[arg-type]
        self.speed_head = projection(width, settings.hidden, settings.out_dim)
        self.key_speed_head = frozen_copy(self.speed_head)

    def check(self, trainer: Trainer) -> None:
        """Trim the queue to a multiple of the batch; see `MomentumContrast.check`."""
        batch_size = getattr(run_of(trainer).datamodule, "batch_size", None)
        if self.queue is not None and batch_size is not None:
            self.queue.trim(batch_size * trainer.world_size)
        super().check(trainer)

    def compare_speeds(
        self, backbone: nn.Module, query: Tensor, same: Tensor, other: Tensor, margin: float, generator: torch.Generator
    ) -> Compared:
        """Losses of a batch. In training, the key branch is updated before, and the queue afterwards.

        Args:
            backbone: the encoder that was passed to the constructor.
            query: float [B, 3, T, H, W], normalised.
            same: keys, other clips of the same videos at the same speed.
            other: the same clips as `same` at the other speed.
            margin: difference of the similarities of both keys, over the temperature, from which a query has no ranking loss.
            generator: generator for the shuffles, in the same state in every process.
        """
        self.update_keys(backbone)
        # In this order, because both passes update the running statistics of batch norm.
        far = self.project_keys(other, generator)
        near = self.project_keys(same, generator)
        own = self.project(backbone, query)
        first, second = self.compare(own.appearance, near.appearance), self.compare(own.appearance, far.appearance)
        right, wrong = ((own.speed * key.speed.detach()).sum(dim=1) / self.settings.temperature for key in (near, far))
        loss, share = ranking(right, wrong, margin)
        self.remember(far.appearance)
        return Compared(first, second, loss, (right > wrong).detach(), share)

    def project(self, backbone: nn.Module, clips: Tensor) -> Projected:
        """Queries: inputs of the backbone -> unit rows of both heads."""
        features = backbone(clips)
        return Projected(unit_rows(self.head(features)), unit_rows(self.speed_head(features)))

    @torch.no_grad()
    def project_keys(self, clips: Tensor, generator: torch.Generator) -> Projected:
        """Keys: inputs of the backbone -> unit rows of both heads, without gradient."""
        shuffles = self.settings.shuffle and self.training
        rows = shuffled(self._both_keys, clips, generator) if shuffles else self._both_keys(clips)
        return Projected(*rows.chunk(2, dim=1))

    @torch.no_grad()
    def update_keys(self, backbone: nn.Module) -> None:
        """In training, move the key branch towards the query branch."""
        if not self.training:
            return
        pairs = ((self.key_backbone, backbone), (self.key_head, self.head), (self.key_speed_head, self.speed_head))
        for slow, online in pairs:
            follow(slow, online, self.settings.momentum)

    def _both_keys(self, clips: Tensor) -> Tensor:
        features = self.key_backbone(clips)
        return torch.cat([unit_rows(self.key_head(features)), unit_rows(self.key_speed_head(features))], dim=1)
