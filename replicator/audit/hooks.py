"""Runs the shell commands of `hooks` before and after a move; they get the plan as JSON on stdin."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from typing import Any

from replicator.config import HooksSettings
from replicator.errors import RefusedError

LAST_WORDS = 300


def run_hook(settings: HooksSettings, name: str, document: Mapping[str, Any]) -> None:
    """Run one hook through the shell, in a process group of its own; what it prints is shown only when it fails.

    Args:
        name: ``before_move`` or ``after_move``; one that is not configured succeeds.
        document: the plan, as ``-o json`` prints it.

    Raises:
        RefusedError: its exit code is not 0, or it did not end within `settings.timeout_s`.
    """
    command = getattr(settings, name)
    if not command:
        return
    process = subprocess.Popen(
        ["/bin/sh", "-c", command],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(json.dumps(document), timeout=settings.timeout_s)
    except subprocess.TimeoutExpired:
        _end(process)
        raise RefusedError(f"hooks.{name} did not end within {settings.timeout_s:g} s") from None
    except BaseException:
        _end(process)
        raise
    if process.returncode != 0:
        tail = output.strip()[-LAST_WORDS:]
        raise RefusedError(f"hooks.{name} ended with exit code {process.returncode}" + (f": {tail}" if tail else ""))


def _end(process: subprocess.Popen[str]) -> None:
    """Kill it and the processes that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
