"""Clips beside the training clips whose features are nearest, as pictures."""

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.features import extract
from callbacks.pictures import enlarge, write_film
from modules.core.batch import SEQUENCE_AXIS, Batch, Stream
from modules.core.errors import SettingError, check_positive
from modules.core.run import run_of
from modules.downstream.metrics.probes import nearest
from modules.layers.skeleton_drawing import draw_skeletons
from modules.training.method import Method

FRAME = 4
# Okabe and Ito's green and vermilion, which those who cannot tell red from green tell apart; black for the query itself.
SAME, OTHER, QUERY = (0, 158, 115), (213, 94, 0), (0, 0, 0)


def draw(stream: Stream, frames: int) -> Tensor:
    """First clips of videos or skeletons, evenly picked frames: uint8 [B, T', H, W, 3].

    Raises:
        SettingError: for other kinds.
    """
    if stream.kind not in ("video", "skeleton"):
        raise SettingError(f"Neighbours draws videos and skeletons, but the model reads a {stream.kind}; leave it out.")
    clips, axis = stream.data[:, 0], SEQUENCE_AXIS[stream.kind]
    shown = torch.linspace(0, clips.shape[axis] - 1, min(frames, clips.shape[axis])).round().long()
    clips = clips.index_select(axis, shown)
    return draw_skeletons(clips) if stream.kind == "skeleton" else enlarge(clips)


def framed(clips: Tensor, colours: list[tuple[int, int, int]]) -> Tensor:
    """Put each clip in a frame of its colour: uint8 [B, T, H, W, 3] -> the same, larger."""
    result = F.pad(clips, (0, 0, FRAME, FRAME, FRAME, FRAME))
    for clip, colour in zip(result, colours, strict=True):
        inside = clip[:, FRAME:-FRAME, FRAME:-FRAME].clone()
        clip[:] = torch.tensor(colour, dtype=torch.uint8)
        clip[:, FRAME:-FRAME, FRAME:-FRAME] = inside
    return result


class Neighbours(Callback):
    """Draws validation clips beside the training clips with the nearest features (cosine of `embed`).

    A row shows one validation clip and its neighbours, the nearest first. The frame is green around neighbours of the same
    class, red around others. In TensorBoard under Images and in `<run>/pictures`, as a still and as a moving picture.

    Args:
        every_n_epochs: draw after the validation of every n-th epoch.
        clips: validation clips to draw, evenly picked.
        k: neighbours of each.
        frames: frames of the moving picture at most.
    """

    reads_clips = True

    def __init__(self, every_n_epochs: int = 10, clips: int = 6, k: int = 5, frames: int = 16) -> None:
        check_positive("Neighbours", every_n_epochs=every_n_epochs, clips=clips, k=k, frames=frames)
        self.every_n_epochs, self.clips, self.k, self.frames = every_n_epochs, clips, k, frames

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read both sets, compare, draw."""
        if trainer.sanity_checking or not isinstance(pl_module, Method):
            return
        if (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        data = run_of(trainer).datamodule
        loaders = data.probe_dataloader(), data.val_dataloader()

        def numbered(batch: Batch) -> Tensor:
            # What is gathered comes back without the numbers of its samples, by which they are read again.
            return torch.cat([pl_module.embed(batch), batch.index[:, None].float()], dim=1)

        (bank, bank_labels), (queries, labels) = (extract(trainer, pl_module, loader, numbered) for loader in loaders)
        if not len(bank) or not len(queries) or not trainer.is_global_zero:
            return
        chosen = torch.linspace(0, len(queries) - 1, min(self.clips, len(queries)), device=queries.device).round().long()
        found = nearest(bank[:, :-1], queries[chosen, :-1], self.k)[1]
        same = (bank_labels[found] == labels[chosen, None]).tolist()
        rows = []
        for query, neighbours, right in zip(queries[chosen], bank[found], same, strict=True):
            clips = [
                draw(loader.read(0, numbers[:, -1].long().tolist()).stream(pl_module.stream), self.frames)
                for loader, numbers in ((loaders[1], query[None]), (loaders[0], neighbours))
            ]
            rows.append(framed(torch.cat(clips), [QUERY, *(SAME if one else OTHER for one in right)]))
        # Clips of one row side by side, rows one below the other.
        film = torch.cat([row.permute(1, 2, 0, 3, 4).flatten(2, 3) for row in rows], dim=1)
        write_film(trainer, "neighbours", trainer.global_step, film)
