"""Worker processes: one, or several under a parent that forwards signals and replaces processes that die."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import count
from queue import Empty, SimpleQueue
from types import FrameType

from replicator.config import Flow, Settings
from replicator.deadline import Deadline
from replicator.errors import ConfigError
from replicator.log import get_logger
from replicator.metrics import Metrics
from replicator.worker.health import HealthServer
from replicator.worker.worker import FlowWorker

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
STDERR = 2
"""Where the stacks of all threads are written when a C library crashes the process, or blocks its end: no other output
says why."""
AFTER_TASKS_S = 5.0
"""How much longer than `worker.shutdown_timeout_s` a worker may take, to leave its group and close its clients."""
EXIT_WITHIN_S = 3.0
"""How much longer the whole process may take; then it ends itself, whatever blocks it."""
RESPAWN_AFTER_S = 1.0
RESPAWN_AT_MOST_S = 30.0
PARENT_VARIABLE = "REPLICATOR_PARENT_PID"
"""The parent's process id, for a child: it exits when it has lost its parent."""


class Signals:
    """SIGTERM and SIGINT: the first asks for a clean stop, a second one ends the process at once.

    No `threading.Event`: the handler runs in the main thread between two of its instructions, also while that thread
    holds the event's lock, for which `Event.set` would then wait forever. A `SimpleQueue` may be filled at any moment.

    Args:
        at_once: what a second signal does before the process ends.
    """

    def __init__(self, at_once: Callable[[], None] = lambda: None) -> None:
        self.received: signal.Signals | None = None
        """The first signal."""
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._count = count(1)
        self._at_once = at_once
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if next(self._count) > 1:  # counted in one step: the next signal may be handled within this call
            self._at_once()
            os._exit(EXIT_INTERRUPTED)
        self.received = signal.Signals(number)
        self._wake.put(None)

    def wait(self, seconds: float) -> bool:
        """Whether a signal came, now or within `seconds`. Threading: the main thread."""
        if self.received is None:
            with contextlib.suppress(Empty):
                self._wake.get(timeout=seconds)
        return self.received is not None


def run_worker(settings: Settings, flows: Sequence[Flow]) -> int:
    """Run one worker for each flow until a signal; the exit code."""
    faulthandler.enable(STDERR)
    log = get_logger()
    signals = Signals()
    metrics = Metrics()
    workers = {flow.name: FlowWorker(flow, settings, metrics) for flow in flows}
    server = HealthServer(settings.http, metrics.registry, workers)
    log.info(
        "worker_started", flows=sorted(workers), pid=os.getpid(), http=f"http://{settings.http.host}:{server.port}"
    )
    for worker in workers.values():
        worker.start()
    parent = os.environ.get(PARENT_VARIABLE)
    while not signals.wait(0.2) and any(worker.is_alive() for worker in workers.values()):
        if parent is not None and os.getppid() != int(parent):
            log.warning("parent_is_gone", hint="this process exits, too")
            break
    if signals.received is not None:
        log.info("worker_stopping", signal=signals.received.name, within_s=settings.worker.shutdown_timeout_s)
    deadline = Deadline(settings.worker.shutdown_timeout_s + AFTER_TASKS_S)
    # a C library may block with the interpreter's lock held: then no Python code runs that could end the process
    faulthandler.dump_traceback_later(deadline.seconds + EXIT_WITHIN_S, exit=True, file=STDERR)
    for worker in workers.values():
        worker.stop()
    for worker in workers.values():
        worker.join(deadline.left_s())
    server.close()
    failures = [worker.failure for worker in workers.values() if worker.failure is not None]
    if failures:
        return EXIT_USAGE if isinstance(failures[0], ConfigError) else EXIT_FAILED
    if any(worker.is_alive() for worker in workers.values()):
        log.error("worker_left_unclean", hint="a transaction may be open; the next owner aborts it")
        return EXIT_FAILED
    return EXIT_DONE


class _Child:
    """One process of a parent."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = arguments
        self.started_s = time.monotonic()
        self.process = self._spawn()
        self.wait_s = RESPAWN_AFTER_S

    def respawn_if_due(self) -> bool:
        """Start it again when it has been dead for long enough; True when it was started."""
        ran_s = time.monotonic() - self.started_s
        if ran_s < self.wait_s:
            return False
        self.wait_s = RESPAWN_AFTER_S if ran_s > RESPAWN_AT_MOST_S else min(self.wait_s * 2, RESPAWN_AT_MOST_S)
        self.started_s = time.monotonic()
        self.process = self._spawn()
        return True

    def _spawn(self) -> subprocess.Popen[bytes]:
        """In a session of its own: Ctrl-C reaches only the parent, which forwards one signal."""
        environment = os.environ | {PARENT_VARIABLE: str(os.getpid())}
        return subprocess.Popen(self._arguments, env=environment, start_new_session=True)


def run_processes(number: int, arguments: Sequence[str], settings: Settings) -> int:
    """Run `number` worker processes until a signal, replacing those that die.

    Args:
        arguments: of this program, for one worker (``-c FILE run``).
    """
    log = get_logger()
    children: list[_Child] = []
    signals = Signals(lambda: _kill_all(children))
    children += [_Child([sys.executable, "-m", "replicator", *arguments]) for _ in range(number)]
    log.info("processes_started", pids=[child.process.pid for child in children])
    while not signals.wait(0.2):
        for child in children:
            code = child.process.poll()
            if code == EXIT_USAGE:
                return _stop_all(children, settings, EXIT_USAGE)
            if code is not None and child.respawn_if_due():
                log.error("process_died", exit_code=code, replaced_by=child.process.pid)
    return _stop_all(children, settings, EXIT_DONE)


def _stop_all(children: Sequence[_Child], settings: Settings, code: int) -> int:
    """Forward the signal, wait, and kill the processes that do not end in time."""
    deadline = Deadline(settings.worker.shutdown_timeout_s + 10)
    for child in children:
        if child.process.poll() is None:
            child.process.terminate()
    for child in children:
        try:
            child.process.wait(max(0.1, deadline.left_s()))
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()
            code = EXIT_FAILED
    return code


def _kill_all(children: Sequence[_Child]) -> None:
    for child in children:
        child.process.kill()
