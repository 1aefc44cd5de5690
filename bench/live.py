"""A source at work, a contender that follows it, and a look at both: what measurements under load begin with."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from bench.backlog import Backlog, BenchError, Watch
from bench.contenders import SOURCE, Task
from bench.load import TICK_S, Load
from bench.positions import read_offsets
from bench.stage import Stage, check_runs
from replicator.deadline import Deadline
from replicator.embedded import OwnedProcess

CAUGHT_UP_S = 5.0
"""How far behind the load, in seconds of it, a contender may be when a measurement begins: markers count as records."""
READY_TIMEOUT_S = 150.0
DRAIN_TIMEOUT_S = 60.0
LOOK_S = 0.2


class Live:
    """One contender under load. What it starts is ended by `stack`.

    Args:
        name: of the contender; "" for none.
        backlog: the topic; created, and filled with what it says before the load begins.
        records_per_s: of the load.
        workers: how many of the contender's processes are started.
        task: other than the backlog's topic alone.
    """

    def __init__(
        self, stage: Stage, stack: contextlib.ExitStack, name: str, backlog: Backlog, records_per_s: int, *,
        workers: int = 1, task: Task | None = None, tick_s: float = TICK_S,
    ) -> None:  # fmt: skip
        servers = stage.source.bootstrap_servers
        backlog.create(servers)
        backlog.fill(servers)
        self.name = name
        self.topic = backlog.topic
        self.remote = f"{SOURCE}.{backlog.topic}"
        self._stage = stage
        self._backlog = backlog
        self._rate = records_per_s
        self.load = Load(servers, backlog, records_per_s, tick_s)
        stack.callback(self.load.stop)
        self.checks: list[Callable[[], None]] = [self.load.check]
        """Each raises when the measurement can't go on."""
        self.processes: list[OwnedProcess] = []
        self.load.start()
        wanted = task or stage.task(backlog.topic, backlog.partitions)
        for _ in range(workers if name else 0):
            process, _ = stack.enter_context(stage.started(name, wanted))
            self.processes.append(process)
        self.watch = Watch(stage.target.bootstrap_servers, {self.remote: backlog})
        stack.callback(self.watch.close)

    def check(self) -> None:
        """Raise when the measurement can't go on."""
        for check in self.checks:
            check()
        for process in self.processes:
            check_runs(self.name, process)

    def let_pass(self, seconds: float) -> None:
        """Let time pass, as long as all goes well."""
        deadline = Deadline(seconds)
        while not deadline.expired:
            self.check()
            time.sleep(deadline.slice_s(LOOK_S))

    def await_caught_up(self, missing: Callable[[], object] = lambda: None) -> None:
        """Until the contender has caught up with the load, and nothing is `missing`.

        Raises:
            BenchError: not in time.
        """
        deadline = Deadline(READY_TIMEOUT_S)
        while True:
            lacking = missing()
            behind = self.load.records - sum(self.watch.ends().values())
            if not lacking and behind < self._rate * CAUGHT_UP_S:
                return
            if deadline.expired:
                text = f"{self.name} is not ready: {behind:,} records behind, missing: {lacking or 'nothing'}"
                raise BenchError(f"{text}; its log ends with\n{self.processes[0].log_tail()}")
            self.let_pass(LOOK_S)

    def finish(self) -> None:
        """End the load, let the contender write what is left, and prove that each record is there once.

        Raises:
            BenchError: one is missing, there twice, or out of order.
        """
        self.load.finish()
        last = Backlog(self.topic, self._backlog.partitions, self.load.acknowledged[0], self._backlog.size_bytes)
        watch = Watch(self._stage.target.bootstrap_servers, {self.remote: last})
        deadline = Deadline(DRAIN_TIMEOUT_S)
        with contextlib.closing(watch):
            while not watch.is_complete(watch.ends()):
                if deadline.expired:
                    raise BenchError(f"{self.name} has not written the last records within {deadline.seconds:g} s")
                self.let_pass(LOOK_S)
        found = read_offsets(self._stage.target.bootstrap_servers, self.remote, last.partitions)
        if (made := sum(map(len, found))) != last.records:
            raise BenchError(f"{self.name} made {made:,} records of {last.records:,}")
