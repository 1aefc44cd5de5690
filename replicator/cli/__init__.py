"""The command line: parse, call, print, exit code. No replication logic here.

One file per group of commands; each adds its commands to `app` and takes its options from `Context`.

Exit codes: 0 done · 1 failed · 2 usage or configuration · 3 refused, nothing changed · 4 partly done ·
5 `check`/`verify` found something · 130 interrupted.
"""

from __future__ import annotations

import gc
import sys

from replicator.cli.app import app
from replicator.cli.output import complain
from replicator.errors import ConfigError, RefusedError, ReplicatorError


def main() -> None:
    """The console script."""
    # each registers its commands
    from replicator.cli import config, demo, flow, groups, moves, run, status  # noqa: F401, PLC0415

    gc.freeze()  # what is imported stays: no collection has to look at it
    gc.enable()
    try:
        app()
    except ConfigError as error:
        complain(str(error))
        sys.exit(2)
    except RefusedError as error:
        complain(str(error))
        sys.exit(3)
    except ReplicatorError as error:
        complain(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
