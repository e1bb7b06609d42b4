"""Files with the predictions of `predict`."""

import json
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from safetensors.torch import save_file
from torch import Tensor

from callbacks.reports.tables import rows_of, write_table
from callbacks.result_file import facts_of
from modules.core.batch import Batch
from modules.core.distributed import gather_lists, gather_once
from modules.core.files import write_json, write_whole
from modules.core.output import Columns, Predicted
from modules.core.run import run_of
from modules.training.method import Method

REASON = "reason"
"""Column with the reason why a sample has no prediction."""


class Predictions(Callback):
    """Writes the predictions of `predict` to `<run>/predictions`, in files named after the class of the data module.

    * Classes, counts and neighbours: `<data>.csv`, with a row per sample in the order of the list, and `<data>.json` with the
      same rows, the class names, the weights with their hash, and all settings. The row of a sample whose file could not be
      read only contains its path and the reason.
    * Features, for methods without other predictions: `<data>.safetensors`, `<data>.csv` (path, label) and `<data>.json`, a
      collection like those of `embed`, and `<data>.bad.tsv` if files could not be read.

    The first process writes the files, with each sample once, and replaces earlier files. Until then, all predictions
    are kept in memory. The command line adds this callback to `predict`.
    """

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, Tensor]] = []
        self._reasons: dict[int, str] = {}
        self._told = ""

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the collected predictions."""
        self._parts, self._reasons, self._told = [], {}, ""

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the predictions of a batch."""
        if not isinstance(outputs, Predicted):
            return
        label = batch.label if batch.label.ndim == 1 else torch.full_like(batch.index, -1)
        facts = torch.stack([outputs.number, outputs.missed.long(), label], 1)
        self._parts.append((outputs.value.cpu(), facts.cpu()))
        self._reasons |= dict(batch.reading.faults)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather the predictions of all processes, and write them."""
        if not self._parts or not isinstance(pl_module, Method):
            return
        value, facts = (torch.cat(part).to(pl_module.device) for part in zip(*self._parts, strict=True))
        self._parts = []
        value, facts = (part.cpu() for part in gather_once(trainer, value, facts, facts[:, 0]))
        known = dict(gather_lists(list(self._reasons.items())))
        data: Any = run_of(trainer).datamodule
        manifest = getattr(getattr(data, "data", data), "predict_manifest", None)
        (numbers, missed, labels), read = facts.T.tolist(), facts[:, 1] == 0
        paths = [manifest.paths[number] if manifest is not None else str(number) for number in numbers]
        reasons = [known.get(number, "could not be read") if gone else "" for number, gone in zip(numbers, missed, strict=True)]
        # All processes call this, because it may need samples that are distributed over them.
        answers = pl_module.answers([path for path, why in zip(paths, reasons, strict=True) if not why], value[read])
        if not trainer.is_global_zero or run_of(trainer).fast_dev_run:
            return
        content = facts_of(trainer) | {"method": type(pl_module).__name__, "samples": int(read.sum())}
        content["missed"] = {path: why for path, why in zip(paths, reasons, strict=True) if why}
        if manifest is not None:
            content |= {"root": str(Path(manifest.root).absolute()), "data_sha256": manifest.sha256()}
        name = Path(trainer.default_root_dir) / "predictions" / str(content["data"]).lower()
        if answers is None:
            names = (manifest.class_names if manifest is not None else getattr(data, "class_names", None)) or []
            rows = [(path, label) for path, label, why in zip(paths, labels, reasons, strict=True) if not why]
            table: Columns = {"path": [path for path, _ in rows], "label": [_label(label, names) for _, label in rows]}
            self._told = write_features(name, value[read], table, content)
            return
        columns: Columns = {"path": paths}
        if manifest is not None and manifest.spans is not None:
            columns |= dict(zip(("start", "end"), manifest.spans[numbers].T.tolist(), strict=True))
        for column, values in answers.columns.items():
            rest = iter(values)
            columns[column] = [None if why else next(rest) for why in reasons]
        columns[REASON] = reasons
        self._told = write_answers(name, columns, answers.tables, content | answers.facts)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the paths of the files below the progress bar."""
        if self._told:
            rank_zero_info(self._told)


def write_answers(name: Path, columns: Columns, tables: dict[str, Columns], content: dict[str, Any]) -> str:
    """Write tables: `<name>.csv`, `<name>.json` with the same rows, and `<name>_<table>.csv` for each further table.

    Args:
        name: path of the files, without suffix.
        columns: columns of the table with a row per sample.
        tables: further tables by name.
        content: further content of the JSON file.

    Returns:
        A sentence with their paths.
    """
    for other, table in {"": columns, **{f"_{key}": table for key, table in tables.items()}}.items():
        write_table(name.with_name(f"{name.name}{other}.csv"), table)
    content = content | {"predictions": list(rows_of(columns))}
    write_whole(name.with_name(f"{name.name}.json"), lambda path: write_json(path, content))
    more = "".join(f", {name.name}_{key}.csv" for key in tables)
    missed = f"; {len(content['missed'])} could not be read, see the column {REASON}" if content["missed"] else ""
    return f"Predictions of {content['samples']} samples: {name}.csv{more} and {name.name}.json{missed}."


def write_features(name: Path, feature: Tensor, table: Columns, content: dict[str, Any]) -> str:
    """Write a collection of features, in the format of `embed`.

    Args:
        name: path of the files, without suffix.
        feature: float32 [N, D].
        table: path and label of each row.
        content: the passport, with the reasons why samples are `missed`.

    Returns:
        A sentence with their paths.
    """
    passport = {"format": "lightning-video-ssl features, version 1", **content}
    told = {"passport": json.dumps(passport, default=float)}
    file = name.with_name(f"{name.name}.safetensors")
    write_whole(file, lambda path: save_file({"feature": feature.contiguous()}, path, told))
    write_table(name.with_name(f"{name.name}.csv"), table)
    write_whole(name.with_name(f"{name.name}.json"), lambda path: write_json(path, passport))
    bad, missed = name.with_name(f"{name.name}.bad.tsv"), content["missed"]
    if missed:
        lines = [f"{path}\t{reason}\n" for path, reason in missed.items()]
        write_whole(bad, lambda path: path.write_text("".join(["path\treason\n", *lines]), errors="surrogateescape"))
    else:
        bad.unlink(missing_ok=True)
    more = f"; {len(missed)} could not be read, see {bad.name}" if missed else ""
    return f"Features of {len(feature)} samples: {file}, with {name.name}.csv and {name.name}.json{more}."


def _label(label: int, names: list[str]) -> str | int:
    """A label as written in collections; empty if there is none."""
    return "" if label < 0 else names[label] if label < len(names) else label
