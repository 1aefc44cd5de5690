"""Group offset sync: checkpoints committed on the target, for groups that have not moved there.

Each commit of group sync carries a tag in its metadata (`groups.offsets`), so a later commit by anyone else is
recognised.

    read the group's offsets on the target → all of them written by group sync, and no members?
    → place what differs → read again → commit (`offset_cas`)

The first read decides what to write, the second one whether it may be written.

Invariants:
    F: a group's offset is written only over an absent one or group sync's own last write, never while it has members.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from replicator.checkpoints.checkpoints import Checkpoints
from replicator.checkpoints.offset_cas import AT_ONCE, OffsetCas
from replicator.config import Flow
from replicator.deadline import Deadline, StopToken
from replicator.errors import TP, FencedError, KafkaOpError
from replicator.groups.listing import group_states, list_groups
from replicator.groups.offsets import INACTIVE, Committed, GroupOffsets, is_ours, tag
from replicator.groups.reader import OffsetsReader
from replicator.groups.refusals import is_passing
from replicator.groups.select import ClusterGroups
from replicator.kafka.cluster import Cluster
from replicator.kafka.topics import Catalog
from replicator.log import Logger
from replicator.metrics import JobMetrics
from replicator.names import groups_id
from replicator.protocol.group_coordinators import chunks

LOOK_AGAIN_S = 30.0
"""How often every group is looked at, also one for which nothing changed: offsets on the target expire, groups move."""
REFUSED_AGAIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with one group.

    Args:
        moved: somebody else committed on the target: it is not touched.
        writes: what to commit.
    """

    moved: bool
    writes: GroupOffsets


def decide(flow: str, wanted: Mapping[TP, int], found: GroupOffsets, topics: Collection[str]) -> Decision:
    """Invariant F, without the members. Pure.

    Args:
        wanted: translated offsets.
        found: what the group has on the target now.
        topics: see `has_moved`.
    """
    if has_moved(flow, found, topics):
        return Decision(moved=True, writes={})
    writes = {
        tp: Committed(next_offset, tag(flow, next_offset))
        for tp, next_offset in wanted.items()
        if tp not in found or found[tp].next_offset != next_offset
    }
    return Decision(moved=False, writes=writes)


def has_moved(flow: str, found: GroupOffsets, topics: Collection[str]) -> bool:
    """Whether somebody else committed on the target. Pure.

    One commit is enough for the whole group: its other partitions may have had nothing to commit.

    Args:
        found: what the group has there now.
        topics: the remote topics of the flow; what the group has for others is not our matter.
    """
    return any(tp.topic in topics and not is_ours(it, flow) for tp, it in found.items())


class GroupSync:
    """The duty: keeps the groups' offsets on the target up to date. Threading: `step` by one thread.

    Args:
        checkpoints: whose result is committed.
    """

    name = "group-sync"

    def __init__(
        self, flow: Flow, target: Cluster, checkpoints: Checkpoints, catalog: Catalog, metrics: JobMetrics, log: Logger
    ) -> None:
        self.interval_s = min(0.5, flow.settings.checkpoint_interval_s)
        self.note = ""
        self._flow = flow
        self._checkpoints = checkpoints
        self._catalog = catalog
        self._metrics = metrics
        self._log = log
        self._client = ClusterGroups(target)
        self._offsets = OffsetsReader(self._client, log)
        self._placed = OffsetsReader(self._client, log, stable=False)
        """For the look past our own open transaction."""
        self._commits = OffsetCas(self._client, groups_id(flow.source, flow.target))
        self._seen_pass = 0
        self._looked_s = 0.0
        self._settled: dict[str, dict[TP, int]] = {}
        self._states: dict[str, str] = {}
        self._refusals: dict[str, str] = {}
        self._refused_s = 0.0
        """When those that are refused were tried last."""
        self._lacking: set[TP] = set()

    def step(self, leash: StopToken, timeout_s: float) -> None:
        """Commit what changed since the last pass.

        Raises:
            KafkaOpError: the target gave no answer.
        """
        if self._checkpoints.halted:
            self.note = f"nothing is written: {self._checkpoints.halted}"
            return
        if self._checkpoints.passes == self._seen_pass:
            return
        number = self._checkpoints.passes
        wanted = self._wanted()
        is_due = time.monotonic() - self._looked_s > LOOK_AGAIN_S
        look = set(wanted) if is_due else self._changed(wanted)
        if look:
            try:
                self._sync({group: wanted[group] for group in look}, leash.budget(timeout_s))
            except FencedError as error:
                self._log.info("group_sync_begins_again", why=str(error))
                return
        if is_due:
            self._looked_s = time.monotonic()
        self._states = {group: state for group, state in self._states.items() if group in wanted}
        self._settled = {group: it for group, it in self._settled.items() if group in wanted}
        self._refusals = {group: why for group, why in self._refusals.items() if self._states.get(group) == "refused"}
        self.note = next(iter(self._refusals.values()), "")
        self._metrics.groups(Counter(self._states.values()))
        self._seen_pass = number

    def _wanted(self) -> dict[str, dict[TP, int]]:
        wanted: dict[str, dict[TP, int]] = {}
        for (group, tp), checkpoint in self._checkpoints.current.items():
            wanted.setdefault(group, {})[tp] = checkpoint.downstream_next
        return wanted

    def _changed(self, wanted: Mapping[str, dict[TP, int]]) -> set[str]:
        """Groups to look at before all are; one that is refused ends a transaction each time: not every time."""
        changed = {group for group, it in wanted.items() if self._settled.get(group) != it}
        if time.monotonic() - self._refused_s < REFUSED_AGAIN_S:
            return changed - self._refusals.keys()
        self._refused_s = time.monotonic()
        return changed

    def _sync(self, wanted: Mapping[str, dict[TP, int]], budget: Deadline) -> None:
        self._commits.open(budget)
        topics = {it.target_topic: it.target_partitions for it in self._catalog.snapshot.topics.values()}
        wanted = self._without_lacking(wanted, topics)
        active = self._active(wanted, budget)
        found = self._offsets.read(sorted(wanted.keys() - active), budget)
        for group, error in self._offsets.failures.items():
            if not is_passing(error):
                self._settle(group, "refused", wanted[group], str(error))
        writes: dict[str, GroupOffsets] = {}
        for group, it in found.items():
            decision = decide(self._flow.name, wanted[group], it, topics)
            if decision.moved:
                self._settle_moved(group, wanted[group])
            elif decision.writes:
                writes[group] = decision.writes
            else:
                self._settle(group, "synced", wanted[group])

        def confirm(groups: Collection[str]) -> Collection[str]:
            return self._confirm(groups, wanted, topics, budget)

        def tell(group: str, refusal: KafkaOpError | None) -> None:
            self._settle(group, "synced" if refusal is None else "refused", wanted[group], str(refusal or ""))

        for some in chunks(sorted(writes, key=lambda group: group in self._refusals), AT_ONCE):
            self._commits.commit({group: writes[group] for group in some}, confirm, tell, budget)

    def _without_lacking(
        self, wanted: Mapping[str, dict[TP, int]], topics: Mapping[str, int]
    ) -> dict[str, dict[TP, int]]:
        """Less the partitions that the target does not have: they would fail the transaction of all.

        Their groups are not settled by what is left, and come again.
        """
        lacking = {tp for it in wanted.values() for tp in it if topics.get(tp.topic, math.inf) <= tp.partition}
        if lacking - self._lacking:
            self._catalog.ask_refresh()  # most likely another worker has made them since
        self._lacking = lacking
        return {group: {tp: it for tp, it in wanted[group].items() if tp not in lacking} for group in wanted}

    def _active(self, groups: Collection[str], budget: Deadline) -> set[str]:
        """Those that have members, or may have some."""
        states = list_groups(self._client, budget)
        active = {group for group in groups if states.get(group, "DEAD") not in INACTIVE}
        self._settle_active(active)
        return active

    def _settle_active(self, groups: Iterable[str]) -> None:
        for group in groups:
            self._settle(group, "active", None)

    def _confirm(
        self, groups: Collection[str], wanted: Mapping[str, dict[TP, int]], topics: Collection[str], budget: Deadline
    ) -> Collection[str]:
        """Return those of the groups that were not used since the first read; for `OffsetCas`."""
        states = group_states(self._client, groups, budget)  # a list may lack a group that has members
        active = {group for group, it in states.items() if it.is_active}
        self._settle_active(active)
        found = self._placed.read(sorted(group for group in groups if group not in active), budget)
        moved = {group for group, it in found.items() if has_moved(self._flow.name, it, topics)}
        for group in moved:
            self._settle_moved(group, wanted[group])
        return found.keys() - moved - self._placed.unsure

    def _settle_moved(self, group: str, wanted: dict[TP, int]) -> None:
        self._settle(group, "moved", wanted, "it has offsets on the target that group sync did not write")

    def _settle(self, group: str, state: str, wanted: dict[TP, int] | None, why: str = "") -> None:
        """Note what became of a group; `wanted`: what needs no other look until it changes."""
        if self._states.get(group) != state and state != "synced":
            self._log.info("group_not_synced", group=group, state=state, why=why)
        elif self._states.get(group) not in (None, state):
            self._log.info("group_synced_again", group=group)
        self._states[group] = state
        if state == "refused":
            self._refusals[group] = why
        if wanted is None:
            self._settled.pop(group, None)
        else:
            self._settled[group] = wanted

    def close(self) -> None:
        """Let go of the producer, and of the connections."""
        self._commits.close()
        self._client.close()
