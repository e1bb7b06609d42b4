"""Which messages of Lightning and PyTorch are shown, and how."""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning
from tqdm.contrib.logging import logging_redirect_tqdm

INFORMATION = (
    # What devices, precision and seed a run has, its own first line says.
    r"(GPU|TPU|HPU) available: ",
    r"LOCAL_RANK: ",
    r"Seed set to ",
    r"Using .* Automatic Mixed Precision",
    # What was asked for, and what the order of calls makes necessary.
    r"`Trainer\((limit_\w+_batches|overfit_batches|val_check_interval)=",
    r"`Trainer.fit` stopped: `max_(epochs|steps)=",
    r"Loading `train_dataloader` to estimate",
    r"Trainer already configured with model summary",
    # The next line says that it was restored.
    r"Restoring states from the checkpoint",
    # Other products.
    r"💡 Tip: ",
    # The line with the checkpoint follows.
    r"\s*Detected KeyboardInterrupt",
)
"""Beginnings of Lightning's messages that are left out."""
WARNINGS = (
    # Lightning calls an old function of torch.
    r".*LeafSpec",
    # A run that goes on writes where it wrote before.
    r"Checkpoint directory .* exists and is not empty",
)
"""Beginnings of warnings that no user can do anything about."""
LOGGERS = ("lightning.pytorch", "lightning.fabric")
OURS = (Path(__file__).parents[3], Path(lightning.__file__).parent)
"""Where warnings are written for users: the place in the code tells them nothing."""


class _Filter(logging.Filter):
    """Leaves `INFORMATION` out, and what was said before, as when a test follows training."""

    def __init__(self) -> None:
        super().__init__()
        self._last: logging.LogRecord | None = None
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        if record is self._last:
            # For another handler.
            return True
        text = record.getMessage()
        if any(re.match(noise, text) for noise in INFORMATION) or text in self._said:
            return False
        self._last = record
        self._said.add(text)
        return True


@contextmanager
def plain_messages() -> Iterator[None]:
    """Show what concerns the user, each message on separate lines, also beside a progress bar.

    Warnings for users are one line without the place in the code; those of other libraries stay as they are.
    """
    usual, silent = warnings.formatwarning, _Filter()

    def formatted(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
        if issubclass(category, UserWarning) and any(Path(filename).is_relative_to(folder) for folder in OURS):
            return f"warning: {message}\n"
        return usual(message, category, filename, lineno, line)

    loggers = [logging.getLogger(name) for name in LOGGERS]
    with warnings.catch_warnings(), logging_redirect_tqdm(loggers):
        for noise in WARNINGS:
            warnings.filterwarnings("ignore", noise)
        handlers = [handler for log in loggers for handler in log.handlers]
        for handler in handlers:
            handler.addFilter(silent)
        warnings.formatwarning = formatted
        try:
            yield
        finally:
            warnings.formatwarning = usual
            for handler in handlers:
                handler.removeFilter(silent)
