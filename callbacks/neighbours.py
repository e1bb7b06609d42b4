"""Pictures of clips next to the training clips with the nearest features."""

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from callbacks.features import ALL, ValidationProbe, probe_sets, watched
from callbacks.pictures import enlarge, write_film
from modules.core.batch import SEQUENCE_AXIS, Batch, Stream
from modules.core.errors import check_positive
from modules.core.run import run_of
from modules.downstream.metrics.probes import nearest
from modules.layers.drawing.sheet import tile
from modules.layers.drawing.skeletons import draw_skeletons
from modules.layers.drawing.streams import shortened, wrap, write
from modules.training.method import Method

FRAME = 4
# Okabe and Ito's green and vermilion, which colour-blind readers can distinguish; black for the query itself.
SAME, OTHER, QUERY = (0, 158, 115), (213, 94, 0), (0, 0, 0)


def draw(stream: Stream, frames: int) -> Tensor:
    """First views of samples of any kind, evenly spaced frames: uint8 [B, T', H, W, 3]; see `stream_sheet.tile`."""
    if stream.kind not in ("video", "skeleton"):
        return torch.stack(as_long([tile(stream, row, frames) for row in range(len(stream.data))]))
    clips, axis = stream.data[:, 0], SEQUENCE_AXIS[stream.kind]
    shown = torch.linspace(0, clips.shape[axis] - 1, min(frames, clips.shape[axis])).round().long()
    clips = clips.index_select(axis, shown)
    return draw_skeletons(clips) if stream.kind == "skeleton" else enlarge(clips)


def as_long(clips: list[Tensor]) -> list[Tensor]:
    """Pad videos [..., T, H, W, 3] to the longest by repeating their last frame."""
    steps = torch.arange(max(one.shape[-4] for one in clips))
    return [one.index_select(one.ndim - 4, steps.clamp(max=one.shape[-4] - 1)) for one in clips]


def named(clips: Tensor, texts: list[str], lines: int = 1) -> Tensor:
    """Write a text below each clip: uint8 [B, T, H, W, 3] -> the same, higher by a few lines; long texts are shortened."""
    width = clips.shape[3]
    bands = []
    for text in texts:
        own = wrap(text, width - 2)
        own = [*own[: lines - 1], " ".join(own[lines - 1 :])]
        own += [""] * (lines - len(own))
        bands.append(write([shortened(line, width - 2) for line in own], width))
    return torch.cat([clips, torch.stack(bands)[:, None].expand(-1, clips.shape[1], -1, -1, -1)], dim=2)


def framed(clips: Tensor, colours: list[tuple[int, int, int]]) -> Tensor:
    """Draw a frame of the given colour around each clip: uint8 [B, T, H, W, 3] -> the same, larger."""
    result = F.pad(clips, (0, 0, FRAME, FRAME, FRAME, FRAME))
    for clip, colour in zip(result, colours, strict=True):
        inside = clip[:, FRAME:-FRAME, FRAME:-FRAME].clone()
        clip[:] = torch.tensor(colour, dtype=torch.uint8)
        clip[:, FRAME:-FRAME, FRAME:-FRAME] = inside
    return result


class Neighbours(ValidationProbe):
    """Draws validation clips next to the training clips with the nearest features (cosine of `embed`).

    A row shows one validation clip and its neighbours, the nearest first, with their classes and cosines. The frame is green
    around neighbours of the same class, red around others. Depth, flow, audio and so on are drawn, too. Written to TensorBoard
    under Images and in `<run>/pictures`, as PNG and GIF.

    Args:
        every_n_epochs: draw after the validation of every n-th epoch, and at the end of training.
        clips: validation clips to draw, evenly spaced.
        k: neighbours per clip.
        frames: maximum number of frames of the GIF.
    """

    reads_clips = reads_bank = True

    def __init__(self, every_n_epochs: int = 10, clips: int = 6, k: int = 5, frames: int = 16) -> None:
        check_positive("Neighbours", every_n_epochs=every_n_epochs, clips=clips, k=k, frames=frames)
        self.every_n_epochs, self.clips, self.k, self.frames = every_n_epochs, clips, k, frames
        self._drawn_at = -1

    def wants(self, trainer: Trainer, batch: Batch) -> int:
        """All samples, if pictures are due and samples have one label each."""
        return 0 if (trainer.current_epoch + 1) % self.every_n_epochs or batch.label.ndim != 1 else ALL

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find neighbours and draw."""
        if trainer.sanity_checking or not isinstance(pl_module, Method):
            return
        if not (trainer.current_epoch + 1) % self.every_n_epochs:
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, unless the last validation did. Its clips are read again, because only now is it known to be the last."""
        if self._drawn_at == trainer.global_step or not isinstance(pl_module, Method):
            return
        sets = probe_sets(trainer)
        sets.begin()
        for number, batch in enumerate(watched(trainer, sets.validation_batches(trainer), "Neighbours")):
            if batch.label.ndim != 1:
                return
            sets.see(trainer, pl_module, trainer.strategy.batch_to_device(batch), number, ALL)
        self._draw(trainer, pl_module)
        sets.begin()

    def _draw(self, trainer: Trainer, pl_module: Method) -> None:
        self._drawn_at = trainer.global_step
        sets = probe_sets(trainer)
        bank, queries = sets.bank(trainer, pl_module), sets.validation(trainer, pl_module).labelled()
        if not len(bank.label) or not len(queries.label) or not trainer.is_global_zero:
            return
        count = min(self.clips, len(queries.label))
        chosen = torch.linspace(0, len(queries.label) - 1, count, device=queries.label.device).round().long()
        cosines, found = nearest(bank.rows, queries.rows[chosen], self.k)
        same = (bank.label[found] == queries.label[chosen, None]).tolist()
        loaders = sets.validation_loader(trainer), sets.probe_loader(trainer)
        names = getattr(run_of(trainer).datamodule, "class_names", None) or []

        def name(label: int) -> str:
            return str(names[label]) if label < len(names) else f"class {label}"

        rows = []
        told = zip(queries.label[chosen].tolist(), bank.label[found].tolist(), cosines.tolist(), strict=True)
        texts = [
            [name(own), *(f"{value:.2f} {name(one)}" for value, one in zip(values, labels, strict=True))]
            for own, labels, values in told
        ]
        for query, neighbours, right, text in zip(queries.number[chosen, None], bank.number[found], same, texts, strict=True):
            clips = [
                draw(loader.read(0, numbers.tolist()).stream(pl_module.stream), self.frames)
                for loader, numbers in zip(loaders, (query, neighbours), strict=True)
            ]
            both = framed(torch.cat(as_long(clips)), [QUERY, *(SAME if one else OTHER for one in right)])
            rows.append(named(both, text))
        # Clips of a row are side by side, rows below each other.
        film = torch.cat([row.permute(1, 2, 0, 3, 4).flatten(2, 3) for row in as_long(rows)], dim=1)
        write_film(trainer, "neighbours", trainer.global_step, film)
