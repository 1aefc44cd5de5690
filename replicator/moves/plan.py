"""Plans moves of groups from what the clusters say. Pure: `executor` carries a plan out.

A group leaves one cluster, `origin`, for the other, `destination`:

    switchover   source → target   both clusters answer; every position exact, or refused
    failover     source → target   the origin is gone: what it had committed is known from the checkpoints
    failback     target → source   as a switchover, the way home
    resync       nothing moves     group sync is to own the offsets on the target again

The plan is made again from the facts whenever they may have changed, so no progress has to be remembered: what is done
already shows as `committed`, and a command that was interrupted is run again.

Invariants:
    D: a planned offset never passes a record that the group has not read.
    F: what the group itself committed on `destination` is planned over only by `failback` and `resync`, and where the
       group came home.
    G: a plan with refusals commits nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from replicator.config import Flow
from replicator.errors import TP
from replicator.groups.offsets import Committed, GroupOffsets, GroupState, is_a_tag, is_ours, owner_of
from replicator.moves.history import GroupVerdict, LastMove, MoveHistory, refuse_or_skip, skipped
from replicator.moves.model import (
    NOTHING,
    MoveCommand,
    MovePlan,
    MoveReason,
    Order,
    Row,
    RowState,
    Unrefined,
    counted,
)
from replicator.moves.routes import Route, Router
from replicator.offset_map.map import Ahead, Between, Exact, Expired
from replicator.offset_map.translate import UNKNOWN_LOG, Deleted, Lost, Mapped, NoPlace, Placed, TargetLog, Why

NO_MEMBERS = GroupState()


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """A group on both clusters.

    Args:
        origin_offsets: committed on `origin`; for a failover what the checkpoints know of that.
        problem: why they can't be read; empty when they can.
        last_move: None when it never moved.
    """

    origin: GroupState = NO_MEMBERS
    origin_offsets: GroupOffsets = field(default_factory=dict)
    destination: GroupState = NO_MEMBERS
    destination_offsets: GroupOffsets = field(default_factory=dict)
    problem: str = ""
    last_move: LastMove | None = None


@dataclass(frozen=True, slots=True)
class MoveFacts:
    """What the clusters say.

    Args:
        origin, destination: aliases.
        destination_logs: where the logs on `destination` begin and end, of those that answered.
        source_ends: ends of the source's committed logs; None when it could not be asked.
        halted: why the flow is halted; empty when it is not.
        not_flowing: why nothing is replicated at the moment; empty when nothing is known to keep it.
        back: the flow destination→origin, for a failover: its maps went with `origin`.
    """

    origin: str
    destination: str
    groups: Mapping[str, GroupFacts]
    router: Router
    destination_logs: Mapping[TP, TargetLog] = field(default_factory=dict)
    source_ends: Mapping[TP, int] | None = None
    halted: str = ""
    not_flowing: str = ""
    back: Flow | None = None


def plan_move(order: Order, facts: MoveFacts) -> MovePlan:
    """The plan, as things stand."""
    rows: list[Row] = []
    refusals: list[str] = []
    waits: list[str] = []
    for group in order.groups:
        it = facts.groups.get(group, GroupFacts())
        past = MoveHistory(order, facts.origin, facts.destination, group, it.last_move)
        found = [_row(order, facts, group, tp, committed) for tp, committed in sorted(it.origin_offsets.items())]
        found = [past.settle(row) for row in found]
        if order.command is MoveCommand.RESYNC:
            found += _own_places(order, facts, group, it.destination_offsets, found)
        whole = _whole_group(facts, it, past, found)
        rows += [_left_out(row, whole, facts) if whole.skip and row.destination is not None else row for row in found]
        rows += [] if whole.skip or whole.refusal else _kept_places(facts, group)
        refusals += [whole.refusal] if whole.refusal else []
        waits += [whole.wait] if whole.wait else []
    is_behind = not order.is_homeward and any(row.must_wait for row in rows)  # the way home waits for the flow back
    if facts.halted and is_behind:
        refusals.append(f"not everything is replicated, and {facts.halted}; run `replicator resume` first")
    return MovePlan(order, tuple(rows), tuple(refusals), tuple(waits))


# --- a whole group ----------------------------------------------------------------------------------------------------


def _whole_group(facts: MoveFacts, it: GroupFacts, past: MoveHistory, found: list[Row]) -> GroupVerdict:
    order, group = past.order, past.group
    if it.problem:
        return GroupVerdict(refusal=it.problem)
    if not it.origin_offsets:
        return GroupVerdict() if order.is_all else GroupVerdict(refusal=_unknown_group(order, facts, group))
    rows = [row for row in found if row.destination is not None]
    if not rows:
        return refuse_or_skip(order, MoveReason.FILTERED, f"the flow replicates no topic of the group {group}")
    return past.whole(rows) or _at_rest(facts, it, past, rows)


def _left_out(row: Row, whole: GroupVerdict, facts: MoveFacts) -> Row:
    """A row of a group that does not move; says where it is on `destination`, if a move would put it elsewhere."""
    is_elsewhere = row.found is not None and row.found.next_offset != row.destination_next
    where = (
        f"; its offset on {facts.destination} is {row.found.next_offset:,}"
        if is_elsewhere and row.found is not None
        else ""
    )
    return replace(skipped(row, whole.skip + where), is_disputed=whole.is_disputed)


def _at_rest(facts: MoveFacts, it: GroupFacts, past: MoveHistory, rows: list[Row]) -> GroupVerdict:
    """What follows from the members that the group has."""
    order, group = past.order, past.group
    has_work = any(row.is_planned or row.must_wait or row.is_obstacle for row in rows)
    if has_work and it.destination.is_active:
        return refuse_or_skip(
            order,
            MoveReason.TARGET_GROUP_ACTIVE,
            f"the group {group} has members on {_members(facts.destination, it.destination)}",
        )
    is_to_end = has_work or any(row.state is RowState.COMMITTED for row in rows)
    needs_rest = order.command in (MoveCommand.SWITCHOVER, MoveCommand.FAILBACK)
    if needs_rest and is_to_end and it.origin.is_active:
        return GroupVerdict(wait=f"the group {group} has members on {_members(facts.origin, it.origin)}")
    return GroupVerdict()


def _members(alias: str, state: GroupState) -> str:
    return f"{alias} ({', '.join(state.members) or 'state ' + state.state}); stop them"


def _unknown_group(order: Order, facts: MoveFacts, group: str) -> str:
    if order.command is MoveCommand.FAILOVER:
        return f"no checkpoint of the group {group} on {facts.destination}: it never committed in a topic of this flow"
    return f"the group {group} has no committed offsets on {facts.origin}"


# --- one partition ----------------------------------------------------------------------------------------------------


def _row(order: Order, facts: MoveFacts, group: str, origin: TP, committed: Committed) -> Row:
    route = facts.router.route(origin)
    is_wanted = route is not None and not (route.is_inverse and order.command is MoveCommand.RESYNC)
    if route is None or not is_wanted:
        reason = f"{MoveReason.FILTERED}: the flow does not replicate {origin.topic}"
        return Row(group, origin, None, committed.next_offset, None, "unknown", RowState.SKIPPED, reason)
    it = facts.groups[group]
    row = Row(
        group, origin, route.destination, committed.next_offset, None, "unknown",
        is_inverse=route.is_inverse,
        origin_owner=owner_of(committed),
        found=it.destination_offsets.get(route.destination),
        metadata="" if is_a_tag(committed.metadata) else committed.metadata,
    )  # fmt: skip
    mapped = route.translate(row.origin_next)
    placed = route.place(mapped, facts.destination_logs.get(route.destination, UNKNOWN_LOG))
    row = _placed_row(_mapped_row(row, mapped, route, facts), placed, route, facts)
    if order.command is MoveCommand.FAILOVER:
        return _at_risk(row, placed, route, facts)
    if order.command is MoveCommand.RESYNC:
        return _kept_origin(row)
    return row


def _mapped_row(row: Row, mapped: Mapped, route: Route, facts: MoveFacts) -> Row:
    """What the map says of the position; the place is still to be found."""
    match mapped:
        case Exact():
            return replace(row, translation="exact")
        case Between() as between:
            text = f"{between.records:,} records must be counted to find the exact offset"
            text = f"{MoveReason.THINNED}: offset syncs this old are sparse; {text}"
            return replace(
                row, translation="between", reason=text, is_obstacle=True, between=between,
                reread_records=between.records if between.skip is None else between.skip,
            )  # fmt: skip
        case Ahead(replicated_next):
            behind, stop = row.origin_next - replicated_next, route.partition.stop
            why = f" ({stop})" if stop else f" ({facts.not_flowing})" if facts.not_flowing else ""
            text = f"{MoveReason.NOT_REPLICATED_YET}: replication is {behind:,} offsets behind the group{why}"
            return replace(
                row, translation="ahead", reason=text, must_wait=not stop, is_obstacle=bool(stop), reread_records=behind
            )
        case Expired(known_from):
            text = (
                f"{MoveReason.EXPIRED}: offset {row.origin_next:,} is before the first replicated one, {known_from:,}"
            )
            return replace(row, translation="expired", reason=text, is_obstacle=True)
        case NoPlace(why):
            may_pass = why is Why.OPEN_TRANSACTION or (why is Why.NOTHING_REPLICATED and not route.is_inverse)
            kind = MoveReason.NOT_REPLICATED_YET if may_pass else MoveReason.UNTRANSLATABLE
            return replace(
                row, translation="ahead" if why is Why.OPEN_TRANSACTION else "unknown",
                reason=f"{kind}: {route.unusable_text(why)}", must_wait=may_pass, is_obstacle=not may_pass,
                reread_records=None,
            )  # fmt: skip


def _placed_row(row: Row, placed: Placed | NoPlace, route: Route, facts: MoveFacts) -> Row:
    """The row with its place: never before the beginning of the log, nor behind its end."""
    match placed:
        case NoPlace(Why.END_NOT_KNOWN):
            reason = f"{MoveReason.LOG_SHORTER}: {route.unusable_text(Why.END_NOT_KNOWN)}"
            return replace(
                row, translation="unknown", reason=reason, is_obstacle=True, must_wait=False, between=None,
                reread_records=None,
            )  # fmt: skip
        case NoPlace():
            return row
        case Placed(end, Lost(place)):
            where = f"{route.destination} on {facts.destination}"
            lost = f"{where} lost records: it ends at {end:,}, before the group's {place:,}"
            return replace(
                row, destination_next=end, translation="ahead", reason=f"{MoveReason.LOG_SHORTER}: {lost}",
                is_obstacle=True, must_wait=False, between=None,
            )  # fmt: skip
        case Placed(begin, Deleted(place, records)):
            where = f"{route.destination} on {facts.destination} begins at {begin:,}, after the group's {place:,}"
            text = f"{where}: at most {counted(records, 'unread record')} deleted there"
            return replace(
                row, destination_next=begin, translation="expired", reason=f"{MoveReason.DELETED_ON_TARGET}: {text}",
                between=None, at_risk_records=records,
            )  # fmt: skip
        case Placed(next_offset):
            return replace(row, destination_next=next_offset)


def counted_row(order: Order, facts: MoveFacts, row: Row, found: Exact | Unrefined) -> Row:
    """A row whose stretch of the map is thinned out, after its records were counted."""
    if isinstance(found, Unrefined):
        return replace(row, reason=f"{row.reason}, but {found.reason}")
    route = facts.router.route(row.origin)
    is_failover = order.command is MoveCommand.FAILOVER and route is not None
    return replace(
        row, destination_next=found.next_offset, translation="exact", reason="", is_obstacle=False,
        reread_records=_behind(found.next_offset, route, facts) if is_failover and route is not None else 0,
    )  # fmt: skip


def _kept_places(facts: MoveFacts, group: str) -> Iterator[Row]:
    """What a failover leaves as it is: topics of `destination` of which the group read copies on `origin`.

    Where it was in those copies, only `origin` knew.
    """
    if facts.back is None:
        return
    for destination, found in sorted(facts.groups[group].destination_offsets.items()):
        if facts.back.topic_filter.matches(destination.topic):
            origin = TP(facts.back.naming.remote_topic(destination.topic), destination.partition)
            where = f"the group continues at {found.next_offset:,}, its last offset on {facts.destination}"
            reason = f"{MoveReason.KEPT_PLACE}: {where}; what it has read on {facts.origin} since is unknown"
            yield Row(
                group, origin, destination, NOTHING, None, "unknown", RowState.SKIPPED, reason,
                reread_records=None, is_inverse=True, found=found,
            )  # fmt: skip


def _own_places(
    order: Order, facts: MoveFacts, group: str, destination_offsets: GroupOffsets, rows: Iterable[Row]
) -> list[Row]:
    """What a resync takes over as it is: copies for which the group has a position on `destination` alone.

    Group sync leaves the whole group alone as long as one of its offsets is the group's own (invariant F).
    """
    translated = {row.destination for row in rows}
    reason = (
        f"{MoveReason.KEPT_PLACE}: the group has no offset on {facts.origin}; its offset on {facts.destination} stays"
    )
    return [
        Row(group, origin, destination, NOTHING, found.next_offset, "unknown", reason=reason, found=found)
        for destination, found in sorted(destination_offsets.items())
        if destination not in translated and not is_ours(found, order.flow)
        if (origin := facts.router.original_of(destination)) is not None
    ]


def _at_risk(row: Row, placed: Placed | NoPlace, route: Route, facts: MoveFacts) -> Row:
    """A failover takes what it can get, and says what that costs."""
    newest = route.offset_map.newest
    at_risk: int | None = None
    end = (facts.source_ends or {}).get(route.upstream)
    match placed:
        case Placed(_, Lost(lost_place)):
            place = lost_place
        case _:
            place = row.destination_next or 0
    if end is not None and newest is not None:
        never_copied = max(0, route.offset_map.first_upstream - row.origin_next)
        deleted = row.at_risk_records or 0
        at_risk = max(0, end - newest.upstream_next) + never_copied + deleted + _gone(place, route, facts)
    if row.destination_next is None:  # where nothing can be said the consumer's own reset decides
        return replace(
            row,
            state=RowState.SKIPPED,
            at_risk_records=at_risk,
            reread_records=None,
            is_obstacle=False,
            must_wait=False,
        )
    reread = _behind(place, route, facts)
    reread += row.reread_records or 0 if row.translation == "ahead" else 0
    return replace(row, at_risk_records=at_risk, reread_records=reread, is_obstacle=False, must_wait=False)


def _behind(place: int, route: Route, facts: MoveFacts) -> int:
    """How many records `destination` has at or after a place: what a failover may have the group read again."""
    return route.offset_map.records_from(place) - _gone(place, route, facts)


def _gone(place: int, route: Route, facts: MoveFacts) -> int:
    """Records that were replicated, at or after a place, and that `destination` has lost."""
    newest, end = route.offset_map.newest, facts.destination_logs.get(route.destination, UNKNOWN_LOG).end
    if newest is None or not route.partition.is_usable or newest.downstream_next <= end:
        return 0
    return route.offset_map.records_from(max(end, place))


def _kept_origin(row: Row) -> Row:
    """A resync writes what group sync would write: as near as it is known."""
    if row.destination_next is None:
        return replace(row, state=RowState.SKIPPED, is_obstacle=False, must_wait=False)
    was = f"was {row.found.next_offset:,}" if row.found is not None else "was not committed"
    return replace(row, is_obstacle=False, must_wait=False, reason="; ".join(it for it in (row.reason, was) if it))


def missing_rows(facts: MoveFacts, group: str, origin_partitions: Iterable[TP]) -> Iterator[Row]:
    """Rows of replicated partitions for which the group committed nothing, in topics where it did for others."""
    offsets = facts.groups[group].origin_offsets
    topics = {tp.topic for tp in offsets}
    for tp in sorted(origin_partitions):
        route = facts.router.route(tp)
        if tp.topic in topics and tp not in offsets and route is not None:
            reason = f"{MoveReason.NEVER_COMMITTED}: no committed offset; its consumers' auto.offset.reset decides"
            yield Row(group, tp, route.destination, NOTHING, None, "unknown", RowState.SKIPPED, reason)
