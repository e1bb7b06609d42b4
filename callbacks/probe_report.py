"""What a short run has learned: probes before and after training, compared with baselines that need no network."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from callbacks.features import extract_all, let_go, probe_sets, watched
from modules.core.batch import Batch, Kind
from modules.core.errors import check_positive
from modules.core.run import run_of
from modules.core.tokens import pool_tokens
from modules.downstream.metrics.probes import frame_difference, knn_accuracy, linear_accuracy, say_bank, single_frame
from modules.training.method import Method

# Chosen before any run, and marked in the table. Time slices are separate because a mean over time cannot distinguish a
# motion from its reverse, however good the network is.
SLICES, TOKENS, POOLED = "tokens per time slice", "mean of all tokens", "pooled feature"
MAIN_READOUT = f"{SLICES}, linear"
# For backbones without tokens per time slice: video CNNs and skeleton encoders.
MAIN_POOLED = f"{POOLED}, linear"
RECENT_STEPS = 100

Readouts = dict[str, Callable[[Batch], Tensor]]


def tokens_per_slice(method: Method, batch: Batch) -> Tensor:
    """Tokens of the encoder, averaged over each time slice: [B, t * D]."""
    tokens = method.backbone.forward_features(method.normalise(method.inputs(batch)[:, 0]))  # type: ignore[operator]
    return pool_tokens(tokens.float(), method.backbone.grid[:3], "time")  # type: ignore[index, arg-type]


def has_slices(method: Method) -> bool:
    """Whether the backbone has tokens per time slice, i.e. defines their grid."""
    return hasattr(method.backbone, "grid")


def middle_frame(clips: Tensor) -> Tensor:
    """Raw pixels of the middle frame of [B, T, H, W, 3]."""
    return single_frame(clips, clips.shape[1] // 2)


def middle_pose(clips: Tensor) -> Tensor:
    """Raw coordinates of the middle frame of [B, 3, T, J, M]."""
    return clips[:, :, clips.shape[2] // 2].flatten(1)


def pose_differences(clips: Tensor) -> Tensor:
    """Raw differences of successive frames of [B, 3, T, J, M]."""
    return clips.diff(dim=2).flatten(1)


# Baselines without a network, by kind of the method's stream: readouts of the first clip of each sample.
RAW: dict[Kind, dict[str, Callable[[Tensor], Tensor]]] = {
    "video": {"one raw frame": middle_frame, "raw frame differences": frame_difference},
    "skeleton": {"one raw pose": middle_pose, "raw pose differences": pose_differences},
}


def _of_first_clips(method: Method, readout: Callable[[Tensor], Tensor], batch: Batch) -> Tensor:
    return readout(method.inputs(batch)[:, 0])


class ProbeReport(Callback):
    """Probes frozen features before the first step and after the last, and prints both next to simple baselines.

    Each time, all probe samples and all validation samples are read once, regardless of `trainer.limit_val_batches`, so that
    the results of different runs are comparable.

    All results are printed, including those that got worse: linear and kNN probes on tokens averaged per time slice
    and over all tokens, or on `embed` if the backbone has no such tokens; chance; one raw frame or pose; raw differences of
    frames or poses. The training loss is compared with that of the best constant prediction, if the method logs
    `constant_loss`. Also written to `probe_report.md` and `.json`.

    Args:
        k: number of neighbours of the kNN probe.
    """

    reads_clips = True

    def __init__(self, k: int = 20) -> None:
        check_positive("ProbeReport", k=k)
        self.k = k
        self.before: dict[str, float] = {}
        self._kind: Kind = "video"
        self._recent: list[Tensor] = []
        self._constant: list[Tensor] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probe the untrained network; a resumed run keeps the results from its start."""
        if isinstance(pl_module, Method) and not self.before:
            found = self._read(trainer, pl_module, self._network_readouts(pl_module))
            self.before = self._network_scores(pl_module, found)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Keep the last losses, on the device, and detect the kind of the clips."""
        if isinstance(pl_module, Method):
            self._kind = batch.stream(pl_module.stream).kind
        self._recent = [*self._recent[1 - RECENT_STEPS :], outputs["loss"].detach()]
        if "constant_loss" in outputs.get("log", {}):
            self._constant = [*self._constant[1 - RECENT_STEPS :], outputs["log"]["constant_loss"]]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probe again, print and write the report."""
        if not isinstance(pl_module, Method) or not self._recent:
            return
        raw: Readouts = {name: partial(_of_first_clips, pl_module, one) for name, one in RAW.get(self._kind, {}).items()}
        found = self._read(trainer, pl_module, self._network_readouts(pl_module) | raw)
        after = self._network_scores(pl_module, found)
        baselines = self._raw_scores(trainer, raw, found)
        # The loss from Lightning is divided by the number of accumulated batches; the constant loss is not.
        loss = torch.stack(self._recent).mean().item() * trainer.accumulate_grad_batches
        constant = torch.stack(self._constant).mean().item() if self._constant else None
        if not trainer.is_global_zero or not after:
            return
        report = {
            "main": MAIN_READOUT if has_slices(pl_module) else MAIN_POOLED,
            "before": self.before,
            "after": after,
            "baselines": baselines,
            "loss": loss,
            "constant_loss": constant,
            "steps": trainer.global_step,
        }
        text = render(report)
        print(text, flush=True)
        if not run_of(trainer).fast_dev_run:
            folder = Path(trainer.default_root_dir)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "probe_report.md").write_text(text + "\n")
            (folder / "probe_report.json").write_text(json.dumps(report, indent=1))
        for logger in trainer.loggers:
            logger.log_metrics({f"probe/{name}": value for name, value in after.items()}, trainer.global_step)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Release the loaders."""
        let_go(trainer)

    def _read(self, trainer: Trainer, method: Method, readouts: Readouts) -> dict[str, list[Tensor]]:
        """Training features and labels, validation features and labels, by readout. Both sets are read once."""
        sets = probe_sets(trainer)
        when = "after training" if self.before else "before training"
        rank_zero_info(f"ProbeReport: what can be read from the features {when}.")
        found: dict[str, list[Tensor]] = {name: [] for name in readouts}
        both = {"training": sets.probe_loader(trainer), "validation": sets.validation_loader(trainer)}
        for samples, loader in both.items():
            batches = watched(trainer, loader, f"Features of {samples} samples")
            for name, pair in zip(readouts, extract_all(trainer, method, batches, list(readouts.values())), strict=True):
                found[name] += pair
        return found

    def _scores(self, name: str, train: Tensor, labels: Tensor, test: Tensor, truth: Tensor) -> dict[str, float]:
        if not len(train) or not len(test):
            return {}
        return {
            f"{name}, linear": 100 * linear_accuracy(train, labels, test, truth),
            f"{name}, kNN": 100 * knn_accuracy(train, labels, test, truth, self.k),
        }

    def _network_readouts(self, method: Method) -> Readouts:
        return {SLICES: partial(tokens_per_slice, method)} if has_slices(method) else {POOLED: method.embed}

    def _network_scores(self, method: Method, found: dict[str, list[Tensor]]) -> dict[str, float]:
        if not has_slices(method):
            return self._scores(POOLED, *found[POOLED])
        train, labels, test, truth = found[SLICES]
        scores = self._scores(SLICES, train, labels, test, truth)
        if not scores:
            return {}
        train, test = (rows.unflatten(1, (-1, method.backbone.embed_dim)).mean(1) for rows in (train, test))
        return scores | self._scores(TOKENS, train, labels, test, truth)

    def _raw_scores(self, trainer: Trainer, raw: Readouts, found: dict[str, list[Tensor]]) -> dict[str, float]:
        classes = getattr(run_of(trainer).datamodule, "num_classes", None)
        scores = {"chance": 100 / classes} if classes else {}
        for name in raw:
            scores |= self._scores(name, *found[name])
        labels = next((found[name][1] for name in raw), torch.empty(0, dtype=torch.long))
        if len(labels):
            say_bank("ProbeReport (data.probe_samples)", labels, self.k)
        return scores

    def state_dict(self) -> dict[str, Any]:
        """The results from before training."""
        return {"before": self.before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the results from before training."""
        self.before = state_dict["before"]


def render(report: dict[str, Any]) -> str:
    """The table, as Markdown."""
    lines = ["", "| accuracy on the validation set, % | before | after | change |", "|---|---:|---:|---:|"]
    for name, after in report["after"].items():
        before = report["before"].get(name)
        star = " *" if name == report["main"] else ""
        change = f"{before:.1f} | {after:.1f} | {after - before:+.1f}" if before is not None else f" | {after:.1f} | "
        lines.append(f"| {name}{star} | {change} |")
    for name, value in report["baselines"].items():
        lines.append(f"| {name} | | {value:.1f} | |")
    lines += ["", "\\* the readout that was chosen before training; rows without 'before' use no network."]
    if report["constant_loss"]:
        share = 100 * (1 - report["loss"] / report["constant_loss"])
        lines.append(
            f"Training loss {report['loss']:.4f} after {report['steps']} steps, {abs(share):.1f} % "
            f"{'above' if share < 0 else 'below'} {report['constant_loss']:.4f}, that of the best constant prediction."
        )
    return "\n".join(lines)
