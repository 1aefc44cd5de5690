"""How an operator moves groups to the target, with each contender.

`ours`            the commands `switchover` and `failover`, run as processes of their own
`mm2-tuned-eos`   MirrorMaker 2 has no command: it writes the groups' offsets to the target all the time. For a planned
                  move the operator stops the consumers and waits until nothing changes there any more; when the source
                  is gone there is nothing to wait for
`mm2-stock-eos`   the same; but by default it writes checkpoints only, so the operator's program commits what they say,
                  as programs that use `RemoteClusterUtils.translateOffsets` do
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from bench.backlog import BenchError
from bench.contenders import our_environment
from bench.positions import PositionWatch
from replicator.deadline import Deadline
from replicator.errors import TP
from replicator.groups.offsets import Committed
from replicator.groups.refusals import first_error
from replicator.groups.select import ClusterGroups
from replicator.kafka.cluster import Cluster

COMMAND_TIMEOUT_S = 120.0
SHOWN_BYTES = 3000
LOOK_S = 0.1
STOCK_QUIET_S = 65.0
"""Longer than its interval of checkpoints, 60 s."""
TUNED_QUIET_S = 5.0
"""Transactions, checkpoints and group offsets each come every second, one after the other."""
LONGEST_WAIT_S = 180.0


class Way(Protocol):
    """What an operator does; each returns what it took in seconds, None where there is no step."""

    def planned(self, groups: Sequence[str]) -> float | None:
        """Move groups whose consumers have just stopped; both clusters are up."""

    def failover(self, groups: Sequence[str]) -> float | None:
        """Move groups when the source has just gone."""


class OurCommands:
    """Our commands.

    Args:
        contender: `ours…`; a tree in it is where the commands come from.
        config: the configuration file, the same as the workers'.
    """

    def __init__(self, contender: str, config: Path) -> None:
        self._environment = our_environment(contender)
        self._config = config

    def planned(self, groups: Sequence[str]) -> float:
        return self._run("switchover", *groups)

    def failover(self, groups: Sequence[str]) -> float:
        return self._run("failover", *groups, "--accept-data-loss")

    def _run(self, *arguments: str) -> float:
        command = [sys.executable, "-m", "replicator", "-c", str(self._config), *arguments, "--yes", "-o", "json"]
        began_s = time.monotonic()
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, check=False, timeout=COMMAND_TIMEOUT_S
        )
        took_s = time.monotonic() - began_s
        if done.returncode != 0 or json.loads(done.stdout)["state"] != "done":
            said = f"{done.stdout[-SHOWN_BYTES:]}\n{done.stderr[-SHOWN_BYTES:]}"
            raise BenchError(f"{arguments[0]} ended with status {done.returncode}:\n{said}")
        return took_s


class SyncedOffsets:
    """MirrorMaker 2, with what it wrote to the target.

    Args:
        topic: as it is called on the target.
        is_tuned: it syncs group offsets; else the checkpoints are committed by the operator's program.
        check: raises when the measurement can't go on.
    """

    def __init__(
        self, target: Cluster, topic: str, watch: PositionWatch, is_tuned: bool, check: Callable[[], None]
    ) -> None:
        self._groups = ClusterGroups(target)
        self._topic = topic
        self._watch = watch
        self._is_tuned = is_tuned
        self._check = check

    def planned(self, groups: Sequence[str]) -> float:
        """Waits until all is quiet; what it took ends at the last change, as if the operator knew that it was one."""
        began_s = time.monotonic()
        quiet_s = TUNED_QUIET_S if self._is_tuned else STOCK_QUIET_S
        deadline = Deadline(LONGEST_WAIT_S)
        while time.monotonic() - max(began_s, self._watch.changed_s(groups)) < quiet_s:
            if deadline.expired:
                raise BenchError(f"the positions of {', '.join(groups)} still change after {deadline.seconds:g} s")
            self._check()
            time.sleep(LOOK_S)
        took_s = max(0.0, self._watch.changed_s(groups) - began_s)
        return took_s + self._take_over(groups)

    def failover(self, groups: Sequence[str]) -> float | None:
        took_s = self._take_over(groups)
        return None if self._is_tuned else took_s

    def _take_over(self, groups: Sequence[str]) -> float:
        if self._is_tuned:
            return 0.0
        began_s = time.monotonic()
        wanted = {
            group: {
                TP(self._topic, partition): Committed(next_offset)
                for partition, next_offset in self._watch.newest("checkpoint", group).items()
            }
            for group in groups
        }
        known = {group: it for group, it in wanted.items() if it}
        for refusals in self._groups.commit(known, Deadline(COMMAND_TIMEOUT_S)).values():
            error = first_error(refusals)
            if error is not None:
                raise error
        return time.monotonic() - began_s
