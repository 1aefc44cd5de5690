"""Two `replicator run` processes, as an operator would start them, that can't outlive the demo."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from replicator.demo.flights import DemoError
from replicator.embedded import OwnedProcess, Reaper

STOP_TIMEOUT_S = 20.0


class Worker:
    """One worker process; what it does is read from its log.

    Attributes:
        tasks: the tasks that it runs now.
        ended: how we ended it, ``killed`` or ``stopped``; empty while it runs.
    """

    def __init__(self, name: str, process: OwnedProcess) -> None:
        self.name = name
        self.tasks: set[int] = set()
        self.ended = ""
        self._process = process
        self._read_bytes = 0
        self._joined = False

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
            DemoError: it ended, and nobody killed it.
        """
        if self.ended:
            return
        if (status := self._process.poll()) is not None:
            raise DemoError(f"worker {self.name} ended by itself ({status}); its log ends with\n{self.log_tail()}")
        for event in self._new_events():
            self._apply(event)

    def _new_events(self) -> Iterator[Mapping[str, Any]]:
        with contextlib.suppress(FileNotFoundError), self._process.log.open("rb") as log:
            log.seek(self._read_bytes)
            for line in log:
                if not line.endswith(b"\n"):
                    return  # half a line; the rest comes later
                self._read_bytes += len(line)
                with contextlib.suppress(json.JSONDecodeError):  # Python writes its own warnings there too
                    event = json.loads(line)
                    if isinstance(event, dict):
                        yield event

    def _apply(self, event: Mapping[str, Any]) -> None:
        match event.get("event"):
            case "tasks_assigned":
                self._joined = True
            case "task_runs":
                self.tasks.add(event["task"])
            case "tasks_revoked" | "tasks_lost":
                self.tasks -= set(event["tasks"])
            case "task_restarts" | "task_fenced" | "task_failed_unexpectedly":
                self.tasks.discard(event["task"])

    def kill(self) -> None:
        """kill -9; returns when it is gone."""
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


@contextlib.contextmanager
def run_workers(names: list[str], config: Mapping[str, Any]) -> Iterator[list[Worker]]:
    """Start a worker for each name; they, their configuration and their logs are gone at the end.

    They belong to a reaper process, which ends them even when we are killed with kill -9.
    """
    with Reaper() as reaper:
        file = reaper.directory / "replicator.yaml"
        write_config(file, {**config, "http": {"port": 0}})
        argv = [*_clean_environment(), sys.executable, "-m", "replicator", "-c", str(file), "run"]
        yield [Worker(name, reaper.spawn(argv, log=reaper.directory / f"worker-{name}.log")) for name in names]


def write_config(file: Path, config: Mapping[str, Any]) -> None:
    """Write a configuration that `replicator -c` reads."""
    file.write_text(yaml.safe_dump(dict(config), sort_keys=False), encoding="utf-8")


def _clean_environment() -> list[str]:
    """Run without our user's REPLICATOR_* variables: they would override the demo's configuration."""
    variables = [name for name in os.environ if name.upper().startswith("REPLICATOR_")]
    if not variables:
        return []
    env = shutil.which("env")
    if env is None:
        raise DemoError(f"unset {', '.join(variables)}: they would change the demo's configuration")
    return [env, *(argument for name in variables for argument in ("-u", name))]
