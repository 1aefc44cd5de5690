"""Asking the operator before something is changed."""

from __future__ import annotations

import sys

from replicator.cli.output import aside, stderr
from replicator.errors import RefusedError


def confirm(question: str, yes: bool) -> None:
    """Ask on stderr, unless `yes`; the answer comes from the terminal.

    Raises:
        RefusedError: the answer is not yes, or there is no terminal to ask.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise RefusedError("no terminal to confirm on; pass --yes")
    with aside():
        stderr.print(question, "[y/N] ", markup=False, end="")
        try:
            answer = input()
        except EOFError:
            answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise RefusedError("not confirmed; nothing was changed")
