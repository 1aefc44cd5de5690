"""One `replicator` process of a test: its signals, and its log as events."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.eventually import eventually

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 120.0
EXIT_TIMEOUT_S = 60.0

Event = dict[str, Any]


class WorkerProcess:
    """Starts the process and reads its log until it ends; `close` leaves nothing of it behind.

    Args:
        arguments: of the command line, after the program's name.
        point: where it ends or stops by itself, in the words of `tests/support/launcher.py`; empty: nowhere.
        groups: start it in a process group of its own, as a terminal would.
    """

    def __init__(self, arguments: Sequence[str], *, point: str = "", groups: bool = False) -> None:
        program = ["-m", "tests.support.launcher", point] if point else ["-m", "replicator"]
        self.started_s = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, *program, *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=groups,
        )
        self._lines: list[tuple[float, str]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append((time.monotonic(), line.rstrip()))

    @property
    def pid(self) -> int:
        return self._process.pid

    # --- its log ------------------------------------------------------------------------------------------------------

    def log(self) -> str:
        """All it wrote, for the text of a failed assertion."""
        return "\n".join(f"{at - self.started_s:8.3f} {line}" for at, line in list(self._lines))

    def events(self, *names: str, after_s: float = 0.0, **having: Any) -> list[Event]:
        """Log events of these names (all: without names) with these values; `at_s` is their monotonic time.

        Args:
            after_s: only those that were read after this monotonic time.
        """
        found = []
        for at_s, line in list(self._lines):
            if not line.startswith("{") or at_s < after_s:
                continue
            event: Event = {**json.loads(line), "at_s": at_s}
            is_wanted = not names or event.get("event") in names
            if is_wanted and all(event.get(key) == value for key, value in having.items()):
                found.append(event)
        return found

    def await_event(self, *names: str, within_s: float = START_TIMEOUT_S, after_s: float = 0.0, **having: Any) -> Event:
        """The first such event, as soon as it is there."""

        def seen() -> Event:
            found = self.events(*names, after_s=after_s, **having)
            assert found, f"none of {names} {having or ''} in the log of {self.pid}:\n{self.log()[-6000:]}"
            return found[0]

        return eventually(seen, within_s)

    def await_running(self, tasks: int, within_s: float = START_TIMEOUT_S) -> None:
        """Wait until so many tasks run here at some time since the start."""

        def run() -> bool:
            running = {event["task"] for event in self.events("task_runs")}
            assert len(running) >= tasks, f"only the tasks {running} run:\n{self.log()[-6000:]}"
            return True

        eventually(run, within_s)

    def probe(self, path: str) -> tuple[int, str]:
        """Status and body of an HTTP path of the process."""
        address = self.await_event("worker_started")["http"]
        try:
            with urllib.request.urlopen(f"{address}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name: str) -> dict[str, float]:
        """The series of one metric: labels as text → value."""
        _, body = self.probe("/metrics")
        pattern = re.compile(rf"^{name}\{{(.*)\}} (\S+)$", re.MULTILINE)
        return {labels: float(value) for labels, value in pattern.findall(body)}

    # --- its life -----------------------------------------------------------------------------------------------------

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def send(self, number: int) -> None:
        """Send a signal to this process alone."""
        self._process.send_signal(number)

    def send_to_group(self, number: int) -> None:
        """Send a signal to its whole process group, as Ctrl-C on a terminal does."""
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        """kill -9, and wait for the end."""
        self.send(signal.SIGKILL)
        self._process.wait(EXIT_TIMEOUT_S)

    def await_stopped(self, within_s: float = START_TIMEOUT_S) -> None:
        """Wait until it stopped itself with SIGSTOP."""

        def is_stopped() -> bool:
            assert self.is_alive(), self.log()[-6000:]
            state = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
            assert state == "T", f"state {state}:\n{self.log()[-3000:]}"
            return True

        eventually(is_stopped, within_s)

    def await_exit(self, within_s: float = EXIT_TIMEOUT_S) -> int:
        """The exit code; negative: the signal that ended it."""

        def has_ended() -> bool:
            assert not self.is_alive(), f"{self.pid} still runs:\n{self.log()[-6000:]}"
            return True

        eventually(has_ended, within_s, every_s=0.02)
        self._reader.join(5.0)
        return self._process.wait()

    def close(self) -> None:
        """Make sure that it is gone."""
        if self.is_alive():
            self.kill()
        for event in self.events("processes_started", "process_died"):  # children, had the parent no time to end them
            for pid in event.get("pids", []) or [event["replaced_by"]]:
                _kill_child(pid)
        self._reader.join(5.0)


def _kill_child(pid: int) -> None:
    with contextlib.suppress(OSError):
        if b"replicator" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
