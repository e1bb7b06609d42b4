"""Clips beside the training clips whose features are nearest, as pictures."""

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from callbacks.features import ALL, ValidationProbe, probe_sets
from callbacks.pictures import enlarge, write_film
from modules.core.batch import SEQUENCE_AXIS, Batch, Stream
from modules.core.errors import SettingError, check_positive
from modules.downstream.metrics.probes import nearest
from modules.layers.skeleton_drawing import draw_skeletons
from modules.training.method import Method

FRAME = 4
# Okabe and Ito's green and vermilion, which colour-blind readers can distinguish; black for the query itself.
SAME, OTHER, QUERY = (0, 158, 115), (213, 94, 0), (0, 0, 0)


def draw(stream: Stream, frames: int) -> Tensor:
    """First clips of videos or skeletons, evenly spaced frames: uint8 [B, T', H, W, 3].

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


class Neighbours(ValidationProbe):
    """Draws validation clips beside the training clips with the nearest features (cosine of `embed`).

    A row shows one validation clip and its neighbours, the nearest first. The frame is green around neighbours of the same
    class, red around others. In TensorBoard under Images and in `<run>/pictures`, as a still and as a moving picture.

    Args:
        every_n_epochs: draw after the validation of every n-th epoch.
        clips: validation clips to draw, evenly spaced.
        k: neighbours of each.
        frames: frames of the moving picture at most.
    """

    reads_clips = reads_bank = True

    def __init__(self, every_n_epochs: int = 10, clips: int = 6, k: int = 5, frames: int = 16) -> None:
        check_positive("Neighbours", every_n_epochs=every_n_epochs, clips=clips, k=k, frames=frames)
        self.every_n_epochs, self.clips, self.k, self.frames = every_n_epochs, clips, k, frames

    def wants(self, trainer: Trainer, batch: Batch) -> int:
        """All samples, if it is time, and they have one label each."""
        return 0 if (trainer.current_epoch + 1) % self.every_n_epochs or batch.label.ndim != 1 else ALL

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare, draw."""
        if trainer.sanity_checking or not isinstance(pl_module, Method):
            return
        if (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        sets = probe_sets(trainer)
        bank, queries = sets.bank(trainer, pl_module), sets.validation(trainer, pl_module).labelled()
        if not len(bank.label) or not len(queries.label) or not trainer.is_global_zero:
            return
        count = min(self.clips, len(queries.label))
        chosen = torch.linspace(0, len(queries.label) - 1, count, device=queries.label.device).round().long()
        found = nearest(bank.rows, queries.rows[chosen], self.k)[1]
        same = (bank.label[found] == queries.label[chosen, None]).tolist()
        loaders = sets.validation_loader(trainer), sets.probe_loader(trainer)
        rows = []
        for query, neighbours, right in zip(queries.number[chosen, None], bank.number[found], same, strict=True):
            clips = [
                draw(loader.read(0, numbers.tolist()).stream(pl_module.stream), self.frames)
                for loader, numbers in zip(loaders, (query, neighbours), strict=True)
            ]
            rows.append(framed(torch.cat(clips), [QUERY, *(SAME if one else OTHER for one in right)]))
        # Clips of one row side by side, rows one below the other.
        film = torch.cat([row.permute(1, 2, 0, 3, 4).flatten(2, 3) for row in rows], dim=1)
        write_film(trainer, "neighbours", trainer.global_step, film)
