"""The consumer group's moves: to the target with `replicator switchover`, and back with `replicator failback`."""

from __future__ import annotations

import json
import math
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from replicator.deadline import Deadline
from replicator.demo.clusters import Sides
from replicator.demo.display import Display
from replicator.demo.flights import DemoError
from replicator.demo.group import Group, Journal
from replicator.demo.processes import Processes, Tail
from replicator.demo.summary import Move

MOVE_TIMEOUT_S = 180.0
"""More than the command takes by itself: `--timeout` is 120 s."""
SHOWN_CHARACTERS = 100
"""Of a line that names every consumer of the group."""


class Trip:
    """The group, on whichever cluster it works. A context manager: no member works afterwards.

    Args:
        turn: called again and again while a move goes on; shows the progress, and raises what failed.

    Attributes:
        moves: the results of the moves.
        where: the alias of the cluster where the group works.
    """

    def __init__(self, sides: Sides, journal: Journal, display: Display, turn: Callable[[], None]) -> None:
        self.moves: list[Move] = []
        self.where = sides.names.source
        self._sides = sides
        self._journal = journal
        self._display = display
        self._turn = turn
        self._group: Group | None = None
        self._stopped_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._group is not None:
            self._group.close()

    def check(self) -> None:
        """Raise what ended a member, if an error did."""
        if self._group is not None:
            self._group.check()

    @property
    def processed_here(self) -> int:
        """Records that the group processed since it began to work where it is."""
        return self._group.records if self._group is not None else 0

    def begin(self, alias: str) -> None:
        """The group begins to work on a cluster."""
        self.where = alias
        names = self._sides.names
        topic = names.topic if alias == names.source else names.remote_topic
        self._group = Group(self._sides.consumers(alias), topic, self._journal)

    def move(self, processes: Processes, command: str, to: str) -> None:
        """Move the group by `replicator switchover` or `failback`: started while it works, and waiting for its end.

        Raises:
            DemoError: the command did not succeed.
        """
        assert self._group is not None
        name = self._sides.names.group
        self._display.say(f"$ replicator {command} {name} --yes", style="bold")
        run = _Run(processes, command, name)
        run.until(lambda: "waiting: " in run.said, self._turn)
        for line in run.said.splitlines():
            self._display.say(f"  {textwrap.shorten(line, SHOWN_CHARACTERS, placeholder=' …')}")
        self._stopped_s = time.monotonic()
        before = self.processed_here
        self._group.stop()
        self._group = None
        self._display.say(f"  The group stopped after {before:,} records on {self.where}")
        run.until(lambda: run.is_over, self._turn)
        document = run.document()
        moved = Move(command, len(document["partitions"]), _exact(document), time.monotonic() - self._stopped_s)
        for line in short_plan(document):
            self._display.say(f"  {line}")
        self._display.say(
            f"{name} moved to {to}, {moved.took_s:.1f} s after its consumers were stopped", style="bold green"
        )
        self.moves.append(moved)
        self.begin(to)

    def arrived(self) -> None:
        """The group has worked where it was moved to: note how long that took, if there was a record for it."""
        assert self._group is not None
        pause_s = self._group.first_s - self._stopped_s
        self.moves[-1] = replace(self.moves[-1], pause_s=pause_s if math.isfinite(pause_s) else None)

    def end(self) -> None:
        """The group stops for good."""
        assert self._group is not None
        self._group.stop()


def _exact(document: dict[str, Any]) -> int:
    return sum(row["translation"] == "exact" for row in document["partitions"])


def short_plan(document: dict[str, Any]) -> list[str]:
    """What a move did, in a few lines, from its JSON. Pure."""
    rows = document["partitions"]
    reread = sum(row["reread_records"] or 0 for row in rows)
    risk = sum(row["at_risk_records"] or 0 for row in rows)
    lines = [f"{_exact(document)} of {len(rows)} partitions exact, {reread} records to be read again, {risk} at risk"]
    if rows:
        first = rows[0]
        upstream = f"{first['topic']} {first['partition']} at {first['upstream_next']:,}"
        downstream = f"{first['target_topic']} {first['partition']} at {first['downstream_next']:,}"
        places = [upstream, downstream][:: -1 if document["command"] == "failback" else 1]
        lines.append(f"{' → '.join(places)}; …")
    return lines


class _Run:
    """A move's command, from its start to its end."""

    def __init__(self, processes: Processes, command: str, group: str) -> None:
        self.said = ""
        self._command = command
        self._process = processes.start(command, command, group, "--yes", "-o", "json")
        self._stderr = Tail(self._process.log)
        self._stdout = processes.output_of(command)
        self._status: int | None = None

    @property
    def is_over(self) -> bool:
        return self._status is not None

    def until(self, is_met: Callable[[], bool], turn: Callable[[], None]) -> None:
        """Follow it until then, or until its end.

        Raises:
            DemoError: neither happens.
        """
        deadline = Deadline(MOVE_TIMEOUT_S)
        while not (is_met() or self.is_over):
            turn()
            self._status = self._process.poll()
            self.said += b"".join(self._stderr.lines()).decode(errors="replace")
            if deadline.expired:
                raise DemoError(
                    f"replicator {self._command} did not end within {deadline.seconds:g} s; it printed\n{self.said}"
                )

    def document(self) -> dict[str, Any]:
        """What it printed on stdout.

        Raises:
            DemoError: it failed.
        """
        if self._status != 0:
            raise DemoError(f"replicator {self._command} ended with exit code {self._status}; it printed\n{self.said}")
        document: dict[str, Any] = json.loads(self._stdout.read_text())
        return document
