"""Queue of the keys of earlier steps, the negatives of momentum contrast."""

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from modules.core.distributed import gather_rows
from modules.core.errors import SettingError


class Queue(nn.Module):
    """The last `size` keys, first in, first out (MoCo, official code, which stores them as columns).

    It is initialised with random unit vectors. Keys and pointer are in the checkpoint, so a resumed run continues at the same
    position. The queue is the same in all processes, because they use the same seed and write the keys of all processes. DDP's
    broadcast of buffers therefore changes nothing, but costs time; turn it off.

    Args:
        size: number of keys, K.
        dim: length of a key, D.
        seed: seed of the initial keys; the global generator is not used.

    Raises:
        SettingError: if `size` is not positive.
    """

    keys: Tensor
    pointer: Tensor

    def __init__(self, size: int, dim: int, seed: int = 0) -> None:
        super().__init__()
        if size < 1:
            raise SettingError(
                f"model.contrast.queue_size is {size}; set it to a positive multiple of the global batch, or to 0 for none."
            )
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("keys", F.normalize(torch.randn(size, dim, generator=generator), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self.rows = size
        """rows in use, from the first on; see `trim`"""

    @property
    def used(self) -> Tensor:
        """The rows in use: [rows, D], a view of the keys."""
        return self.keys[: self.rows]

    def check(self, global_batch: int) -> None:
        """Check before the first step that the queue is a multiple of the batch.

        Args:
            global_batch: number of keys that `enqueue` writes at once, those of one batch in every process.

        Raises:
            SettingError: naming both settings.
        """
        size = self.rows
        if size % global_batch:
            fitting = max(1, round(size / global_batch)) * global_batch
            raise SettingError(
                f"model.contrast.queue_size {size} is not a multiple of the global batch, {global_batch} keys over all "
                f"processes; set model.contrast.queue_size to {fitting}, or data.batch_size so that the global batch divides "
                f"{size}."
            )

    def trim(self, global_batch: int) -> None:
        """Use only as many rows as are a multiple of the batch (RSPNet, official code). The other rows stay in the
        checkpoint, so that its shape does not depend on the batch.

        Args:
            global_batch: see `check`.

        Raises:
            SettingError: if the queue is smaller than the batch.
        """
        size = len(self.keys)
        if size < global_batch:
            raise SettingError(
                f"model.contrast.queue_size {size} is less than the global batch, {global_batch} keys over all processes; "
                f"set it to {global_batch} or more."
            )
        self.rows = size // global_batch * global_batch
        if self.rows < size:
            rank_zero_info(
                f"The queue uses {self.rows} of its {size} rows (model.contrast.queue_size), a multiple of the global batch, "
                f"{global_batch}."
            )

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Replace the oldest keys by those of all processes, in order of rank. Only call this in training.

        Args:
            keys: [B, D] unit rows of this process, the same number in every process.
        """
        keys = gather_rows(keys.float())
        rows = (self.pointer + torch.arange(len(keys), device=keys.device)) % self.rows
        self.keys.index_copy_(0, rows, keys)
        self.pointer.add_(len(keys)).remainder_(self.rows)
