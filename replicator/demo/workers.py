"""A `replicator run` process; what it does is read from its log."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from replicator.demo.flights import DemoError
from replicator.demo.processes import Tail
from replicator.embedded import OwnedProcess

STOP_TIMEOUT_S = 20.0


class Worker:
    """One worker process.

    Attributes:
        tasks: the tasks that it runs now.
        ended: how the demo ended it, ``killed`` or ``stopped``; empty while it runs.
    """

    def __init__(self, name: str, process: OwnedProcess) -> None:
        self.name = name
        self.tasks: set[int] = set()
        self.ended = ""
        self._process = process
        self._log = Tail(process.log)
        self._joined = False
        self._assigned: set[int] = set()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def state(self) -> str:
        """One or two words for the progress display."""
        if self.ended:
            return self.ended
        if self.tasks:
            return "tasks " + " ".join(str(task) for task in sorted(self.tasks))
        return "no tasks" if self._joined else "starting"

    def refresh(self) -> None:
        """Read what it logged since the last call.

        Raises:
            DemoError: it ended by itself.
        """
        if self.ended:
            return
        if (status := self._process.poll()) is not None:
            raise DemoError(f"worker {self.name} ended by itself ({status}); its log ends with\n{self.log_tail()}")
        for event in self._new_events():
            self._apply(event)

    def _new_events(self) -> Iterator[Mapping[str, Any]]:
        for line in self._log.lines():
            with contextlib.suppress(json.JSONDecodeError):  # Python writes its own warnings there too
                event = json.loads(line)
                if isinstance(event, dict):
                    yield event

    def _apply(self, event: Mapping[str, Any]) -> None:
        match event.get("event"):
            case "tasks_assigned":
                self._joined = True
                self._assigned |= set(event["tasks"])
            case "task_runs":
                self.tasks |= self._assigned & {
                    event["task"]
                }  # a task that was revoked while it started still logs this
            case "tasks_revoked" | "tasks_lost":
                self._assigned -= set(event["tasks"])
                self.tasks &= self._assigned
            case "task_restarts" | "task_fenced" | "task_failed_unexpectedly":
                self.tasks.discard(event["task"])

    def kill(self) -> None:
        """kill -9; returns when the process has ended."""
        self.ended = "killed"
        self._process.kill()
        self.tasks.clear()

    def stop(self) -> None:
        """SIGTERM, as an operator stops it.

        Raises:
            DemoError: it did not end cleanly.
        """
        if self.ended:
            return
        status = self._process.stop(STOP_TIMEOUT_S)
        self.ended = "stopped"
        self.tasks.clear()
        if status != 0:
            raise DemoError(f"worker {self.name} stopped with {status}; its log ends with\n{self.log_tail()}")

    def log_tail(self) -> str:
        return self._process.log_tail()


def are_shared(workers: Collection[Worker], tasks: int) -> bool:
    """Whether each task is run, by one worker, and each worker runs one: so a kill has an effect."""
    running = sorted(task for worker in workers for task in worker.tasks)
    return running == list(range(tasks)) and all(worker.tasks for worker in workers)
