"""What a masked method imagines between the ends of clips."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.pictures import enlarge, gif, png, write_picture
from modules.core.device import evaluating
from modules.core.errors import SettingError, check_positive
from modules.core.run import run_of
from modules.layers.drawing.before_after import below, beside, pick
from modules.layers.drawing.clips import hide_tokens
from modules.layers.interpolation import Guesses, filled, guesses, hidden_error
from modules.layers.targets import PixelTarget
from modules.masks.clip import CenterMask
from modules.methods.stmae import STMAE
from modules.methods.videomae import VideoMAE
from modules.training.sharding import is_sharded

COLUMNS = 16
"""Most frames of a strip."""


class Interpolations(Callback):
    """Draws what the network imagines between the ends of validation clips, whose middle is hidden (`CenterMask`).

    `interpolation` is a picture with the clip, its ends, what the network imagines, and the linear blend of the ends, and
    `interpolation_video` the same as a GIF; both are in `<run>/pictures`, and in TensorBoard or W&B. The loggers get the mean
    squared error of hidden pixels (from 0 to 1) as `interpolation/network`, next to those of two guesses: `repeated`, the
    nearest visible frame, and `blended`. Pixels that are normalised per token are drawn with the true mean
    and contrast of each token, so their error is not measured. The method is trained with its own mask; this callback changes
    nothing in training.

    Args:
        every_n_steps: draw at the first step, every n optimiser steps, and at the end.
        clips: validation clips that are drawn and measured.
        ratio: hidden fraction of the tokens; 0.5 leaves a quarter of the clip at each end.
    """

    reads_clips = True

    def __init__(self, every_n_steps: int = 1000, clips: int = 4, ratio: float = 0.5) -> None:
        check_positive("Interpolations", every_n_steps=every_n_steps, clips=clips)
        self.every_n_steps, self.clips, self.mask = every_n_steps, clips, CenterMask(ratio)
        self._drawn_at = -1

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the method predicts pixels, and that every place of a slice is visible in one of them.

        Raises:
            SettingError: otherwise.
        """
        if not isinstance(pl_module, STMAE | VideoMAE) or not isinstance(pl_module.target, PixelTarget):
            raise SettingError("The callback Interpolations is for STMAE or VideoMAE with pixels as a target; leave it out.")
        grid = pl_module.backbone.grid
        visible = grid.tokens - self.mask.masked_count(grid)
        if not grid.slice_tokens <= visible < grid.tokens:
            raise SettingError(
                f"The callback Interpolations has ratio {self.mask.ratio}, which leaves {visible} of {grid.tokens} tokens; at "
                f"least the {grid.slice_tokens} of a slice must be visible, and some hidden: change it."
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw if it is due."""
        step = trainer.global_step
        if step == 1 or (step > 0 and step % self.every_n_steps == 0):
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the last step."""
        self._draw(trainer, pl_module)

    def _draw(self, trainer: Trainer, method: LightningModule) -> None:
        """In the first process; nothing in a step of these methods waits for the others. Not with sharded weights."""
        step = trainer.global_step
        if step == self._drawn_at or not trainer.is_global_zero or is_sharded(method):
            return
        assert isinstance(method, STMAE | VideoMAE)
        data: Any = run_of(trainer).datamodule
        # A separate loader, which shares no state with those of the run; there is none without validation samples.
        loader: Any = data.val_dataloader() if hasattr(data, "val_dataloader") else None
        if not hasattr(loader, "read"):
            return
        self._drawn_at = step
        rows = pick(len(loader.dataset), self.clips).tolist()
        with evaluating(method), trainer.precision_plugin.forward_context():
            batch = trainer.strategy.batch_to_device(loader.read(0, rows))
            films, errors = interpolated(method, method.inputs(batch)[:, 0], self.mask)
        shown = {name: enlarge(video.cpu()) for name, video in films.items()}
        columns = pick(next(iter(shown.values())).shape[1], COLUMNS)
        strips = [
            beside({f"{name}, clip {row + 1}": video[row : row + 1, columns] for name, video in shown.items()})
            for row in range(len(rows))
        ]
        write_picture(trainer, "interpolation", step, "png", png(below(strips)))
        moving = torch.cat(list(shown.values()), dim=3)
        write_picture(trainer, "interpolation_video", step, "gif", gif(moving))
        for logger in trainer.loggers:
            logger.log_metrics({f"interpolation/{name}": error.item() for name, error in errors.items()}, step)


def interpolated(method: STMAE | VideoMAE, clip: Tensor, mask: CenterMask) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What a method imagines between the ends of clips, with errors.

    Args:
        method: method that predicts pixels.
        clip: uint8 [B, T, H, W, 3]
        mask: mask of the middle.

    Returns:
        Films uint8 [B, T, H, W, 3] by title, and the mean squared errors of hidden pixels of the network and of the guesses;
        none if the network does not predict mean and contrast.
    """
    grid, target = method.backbone.grid, method.target
    assert isinstance(target, PixelTarget)
    drawn = mask.draw(len(clip), grid, torch.Generator(clip.device))
    prediction = method.predict(clip, drawn.visible, drawn.targets).float()
    everywhere = prediction.new_zeros(len(clip), grid.tokens, prediction.shape[2])
    everywhere = everywhere.scatter(1, drawn.targets[..., None].expand_as(prediction), prediction)
    imagined = target.to_pixels(everywhere, method.normalise(clip), grid, method.backbone.normalisation)
    simple: Guesses = guesses(clip, drawn, grid)
    films = {
        "clip": clip,
        "ends": hide_tokens(clip, drawn.targets, grid),
        "imagined": filled(clip, drawn, imagined, grid),
        "blended": filled(clip, drawn, simple.blended, grid),
    }
    if target.normalise:
        return films, {}
    cubes = {"network": imagined, "repeated": simple.repeated, "blended": simple.blended}
    return films, {name: hidden_error(clip, drawn, one, grid) for name, one in cubes.items()}
