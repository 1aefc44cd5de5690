"""Commands of the program, called in this process: with patches of the test, and without the time of a start."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import structlog

from replicator.cli import main
from tests.support.flows import FlowBench


class Done(NamedTuple):
    """What a command left behind."""

    code: int
    stdout: str
    stderr: str

    def json(self) -> Any:
        return json.loads(self.stdout)


Run = Callable[..., Done]
"""Runs a command with these arguments."""
Runs = Callable[[FlowBench], Run]
"""The commands for one flow."""


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runs:
    """Commands for a flow, with the configuration that it has at the first of them."""

    def commands_for(bench: FlowBench) -> Run:
        file = tmp_path / "replicator.yaml"
        file.write_text(bench.settings().model_dump_json())

        def call(*arguments: str) -> Done:
            monkeypatch.setattr(sys, "argv", ["replicator", "-c", str(file), *arguments])
            capsys.readouterr()
            logs = structlog.get_config() if structlog.is_configured() else None
            with pytest.raises(SystemExit) as ended:
                main()
            captured = capsys.readouterr()
            structlog.reset_defaults()  # others log as if no command had run in this process
            if logs is not None:
                structlog.configure(**logs)
            return Done(int(ended.value.code or 0), captured.out, captured.err)

        return call

    return commands_for
