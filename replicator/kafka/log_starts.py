"""Where partitions' logs begin: asked for seldom, since retention is in no hurry, and remembered meanwhile."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping

from replicator.deadline import Deadline
from replicator.errors import TP
from replicator.kafka.cluster import EARLIEST, AdminClient, Cluster
from replicator.kafka.offset_probe import LOOK_AGAIN_S
from replicator.kafka.topic_queries import list_offsets


class LogStarts:
    """Log start offsets of one cluster. Threading: one thread."""

    def __init__(self, cluster: Cluster, admin: AdminClient) -> None:
        self._cluster = cluster
        self._admin = admin
        self._known: dict[TP, int] = {}
        self._asked_s: dict[TP, float] = {}

    def find(self, tps: Collection[TP], deadline: Deadline) -> Mapping[TP, int]:
        """Where these logs begin, of those that gave an answer; one request asks for all that are due.

        A log that gave none, or whose answer is as old as the oldest place of an `OffsetProbe`, is asked again then.
        """
        now_s = time.monotonic()
        self._known = {tp: begin for tp, begin in self._known.items() if tp in tps}
        self._asked_s = {tp: asked_s for tp, asked_s in self._asked_s.items() if tp in tps}
        oldest_s = min((self._asked_s.get(tp, -math.inf) for tp in tps), default=now_s)
        if now_s - oldest_s > LOOK_AGAIN_S:
            found = list_offsets(self._cluster, self._admin, dict.fromkeys(tps, EARLIEST), deadline, committed=False)
            self._known |= {tp: begin for tp, begin in found.items() if isinstance(begin, int)}
            self._asked_s = dict.fromkeys(tps, now_s)
        return self._known
