"""Processes that cannot outlive us: the parent's side of `reaper_main.py`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from replicator.deadline import Deadline
from replicator.embedded.reaper_main import CONTROL_SOCKET
from replicator.embedded.spec import STOP_TIMEOUT_S, ClusterError

ANSWER_TIMEOUT_S = 30.0
POLL_INTERVAL_S = 0.01
LOG_TAIL_LINES = 40


class Reaper:
    """Starts processes that are killed, and a directory that is removed, when this object is closed or we are gone.

    "Gone" includes `kill -9` of this Python process: the reaper is a process of its own and notices.

    Threading: safe; requests are answered one after the other.
    """

    def __init__(self) -> None:
        """Start the reaper process and learn its directory."""
        ours, theirs = socket.socketpair()
        script = Path(__file__).with_name("reaper_main.py")
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(script), str(os.getpid())],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in a terminal is for us, and we tell the reaper
            )
        ours.settimeout(ANSWER_TIMEOUT_S)
        self._socket = ours
        self._answers = ours.makefile("rb")
        self._lock = threading.Lock()
        self.directory = Path(self._answer()["directory"])
        """Where data and logs go."""

    def __enter__(self) -> Self:
        """Nothing more to do."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    @property
    def pid(self) -> int:
        """The reaper's own process id."""
        return self._process.pid

    def spawn(self, argv: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None) -> OwnedProcess:
        """Start a process.

        Args:
            argv: absolute program path and arguments.
            log: its standard output and error are appended here.
            env: variables on top of our own environment.

        Raises:
            ClusterError: it could not be started, or the reaper is gone.
        """
        request = {"op": "spawn", "argv": list(argv), "log": str(log), "env": dict(env or {})}
        return OwnedProcess(self, int(self.call(request)["pid"]), log)

    def call(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send one request and return its answer.

        Raises:
            ClusterError: the answer is an error, or the reaper is gone.
        """
        with self._lock:
            try:
                self._socket.sendall(json.dumps(request).encode() + b"\n")
            except OSError as error:
                raise ClusterError(f"the process that owns the Kafka brokers is gone: {error}") from error
            return self._answer()

    def _answer(self) -> dict[str, Any]:
        try:
            line = self._answers.readline()
        except OSError as error:
            raise ClusterError(f"no answer from the process that owns the Kafka brokers: {error}") from error
        if not line:
            raise ClusterError("the process that owns the Kafka brokers has ended")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ClusterError(answer["error"])
        return answer

    def detach(self) -> Path:
        """Let the processes live on without us, until `stop_detached(directory)`.

        Returns:
            The directory to give to `stop_detached`.
        """
        self.call({"op": "detach"})
        self._socket.close()
        self._process.returncode = 0  # it is meant to live on: no warning about a running child when we are collected
        return self.directory

    def close(self) -> None:
        """Kill every process and remove the directory; returns when that is done. Does nothing a second time."""
        if self._process.returncode is not None:
            return
        with self._lock:
            # The end of the stream alone is not enough while a fork of us holds a copy of the socket.
            with contextlib.suppress(OSError):  # it is closing already, for a reason of its own
                self._socket.sendall(b'{"op": "close"}\n')
            self._answers.close()
            self._socket.close()
        try:
            self._process.wait(ANSWER_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            raise ClusterError(f"the Kafka brokers in {self.directory} could not be cleaned up in time") from None


class OwnedProcess:
    """A process of a reaper."""

    def __init__(self, reaper: Reaper, pid: int, log: Path) -> None:
        """Made by `Reaper.spawn`."""
        self._reaper = reaper
        self.pid = pid
        self.log = log

    def poll(self) -> int | None:
        """The exit status, negative for a signal, or None while it runs."""
        status: int | None = self._reaper.call({"op": "poll", "pid": self.pid})["status"]
        return status

    def signal(self, signum: int) -> None:
        """Send a signal; nothing happens when the process has ended."""
        self._reaper.call({"op": "signal", "pid": self.pid, "signum": int(signum)})

    def wait(self, timeout_s: float) -> int:
        """Wait for the end and return the exit status.

        Raises:
            TimeoutError: it still runs.
        """
        deadline = Deadline(timeout_s)
        while (status := self.poll()) is None:
            if deadline.expired:
                raise TimeoutError(f"process {self.pid} still runs after {timeout_s:g} s")
            time.sleep(POLL_INTERVAL_S)
        return status

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """SIGTERM, and SIGKILL if that takes longer than `timeout_s`; return the exit status."""
        self.signal(signal.SIGTERM)
        try:
            return self.wait(timeout_s)
        except TimeoutError:
            return self.kill()

    def kill(self) -> int:
        """SIGKILL; returns the exit status when the process is gone."""
        self.signal(signal.SIGKILL)
        return self.wait(STOP_TIMEOUT_S)

    def log_tail(self) -> str:
        """The last lines of its output."""
        return log_tail(self.log)


def log_tail(log: Path) -> str:
    """The last lines of a log file, or a word that there is none."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return "(no log)"
    return "\n".join(text.splitlines()[-LOG_TAIL_LINES:])


def stop_detached(directory: Path) -> None:
    """End what `Reaper.detach` left running; returns when all processes are gone and the directory is removed.

    Raises:
        ClusterError: no detached clusters run there.
    """
    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(ANSWER_TIMEOUT_S)
        try:
            control.connect(str(directory / CONTROL_SOCKET))
            control.sendall(b"close\n")
            control.recv(1)  # end of file: done
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise ClusterError(f"no clusters run in {directory}") from error
