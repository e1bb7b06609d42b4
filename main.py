"""Command line: `python main.py fit --config configs/quickstart.yaml`. `--help` explains every setting."""

import os
import signal
import sys

if __name__ == "__main__":
    # Ctrl-C during the imports, which take seconds, ends the process without a page of what was being imported.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from collections.abc import Callable
from typing import Any

from jsonargparse import auto_cli

import callbacks  # noqa: F401  (these imports make short class names known to the command line)
import datamodules  # noqa: F401
import modules  # noqa: F401
from datamodules.prepare.command import PREPARE
from datamodules.prepare.synthesise import write_videos
from modules.bench.command import bench
from modules.convert.command import convert
from modules.core.errors import SettingError
from modules.runs.cli import CLI, Parser
from modules.runs.replay import replay

# Takes the settings of fit.
BENCH = "bench"
# Subcommands besides Lightning's fit, validate, test and predict; each is a function beside what it concerns.
COMMANDS: dict[str, Callable[..., object] | dict[str, Any]] = {
    "convert": convert,
    "prepare": PREPARE,
    "replay": replay,
    "synthesise": write_videos,
}


def main(args: list[str] | None = None) -> CLI | None:
    """Run one command.

    Args:
        args: command line without the program's name; None takes the process's.

    Raises:
        SettingError: when the user must change something.
    """
    words = sys.argv[1:] if args is None else args
    commands = [*CLI.subcommands(), *COMMANDS, BENCH]
    if not words:
        raise SettingError(f"Name a command: one of {', '.join(commands)}; --help after it lists its settings.")
    if words[0] not in commands and not words[0].startswith("-"):
        raise SettingError(f"There is no command {words[0]!r}; choose one of {', '.join(commands)}.")
    if words[0] == BENCH:
        bench(words[1:])
        return None
    if words[0] in COMMANDS:
        # Without a description of its own, the parser takes the first line of the docstring.
        auto_cli(
            COMMANDS[words[0]],
            args=words[1:],
            as_positional=False,
            parser_class=Parser,
            prog=f"main.py {words[0]}",
            description=None,
        )
        return None
    return CLI(
        args=args, description=f"Trains and measures; there are also {', '.join([*COMMANDS, BENCH])} (main.py convert --help)."
    )


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
