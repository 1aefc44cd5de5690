"""Runs commands of `replicator` as an operator does: processes of their own, with exit code, stdout and stderr."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.support.eventually import eventually
from tests.support.worker_process import ROOT

COMMAND_TIMEOUT_S = 90.0


class Command:
    """One command, from its start to its end; `with` makes sure of the end.

    Args:
        file: the configuration.
        arguments: after `-c FILE`.
    """

    def __init__(self, file: Path, *arguments: str) -> None:
        self.arguments = arguments
        self.started_s = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "replicator", "-c", str(file), *arguments],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._said: list[str] = []
        self._printed: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, args=(stream, lines), daemon=True)
            for stream, lines in ((self._process.stdout, self._printed), (self._process.stderr, self._said))
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(stream: Any, lines: list[str]) -> None:
        for line in stream:
            lines.append(line)

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    @property
    def stderr(self) -> str:
        return "".join(self._said)

    @property
    def stdout(self) -> str:
        return "".join(self._printed)

    def await_said(self, text: str, within_s: float = COMMAND_TIMEOUT_S) -> None:
        """Wait until it says so on stderr."""

        def has_said() -> bool:
            is_over = self._process.poll() is not None
            assert text in self.stderr or not is_over, f"ended without saying {text!r}: {self.report()}"
            return text in self.stderr

        eventually(has_said, within_s, every_s=0.02)

    def send(self, number: int) -> None:
        """Send a signal; SIGINT is what Ctrl-C does."""
        self._process.send_signal(number)

    def wait(self, within_s: float = COMMAND_TIMEOUT_S) -> int:
        """Wait for the end; the exit code."""
        code = self._process.wait(within_s)
        for reader in self._readers:
            reader.join(10)
        return code

    def ends(self, code: int = 0, within_s: float = COMMAND_TIMEOUT_S) -> Command:
        """Wait for the end.

        Raises:
            AssertionError: another exit code.
        """
        found = self.wait(within_s)
        assert found == code, f"exit code {found}, not {code}: {self.report()}"
        return self

    def json(self) -> dict[str, Any]:
        """The one document on stdout."""
        document = json.loads(self.stdout)
        assert isinstance(document, dict)
        return document

    def report(self) -> str:
        """For the text of a failed assertion."""
        return f"{' '.join(self.arguments)}\n--- stdout\n{self.stdout[-5000:]}\n--- stderr\n{self.stderr[-3000:]}"


def run(file: Path, *arguments: str, code: int = 0) -> Command:
    """Run a command to its end."""
    with Command(file, *arguments) as command:
        return command.ends(code)


def move(file: Path, *arguments: str, code: int = 0) -> dict[str, Any]:
    """Run a move without questions; its JSON."""
    return run(file, *arguments, "--yes", "-o", "json", code=code).json()
