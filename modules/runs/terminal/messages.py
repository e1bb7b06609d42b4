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
    # The first line of a run states devices, precision and seed.
    r"(GPU|TPU|HPU) available: ",
    r"LOCAL_RANK: ",
    r"Seed set to ",
    r"Using .* Automatic Mixed Precision",
    # Requested by the user, or a result of the order of calls.
    r"`Trainer\((limit_\w+_batches|overfit_batches|val_check_interval)=",
    r"`Trainer.fit` stopped: `max_(epochs|steps)=",
    r"Loading `train_dataloader` to estimate",
    r"Trainer already configured with model summary",
    # The next line states that the checkpoint was restored.
    r"Restoring states from the checkpoint",
    # Advertisements for other products.
    r"💡 Tip: ",
    # The line with the checkpoint follows.
    r"\s*Detected KeyboardInterrupt",
)
"""Beginnings of Lightning's messages that are hidden."""
WARNINGS = (
    # Lightning calls an old function of torch.
    r".*LeafSpec",
    # A resumed run writes to the same folder.
    r"Checkpoint directory .* exists and is not empty",
)
"""Beginnings of warnings that users cannot act on."""
LOGGERS = ("lightning.pytorch", "lightning.fabric")
OURS = (Path(__file__).parents[3], Path(lightning.__file__).parent)
"""Modules whose warnings are for users, who do not need the position in the code."""


class _Filter(logging.Filter):
    """Hides `INFORMATION` and repeated messages, for example of a test after training."""

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
    """Show messages for the user, each on its own line, also next to a progress bar.

    Warnings for users are one line without the position in the code; warnings of other libraries are unchanged.
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
