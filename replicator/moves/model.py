"""What a move of groups is: the order, its rows, its plan, and their JSON. Pure: made by `plan`, done by `executor`.

`origin` is the cluster that a group leaves, `destination` the one where it goes.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from replicator.errors import TP
from replicator.groups.offsets import Committed, OffsetOwner, move_tag, tag
from replicator.offset_map.map import Between

NOTHING = -1
"""No position: never in a row that is to be committed, and null in JSON."""


def counted(number: int, noun: str) -> str:
    """``1 partition``, ``2,000 partitions``: for texts."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


class MoveCommand(enum.StrEnum):
    """What the operator asked for. The values are JSON and audit: never rename one."""

    SWITCHOVER = "switchover"
    FAILOVER = "failover"
    FAILBACK = "failback"
    RESYNC = "resync"


class RowState(enum.StrEnum):
    """What becomes of one partition of a group. The values are JSON."""

    PLANNED = "planned"
    COMMITTED = "committed"
    SKIPPED = "skipped"
    FAILED = "failed"


class MoveReason(enum.StrEnum):
    """Why a partition has no exact translation, or does not move. The values begin a row's reason: never rename one."""

    NEVER_COMMITTED = "never_committed"
    FILTERED = "filtered"
    NOT_REPLICATED_YET = "not_replicated_yet"
    EXPIRED = "expired"
    THINNED = "thinned"
    UNTRANSLATABLE = "untranslatable"
    LOG_SHORTER = "log_shorter"
    DELETED_ON_TARGET = "deleted_on_target"
    SOURCE_GROUP_ACTIVE = "source_group_active"
    TARGET_GROUP_ACTIVE = "target_group_active"
    MOVED_ALREADY = "moved_already"
    SYNCED = "synced"
    KEPT_PLACE = "kept_place"
    FLOW_HALTED = "flow_halted"
    SOURCE_UNREACHABLE = "source_unreachable"


@dataclass(frozen=True, slots=True)
class Unrefined:
    """Counting the records of a thinned stretch was not possible, or proved nothing.

    Args:
        reason: in words.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Order:
    """What the operator wants.

    Args:
        move_id: names it in the audit and in the commits' metadata.
        is_all: `groups` are all that there are, not some that were named.
    """

    move_id: str
    command: MoveCommand
    flow: str
    groups: tuple[str, ...]
    is_all: bool = False

    @property
    def is_homeward(self) -> bool:
        """Whether `origin` is the flow's target."""
        return self.command is MoveCommand.FAILBACK


@dataclass(frozen=True, slots=True)
class Row:
    """One partition of one group.

    Args:
        destination: None when no flow carries the partition.
        origin_next: what the group committed on `origin`; `NOTHING` in a row that only says so.
        destination_next: where it continues on `destination`; None if unknown.
        reread_records: at most; None when not known.
        at_risk_records: that the group has not read and can't read on `destination`, at most; None when not known.
        must_wait: it can't move yet, and that may pass.
        is_obstacle: it keeps the plan from being carried out.
        is_disputed: it is left out, with its group, and somebody has to decide about that first.
        between: to be refined by counting, if there is time.
        origin_owner: who wrote what `origin` has.
        found: what `destination` has now.
    """

    group: str
    origin: TP
    destination: TP | None
    origin_next: int
    destination_next: int | None
    translation: str
    state: RowState = RowState.PLANNED
    reason: str = ""
    reread_records: int | None = 0
    at_risk_records: int | None = 0
    must_wait: bool = False
    is_obstacle: bool = False
    is_inverse: bool = False
    is_disputed: bool = False
    between: Between | None = None
    origin_owner: OffsetOwner = OffsetOwner.GROUP
    found: Committed | None = None
    metadata: str = ""

    @property
    def is_planned(self) -> bool:
        return self.state is RowState.PLANNED and self.destination is not None and self.destination_next is not None

    @property
    def known_origin_next(self) -> int | None:
        """What the group committed on `origin`, as it is shown: None where there is nothing."""
        return None if self.origin_next == NOTHING else self.origin_next

    def as_json(self, *, is_homeward: bool) -> dict[str, Any]:
        """The contract of ``-o json``: `topic` and `upstream_next` are on the flow's source, whatever the direction."""
        origin = self.origin, self.known_origin_next
        destination = self.destination, self.destination_next
        upstream, downstream = (destination, origin) if is_homeward else (origin, destination)
        return {
            "group": self.group,
            "topic": upstream[0].topic if upstream[0] else None,
            "partition": self.origin.partition,
            "target_topic": downstream[0].topic if downstream[0] else None,
            "upstream_next": upstream[1],
            "downstream_next": downstream[1],
            "translation": self.translation,
            "reread_records": self.reread_records,
            "at_risk_records": self.at_risk_records,
            "state": self.state.value,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class MovePlan:
    """What a move will do.

    Args:
        refusals: why it can't be carried out; one line each.
        waits: what it waits for, which may pass.
    """

    order: Order
    rows: tuple[Row, ...]
    refusals: tuple[str, ...] = ()
    waits: tuple[str, ...] = ()

    @property
    def is_refused(self) -> bool:
        return bool(self.refusals) or any(row.is_obstacle for row in self.rows)

    @property
    def must_wait(self) -> bool:
        return bool(self.waits) or any(row.must_wait for row in self.rows)

    @property
    def may_lose(self) -> bool:
        """Whether it is not known to be zero what would be lost: `--accept-data-loss` is needed.

        A failover of all groups of which none is known leaves them all to their consumers' `auto.offset.reset`. The
        other moves lose only what was deleted where the group goes; a resync moves no consumer.
        """
        if self.order.command is MoveCommand.RESYNC:
            return False
        if self.order.command is not MoveCommand.FAILOVER:
            return any(row.at_risk_records != 0 for row in self.planned)
        is_at_risk = bool(self.planned) and any(row.at_risk_records != 0 for row in self.rows)
        return is_at_risk or not self.rows

    @property
    def planned(self) -> tuple[Row, ...]:
        """What there is to commit (invariant G: nothing, when it is refused)."""
        return () if self.is_refused else tuple(row for row in self.rows if row.is_planned)

    def commits(self) -> dict[str, dict[TP, Committed]]:
        """What to commit on `destination`, by group. A group's own metadata stays: stream processors need it."""
        found: dict[str, dict[TP, Committed]] = {}
        for row in self.planned:
            assert row.destination is not None
            assert row.destination_next is not None
            metadata = row.metadata or move_tag(self.order.move_id, row.destination_next)
            if self.order.command is MoveCommand.RESYNC:
                metadata = tag(self.order.flow, row.destination_next)
            found.setdefault(row.group, {})[row.destination] = Committed(row.destination_next, metadata)
        return found

    def hand_backs(self, committed: Iterable[Row]) -> dict[str, dict[TP, Committed]]:
        """After a failback: what group sync is to own on the target again, by group; where the group left it."""
        found: dict[str, dict[TP, Committed]] = {}
        for row in committed:
            if row.is_inverse and row.origin_owner is not OffsetOwner.SYNC:
                found.setdefault(row.group, {})[row.origin] = Committed(
                    row.origin_next, tag(self.order.flow, row.origin_next)
                )
        return found

    def as_json(self, state: str) -> dict[str, Any]:
        """The contract of ``-o json``, of the audit and of the hooks."""
        return {
            "id": self.order.move_id,
            "command": self.order.command.value,
            "flow": self.order.flow,
            "state": state,
            "partitions": [row.as_json(is_homeward=self.order.is_homeward) for row in self.rows],
        }
