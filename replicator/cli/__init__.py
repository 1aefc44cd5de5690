"""The command line: parse arguments, call, print, exit code. No replication logic here.

One file per group of commands; each adds its commands to `app` and takes its options from `Context`. Only the file of
the given command is imported: the others would take a sixth of a worker's start.

Exit codes: 0 done · 1 failed · 2 usage or configuration · 3 refused, nothing changed · 4 partly done ·
5 `check`/`verify` found something · 130 interrupted.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

from replicator.cli.app import app
from replicator.cli.output import complain
from replicator.errors import ConfigError, RefusedError, ReplicatorError

COMMANDS: Final = {
    "config": ("config",),
    "demo": ("demo",),
    "flow": ("pause", "resume", "recopy", "history"),
    "groups": ("groups", "explain", "check"),
    "moves": ("switchover", "failover", "failback", "resync"),
    "run": ("run",),
    "status": ("lag", "status"),
}
"""The commands of each file."""
OPTIONS_WITH_VALUE: Final = ("-c", "--config")


def files_for(arguments: Sequence[str]) -> list[str]:
    """The files that these arguments need: the one of their command; all, if they name none."""
    words = iter(arguments)
    for word in words:
        if word in OPTIONS_WITH_VALUE:
            next(words, None)
        elif not word.startswith("-"):
            return [file for file, commands in COMMANDS.items() if word in commands] or list(COMMANDS)
    return list(COMMANDS)


def main() -> None:
    """The console script."""
    for file in files_for(sys.argv[1:]):
        import_module(f"replicator.cli.{file}")  # registers its commands
    gc.freeze()  # imported modules stay: garbage collection skips them
    gc.enable()
    try:
        app()
    except ConfigError as error:
        complain(error)
        sys.exit(2)
    except RefusedError as error:
        complain(error)
        sys.exit(3)
    except ReplicatorError as error:
        complain(error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
