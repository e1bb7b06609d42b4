"""The command line: LightningCLI with one folder per run, readable errors, and a record of what ran."""

import difflib
import inspect
import re
import shutil
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from modules.core.base import Method
from modules.core.errors import SettingError
from modules.core.provenance import Provenance

DEBUG_HINT = " (set LVS_DEBUG=1 for the traceback)"


def setting_error_in(error: BaseException | None) -> SettingError | None:
    """The SettingError that an exception was raised from or while handling, if any."""
    while error is not None:
        if isinstance(error, SettingError):
            return error
        error = error.__cause__ or error.__context__
    return None


def known_settings() -> set[str]:
    """Last parts of the names of all settings: arguments of Trainer and of our classes."""
    import lightning.pytorch.callbacks as lightning_callbacks

    names = set(inspect.signature(__import__("lightning").Trainer.__init__).parameters)
    names |= {"ckpt_path", "config", "seed_everything", "trainer", "model", "data", "class_path", "init_args"}
    families: list[Any] = [Method, LightningDataModule, lightning_callbacks.Callback, torch.nn.Module]
    while families:
        family = families.pop()
        families += [kind for kind in family.__subclasses__() if kind.__module__.split(".")[0] in OUR_PACKAGES]
        names |= (
            set(inspect.signature(family.__init__).parameters) if family.__module__.split(".")[0] in OUR_PACKAGES else set()
        )
    return names - {"self", "args", "kwargs"}


OUR_PACKAGES = {"modules", "datamodules", "callbacks"}


def explain(message: str) -> str:
    """One sentence for a message of the parser, with the nearest right name for a wrong one.

    Args:
        message: of jsonargparse, several lines with the types it tried.
    """
    lines = [line.strip(" -") for line in message.splitlines() if line.strip()]
    unknown = re.search(
        r"(?:[Kk]ey|[Oo]ption) '([\w.]+)' is not|No action for key '([\w.]+)'|[Uu]nrecognized arguments: --([\w.]+)",
        message,
    )
    if unknown is None:
        return " ".join(lines)
    name = next(group for group in unknown.groups() if group)
    head, _, last = name.rpartition(".")
    near = difflib.get_close_matches(last, known_settings(), n=1, cutoff=0.6)
    where = re.search(r'Parser key "([\w.]+)"', message)
    full = f"{where[1]}.{name}" if where and not name.startswith(where[1]) else name
    hint = f"; did you mean {head + '.' if head else ''}{near[0]}?" if near else "; --help lists the settings."
    return f"There is no setting {full}{hint}"


class Parser(LightningArgumentParser):
    """Errors are SettingErrors of one sentence instead of a page of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what the user must read."""
        if not self.exit_on_error:
            super().error(message, ex)
        cause = setting_error_in(ex)
        raise cause if cause is not None else SettingError(explain(message)) from ex


class CLI(LightningCLI):
    """LightningCLI for any method with any data module.

    The run's folder is `trainer.default_root_dir`, exactly: all processes, requeued jobs and `--ckpt_path last` find it
    without talking to each other.

    Args:
        args: command line without the program's name.
    """

    def __init__(self, args: list[str] | None = None) -> None:
        torch.set_float32_matmul_precision("high")
        super().__init__(
            Method,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"use_distributed_sampler": False, "callbacks": [Provenance()]},
            parser_class=Parser,
            args=args,
        )

    def before_instantiate_classes(self) -> None:
        """Choose logger and checkpoint from the run's folder, before anything is built."""
        if self.subcommand is None:
            return
        config = self.config[self.subcommand]
        trainer = config.trainer
        root = Path(trainer.default_root_dir or "runs/default")
        trainer.default_root_dir = str(root)
        if trainer.logger is None and not trainer.fast_dev_run:
            trainer.logger = {
                "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
                "init_args": {"save_dir": str(root), "name": "", "version": ""},
            }
        if config.get("weights_only") is None and "weights_only" in config:
            config.weights_only = True
        if self.subcommand != "fit" or trainer.fast_dev_run:
            return
        checkpoint = root / "checkpoints" / "last.ckpt"
        if config.ckpt_path == "last":
            if not checkpoint.is_file():
                raise SettingError(
                    f"--ckpt_path last: there is no {checkpoint}; check trainer.default_root_dir, or leave --ckpt_path "
                    "out to begin a run."
                )
            config.ckpt_path = str(checkpoint)
            self._keep_config(root)
        elif config.ckpt_path is None and checkpoint.is_file() and not list(root.glob("hpc_ckpt_*.ckpt")):
            self._refuse(root)

    @staticmethod
    @rank_zero_only
    def _refuse(root: Path) -> None:
        raise SettingError(
            f"{root} already holds a run; go on with --ckpt_path last, or choose another folder with "
            "--trainer.default_root_dir."
        )

    @staticmethod
    @rank_zero_only
    def _keep_config(root: Path) -> None:
        """A resumed run may have other settings: keep those it began with."""
        config = root / "config.yaml"
        if config.is_file():
            number = len(list(root.glob("config.before_resume_*.yaml")))
            shutil.copy(config, root / f"config.before_resume_{number}.yaml")

    def before_fit(self) -> None:
        """Say in one line what is about to run."""
        trainer = self.trainer
        rank_zero_info(
            f"{type(self.model).__name__} on {type(self.datamodule).__name__}: {trainer.num_devices * trainer.num_nodes} x "
            f"{trainer.strategy.root_device.type}, precision {trainer.precision}, folder {trainer.default_root_dir}"
        )

    def after_fit(self) -> None:
        """Say where things are."""
        if not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            root = self.trainer.default_root_dir
            rank_zero_info(f"Checkpoints: {root}/checkpoints. Curves and pictures: tensorboard --logdir {root}")
