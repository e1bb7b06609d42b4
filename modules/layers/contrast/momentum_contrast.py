"""Momentum contrast: the common part of MoCo and methods based on it."""

from dataclasses import dataclass

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from modules.core.distributed import gather_rows, position, shuffled
from modules.core.errors import SettingError, check_positive, check_range, given
from modules.core.run import run_of
from modules.layers.contrast.momentum import follow, frozen_copy
from modules.layers.contrast.queue import Queue
from modules.layers.heads import projection
from modules.losses.contrast import Contrast, info_nce, unit_rows

MOST_OWN_KEYS = 0.1
"""Largest average number of keys of the query's own video in the queue; with more, it is too long for the data."""


@dataclass
class ContrastSettings:
    """Head, queue and key branch. The defaults are those of TubeletContrast (official code).

    Args:
        hidden: width between the two layers of the head; None uses that of the features, 0 leaves only one linear layer.
        out_dim: length of queries and keys.
        queue_size: number of keys kept as negatives; a multiple of the batch over all devices, and less than half of
            the samples, since otherwise the negatives include keys of the query's own video. 0 uses the other keys of the batch
            instead, as in MoCo v3. With a queue and a momentum much below 0.999, the key branch changes so fast
            that short runs only learn to separate new keys from old ones (docs/learning.md).
        momentum: momentum of the key branch.
        temperature: divisor of the cosine similarities.
        shuffle: shuffle keys across processes, so that batch norm's statistics do not reveal pairs.
    """

    hidden: int | None = None
    out_dim: int = 128
    queue_size: int = 16384
    momentum: float = 0.999
    temperature: float = 0.2
    shuffle: bool = True

    def __post_init__(self) -> None:
        check_positive("model.contrast", out_dim=self.out_dim, temperature=self.temperature)
        check_range("model.contrast", 0, queue_size=self.queue_size, **given(hidden=self.hidden))
        check_range("model.contrast", 0, 1, momentum=self.momentum)


class MomentumContrast(nn.Module):
    """Compares each query with its key and with a queue of earlier keys (MoCo, https://arxiv.org/abs/1911.05722).

    The key branch is a momentum copy of the query branch. The loss has one direction, from queries to keys. Negatives are the
    keys of the queue or, without a queue, the other keys of the batch over all devices (MoCo v3,
    https://arxiv.org/abs/2104.02057). The steps of `forward` can also be called separately, to compare the queries of one
    branch with the keys of another.

    Args:
        backbone: encoder of the query branch, which remains an attribute of the method. It pools clips to [B, D].
        settings: head, queue and key branch.
    """

    def __init__(self, backbone: nn.Module, settings: ContrastSettings) -> None:
        super().__init__()
        width = int(backbone.embed_dim)  # type: ignore[arg-type]
        self.head = projection(width, settings.hidden, settings.out_dim)
        self.key_backbone, self.key_head = frozen_copy(backbone), frozen_copy(self.head)
        self.queue = Queue(settings.queue_size, settings.out_dim) if settings.queue_size else None
        self.settings = settings

    def check(self, trainer: Trainer) -> None:
        """Compare the batch with the queue.

        Raises:
            SettingError: if the queue is not a multiple of the batch, or there is neither a queue nor a second key.
        """
        batch_size = getattr(run_of(trainer).datamodule, "batch_size", None)
        if batch_size is None:
            return
        global_batch = batch_size * trainer.world_size
        if self.queue is not None:
            self.queue.check(global_batch)
        elif global_batch < 2:
            raise SettingError(
                "model.contrast.queue_size 0 uses the other keys of the batch as negatives, but the batch has only one; set "
                "data.batch_size to 2 or more, or model.contrast.queue_size to a multiple of the batch."
            )

    def check_data(self, trainer: Trainer) -> None:
        """Warn before the first step if the queue is too long for the data set: it then contains keys of the query's
        own video or recording, which are treated as negatives."""
        dataset = getattr(trainer.train_dataloader, "dataset", None)
        samples = len(dataset) if hasattr(dataset, "__len__") else 0  # type: ignore[arg-type]
        batch_size = getattr(run_of(trainer).datamodule, "batch_size", None)
        if self.queue is None or not samples or not trainer.num_training_batches or batch_size is None:
            return
        size, epochs = self.settings.queue_size, trainer.max_epochs or 0
        own = own_keys(size, samples, min(samples, trainer.num_training_batches * batch_size * trainer.world_size))
        own = min(own, epochs - 1) if epochs > 0 else own
        if own > MOST_OWN_KEYS:
            rank_zero_warn(
                f"model.contrast.queue_size {size} is {size / samples:.2g} times the {samples} training samples, so {own:.2g} "
                f"of the negatives of each query, on average, are of its own sample; set it to {round(0.4 * samples)} or less."
            )

    def forward(self, backbone: nn.Module, query: Tensor, key: Tensor, generator: torch.Generator) -> Contrast:
        """Loss of a batch of pairs. In training, the key branch is updated before, and the queue afterwards.

        Args:
            backbone: the encoder that was passed to the constructor.
            query: float [B, 3, T, H, W], normalised.
            key: float [B, 3, T, H, W], row i is the positive of query i.
            generator: generator for the shuffle, in the same state in every process.
        """
        queries = self.queries(backbone, query)
        keys = self.keys(backbone, key, generator)
        contrast = self.compare(queries, keys)
        self.remember(keys)
        return contrast

    def queries(self, backbone: nn.Module, clips: Tensor) -> Tensor:
        """Inputs of the backbone -> unit rows [B, out_dim]."""
        return unit_rows(self.head(backbone(clips)))

    @torch.no_grad()
    def keys(self, backbone: nn.Module, clips: Tensor, generator: torch.Generator) -> Tensor:
        """Inputs of the backbone -> unit rows [B, out_dim]. In training, the key branch is updated before."""
        if self.training:
            follow(self.key_backbone, backbone, self.settings.momentum)
            follow(self.key_head, self.head, self.settings.momentum)
        return shuffled(self._keys, clips, generator) if self.settings.shuffle and self.training else self._keys(clips)

    def compare(self, queries: Tensor, keys: Tensor) -> Contrast:
        """Loss of identifying each query's own key among the negatives. The queue must belong to the branch of `keys`."""
        if self.queue is not None:
            return info_nce(queries, keys, self.queue.used, self.settings.temperature)
        # In validation, processes may have different numbers of keys, so each uses only its own.
        rank = position()[0] if self.training else 0
        everyone = gather_rows(keys) if self.training else keys
        own = rank * len(keys) + torch.arange(len(keys), device=keys.device)
        return info_nce(queries, keys, everyone, self.settings.temperature, own)

    def remember(self, keys: Tensor) -> None:
        """In training, put the keys of all processes into the queue."""
        if self.training and self.queue is not None:
            self.queue.enqueue(keys)

    def _keys(self, clips: Tensor) -> Tensor:
        return unit_rows(self.key_head(self.key_backbone(clips)))


def own_keys(queue_size: int, samples: int, per_epoch: int) -> float:
    """Number of keys in the queue that are of the query's own video or recording, on average over a late epoch.

    Each epoch adds one key per video to the queue, after its query. Keys of earlier epochs that are still in the queue are
    equally distributed over the videos.

    Args:
        queue_size: keys in the queue.
        samples: videos or recordings in the training set.
        per_epoch: number of them in an epoch.
    """
    earlier = queue_size - per_epoch / 2 if queue_size >= per_epoch else queue_size**2 / (2 * per_epoch)
    return earlier / samples
