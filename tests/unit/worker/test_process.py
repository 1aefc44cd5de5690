"""The signals of worker processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from replicator.worker.process import Signals

# from a process of its own: a thread of this one gets its turn only where the main thread waits
SENDER = """
import os, random, signal, sys, time
for line in sys.stdin:
    end = time.monotonic() + random.uniform(0.0, 0.001)
    while time.monotonic() < end:
        pass
    os.kill(int(line), signal.SIGTERM)
"""


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Give the signals back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def send_soon() -> Iterator[Callable[[], None]]:
    """Has a SIGTERM sent to this process within a millisecond."""
    with subprocess.Popen([sys.executable, "-c", SENDER], stdin=subprocess.PIPE, text=True) as sender:
        assert sender.stdin is not None
        stdin = sender.stdin

        def ask() -> None:
            stdin.write(f"{os.getpid()}\n")
            stdin.flush()

        yield ask


@pytest.mark.timeout(60, method="signal")
def test_a_signal_at_any_moment_is_heard(send_soon: Callable[[], None]) -> None:
    """Also in the first and in the last step of a wait: a handler that takes a lock would hang there."""
    for turn in range(500):
        signals = Signals()
        send_soon()
        while not signals.wait(0.0 if turn % 2 else 0.00001):
            pass
        assert signals.wait(0.0)


def test_it_waits_as_long_as_asked() -> None:
    signals = Signals()
    began_s = time.monotonic()
    assert not signals.wait(0.05)
    assert time.monotonic() - began_s >= 0.05


CONFIG = """
clusters: {east: {bootstrap_servers: "127.0.0.1:1"}, west: {bootstrap_servers: "127.0.0.1:1"}}
flows: {east->west: {topics: [orders]}}
http: {port: 0}
connect_timeout_s: 1
"""


def await_looking(worker: subprocess.Popen[str]) -> None:
    """Wait until it has looked for its clusters in vain."""
    assert worker.stdout is not None
    while "tried for 1 s" not in (line := worker.stdout.readline()):
        assert line, "ended"


def test_a_library_that_ends_the_process_leaves_the_stacks_of_its_threads(tmp_path: Path) -> None:
    """As librdkafka's or the C library's `abort` does: by the signal alone.

    Python writes the stacks of threads that run on meanwhile, and may stumble over one: sent when all of them wait.
    """
    file = tmp_path / "replicator.yaml"
    file.write_text(CONFIG)
    arguments = [sys.executable, "-m", "replicator", "-c", str(file), "run"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as worker:
        await_looking(worker)
        worker.send_signal(signal.SIGABRT)
        said, _ = worker.communicate(timeout=60)
    assert worker.returncode == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in said
    assert "in run_worker" in said
    assert said.count("most recent call first") > 1


HANGS = """
import ctypes
from replicator import cli
from replicator.worker import process
from replicator.worker.worker import FlowWorker

process.AFTER_TASKS_S, process.EXIT_WITHIN_S = 0.5, 0.5
FlowWorker.stop = lambda self: ctypes.PyDLL(None).sleep(300)
cli.main()
"""
"""A worker that hangs with the interpreter's lock held as soon as it is asked to stop: a `PyDLL` keeps it."""


def test_a_worker_that_a_library_holds_up_ends_in_time(tmp_path: Path) -> None:
    """No thread of Python's gets a turn, no signal is handled: the process ends itself all the same, and tells."""
    file = tmp_path / "replicator.yaml"
    file.write_text(CONFIG + "worker: {shutdown_timeout_s: 1}\n")
    arguments = [sys.executable, "-c", HANGS, "-c", str(file), "run"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as worker:
        try:
            await_looking(worker)
            worker.send_signal(signal.SIGTERM)
            said, _ = worker.communicate(timeout=60)
        finally:
            worker.kill()
    assert worker.returncode == 1
    assert "Timeout (0:00:02)!" in said
    assert "in run_worker" in said


def test_two_signals_in_the_same_moment_are_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one comes while the first is being handled: it must not count as the first, too."""
    ended: list[int] = []
    names = signal.Signals

    def name_slowly(number: int) -> signal.Signals:
        monkeypatch.setattr(signal, "Signals", names)
        signal.raise_signal(signal.SIGINT)
        return names(number)

    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(signal, "Signals", name_slowly)
    signals = Signals()
    signal.raise_signal(signal.SIGTERM)
    assert ended == [130]
    assert signals.wait(0.0)
