"""The flow's positions as group offsets on the source, so that tools which watch groups show replication lag.

The group has the name of the workers' group on the target, `replicator-<source>-<target>`, and no members. It is for
information only: the replicator never reads it (invariant B).
"""

from __future__ import annotations

import time

from replicator.checkpoints.checkpoints import Checkpoints
from replicator.config import Flow
from replicator.deadline import REFUSED_RETRY_S, StopToken
from replicator.errors import TP
from replicator.groups.offsets import Committed
from replicator.groups.refusals import first_error, is_passing
from replicator.groups.select import ClusterGroups
from replicator.kafka.cluster import Cluster
from replicator.log import Logger

INTERVAL_S = 5.0
REWRITE_S = 3600.0
"""All offsets are written again this often: brokers delete the offsets of an idle group (after a week)."""


class LagGroup:
    """The duty: commits what changed. Threading: `step` by one thread.

    Args:
        checkpoints: who knows the positions.
    """

    name = "positions"

    def __init__(self, flow: Flow, source: Cluster, checkpoints: Checkpoints, log: Logger) -> None:
        self.interval_s = INTERVAL_S
        self.note = ""
        self._group = flow.group
        self._client = ClusterGroups(source)
        self._checkpoints = checkpoints
        self._log = log
        self._committed: dict[TP, int] = {}
        self._rewrite_s = time.monotonic() + REWRITE_S

    def step(self, leash: StopToken, timeout_s: float) -> None:
        """Commit the positions that moved.

        Raises:
            KafkaOpError: the source gave no answer. What it refuses is only noted, and offered again a minute later.
        """
        if time.monotonic() > self._rewrite_s:
            self._rewrite_s = time.monotonic() + REWRITE_S
            self._committed.clear()
        found = self._checkpoints.positions
        changed = {tp: Committed(it) for tp, it in found.items() if self._committed.get(tp) != it}
        budget = leash.budget(timeout_s)
        wanted = {self._group: changed} if changed else {}
        refusals = self._client.commit(wanted, budget).get(self._group, {}) if wanted else {}
        self._committed |= {tp: it.next_offset for tp, it in changed.items() if tp not in refusals}
        error = first_error(refusals)
        if error is not None and is_passing(error):
            raise error
        if error is not None and not self.note:
            self._log.info("positions_not_committed", error=str(error), then="tools show no lag for the flow")
        self.note = str(error or "")
        self.interval_s = REFUSED_RETRY_S if error else INTERVAL_S

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()
