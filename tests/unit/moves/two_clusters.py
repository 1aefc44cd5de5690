"""Two clusters in memory, with a flow in each direction, group sync, an audit and consumers: `executor.World`.

Records are copied as the replicator copies them (runs, gaps, a marker after each transaction), and carry ids, so that
what a group has read is known. `FakeWorld` can be made to die after any of its effects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from replicator.audit.audit import AuditRecord, merged
from replicator.checkpoints.group_sync import decide
from replicator.config import Flow, build
from replicator.errors import TP, RefusedError
from replicator.groups.offsets import Committed, GroupOffsets, GroupState
from replicator.moves.model import MoveCommand, MovePlan, Order, Row, Unrefined
from replicator.moves.plan import GroupFacts, MoveFacts
from replicator.moves.routes import FlowView, Router
from replicator.moves.world import last_moves
from replicator.offset_map.map import Exact, OffsetMap, refine_on_destination, skip_on_origin
from replicator.offset_map.runs import Placement, RunBuilder, gaps_between
from replicator.offset_map.topic_id import TopicId
from replicator.offset_map.translate import NoPlace, TargetLog
from replicator.syncs.state import MapsState

EAST_WEST, WEST_EAST = "east->west", "west->east"
PARTITIONS = 2
MARKER = -1
"""In place of a record's id: an offset without a record."""


def topic_id(name: str) -> TopicId:
    return TopicId(name.encode().ljust(16, b"."))


def a_flow(name: str, topic: str, **settings: Any) -> Flow:
    source, target = name.split("->")
    clusters = {alias: {"bootstrap_servers": f"{alias}:9092"} for alias in (source, target)}
    return build({"clusters": clusters, "flows": {name: {"topics": [topic], **settings}}}).flow()


class Died(BaseException):
    """The process was killed here."""


@dataclass
class FakeGroup:
    """A consumer group on one cluster."""

    offsets: dict[TP, Committed] = field(default_factory=dict)
    members: tuple[str, ...] = ()
    metadata: str = ""
    """What its consumers commit beside the offset."""

    @property
    def state(self) -> GroupState:
        if self.members:
            return GroupState("STABLE", self.members)
        return GroupState("EMPTY" if self.offsets else "DEAD")


@dataclass
class FakeFlow:
    """One direction: its maps, and the checkpoints that its worker wrote."""

    flow: Flow
    view: FlowView
    checkpoints: dict[str, dict[TP, Committed]] = field(default_factory=dict)


class TwoClusters:
    """`orders` is produced on east, `payments` on west; each flow copies one of them."""

    def __init__(self) -> None:
        self.logs: dict[str, dict[TP, list[int]]] = {"east": {}, "west": {}}
        self.begins: dict[str, dict[TP, int]] = {"east": {}, "west": {}}
        """Log start offsets: what lies before was deleted."""
        self.groups: dict[str, dict[str, FakeGroup]] = {"east": {}, "west": {}}
        self.flows = {name: self._flow(name, topic) for name, topic in ((EAST_WEST, "orders"), (WEST_EAST, "payments"))}
        self.audit: list[AuditRecord] = []
        self.claimed_by: object = None
        self.halted: dict[str, str] = {}
        self.is_east_up = True
        self.produced = 0
        self.processed: dict[str, list[int]] = {}
        self.writes: list[tuple[str, str, TP, Committed]] = []
        """Commits that were taken in the name of groups: cluster, group, partition, what."""
        self.refuses: Callable[[str, str, TP], str] = lambda cluster, group, tp: ""
        """Why a broker does not take a commit."""
        self.unreadable: dict[str, str] = {}
        """Why what a group has can't be read, by group."""

    def _flow(self, name: str, topic: str) -> FakeFlow:
        flow = a_flow(name, topic)
        syncs = MapsState()
        for partition in range(PARTITIONS):
            tp = TP(topic, partition)
            self.logs[flow.source][tp] = []
            self.logs[flow.target][TP(flow.naming.remote_topic(topic), partition)] = []
            syncs.take_run(tp, RunBuilder(0, 0, topic_id(topic)).build((), 0, 0)[0])
        return FakeFlow(flow, FlowView(flow, {topic: topic_id(topic)}, syncs))

    def group(self, cluster: str, name: str = "g") -> FakeGroup:
        return self.groups[cluster].setdefault(name, FakeGroup())

    # --- records ------------------------------------------------------------------------------------------------------

    def produce(self, topic: str, partition: int, count: int = 1, *, has_gap: bool = False) -> None:
        cluster = "east" if topic == "orders" else "west"
        log = self.logs[cluster][TP(topic, partition)]
        for _ in range(count):
            self.produced += 1
            log.append(self.produced)
        if has_gap:
            log.append(MARKER)

    def replicate(self, name: str, partition: int, count: int = 1000) -> None:
        """One transaction with up to `count` records."""
        flow = self.flows[name]
        if flow.flow.name in self.halted or not self.is_east_up:
            return
        topic = flow.flow.settings.topics[0]
        tp = TP(topic, partition)
        newest = flow.view.syncs.newest[tp]
        source = self.logs[flow.flow.source][tp]
        target = self.logs[flow.flow.target][TP(flow.flow.naming.remote_topic(topic), partition)]
        found = [at for at in range(newest.upstream_next, len(source)) if source[at] != MARKER][:count]
        is_all = not found or found[-1] == max(at for at, it in enumerate(source) if it != MARKER)
        upstream_next = len(source) if is_all else found[-1] + 1
        if upstream_next == newest.upstream_next:
            return
        builder = RunBuilder(newest.seq, newest.ordinal_next, newest.topic_id)
        base = len(target)
        placements = [Placement(found[0], found[-1] + 1, len(found), gaps_between(found), base)] if found else []
        for run in builder.build(placements, upstream_next, newest.downstream_next):
            flow.view.syncs.take_run(tp, run)
        target += [source[at] for at in found] + [MARKER]

    def replicate_all(self) -> None:
        for name in self.flows:
            for partition in range(PARTITIONS):
                self.replicate(name, partition)

    def delete(self, cluster: str, tp: TP, before: int) -> list[int]:
        """Delete what lies before an offset, as retention does; the ids of the records that are gone."""
        begin = self.begins[cluster].get(tp, 0)
        self.begins[cluster][tp] = max(begin, min(before, len(self.logs[cluster][tp])))
        return [it for it in self.logs[cluster][tp][begin : self.begins[cluster][tp]] if it != MARKER]

    def log(self, cluster: str, tp: TP, read_from: int = 0) -> TargetLog:
        """Where a log begins and ends, and how far it holds no record from a place on."""
        read_to = self._end(cluster, tp, read_from)
        return TargetLog(self.begins[cluster].get(tp, 0), len(self.logs[cluster][tp]), read_from, read_to)

    # --- consumers ----------------------------------------------------------------------------------------------------

    def consume(self, cluster: str, tp: TP, count: int = 1000, *, group: str = "g", past_markers: bool = True) -> None:
        """The group reads up to `count` records of a partition, and commits; `auto.offset.reset` is ``earliest``."""
        it = self.group(cluster, group)
        log = self.logs[cluster][tp]
        at = max(it.offsets[tp].next_offset if tp in it.offsets else 0, self.begins[cluster].get(tp, 0))
        read = 0
        while at < len(log) and read < count:
            if log[at] != MARKER:
                self.processed.setdefault(group, []).append(log[at])
                read += 1
            at += 1
        while past_markers and at < len(log) and log[at] == MARKER:
            at += 1
        if read or tp not in it.offsets:
            it.offsets[tp] = Committed(at, it.metadata)

    def consume_all(self, cluster: str, group: str = "g") -> None:
        for tp in self.logs[cluster]:
            self.consume(cluster, tp, group=group)

    # --- the duties ---------------------------------------------------------------------------------------------------

    def duties(self, name: str) -> None:
        """One pass of checkpoints and group sync of a flow."""
        flow = self.flows[name]
        if not self.is_east_up:
            return
        for group, it in self.groups[flow.flow.source].items():
            wanted: dict[TP, int] = {}
            for tp, committed in it.offsets.items():
                newest = flow.view.syncs.newest.get(tp)
                if newest is None:
                    continue
                remote = TP(flow.flow.naming.remote_topic(tp.topic), tp.partition)
                partition = flow.view.partition(tp)
                log = self.log(flow.flow.target, remote, newest.downstream_next)
                place = partition.place(partition.translate(committed.next_offset), log)
                if isinstance(place, NoPlace):
                    continue
                wanted[remote] = place.next_offset
                flow.checkpoints.setdefault(group, {})[tp] = committed
            there = self.groups[flow.flow.target].get(group, FakeGroup())
            topics = {tp.topic for tp in wanted}
            writes = decide(name, wanted, there.offsets, topics).writes
            if not there.members and writes:
                self.group(flow.flow.target, group).offsets.update(writes)

    def _end(self, cluster: str, tp: TP, start: int) -> int:
        """How far the log holds no record from `start` on."""
        log = self.logs[cluster][tp]
        end = start
        while end < len(log) and log[end] == MARKER:
            end += 1
        return end

    # --- for tests ----------------------------------------------------------------------------------------------------

    def commit(self, cluster: str, group: str, tp: TP, it: Committed) -> str:
        """As a broker takes the commit of one that is no member; why not."""
        there = self.group(cluster, group)
        why = "UNKNOWN_MEMBER_ID" if there.members else self.refuses(cluster, group, tp)
        if not why:
            self.writes.append((cluster, group, tp, it))
            there.offsets[tp] = it
        return why

    def snapshot(self) -> dict[str, dict[str, dict[TP, Committed]]]:
        """All offsets, without the ids of moves."""
        return {
            cluster: {
                name: {tp: _without_id(it) for tp, it in group.offsets.items()}
                for name, group in groups.items()
                if group.offsets
            }
            for cluster, groups in self.groups.items()
        }


def _without_id(it: Committed) -> Committed:
    return replace(it, metadata=it.metadata.split(" ")[0]) if it.metadata.startswith("replicator-move") else it


class FakeWorld:
    """See `executor.World`.

    Args:
        dies_after: so many effects; -1: never.
    """

    def __init__(self, two: TwoClusters, flow: str = EAST_WEST, *, dies_after: int = -1) -> None:
        self.two = two
        self.effects = 0
        self.dies_after = dies_after
        self.hooks: list[tuple[str, Mapping[str, Any]]] = []
        self.refuses_hook = ""
        self.before: dict[str, Callable[[], None]] = {}
        """Called before a method, by its name; once."""
        self._flow = flow

    def _happens(self, method: str) -> None:
        if method in self.before:
            self.before.pop(method)()

    def _effect(self) -> None:
        self.effects += 1
        if self.effects == self.dies_after:
            raise Died

    def _sides(self, order: Order) -> tuple[str, str]:
        source, target = self._flow.split("->")
        return (target, source) if order.is_homeward else (source, target)

    # --- looking ------------------------------------------------------------------------------------------------------

    def look(self, order: Order) -> MoveFacts:
        self._happens("look")
        two, flow = self.two, self.two.flows[self._flow]
        origin, destination = self._sides(order)
        is_failover = order.command is MoveCommand.FAILOVER
        back = next((it for name, it in two.flows.items() if name != self._flow and not is_failover), None)
        view = replace(flow.view, topic_ids=None) if is_failover else flow.view
        there = back.view if back is not None else None
        router = Router(there, view) if order.is_homeward else Router(view, there)
        moves = last_moves(it for it in merged(two.audit) if it.flow == self._flow)
        groups = {}
        for name in order.groups:
            here = two.groups[origin].get(name, FakeGroup())
            origin_offsets: GroupOffsets = dict(here.offsets)
            if is_failover:
                origin_offsets = flow.checkpoints.get(name, {})
            away = two.groups[destination].get(name, FakeGroup())
            groups[name] = GroupFacts(
                GroupState() if is_failover else here.state,
                origin_offsets, away.state, dict(away.offsets), two.unreadable.get(name, ""), moves.get(name),
            )  # fmt: skip
        self._effect()
        ends = {}
        if is_failover and two.is_east_up:
            ends = {tp: len(log) for tp, log in two.logs[origin].items()}
        return MoveFacts(
            origin, destination, groups, router,
            destination_logs=dict(self._destination_logs(destination, router, groups.values())),
            source_ends=ends or None,
            halted=two.halted.get(self._flow, ""),
        )  # fmt: skip

    def _destination_logs(
        self, destination: str, router: Router, groups: Iterable[GroupFacts]
    ) -> Iterator[tuple[TP, TargetLog]]:
        for origin in {tp for group in groups for tp in group.origin_offsets}:
            route = router.route(origin)
            if route is not None:
                newest = route.offset_map.newest
                yield (
                    route.destination,
                    self.two.log(destination, route.destination, newest.downstream_next if newest is not None else 0),
                )

    def refine(self, row: Row) -> Exact | Unrefined:
        between, destination = row.between, row.destination
        assert between is not None
        assert destination is not None
        origin_records, destination_records = self._records(row.origin), self._records(destination)
        inside = [at for at in origin_records if between.origin_low <= at < between.origin_high]
        skip = skip_on_origin(between, row.origin_next, inside) if between.skip is None else between.skip
        self._effect()
        if skip is None:
            return Unrefined("the records are gone where the group is")
        place = refine_on_destination(
            between, skip, [at for at in destination_records if between.low <= at < between.high]
        )
        return Unrefined("the records are gone where the group goes") if place is None else place

    def _records(self, tp: TP) -> list[int]:
        """The offsets of the records that a partition, of either cluster, holds."""
        (cluster,) = (name for name, logs in self.two.logs.items() if tp in logs)
        begin = self.two.begins[cluster].get(tp, 0)
        return [at for at, it in enumerate(self.two.logs[cluster][tp]) if it != MARKER and at >= begin]

    # --- acting -------------------------------------------------------------------------------------------------------

    def commit(
        self, order: Order, wanted: Mapping[str, GroupOffsets], *, on_destination: bool
    ) -> dict[str, dict[TP, str]]:
        self._happens("commit")
        refused: dict[str, dict[TP, str]] = {}
        for group, offsets in wanted.items():
            for tp, it in offsets.items():
                why = self.two.commit(self._sides(order)[on_destination], group, tp, it)
                if why:
                    refused.setdefault(group, {})[tp] = why
                self._effect()
        return refused

    def offsets(self, order: Order, groups: Iterable[str], *, on_destination: bool) -> Mapping[str, GroupOffsets]:
        self._happens("offsets")
        there = self.two.groups[self._sides(order)[on_destination]]
        self._effect()
        return {group: dict(there[group].offsets) if group in there else {} for group in groups}

    def hook(self, name: str, document: Mapping[str, Any]) -> None:
        self._happens(name)
        self.hooks.append((name, document))
        self._effect()
        if self.refuses_hook == name:
            raise RefusedError(f"hooks.{name} failed")

    def claim(self) -> None:
        self._happens("claim")
        self.two.claimed_by = self
        self._effect()

    def record(self, plan: MovePlan, state: str, result: str) -> None:
        self._happens(f"record {state}")
        if self.two.claimed_by is not self:
            raise RefusedError("another operator has started a command on this flow")
        rows = plan.as_json(state)["partitions"]
        order = plan.order
        self.two.audit.append(
            AuditRecord(order.move_id, "", "", "", order.command.value, order.flow, state, tuple(rows), result)
        )
        self._effect()

    def halt(self, order: Order) -> None:
        self._happens("halt")
        self.two.halted[self._flow] = f"the flow is halted by {order.move_id}"
        self._effect()

    @contextmanager
    def uninterrupted(self) -> Iterator[None]:
        yield


@dataclass
class FakeOperator:
    """See `executor.Operator`."""

    says_no: bool = False
    said: list[str] = field(default_factory=list)
    shown: list[MovePlan] = field(default_factory=list)
    approved: list[MovePlan] = field(default_factory=list)

    def show(self, plan: MovePlan) -> None:
        self.shown.append(plan)

    def approve(self, plan: MovePlan) -> None:
        if self.says_no:
            raise RefusedError("not confirmed")
        self.approved.append(plan)

    def say(self, text: str) -> None:
        self.said.append(text)


def thinned(flow: FakeFlow, tp: TP, keep: Callable[[int], bool]) -> None:
    """Forget runs of a partition, as compaction does; the first and the newest stay."""
    runs = list(flow.view.syncs.maps[tp])
    flow.view.syncs.maps[tp] = OffsetMap(it for it in runs if it.seq == 1 or it is runs[-1] or keep(it.seq))
