"""Repeat a training step that `NonFiniteGuard` dumped, and report where values became non-finite."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor, nn

from modules.core.errors import SettingError
from modules.runs.cli import CLI
from modules.runs.nonfinite import CONFIG, WEIGHTS, batches_file
from modules.training.compilation import compile_parts

SHOWN = 5


def replay(dump: str, rank: int = 0) -> None:
    """Repeat a step whose loss or gradient was not finite, with the same videos, random numbers and weights.

    Prints the loss, the first layer whose output is not finite, and the parameters whose gradient is not.

    Args:
        dump: folder `nonfinite/step_<n>` of a run.
        rank: rank of the process whose batches to repeat.

    Raises:
        SettingError: if the folder is not such a dump.
    """
    folder = Path(dump)
    for name in (CONFIG, WEIGHTS, batches_file(rank)):
        if not (folder / name).is_file():
            raise SettingError(f"--dump {folder} contains no {name}; pass a folder nonfinite/step_<n> of a run.")
    batches = json.loads((folder / batches_file(rank)).read_text())
    settings = yaml.safe_load((folder / CONFIG).read_text())
    # The same method and data, on the devices of this machine.
    trainer = {"devices": 1, "logger": False, "precision": settings["trainer"]["precision"], "default_root_dir": str(folder)}
    chosen = {key: settings[key] for key in ("seed_everything", "model", "data")} | {"trainer": trainer}
    cli = CLI(chosen, run=False)
    method, data = cli.model, cli.datamodule
    method.load_state_dict(torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True))
    device = cli.trainer.strategy.root_device
    method.to(device).train()
    cli.trainer.precision_plugin.convert_module(method)
    compile_parts(method, settings.get("compile", "none"))
    data.setup("fit")
    method.take_data(data)
    data.preparation = method.preparation()
    loader = data.train_dataloader()
    for entry in batches:
        batch = move_data_to_device(loader.read(entry["epoch"], entry["index"], entry.get("place", 0)), device)
        spoiled: list[str] = []
        hooks = [part.register_forward_hook(_watch(name, spoiled)) for name, part in method.named_modules() if name]
        with cli.trainer.precision_plugin.forward_context():
            output = method.seeded_step(batch, entry["epoch"], entry["batch_idx"], rank)
        for hook in hooks:
            hook.remove()
        output["loss"].backward()
        _report(entry, float(output["loss"].detach()), spoiled, method, getattr(data, "train_manifest", None))


def _watch(name: str, spoiled: list[str]) -> Callable[[nn.Module, Any, Any], None]:
    """A hook that records modules with a non-finite output; inner modules are called before outer ones finish."""

    def hook(part: nn.Module, inputs: Any, output: Any) -> None:
        values = [value for value in (output if isinstance(output, tuple) else (output,)) if isinstance(value, Tensor)]
        if not all(value.isfinite().all() for value in values if value.is_floating_point()):
            spoiled.append(f"{name} ({type(part).__name__})")

    return hook


def _report(entry: dict[str, Any], loss: float, spoiled: list[str], method: nn.Module, manifest: Any) -> None:
    same = loss == entry["loss"] or (math.isnan(loss) and math.isnan(entry["loss"]))
    print(
        f"step {entry['step']}, batch {entry['batch_idx']} of epoch {entry['epoch']}: loss {loss!r}, in the run "
        f"{entry['loss']!r}: {'the same' if same else 'NOT the same'}"
    )
    print(f"videos: {', '.join(manifest.paths[row] if manifest is not None else str(row) for row in entry['index'])}")
    print(f"first output that is not finite: {spoiled[0] if spoiled else 'none, the loss itself or its gradient'}")
    bad = [name for name, value in method.named_parameters() if value.grad is not None and not value.grad.isfinite().all()]
    shown = ", ".join(bad[:SHOWN]) + (", ..." if len(bad) > SHOWN else "")
    print(f"gradients that are not finite: {len(bad)}" + (f" ({shown})" if bad else ""))
