"""The last lines of a command: the files that it has written, and the next command to try."""

from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

FILES = ("checkpoints/*.ckpt", "probe_report.md", "results/*", "bad_videos.tsv", "*/bad_videos.tsv")
"""Files that are listed one by one; `predict` lists its own."""
PICTURES = "pictures/*"


class Ending:
    """Finds new and changed files in a run's folder.

    Args:
        root: folder of the run, before the command writes to it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._before = self._found((*FILES, PICTURES))

    def _found(self, patterns: tuple[str, ...]) -> dict[Path, int]:
        """Modification times of the files."""
        return {path: path.stat().st_mtime_ns for pattern in patterns for path in self.root.glob(pattern)}

    def _written(self, *patterns: str) -> list[str]:
        """Files written since the start, relative to the folder."""
        found = self._found(patterns).items()
        return sorted(str(path.relative_to(self.root)) for path, time in found if self._before.get(path) != time)

    def lines(self, trainer: Trainer, following: str | None) -> list[str]:
        """The lines to print.

        Args:
            trainer: trainer of the command.
            following: a command to try next, if there is one.
        """
        pictures = self._written(PICTURES)
        files = self._written(*FILES) + ([count_pictures(len(pictures))] if pictures else [])
        return [
            *([f"Written to {self.root}: {', '.join(files)}"] if files else []),
            *(f"Metrics: {place_of(logger)}" for logger in trainer.loggers),
            *([f"Next: python main.py {following}"] if following else []),
        ]


def count_pictures(count: int) -> str:
    """Text with the number of pictures."""
    return f"{count} picture{'s' if count > 1 else ''} in pictures"


def place_of(logger: Logger) -> str:
    """Where to find the output of a logger."""
    if isinstance(logger, TensorBoardLogger):
        return f"tensorboard --logdir {Path(logger.log_dir)}"
    if isinstance(logger, CSVLogger):
        return str(Path(logger.log_dir, "metrics.csv"))
    if isinstance(logger, WandbLogger):
        return f"W&B, run {logger.version or logger.name}, kept in {Path(logger.save_dir or '.') / 'wandb'}"
    return f"{type(logger).__name__} {logger.name or ''} in {logger.save_dir}"
