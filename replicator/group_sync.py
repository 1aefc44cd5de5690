"""Group offset sync: checkpoints committed on the target, for groups that have not moved there.

A commit of ours carries a tag in its metadata (`committed`), so that one that somebody else made since is recognised.

    read the group's offsets on the target → nobody else's among them? → commit what differs → the broker has the last
    word: it refuses as long as the group has members

Between the read and the commit lie milliseconds, in which a group would have to join, commit and leave again to lose
what it committed. A process that was stopped in between, or that waited for an answer, reads again.

Invariants:
    F: a group's offset is written only over an absent one or our own last write, never while the group has members.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from replicator.checkpoints import Checkpoints
from replicator.clients import AdminClient, Cluster
from replicator.committed import INACTIVE, Committed, GroupOffsets, is_ours, tag
from replicator.config import Flow
from replicator.deadline import Deadline, Leash
from replicator.errors import TP
from replicator.groups import (
    OffsetsReader,
    commit_offsets,
    first_error,
    is_passing,
    is_refusal_of_members,
    list_groups,
)
from replicator.log import Logger
from replicator.metrics import DutyMetrics
from replicator.topics import Catalog

FRESH_S = 5.0
"""How long after it was asked for an answer may still decide what is overwritten."""
LOOK_AGAIN_S = 30.0
"""How often every group is looked at, also one for which nothing changed: offsets on the target expire, groups move."""


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
    """Invariant F, without the members, whom the broker watches. Pure.

    One commit of somebody else is enough for the whole group to have moved: its other partitions may have had nothing
    to commit.

    Args:
        wanted: translated offsets.
        found: what the group has on the target now.
        topics: the remote topics of the flow; what the group has for others is not our matter.
    """
    has_moved = any(tp.topic in topics and not is_ours(it, flow) for tp, it in found.items())
    if has_moved:
        return Decision(moved=True, writes={})
    writes = {
        tp: Committed(next_offset, tag(flow, next_offset))
        for tp, next_offset in wanted.items()
        if tp not in found or found[tp].next_offset != next_offset
    }
    return Decision(moved=False, writes=writes)


class GroupSync:
    """The duty: keeps the groups' offsets on the target up to date. Threading: `step` by one thread.

    Args:
        checkpoints: whose result is committed.
    """

    name = "group-sync"

    def __init__(
        self, flow: Flow, target: Cluster, admin: AdminClient, checkpoints: Checkpoints, catalog: Catalog,
        metrics: DutyMetrics, log: Logger,
    ) -> None:  # fmt: skip
        self.interval_s = min(0.5, flow.settings.checkpoint_interval_s)
        self.note = ""
        self._flow = flow
        self._target = target
        self._admin = admin
        self._checkpoints = checkpoints
        self._catalog = catalog
        self._metrics = metrics
        self._log = log
        self._offsets = OffsetsReader(target, admin, log)
        self._seen_pass = 0
        self._looked_s = 0.0
        self._settled: dict[str, dict[TP, int]] = {}
        self._states: dict[str, str] = {}
        self._refusals: dict[str, str] = {}

    def step(self, leash: Leash, timeout_s: float) -> None:
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
        look = set(wanted) if is_due else {group for group, it in wanted.items() if self._settled.get(group) != it}
        if look:
            budget = leash.budget(timeout_s)
            states = list_groups(self._target, self._admin, budget)
            active = {group for group in look if states.get(group, "DEAD") not in INACTIVE}
            for group in active:
                self._settle(group, "active", None)
            found = self._offsets.read(sorted(look - active), budget)
            for group, error in self._offsets.failures.items():
                if not is_passing(error):
                    self._settle(group, "refused", wanted[group], str(error))
            self._commit({group: wanted[group] for group in found}, found, budget)
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

    def _commit(self, wanted: Mapping[str, dict[TP, int]], found: Mapping[str, GroupOffsets], budget: Deadline) -> None:
        topics = {topic.target_topic for topic in self._catalog.snapshot.topics.values()}
        decisions = {group: decide(self._flow.name, wanted[group], found[group], topics) for group in found}
        oldest_s = time.monotonic() - FRESH_S
        decisions = {group: it for group, it in decisions.items() if self._offsets.asked_s[group] > oldest_s}
        writes = {group: it.writes for group, it in decisions.items() if it.writes}
        outcome = commit_offsets(self._target, self._admin, writes, budget)
        for group, decision in decisions.items():
            error = first_error(outcome.get(group))
            if decision.moved:
                self._settle(group, "moved", wanted[group], "it has offsets on the target that are not ours")
            elif error is None:
                self._settle(group, "synced", wanted[group])
            elif is_refusal_of_members(error):
                self._settle(group, "active", None)
            elif not is_passing(error):
                self._settle(group, "refused", wanted[group], str(error))
        for refusals in outcome.values():
            error = first_error(refusals)
            if error is not None and is_passing(error) and not is_refusal_of_members(error):
                raise error  # the groups that it met are not settled: they come again

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
        """Nothing to let go of."""
