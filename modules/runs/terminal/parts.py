"""Summary of the parts of a method: their sizes, and whether they are trained."""

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelSummary
from lightning.pytorch.utilities import rank_zero_info
from torch import nn


class PartsSummary(ModelSummary):
    """One line per part of the method, instead of Lightning's table. The command line adds it to every training run."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print it."""
        rank_zero_info("\n".join(describe_parts(pl_module)))


def describe_parts(module: nn.Module) -> list[str]:
    """A line for the module, and one for each of its parts that has parameters."""
    parts = [(name, type(part).__name__, list(part.parameters())) for name, part in module.named_children()]
    own = list(module.parameters(recurse=False))
    rows = [(name, kind, values) for name, kind, values in [*parts, ("itself", "", own)] if values]
    width, kind_width = (max((len(row[column]) for row in rows), default=0) for column in (0, 1))
    lines = [f"{type(module).__name__}: {_sizes(list(module.parameters()))}"]
    return lines + [f"  {name:<{width}}  {kind:<{kind_width}}  {_sizes(values)}" for name, kind, values in rows]


def _sizes(values: list[nn.Parameter]) -> str:
    count, trained = sum(one.numel() for one in values), sum(one.numel() for one in values if one.requires_grad)
    state = "trained" if trained == count else f"{_short(trained)} of them trained" if trained else "frozen"
    return f"{_short(count)} parameters, {state}"


def _short(count: int) -> str:
    """1234567 -> '1.23 M'."""
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " K")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return str(count)
