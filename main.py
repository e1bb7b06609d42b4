"""Command line: `python main.py fit --config configs/quickstart.yaml`. `--help` explains every setting."""

import os
import signal
import sys

if __name__ == "__main__":
    # Ctrl-C during the imports, which take seconds, ends the process without a long traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from collections.abc import Callable
from typing import Any, NamedTuple

from jsonargparse import auto_cli

import callbacks  # noqa: F401  (these imports make short class names known to the command line)
import datamodules  # noqa: F401
import modules  # noqa: F401
from callbacks.reports.predictions import Predictions
from callbacks.result_file import ResultFile
from datamodules.prepare.command import PREPARE
from datamodules.prepare.synthesise import write_videos
from modules.bench.command import bench
from modules.convert.command import convert
from modules.core.errors import SettingError
from modules.embed.command import embed
from modules.feature_map.command import feature_map
from modules.runs.cli import CLI, Parser, setting_error_in
from modules.runs.replay import replay
from modules.severe.command import severe


class Command(NamedTuple):
    """A subcommand."""

    does: str
    """in one line"""
    example: str
    run: Callable[..., object] | dict[str, Any] | None = None
    """function that runs it; None for Lightning's own, and for bench, which takes the settings of fit"""


BENCH = "bench"
COMMANDS = {
    "fit": Command("train, or resume a run", "--config configs/quickstart.yaml"),
    "validate": Command("evaluate a checkpoint on the validation set", "--config configs/quickstart.yaml --ckpt_path last"),
    "test": Command(
        "evaluate a checkpoint on the test set", "--config configs/finetune/ucf101.yaml --data.root DIR --ckpt_path last"
    ),
    "predict": Command(
        "write the class, count or features of each video to csv and json",
        "--config configs/finetune/ucf101.yaml --data VideoFolder --data.root DIR --ckpt_path last",
    ),
    BENCH: Command("measure how fast a run is, and what limits it", "--config configs/quickstart.yaml"),
    "embed": Command(
        "write features of videos by any encoder",
        "--checkpoint runs/quickstart/checkpoints/last.ckpt --source data/motion --out features",
        embed,
    ),
    "map": Command("draw features as a picture and as a page on which clips play", "--features features", feature_map),
    "severe": Command(
        "run SEVERE, the benchmark of how well encoders generalise, and write its table",
        "--checkpoint encoder.safetensors --root data",
        severe,
    ),
    "synthesise": Command("write a folder of generated videos", "--out data/motion", write_videos),
    "prepare": Command(
        "create small videos, optical flow, skeleton arrays or shards", "videos --source data/motion --out data/small", PREPARE
    ),
    "convert": Command(
        "rewrite weights in another format, with a passport",
        "--source runs/quickstart/checkpoints/last.ckpt --out smile.safetensors",
        convert,
    ),
    "replay": Command("repeat a step that was not finite", "--dump runs/smile/nonfinite/step_00001234", replay),
}


def example(name: str) -> str:
    """Example of a command."""
    return f"Example: python main.py {name} {COMMANDS[name].example}"


def overview() -> str:
    """The text of `--help`."""
    lines = [f"  {name:<12}{command.does}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "Self-supervised learning of video and skeleton representations.\n",
            "commands:",
            *lines,
            "\nmain.py COMMAND --help explains the settings of a command, main.py fit --model.help NAME",
            "those of a method, and main.py fit --data.help NAME those of a data set.",
        ]
    )


def main(args: list[str] | None = None) -> CLI | None:
    """Run one command.

    Args:
        args: command line without the program's name; None takes the process's.

    Raises:
        SettingError: if a setting is wrong.
    """
    words = sys.argv[1:] if args is None else args
    if not words:
        raise SettingError(f"Name a command: one of {', '.join(COMMANDS)}; COMMAND --help lists its settings.")
    if words[0] in ("-h", "--help"):
        print(overview())
        return None
    if words[0] not in COMMANDS and not words[0].startswith("-"):
        raise SettingError(f"There is no command {words[0]!r}; choose one of {', '.join(COMMANDS)}.")
    if words[0] == BENCH:
        bench(words[1:], example(BENCH))
        return None
    if (run := COMMANDS.get(words[0], COMMANDS["fit"]).run) is not None:
        # Without a description, the parser takes the first line of the docstring.
        try:
            auto_cli(
                run,
                args=words[1:],
                as_positional=False,
                parser_class=Parser,
                prog=f"main.py {words[0]}",
                description=None,
                epilog=example(words[0]),
            )
        except ValueError as error:
            # jsonargparse wraps what data sets raise while they are built.
            if (cause := setting_error_in(error)) is not None:
                raise cause from None
            raise
        return None
    writers = {"test": ResultFile("test", after_fit=False), "predict": Predictions()}
    return CLI(args=args, examples={name: example(name) for name in CLI.subcommands()}, writers=writers)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main()
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except SettingError as error:
        if os.environ.get("LVS_DEBUG"):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    finally:
        # Once more while Python tidies up, Ctrl-C ends it without a page about that.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
