"""Commands of the program, called in this process: with patches of the test, and without the time of a start.

What is about a process, such as a signal, needs one: `commands.Command`.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest
import structlog

from replicator.cli import main
from tests.support.flows import FlowBench


class Done(NamedTuple):
    """What a command left behind."""

    arguments: tuple[str, ...]
    code: int
    stdout: str
    stderr: str

    def json(self) -> Any:
        return json.loads(self.stdout)

    def report(self) -> str:
        """For the text of a failed assertion."""
        return f"{' '.join(self.arguments)}\n--- stdout\n{self.stdout[-5000:]}\n--- stderr\n{self.stderr[-3000:]}"


Run = Callable[..., Done]
"""Runs a command with these arguments."""
Runs = Callable[[FlowBench], Run]
"""The commands for one flow."""


def call(file: Path, *arguments: str) -> Done:
    """Run a command to its end, with this configuration."""
    stdout, stderr = io.StringIO(), io.StringIO()
    logs = structlog.get_config() if structlog.is_configured() else None
    with (
        mock.patch.object(sys, "argv", ["replicator", "-c", str(file), *arguments]),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    structlog.reset_defaults()  # others log as if no command had run in this process
    if logs is not None:
        structlog.configure(**logs)
    return Done(arguments, int(ended.value.code or 0), stdout.getvalue(), stderr.getvalue())


@pytest.fixture
def commands(tmp_path: Path) -> Runs:
    """Commands for a flow, with the configuration that it has at the first of them."""

    def commands_for(bench: FlowBench) -> Run:
        file = tmp_path / "replicator.yaml"
        file.write_text(bench.settings().model_dump_json())
        return lambda *arguments: call(file, *arguments)

    return commands_for
