"""The command line: LightningCLI with one folder per run, readable errors, and a record of what ran."""

import os
import re
import shutil
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, DeviceStatsMonitor, LearningRateMonitor, ModelCheckpoint, ModelSummary
from lightning.pytorch.callbacks.progress.progress_bar import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from modules.core.errors import MAX_SEED, SettingError
from modules.core.loading import open_run
from modules.core.run import run_of
from modules.core.undocumented import add_chosen_optimiser, parser_of, whole_numbers_first
from modules.runs.config_files import check_config_file, config_files
from modules.runs.explain import check_values, class_of, explain, explain_lightning
from modules.runs.last_checkpoint import LAST, LastCheckpoint, best_checkpoint, was_requeued
from modules.runs.nonfinite import NonFiniteGuard
from modules.runs.progress import LossProgressBar
from modules.runs.provenance import Provenance
from modules.runs.run_folder import REQUEUE_WAIT, RunLock, local_folder, make_folder, set_attempt_aside
from modules.runs.saving import WholeCheckpointIO
from modules.runs.terminal.ending import Ending
from modules.runs.terminal.messages import plain_messages
from modules.runs.terminal.parts import PartsSummary
from modules.runs.trainer_settings import check_trainer
from modules.training.compilation import Compile, Compiled
from modules.training.method import Method
from modules.training.precision import BFloat16Weights
from modules.weights.run_config import inside, parse_config

HPC = "hpc_ckpt_*.ckpt"
"""The checkpoint that Lightning's own SLURM plugin saves and resumes from automatically."""


def setting_error_in(error: BaseException | None) -> SettingError | None:
    """The SettingError that caused an exception, was being handled when it was raised, or has the same text."""
    latest = SettingError.latest
    while error is not None:
        if isinstance(error, SettingError):
            return error
        if latest is not None and str(latest).partition("\n")[0] in str(error):
            return latest
        error = error.__cause__ or error.__context__
    return None


def _subclasses(kind: type) -> list[type]:
    """All imported subclasses of a class."""
    extensions: list[type] = kind.__subclasses__()
    return [*extensions, *(one for direct in extensions for one in _subclasses(direct))]


class Parser(LightningArgumentParser):
    """Reports errors as one-sentence SettingErrors instead of a page of usage; option names cannot be abbreviated."""

    @property
    def allow_abbrev(self) -> bool:
        """False, also for the sub-parsers of class settings."""
        return False

    @allow_abbrev.setter
    def allow_abbrev(self, value: bool) -> None:
        """Ignore the default that argparse sets here."""

    def parse_args(self, args: Any = None, *more: Any, **settings: Any) -> Any:
        """Support null for nested settings (`--model.augmentation.flip null`), which would be passed on as `None`."""
        words = args if args is None else [re.sub(r"^(--[\w.+]+=)None$", r"\1null", word) for word in args]
        return super().parse_args(words, *more, **settings)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the error as a SettingError."""
        if not self.exit_on_error:
            super().error(message, ex)
        cause = setting_error_in(ex)
        raise (cause or SettingError(explain(message))) from None

    def add_lightning_class_args(self, *args: Any, **kwargs: Any) -> list[str]:
        """Ensure that `trainer.limit_val_batches: 1` means one batch, and 1.0 all batches, whatever else is installed."""
        added = super().add_lightning_class_args(*args, **kwargs)
        whole_numbers_first(self)
        return added


@contextmanager
def _building(part: str) -> Iterator[None]:
    """Convert errors from building objects into one sentence for the user.

    Args:
        part: the setting that is built.

    Raises:
        SettingError: the one raised by the objects, or one that quotes the first error.
    """
    try:
        yield
    except Exception as error:
        cause = setting_error_in(error)
        if cause is not None:
            raise cause from None
        first: BaseException = error
        while (before := first.__cause__ or first.__context__) is not None:
            first = before
        text = str(first).splitlines()[0] if str(first) else ""
        raise SettingError(
            f"{part}: cannot be built from these settings ({type(first).__name__}: {text}); LVS_DEBUG=1 shows where."
        ) from error


def _raised_by_lightning(error: Exception) -> bool:
    """Whether an error was raised deliberately by Lightning itself, and not by code that it called."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return "/lightning/" in last.filename.replace("\\", "/") and (last.line or "").startswith("raise ")


def check_held_out(checkpoint: dict[str, Any], config: Namespace) -> None:
    """Refuse to train on videos that were used for validation before the checkpoint was written.

    Args:
        checkpoint: checkpoint of a run.
        config: settings of the run that resumes from it.

    Raises:
        SettingError: with the former settings.
    """
    text = checkpoint.get("record", {}).get("config")
    before = inside(parse_config(text), "data", "init_args", "subset") if text else {}
    if not before.get("validation"):
        return
    names = ("validation", "seed")
    subset = config.data.init_args.get("subset") or Namespace()
    was, now = ([settings.get(name) for name in names] for settings in (before, subset))
    if was != now:
        raise SettingError(
            f"data.subset.validation and seed were {was[0]} and {was[1]} when the checkpoint was written, and are {now[0]} and "
            f"{now[1]}: videos that validated would be trained on; pass the former values, or start a new run."
        )


class SaveConfig(SaveConfigCallback):
    """Writes `config.yaml` to the run's folder, independent of the logger's folder."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the config; called in the first process."""
        path = Path(trainer.default_root_dir) / self.config_filename
        path.parent.mkdir(parents=True, exist_ok=True)
        self.parser.save(self.config, path, skip_none=False, overwrite=self.overwrite, multifile=self.multifile)


class CLI(LightningCLI):
    """LightningCLI for any method with any data module.

    The run's folder is exactly `trainer.default_root_dir`, so that all processes, requeued jobs and `--ckpt_path last` find it
    without communication.

    Args:
        args: command line without the program's name, or settings as a dictionary.
        run: run the subcommand; False only builds the objects.
        examples: text at the end of the help of each subcommand, by name.
        writers: callback added to each subcommand, by name, unless the settings contain one of that class.
    """

    def __init__(
        self,
        args: list[str] | dict[str, Any] | None = None,
        run: bool = True,
        examples: dict[str, str] | None = None,
        writers: dict[str, Callback] | None = None,
    ) -> None:
        torch.set_float32_matmul_precision("high")
        self._lock: RunLock | None = None
        self._runs = False
        self._writers = writers or {}
        self._ending: Ending | None = None
        with plain_messages():
            try:
                super().__init__(
                    Method,
                    LightningDataModule,
                    save_config_callback=SaveConfig,
                    subclass_mode_model=True,
                    subclass_mode_data=True,
                    seed_everything_default=0,
                    save_config_kwargs={"overwrite": True, "save_to_log_dir": False},
                    trainer_defaults={"use_distributed_sampler": False},
                    parser_kwargs={name: {"epilog": text} for name, text in (examples or {}).items()} if run else {},
                    parser_class=Parser,
                    args=args,
                    run=run,
                )
            except (MisconfigurationException, ValueError, RuntimeError) as error:
                told = isinstance(error, MisconfigurationException) or _raised_by_lightning(error)
                if not self._runs or self.subcommand is None or not told:
                    raise
                raise SettingError(explain_lightning(error, self.config[self.subcommand].trainer)) from error
            except SystemExit:
                # Lightning exits this way after Ctrl-C.
                if self._runs and self.trainer.interrupted:
                    self._say_interrupted()
                raise
            finally:
                if self._lock is not None:
                    self._lock.release()

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the settings that do not belong to a method."""
        parser.add_argument(
            "--compile",
            type=Compiled,
            default="none",
            help="what torch.compile compiles: blocks of encoders, decoders and CNNs, or all (frozen target networks too)",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Check the YAML files first, because the parser does not know their names and lines. Then check the seed, which
        Lightning sets next, and the checkpoint, in which Lightning looks for settings of the method. (`last` has no path
        yet.)"""
        words = sys.argv[1:] if args is None else args
        for name in config_files(words) if isinstance(words, list) else ():
            check_config_file(name)
        super().parse_arguments(parser, args)
        self._check_checkpoint()
        command = self.config.get("subcommand")
        seed = (self.config if command is None else self.config[command]).seed_everything
        if not isinstance(seed, bool) and not 0 <= seed <= MAX_SEED:
            raise SettingError(f"seed_everything is {seed}; it must be from 0 to {MAX_SEED}, or true for a random one.")

    def before_instantiate_classes(self) -> None:
        """Choose the run's folder and the checkpoint to resume from, and run cheap checks before anything is built."""
        if self.subcommand is None:
            return
        config = self.config[self.subcommand]
        trainer = config.trainer
        root = local_folder(str(trainer.default_root_dir or "runs/default"))
        trainer.default_root_dir = str(root)
        if config.get("weights_only") is None and "weights_only" in config:
            config.weights_only = True
        check_trainer(trainer, self.subcommand)
        for part in ("trainer.callbacks", "model", "data"):
            check_values(config.get(part), part)
        self._check_command(self.subcommand, config.model.class_path)
        if self.subcommand == "predict":
            self._check_predict(config)
        self._choose_checkpoint(config, root)
        self._check_checkpoint()
        if self.subcommand == "fit" and config.get("ckpt_path") is not None and Path(config.ckpt_path).exists():
            check_held_out(open_run(config.ckpt_path, "--ckpt_path"), config)

    def _choose_checkpoint(self, config: Namespace, root: Path) -> None:
        checkpoint, given = root / LAST, config.get("ckpt_path")
        # Lightning also accepts special names ('best', 'hpc') and remote file systems.
        if given == "last":
            config.ckpt_path = str(self._existing(checkpoint, given))
        elif given == "best":
            config.ckpt_path = str(best_checkpoint(self._existing(checkpoint, given)))
        elif given is not None and given != "hpc" and ":" not in given and not Path(given).exists():
            raise SettingError(f"--ckpt_path is {given}, which does not exist; pass an existing checkpoint, or last.")
        if self.subcommand != "fit":
            # config.yaml in the folder belongs to the training; `ResultFile` stores the config of a test.
            self.save_config_callback = None
            return
        if config.trainer.fast_dev_run:
            return
        if given is None and checkpoint.is_file() and was_requeued():
            given, config.ckpt_path = "last", str(checkpoint)
        if given == "last":
            self._keep_config(root)
        elif given is None and checkpoint.is_file() and not any(root.glob(HPC)):
            self._refuse(root)

    def _check_checkpoint(self) -> None:
        """Refuse a checkpoint that cannot be read, or that belongs to another method, before anything is built.

        Raises:
            SettingError: with the names of both methods.
        """
        config = self.config[self.config.subcommand] if self.config.get("subcommand") else {}
        given = config.get("ckpt_path")
        if given is None or not Path(given).exists():
            return
        record = open_run(given, "--ckpt_path").get("record")
        trained = record.get("method") if isinstance(record, dict) else None
        own = class_of(config["model"].class_path)
        # A method may resume from a checkpoint of its base class, and vice versa. Modules may have been moved.
        related = [*own.__mro__, *_subclasses(own)]
        if trained is not None and trained.rpartition(".")[2] not in {kind.__qualname__ for kind in related}:
            raise SettingError(
                f"--ckpt_path names {given}, a checkpoint of {trained}, but --model is {own.__name__}; pass another, or start "
                "from its encoder with --model.backbone.checkpoint."
            )

    @staticmethod
    def _check_command(command: str, class_path: str) -> None:
        """Refuse commands that the method does not support."""
        step = {"fit": "training_step", "validate": "validation_step", "test": "test_step", "predict": "predict_step"}[command]
        kind = class_of(class_path)
        if getattr(kind, step) is not getattr(LightningModule, step):
            return
        instead = {
            "fit": "has nothing to train; use test",
            "validate": "has no validation; use test",
            "test": "is not tested itself: test its encoder, for example with --model NearestNeighbours --model.backbone ... "
            "--model.backbone.checkpoint FILE",
            "predict": "writes no predictions; test writes what it measures to results",
        }[command]
        raise SettingError(f"{command}: {kind.__name__} {instead}.")

    @staticmethod
    def _check_predict(config: Namespace) -> None:
        """Refuse to predict with untrained weights, and do not collect the predictions in memory.

        Raises:
            SettingError: if neither a checkpoint nor a file of weights is given.
        """
        if config.return_predictions is None:
            # The command line does not use the returned predictions, and they would fill the memory.
            config.return_predictions = False
        model, kind = config.model.get("init_args", Namespace()), class_of(config.model.class_path)
        encoder = model.get("backbone.init_args.checkpoint") if kind.predicts_by_encoder else None
        if config.ckpt_path is None and not model.get("init_from") and not encoder:
            raise SettingError(
                f"predict: nothing says which weights {kind.__name__} is to use; pass --ckpt_path last or a file"
                f"{', or --model.init_from' if 'init_from' in model else ''}"
                f"{', or --model.backbone.checkpoint' if kind.predicts_by_encoder else ''}."
            )

    def instantiate_classes(self) -> None:
        """Build the trainer, which reports missing hardware; create and lock the folder; then build data and method."""
        if self.subcommand is None:
            with _building("settings"):
                super().instantiate_classes()
            return
        self._build(self.subcommand)

    def _build(self, command: str) -> None:
        config = self.config[command]
        self.config_init = self.config.clone()
        built = self.config_init[command]
        for name, value in vars(config.trainer).items():
            # The other settings are plain values.
            if isinstance(value, Namespace | list):
                built.trainer[name] = self._built(command, f"trainer.{name}")
        self.trainer = self._trainer_first(config.trainer)
        self.datamodule = built["data"] = self._built(command, "data")
        if hasattr(self.datamodule, "check"):
            # Check folders, lists and sizes first: this is cheap, while a model may download weights.
            self.datamodule.check(command)
        self.model = built["model"] = self._built(command, "model")
        add_chosen_optimiser(self, command)

    def after_instantiate_classes(self) -> None:
        """From now on, explain Lightning's own errors."""
        self._runs = True

    def _built(self, command: str, name: str) -> Any:
        """Build the objects of one setting."""
        key = f"{command}.{name}"
        alone = Namespace({"subcommand": command})
        alone[key] = self.config[key]
        with _building(name):
            return self.parser.instantiate_classes(alone)[key]

    def _trainer_first(self, settings: Namespace) -> Trainer:
        try:
            trainer = self.instantiate_trainer()
        except SettingError:
            raise
        except Exception as error:
            told = explain_lightning(error, settings)
            if not told.startswith("trainer."):
                told = f"trainer.accelerator {settings.accelerator}, devices {settings.devices}: {told}"
            raise SettingError(told) from error
        if trainer.is_global_zero and not settings.fast_dev_run:
            root = Path(settings.default_root_dir)
            make_folder(root)
            self._ending = Ending(root)
            if self.subcommand == "fit":
                self._lock = RunLock(root, REQUEUE_WAIT if was_requeued() else 0.0)
                resumes = self.config.fit.ckpt_path is not None or any(root.glob(HPC))
                aside = None if resumes else set_attempt_aside(root)
                if aside is not None:
                    rank_zero_info(f"{root} contained a run without a checkpoint; its files have been moved to {aside}.")
        return trainer

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add the defaults of every run, unless the settings override them: TensorBoard in the run's folder, and the callbacks
        and checkpoints that make it safe to interrupt. (They are not part of the saved config, which may be used again with
        another folder.)"""
        config = self.config if self.subcommand is None else self.config[self.subcommand]
        trainer = config.trainer
        own: list[Any] = []
        if trainer.precision == "bf16-true":
            own, kwargs["precision"] = [BFloat16Weights()], None
        if self.subcommand is None:
            return super().instantiate_trainer(**kwargs, plugins=own)
        if trainer.logger in (None, True) and not trainer.fast_dev_run and not trainer.barebones:
            # Predictions are written to files; there are no curves to log.
            shows = self.subcommand != "predict"
            kwargs["logger"] = TensorBoardLogger(trainer.default_root_dir, name="", version="") if shows else False
        given = self.config_init[self.subcommand].trainer.callbacks or []
        given = given if isinstance(given, list) else [given]
        # Lightning would refuse some callbacks of the recipe here.
        idle: tuple[type, ...] = (LearningRateMonitor, DeviceStatsMonitor) if trainer.logger is False else ()
        idle = (*idle, Checkpoint) if trainer.enable_checkpointing is False else idle
        saves = trainer.enable_checkpointing is not False and not trainer.barebones
        given = [callback for callback in given if not isinstance(callback, idle)]
        kinds = {type(callback) for callback in given}
        # Callbacks that must finish before a checkpoint is written come first; Lightning puts checkpoints last.
        config = parser_of(self, self.subcommand).dump(self.config[self.subcommand], skip_none=False)
        guard = [NonFiniteGuard()] if NonFiniteGuard not in kinds else []
        # Lightning only adds this one if there is no other checkpoint callback, such as the last checkpoint.
        best = [ModelCheckpoint()] if saves and not any(isinstance(callback, Checkpoint) for callback in given) else []
        last = [LastCheckpoint()] if LastCheckpoint not in kinds and saves else []
        shown = trainer.enable_progress_bar is not False and not trainer.barebones
        bar = [LossProgressBar()] if shown and not any(isinstance(callback, ProgressBar) for callback in given) else []
        what = self.config[self.subcommand].compile
        compiled = [Compile(what)] if what != "none" else []
        summed = trainer.enable_model_summary is not False and not trainer.barebones
        summary = [PartsSummary()] if summed and not any(isinstance(callback, ModelSummary) for callback in given) else []
        # The last checkpoint contains the path of the best one.
        given = sorted(given, key=lambda callback: isinstance(callback, LastCheckpoint))
        writer = self._writers.get(self.subcommand)
        writers = [writer] if writer is not None and type(writer) not in kinds else []
        # The bar must end before other callbacks print their results.
        kwargs["callbacks"] = [*compiled, *summary, Provenance(config), *bar, *guard, *given, *writers, *best, *last]
        for callback in kwargs["callbacks"]:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str((Path(trainer.default_root_dir) / LAST).parent)
        plugins = self.config_init[self.subcommand].trainer.plugins or []
        plugins = plugins if isinstance(plugins, list) else [plugins]
        # Lightning refuses a second one.
        of_strategy = isinstance(trainer.strategy, Namespace) and trainer.strategy.get("init_args.checkpoint_io") is not None
        if not of_strategy and not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            own = [*own, WholeCheckpointIO()]
        kwargs["plugins"] = [*plugins, *own]
        return super().instantiate_trainer(**kwargs)

    @staticmethod
    def _existing(checkpoint: Path, given: str) -> Path:
        if not checkpoint.is_file():
            raise SettingError(
                f"--ckpt_path {given}: there is no {checkpoint}; check trainer.default_root_dir, or leave --ckpt_path "
                "out to begin a run."
            )
        return checkpoint

    @staticmethod
    @rank_zero_only
    def _refuse(root: Path) -> None:
        raise SettingError(
            f"{root} already contains a run; resume it with --ckpt_path last, or choose another folder with "
            "--trainer.default_root_dir."
        )

    @staticmethod
    @rank_zero_only
    def _keep_config(root: Path) -> None:
        """A resumed run may have other settings: keep the original config."""
        config = root / "config.yaml"
        if config.is_file():
            number = len(list(root.glob("config.before_resume_*.yaml")))
            shutil.copy(config, root / f"config.before_resume_{number}.yaml")

    def before_fit(self) -> None:
        """Print one line about the run."""
        self._say_begin()

    def before_validate(self) -> None:
        """Print one line about the run."""
        self._say_begin()

    def before_test(self) -> None:
        """Print one line about the run."""
        self._say_begin()

    def _say_begin(self) -> None:
        trainer = self.trainer
        rank_zero_info(
            f"{type(self.model).__name__} on {type(self.datamodule).__name__}: {trainer.num_devices * trainer.num_nodes} x "
            f"{trainer.strategy.root_device.type}, precision {trainer.precision}, seed {os.environ.get('PL_GLOBAL_SEED')}, "
            f"folder {trainer.default_root_dir}"
        )

    def after_fit(self) -> None:
        """Test if a callback requests it; print the written files and the next command."""
        tests = any(getattr(callback, "after_fit", False) for callback in run_of(self.trainer).callbacks)
        if tests:
            self.trainer.test(self.model, self.datamodule)
        last = Path(self.trainer.default_root_dir) / LAST
        following = None
        if last.is_file() and self._overrides("test_step"):
            config = last.parents[1] / "config.yaml"
            best = next((one for one in self._monitors() if one.best_model_path), None)
            if best is not None:
                score = f"{float(best.best_model_score):.4g}" if best.best_model_score is not None else "?"
                rank_zero_info(f"Best {best.monitor}: {score}, kept in {best.best_model_path}.")
            chosen = "last" if best is None else "best"
            following = f"test --config {config} --ckpt_path {chosen}"
            if tests:
                following = f"predict --config {config} --data VideoFolder --data.root DIR --ckpt_path {chosen}"
        elif last.is_file():
            following = f"embed --checkpoint {last} --source DIR --out features"
        self._say_written(following)

    def _monitors(self) -> list[ModelCheckpoint]:
        """Callbacks that keep the best checkpoint by a metric."""
        found = (one for one in run_of(self.trainer).callbacks if isinstance(one, ModelCheckpoint))
        return [one for one in found if one.monitor is not None]

    def after_validate(self) -> None:
        """Print the written files."""
        self._say_written()

    def after_test(self) -> None:
        """Print the written files."""
        self._say_written()

    def after_predict(self) -> None:
        """Print the written files."""
        self._say_written()

    def _overrides(self, step: str) -> bool:
        return getattr(type(self.model), step) is not getattr(LightningModule, step)

    def _say_interrupted(self) -> None:
        """Print how to continue, unless this was printed with the checkpoint."""
        if any(isinstance(one, LastCheckpoint) and one.stopped for one in run_of(self.trainer).callbacks):
            return
        last = Path(self.trainer.default_root_dir) / LAST
        if self.subcommand != "fit":
            rank_zero_info("Interrupted; nothing was written. Run the command again.")
        elif last.is_file():
            rank_zero_info(f"Interrupted; --ckpt_path last goes on from {last}.")
        else:
            rank_zero_info("Interrupted before the first checkpoint; run the command again.")

    def _say_written(self, following: str | None = None) -> None:
        """Print the written files, in one process only, and not in a trial run."""
        lines = self._ending.lines(self.trainer, following) if self._ending is not None else []
        if lines:
            rank_zero_info("\n".join(lines))
