"""The command line: LightningCLI with one folder per run, readable errors, and a record of what ran."""

import shutil
import warnings
from functools import reduce
from importlib import import_module
from operator import or_
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

import torch
from jsonargparse import Namespace
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from modules.core.base import Method
from modules.core.checkpoints import open_run
from modules.core.errors import SettingError
from modules.core.explain import explain, find_class
from modules.core.last_checkpoint import LAST, LastCheckpoint, was_requeued
from modules.core.nonfinite import NonFiniteGuard
from modules.core.provenance import Provenance
from modules.core.saving import WholeCheckpointIO


def setting_error_in(error: BaseException | None) -> SettingError | None:
    """The SettingError that an exception was raised from or while handling, or whose words it repeats, if any."""
    latest = SettingError.latest
    while error is not None:
        if isinstance(error, SettingError):
            return error
        if latest is not None and str(latest).partition("\n")[0] in str(error):
            return latest
        error = error.__cause__ or error.__context__
    return None


def _subclasses(kind: type) -> list[type]:
    """All classes that extend one, as far as they were imported."""
    extensions: list[type] = kind.__subclasses__()
    return [*extensions, *(one for direct in extensions for one in _subclasses(direct))]


def refuse_nulls(config: Namespace, prefix: str) -> None:
    """Raise a SettingError for a null where a class wants a value: the parser lets it pass wherever there is a default.

    Args:
        config: class_path and init_args of a class.
        prefix: what the settings are called on the command line.
    """
    hints = get_type_hints(find_class(config.class_path).__init__)
    for name, value in vars(config.get("init_args", Namespace())).items():
        if value is None and type(None) not in get_args(hints.get(name, None | Any)):
            raise SettingError(f"{prefix}.{name} is null; leave it out to keep its default, or give it a value.")
        if isinstance(value, Namespace) and "class_path" in value:
            refuse_nulls(value, f"{prefix}.{name}")


class Parser(LightningArgumentParser):
    """Errors are SettingErrors of one sentence instead of a page of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what the user must read."""
        if not self.exit_on_error:
            super().error(message, ex)
        cause = setting_error_in(ex)
        raise (cause or SettingError(explain(message))) from None

    def add_lightning_class_args(self, *args: Any, **kwargs: Any) -> list[str]:
        """Let `trainer.limit_val_batches: 1` mean one batch, and 1.0 all of them, whatever else is installed.

        The parser takes the first type of `Optional[Union[int, float]]` that fits. Which one that is depends on the process:
        typing hands out again what was written as `Optional[Union[float, int]]` anywhere before.
        """
        added = super().add_lightning_class_args(*args, **kwargs)
        for action in self._actions:
            kinds = get_args(getattr(action, "_typehint", None))
            if int in kinds and float in kinds:
                action._typehint = reduce(or_, sorted(kinds, key=lambda kind: kind is not int))  # type: ignore[attr-defined]
        return added


class CLI(LightningCLI):
    """LightningCLI for any method with any data module.

    The run's folder is `trainer.default_root_dir`, exactly: all processes, requeued jobs and `--ckpt_path last` find it
    without talking to each other.

    Args:
        args: command line without the program's name, or settings as a dictionary.
        run: run the subcommand; False only builds the objects.
    """

    def __init__(self, args: list[str] | dict[str, Any] | None = None, run: bool = True) -> None:
        torch.set_float32_matmul_precision("high")
        # Lightning calls an old function of torch, which no user can change.
        warnings.filterwarnings("ignore", ".*LeafSpec.*")
        super().__init__(
            Method,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"use_distributed_sampler": False},
            parser_class=Parser,
            args=args,
            run=run,
        )

    def instantiate_classes(self) -> None:
        """Build everything; what the user must change is not buried in a page of the parser's attempts."""
        self._check_checkpoint()
        try:
            checked = self._checked_data()
            super().instantiate_classes()
            if checked is not None:
                self.datamodule = checked
        except Exception as error:
            cause = setting_error_in(error)
            if cause is None:
                raise
            raise cause from None

    def _checked_data(self) -> LightningDataModule | None:
        """The data module after its own check of folders, lists and sizes, which costs little, where a model may download
        weights; None if it has no check."""
        if self.subcommand is None:
            return None
        data = self.config[self.subcommand].get("data")
        if data is None or not hasattr(find_class(data.class_path), "check"):
            return None
        refuse_nulls(data, "data")
        only = Namespace(subcommand=self.subcommand, **{self.subcommand: Namespace(data=data)})
        built = self.parser.instantiate_classes(only)[self.subcommand].data
        built.check(self.subcommand)
        return built

    def before_instantiate_classes(self) -> None:
        """Choose the run's folder and the checkpoint to go on from, before anything is built."""
        if self.subcommand is None:
            return
        config = self.config[self.subcommand]
        trainer = config.trainer
        root = Path(trainer.default_root_dir or "runs/default")
        trainer.default_root_dir = str(root)
        if config.get("weights_only") is None and "weights_only" in config:
            config.weights_only = True
        checkpoint = root / LAST
        given = config.get("ckpt_path")
        # Lightning has names of its own, and reads from other file systems.
        if given is not None and given not in ("last", "best", "hpc") and ":" not in given and not Path(given).exists():
            raise SettingError(f"--ckpt_path is {given}, which does not exist; pass an existing checkpoint, or last.")
        if self.subcommand != "fit":
            # config.yaml in the folder is that of the training; `ResultFile` keeps that of a test.
            self.save_config_callback = None
            if config.get("ckpt_path") == "last":
                config.ckpt_path = str(self._existing(checkpoint))
            return
        if trainer.fast_dev_run:
            return
        if config.ckpt_path is None and checkpoint.is_file() and was_requeued():
            config.ckpt_path = "last"
        if config.ckpt_path == "last":
            config.ckpt_path = str(self._existing(checkpoint))
            self._keep_config(root)
        elif config.ckpt_path is None and checkpoint.is_file() and not list(root.glob("hpc_ckpt_*.ckpt")):
            self._refuse(root)

    def _parse_ckpt_path(self) -> None:
        """Lightning reads the checkpoint for settings of the method; look at it first. (`last` has no path yet.)"""
        self._check_checkpoint()
        super()._parse_ckpt_path()

    def _check_checkpoint(self) -> None:
        """Refuse a checkpoint that cannot be read, or is of another method, before anything is built.

        Raises:
            SettingError: naming both methods.
        """
        config = self.config[self.config.subcommand] if self.config.get("subcommand") else {}
        given = config.get("ckpt_path")
        if given is None or not Path(given).exists():
            return
        record = open_run(given, "--ckpt_path").get("record")
        trained = record.get("method") if isinstance(record, dict) else None
        module, _, name = config["model"].class_path.rpartition(".")
        own = getattr(import_module(module), name)
        # A method may go on with weights of one that it extends, and the other way round.
        related = [*own.__mro__, *_subclasses(own)]
        if trained is not None and trained not in {f"{kind.__module__}.{kind.__qualname__}" for kind in related}:
            raise SettingError(
                f"--ckpt_path names {given}, a checkpoint of {trained}, but --model is {own.__name__}; pass another, or start "
                "from its encoder with --model.backbone.checkpoint."
            )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add what every run has, unless the settings say otherwise: TensorBoard in the run's folder, and the callbacks
        and checkpoints that keep it from losing anything. (Not part of the saved config, which may be run again with
        another folder.)"""
        if self.subcommand is None:
            return super().instantiate_trainer(**kwargs)
        trainer = self.config[self.subcommand].trainer
        if trainer.logger is None and not trainer.fast_dev_run:
            kwargs["logger"] = TensorBoardLogger(trainer.default_root_dir, name="", version="")
        built = super().instantiate_trainer(**kwargs)
        config = self._parser(self.subcommand).dump(self.config[self.subcommand], skip_none=False)
        callbacks = built.callbacks  # type: ignore[attr-defined]
        kinds = {type(callback) for callback in callbacks}
        # In front are those whose work must be done when a checkpoint is written.
        guard = [NonFiniteGuard()] if NonFiniteGuard not in kinds else []
        last = [LastCheckpoint()] if LastCheckpoint not in kinds else []
        callbacks[:] = [Provenance(config), *guard, *callbacks, *last]
        if type(built.strategy.checkpoint_io) is TorchCheckpointIO:
            built.strategy.checkpoint_io = WholeCheckpointIO()
        return built

    @staticmethod
    def _existing(checkpoint: Path) -> Path:
        if not checkpoint.is_file():
            raise SettingError(
                f"--ckpt_path last: there is no {checkpoint}; check trainer.default_root_dir, or leave --ckpt_path "
                "out to begin a run."
            )
        return checkpoint

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
        """Say where things are, and test if a callback asks for it."""
        if not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            root = self.trainer.default_root_dir
            rank_zero_info(f"Checkpoints: {root}/checkpoints. Curves and pictures: tensorboard --logdir {root}")
        if any(getattr(callback, "after_fit", False) for callback in self.trainer.callbacks):  # type: ignore[attr-defined]
            self.trainer.test(self.model, self.datamodule)
