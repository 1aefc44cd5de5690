"""Runs `replicator` so that it kills or stops itself at a chosen point. The product has no hook for that.

    python -m tests.support.launcher SIGKILL:before_commit:3 -c FILE run

The point is signal, place and how many times the place is passed before. Places:

    assigned        tasks are handed to this process; none has begun
    opened          fenced the last owner, nothing is read yet
    restored        positions are read
    floors_written  a transaction without records (of first runs, of moves) is written, not committed
    floors_committed  … and is committed; the task does not know yet
    appended        records are in the transaction, some on their way
    flushed         all records are acknowledged, no sync is written
    before_commit   the syncs are written, too
    in_commit       the commit is on its way: 3 ms after its call
    committed       the target has committed; the task does not know yet
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from replicator import cli
from replicator.copy.task import Task
from replicator.planes import Plane
from replicator.planes.batches.plane import BatchesPlane
from replicator.planes.records import RecordsPlane
from replicator.worker.worker import FlowWorker

IN_COMMIT_S = 0.003


class _Point:
    """Counts how often each place is passed, and sends the signal at the chosen one."""

    def __init__(self, text: str) -> None:
        name, self._place, times = text.split(":")
        self._signal = signal.Signals[name]
        self._left = int(times)
        self._lock = threading.Lock()

    def is_reached(self, place: str) -> bool:
        """Whether this is the place, and it was passed often enough."""
        with self._lock:
            if place != self._place:
                return False
            self._left -= 1
            return self._left == 0

    def strike(self) -> None:
        """Send this process the signal; SIGSTOP returns after SIGCONT."""
        os.kill(os.getpid(), self._signal)

    def passing(self, place: str) -> None:
        if self.is_reached(place):
            self.strike()


def _after(owner: Any, name: str, then: Callable[..., None]) -> None:
    original = getattr(owner, name)

    def patched(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        then(self)
        return result

    setattr(owner, name, patched)


def _patch(point: _Point) -> None:
    _after(FlowWorker, "_assigned", lambda worker: point.passing("assigned"))
    _after(Task, "_restore", lambda task: point.passing("restored"))
    for kind in (RecordsPlane, BatchesPlane):
        _patch_plane(kind, point)


def _patch_plane(kind: type[Plane], point: _Point) -> None:
    commits: dict[int, bool] = {}  # plane → whether its open transaction holds records

    def began(plane: Plane) -> None:
        commits[id(plane)] = False

    def appended(plane: Plane) -> None:
        commits[id(plane)] = True
        point.passing("appended")

    def flushed(plane: Plane) -> None:
        point.passing("flushed" if commits[id(plane)] else "floors_written")

    commit = kind.commit

    def patched_commit(plane: Plane, *args: Any) -> None:
        has_records = commits[id(plane)]
        if has_records:
            point.passing("before_commit")
            if point.is_reached("in_commit"):
                threading.Timer(IN_COMMIT_S, point.strike).start()
        commit(plane, *args)
        point.passing("committed" if has_records else "floors_committed")

    _after(kind, "begin", began)
    _after(kind, "append", appended)
    _after(kind, "flush", flushed)
    _after(kind, "open", lambda plane: point.passing("opened"))
    setattr(kind, "commit", patched_commit)  # noqa: B010


if __name__ == "__main__":
    _patch(_Point(sys.argv.pop(1)))
    cli.main()
