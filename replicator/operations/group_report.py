"""What `groups` and `explain` report: how each group would move now, and why it would not move exactly. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from replicator.checkpoints.topic import KnownGroups
from replicator.groups.offsets import OffsetOwner, owner_of
from replicator.moves.model import MovePlan, MoveReason, Row, RowState
from replicator.moves.plan import GroupFacts, MoveFacts, missing_rows
from replicator.syncs.state import SyncsState

ADVICE = {
    MoveReason.NEVER_COMMITTED: "nothing to do, if the consumers' auto.offset.reset is right for this topic",
    MoveReason.FILTERED: "add the topic to flows.{flow}.topics, or move the group's other topics without it",
    MoveReason.NOT_REPLICATED_YET: "wait; `replicator lag` shows how far it is, `replicator status` whether it runs",
    MoveReason.EXPIRED: "let it catch up, or set its offset there with kafka-consumer-groups.sh --reset-offsets",
    MoveReason.THINNED: "raise flows.{flow}.refine_max_records to have the records counted, or let the group catch up",
    MoveReason.UNTRANSLATABLE: "`replicator status` shows what happened; `replicator recopy` re-replicates the topic",
    MoveReason.LOG_SHORTER: "`replicator recopy` re-replicates the topic; a failover starts at the end of what is left",
    MoveReason.DELETED_ON_TARGET: (
        "let it catch up on the source, if the records are still there; --accept-data-loss moves it to what is left"
    ),
    MoveReason.SOURCE_GROUP_ACTIVE: "stop its consumers on the source; a switchover waits until they have stopped",
    MoveReason.TARGET_GROUP_ACTIVE: "stop its consumers on the target, or leave them: the group already runs there",
    MoveReason.MOVED_ALREADY: "`replicator history` shows it; `failback` moves it back, `resync` lets it move again",
    MoveReason.SYNCED: "nothing to do: the group itself never committed this partition",
    MoveReason.KEPT_PLACE: "nothing to do; records that the group has read on the source since then are read again",
    MoveReason.FLOW_HALTED: "`replicator resume`",
    MoveReason.SOURCE_UNREACHABLE: "use `replicator failover`: it works without the source",
}
"""What the operator can do about each reason."""


@dataclass(frozen=True, slots=True)
class GroupRow:
    """One partition of a group, and the state of the group. None: unknown.

    Args:
        synced: whether group sync owns the group's offset on the target.
    """

    row: Row
    checkpoint_age_s: float | None
    active_on_source: bool | None
    active_on_target: bool
    synced: bool

    def as_json(self) -> dict[str, Any]:
        """The contract of ``groups -o json``, one row."""
        return {
            **self.row.as_json(is_homeward=False),
            "checkpoint_age_s": self.checkpoint_age_s,
            "active_on_source": self.active_on_source,
            "active_on_target": self.active_on_target,
            "synced": self.synced,
        }

    @property
    def severity(self) -> tuple[bool, bool, int, str, str, int]:
        """Sort key: the worst row first."""
        row = self.row
        return is_well(row), self.synced, -(row.reread_records or 0), row.group, *row.origin


def group_rows(
    plan: MovePlan, facts: MoveFacts, known: KnownGroups, now_ms: float, *, is_source_up: bool
) -> list[GroupRow]:
    """A row for each partition, the worst first."""
    rows = []
    for row in plan.rows:
        it = facts.groups[row.group]
        age_s = known.age_s(row.group, now_ms)
        is_known = row.destination is not None and (row.group, row.destination) in known.checkpoints
        rows.append(
            GroupRow(
                row,
                round(age_s, 3) if age_s is not None and is_known else None,
                it.origin.is_active if is_source_up else None,
                it.destination.is_active,
                owner_of(row.found) is OffsetOwner.SYNC,
            )
        )
    return sorted(rows, key=lambda it: it.severity)


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why one group would move, or not.

    Args:
        whole: (reason, text, what to do) for the whole group.
        rows: (row, what to do) for each partition; nothing to do if the translation is exact.
    """

    flow: str
    group: str
    whole: tuple[tuple[str, str, str], ...]
    rows: tuple[tuple[Row, str], ...]

    @property
    def exact(self) -> int:
        """Partitions with an exact offset on the target."""
        return sum(row.translation == "exact" for row, _ in self.rows)

    def as_json(self) -> dict[str, Any]:
        """The contract of ``explain -o json``."""
        return {
            "flow": self.flow,
            "group": self.group,
            "reasons": [{"reason": reason, "text": text, "advice": advice} for reason, text, advice in self.whole],
            "partitions": [
                {**row.as_json(is_homeward=False), "advice": advice} for row, advice in sorted(self.rows, key=_order)
            ],
        }


def _order(item: tuple[Row, str]) -> tuple[bool, str, int]:
    row, _ = item
    return row.translation == "exact", row.origin.topic, row.origin.partition


def explain(plan: MovePlan, facts: MoveFacts, syncs: SyncsState, source_problem: str) -> Explanation:
    """Explain a plan of one group."""
    (group,) = plan.order.groups
    flow = plan.order.flow
    rows = [*plan.rows, *missing_rows(facts, group, syncs.newest)]
    whole = [(reason, text, _advice(reason, flow)) for reason, text in _whole(plan, facts, group, source_problem)]
    return Explanation(
        flow, group, tuple(whole), tuple((row, _advice(row.reason.partition(":")[0], flow)) for row in rows)
    )


def _whole(plan: MovePlan, facts: MoveFacts, group: str, source_problem: str) -> Iterable[tuple[str, str]]:
    it = facts.groups.get(group, GroupFacts())
    if source_problem:
        yield MoveReason.SOURCE_UNREACHABLE, source_problem
    if facts.halted:
        yield MoveReason.FLOW_HALTED, facts.halted
    if it.origin.is_active:
        yield MoveReason.SOURCE_GROUP_ACTIVE, f"the group has members on {facts.origin}: {', '.join(it.origin.members)}"
    if it.destination.is_active:
        yield (
            MoveReason.TARGET_GROUP_ACTIVE,
            f"the group has members on {facts.destination}: {', '.join(it.destination.members)}",
        )
    owners = [owner_of(row.found) for row in plan.rows if not row.is_inverse]
    moved = sum(owner in (OffsetOwner.GROUP, OffsetOwner.MOVE) for owner in owners)
    if moved:
        how = f" ({it.last_move.command} {it.last_move.move_id})" if it.last_move is not None else ""
        yield MoveReason.MOVED_ALREADY, f"group sync did not write {moved} of its offsets on {facts.destination}{how}"
    if it.problem:
        yield MoveReason.UNTRANSLATABLE, it.problem


def _advice(reason: str, flow: str) -> str:
    return next((text.format(flow=flow) for code, text in ADVICE.items() if code == reason), "")


def is_well(row: Row) -> bool:
    """Whether a failover would take the partition to an exact offset, or leaves it out on purpose."""
    is_left_out = row.state is RowState.SKIPPED and row.reason.startswith((MoveReason.FILTERED, MoveReason.KEPT_PLACE))
    return is_left_out or (row.translation == "exact" and not row.is_disputed)
