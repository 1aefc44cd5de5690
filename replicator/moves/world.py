"""What a move does to the clusters of a flow: the real `executor.World`.

Every request has a deadline, `connect_timeout_s`. A failover needs the target alone.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from typing import Any

from replicator.audit.audit import Audit, AuditRecord, read_audit
from replicator.audit.hooks import run_hook
from replicator.audit.signals import held_back
from replicator.checkpoints.topic import KnownGroups, knowledge_text, read_checkpoints
from replicator.config import HooksSettings
from replicator.deadline import Deadline
from replicator.errors import TP, KafkaOpError, RefusedError
from replicator.groups.listing import group_states, list_groups, unlisted_groups
from replicator.groups.offsets import Committed, GroupOffsets, GroupState
from replicator.groups.refusals import is_passing, is_refusal_of_members
from replicator.kafka.cluster import Cluster
from replicator.moves.clusters import FlowClusters
from replicator.moves.count import Refiner
from replicator.moves.history import LastMove
from replicator.moves.model import MoveCommand, MovePlan, Order, Row, Unrefined
from replicator.moves.plan import GroupFacts, MoveFacts
from replicator.moves.routes import FlowView, Router
from replicator.names import groups_id
from replicator.offset_map.map import Exact
from replicator.status.lag_reader import describe_workers
from replicator.syncs.halts import HaltReason, halt, halt_body, to_halt, why_halted

COUNTING_TIMEOUT_S = 300.0
SHOWN_GROUPS = 10


class MoveClusters:
    """See `executor.World`. Threading: one thread.

    Args:
        clusters: connected.
        say: tells the operator what goes on.
        progress: called with (records counted, records to count) while the map is refined.
    """

    def __init__(
        self, clusters: FlowClusters, hooks: HooksSettings, say: Callable[[str], None],
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:  # fmt: skip
        self.clusters = clusters
        self._flow = clusters.flow
        self._hooks = hooks
        self._say = say
        self._progress = progress
        self._order: Order | None = None
        """Of the last look."""
        self._refined: dict[tuple[TP, int], Exact | Unrefined] = {}
        self._refiners: dict[tuple[str, bool], Refiner] = {}
        """By the cluster where groups go, and whether the other one can count, too."""
        self._source_ends: Mapping[TP, int] | None = None
        """Of a failover's last look."""
        self._audit = Audit(clusters.flow, clusters.target, clusters.admin(clusters.target))
        self.known: KnownGroups | None = None
        """What `checkpoints` read last."""
        self._moves: Mapping[str, LastMove] | None = None

    def close(self) -> None:
        """Let go of the clients."""
        self._audit.close()
        for refiner in self._refiners.values():
            refiner.close()
        self.clusters.close()

    def _side(self, order: Order, *, destination: bool) -> Cluster:
        is_target = destination is not order.is_homeward
        return self.clusters.target if is_target else self.clusters.source

    # --- looking ------------------------------------------------------------------------------------------------------

    def select(self, command: MoveCommand, names: Sequence[str]) -> tuple[str, ...]:
        """The groups that a command is about: those named, by name or regular expression, or all when none is.

        Raises:
            RefusedError: a name fits no group.
            KafkaOpError: the cluster gave no answer.
        """
        known, where = self._known_groups(command, names)
        chosen: dict[str, None] = {}
        for name in names:
            found = [name] if name in known else [group for group in known if _fits(name, group)]
            if not found:
                shown = ", ".join(known[:SHOWN_GROUPS]) + (", …" if len(known) > SHOWN_GROUPS else "")
                there = f"there are {len(known)}: {shown}" if known else "there is none"
                key = f"flows.{self._flow.name}.groups"
                raise RefusedError(f"no group {name!r} {where} that {key} accepts ({there}){_no_pattern(name)}")
            chosen |= dict.fromkeys(found)
        return tuple(chosen) if names else tuple(known)

    def _known_groups(self, command: MoveCommand, names: Sequence[str]) -> tuple[list[str], str]:
        matches = self._flow.group_filter.matches
        if command is MoveCommand.FAILOVER:
            return sorted(
                filter(matches, self.checkpoints().groups)
            ), f"in {self._flow.naming.checkpoints_topic} on {self._flow.target}"
        cluster = self.clusters.target if command is MoveCommand.FAILBACK else self.clusters.source
        listed = set(filter(matches, list_groups(self.clusters.groups(cluster), self.clusters.budget())))
        if not names or not listed.issuperset(names):
            listed |= self._unlisted(cluster, listed, names)
        return sorted(listed), f"on {cluster.alias}"

    def _unlisted(self, cluster: Cluster, listed: Collection[str], names: Sequence[str]) -> set[str]:
        """Groups that exist, by the checkpoints or by name, though the list lacks them: coordinators may be moving."""
        candidates = self.checkpoints().groups.union(names).difference(listed)
        asked = filter(self._flow.group_filter.matches, candidates)
        wanted = {group for group in asked if not names or any(group == name or _fits(name, group) for name in names)}
        return unlisted_groups(self.clusters.groups(cluster), wanted, self.clusters.budget())

    def with_routes(self, order: Order) -> Order:
        """Of all groups those that have a position in a topic of the flow, or whose positions can't be read."""
        origin, view = self._seen(order)
        return _routed(order, self._router(order, view), origin)

    def checkpoints(self) -> KnownGroups:
        """What the target knows of the groups of the source."""
        known = read_checkpoints(self.clusters.target, self._flow, Deadline(COUNTING_TIMEOUT_S))
        if known.unreadable and (self.known is None or self.known.unreadable != known.unreadable):
            self._say(known.unreadable)
        self.known = known
        return known

    def knowledge_text(self, plan: MovePlan) -> str:
        """How old what a failover knows of its groups is; empty for other moves."""
        if self.known is None or plan.order.command is not MoveCommand.FAILOVER:
            return ""
        return knowledge_text(self.known, {row.group for row in plan.rows}, time.time() * 1000)

    def look(self, order: Order) -> MoveFacts:
        """What the clusters say now.

        Raises:
            KafkaOpError: one of them gave no answer.
            RefusedError: the flow never ran.
        """
        origin, view = self._seen(order)
        return self._facts(order, view, origin)

    def look_with_routes(self, order: Order) -> tuple[Order, MoveFacts]:
        """`with_routes` and `look`, from one look."""
        origin, view = self._seen(order)
        order = _routed(order, self._router(order, view), origin)
        return order, self._facts(order, view, {group: origin[group] for group in order.groups})

    def _facts(self, order: Order, view: FlowView, origin_groups: Mapping[str, GroupFacts]) -> MoveFacts:
        router = self._router(order, view)
        self._order = order
        origin, destination = self._side(order, destination=False), self._side(order, destination=True)
        groups = self._destination(origin_groups, destination)
        offsets = [it.origin_offsets for it in groups.values()]
        if order.command is MoveCommand.FAILOVER:
            self._source_ends = self.clusters.source_ends(view, {tp for it in offsets for tp in it})
        return MoveFacts(
            origin=origin.alias,
            destination=destination.alias,
            groups=groups,
            router=router,
            destination_logs=self.clusters.destination_logs(destination, router, offsets),
            source_ends=self._source_ends,
            halted=why_halted(view.flow.name, view.syncs.halted),
            not_flowing=self._not_flowing(),
            back=self.clusters.back if order.command is MoveCommand.FAILOVER else None,
        )

    def _router(self, order: Order, view: FlowView) -> Router:
        """A failover does not read the maps of the flow back, which are on the source (`MoveFacts.back`)."""
        is_failover = order.command is MoveCommand.FAILOVER
        return Router(view, None) if is_failover else self.clusters.router(view, is_homeward=order.is_homeward)

    def _seen(self, order: Order) -> tuple[dict[str, GroupFacts], FlowView]:
        """The groups where they are, for a failover as the checkpoints have it; and then the flow.

        In this order: the maps must not be older than the positions that they translate (invariant D).
        """
        if order.command is MoveCommand.FAILOVER:
            checkpoints, view = self.checkpoints(), self.clusters.view(by_target=True)
            known = origin_by_checkpoints(checkpoints, view)
            broken = checkpoints.broken
            return {
                group: GroupFacts(origin_offsets=known.get(group, {}), problem=broken.get(group, ""))
                for group in order.groups
            }, view
        origin = self._origin(order)
        return origin, self.clusters.view(backwards=order.is_homeward)

    def _origin(self, order: Order) -> dict[str, GroupFacts]:
        """The groups as the cluster has them that they leave."""
        origin = self._side(order, destination=False)
        states = self._states(origin, order.groups)  # first: what members commit before they leave is read after it
        offsets = self._read(origin, order.groups)
        return {
            group: GroupFacts(states[group], offsets.get(group, {}), problem=self._problem(origin, group, offsets))
            for group in order.groups
        }

    def _destination(self, origin_groups: Mapping[str, GroupFacts], destination: Cluster) -> dict[str, GroupFacts]:
        """The same with what they have where they go."""
        moves = self._last_moves()
        states = self._states(destination, origin_groups)
        offsets = self._read(destination, origin_groups)
        return {
            group: replace(
                it, destination=states[group], destination_offsets=offsets.get(group, {}), last_move=moves.get(group),
                problem=it.problem or self._problem(destination, group, offsets),
            )
            for group, it in origin_groups.items()
        }  # fmt: skip

    def _states(self, cluster: Cluster, groups: Iterable[str]) -> dict[str, GroupState]:
        return group_states(self.clusters.groups(cluster), groups, self.clusters.budget())

    def _read(self, cluster: Cluster, groups: Iterable[str]) -> dict[str, GroupOffsets]:
        """What groups committed; offsets that are not stable are read again until the deadline."""
        reader, wanted = self.clusters.offsets_reader(cluster), list(groups)
        deadline = self.clusters.budget()
        may_be_group_sync = cluster is self.clusters.target
        while True:
            found = reader.read(wanted, self.clusters.budget())
            refused = {group for group, error in reader.failures.items() if not is_passing(error)}
            if reader.unsure <= refused or (deadline.expired and not may_be_group_sync):
                return found
            if may_be_group_sync:  # even if the first reading took all the time: what this ends is worth another one
                self._end_group_sync()
                may_be_group_sync = False
            reader.forget_late()
            time.sleep(deadline.slice_s(0.1))

    def _end_group_sync(self) -> None:
        """End a transaction of group sync, which may have died in it: until its timeout the offsets are unknown."""
        transactional_id = groups_id(self._flow.source, self._flow.target)
        client = self.clusters.groups(self.clusters.target)
        with suppress(KafkaOpError):
            client.transaction(transactional_id, self.clusters.budget()).close()

    def _problem(self, cluster: Cluster, group: str, offsets: Mapping[str, GroupOffsets]) -> str:
        """Why what the group has now was not read, or not all of it; empty when it was."""
        if group in offsets and group not in self.clusters.offsets_reader(cluster).unsure:
            return ""
        whose = "its consumers or of group sync" if cluster is self.clusters.target else "its consumers"
        text = f"the offsets of {group} are not stable: a transaction of {whose} is open or hanging"
        return str(self.clusters.offsets_reader(cluster).failures.get(group, text))

    def _not_flowing(self) -> str:
        target = self.clusters.target
        workers = describe_workers(target, self.clusters.admin(target), self._flow.group, self.clusters.budget())
        return "" if workers.tasks else "no worker is running"

    def _last_moves(self) -> Mapping[str, LastMove]:
        if self._moves is None:
            target = self.clusters.target
            records = read_audit(target, self.clusters.budget())
            self._moves = last_moves(record for record in records if record.flow == self._flow.name)
        return self._moves

    # --- acting -------------------------------------------------------------------------------------------------------

    def refine(self, row: Row) -> Exact | Unrefined:
        """See `executor.World`; what was counted once is not counted again."""
        assert row.between is not None
        assert row.destination is not None
        key = row.origin, row.origin_next
        if key not in self._refined:
            self._refined[key] = self._counted(row)
        return self._refined[key]

    def _counted(self, row: Row) -> Exact | Unrefined:
        assert row.between is not None
        assert row.destination is not None
        assert self._order is not None, "rows come from a look"
        origin, destination = self._side(self._order, destination=False), self._side(self._order, destination=True)
        if destination.alias not in self.clusters.admins:
            return Unrefined(f"{destination.alias} gives no answer")
        is_failover = self._order.command is MoveCommand.FAILOVER
        counts = not is_failover or row.origin in (self._source_ends or ())  # what has no end is gone, or another topic
        key = destination.alias, counts
        if key not in self._refiners:
            origin_s = self.clusters.timeout_s if is_failover else None
            max_records = self._flow.settings.refine_max_records
            self._refiners[key] = Refiner(
                origin if counts else None, destination, max_records, self._progress, origin_s
            )
        return self._refiners[key].refine(
            row.origin, row.destination, row.origin_next, row.between, Deadline(COUNTING_TIMEOUT_S)
        )

    def commit(
        self, order: Order, wanted: Mapping[str, GroupOffsets], *, on_destination: bool
    ) -> dict[str, dict[TP, str]]:
        """See `executor.World`; what may pass is tried again until the deadline."""
        cluster = self._side(order, destination=on_destination)
        deadline = self.clusters.budget()
        left = {group: dict(it) for group, it in wanted.items() if it}
        refused: dict[str, dict[TP, str]] = {}
        while left:
            outcome = self.clusters.groups(cluster).commit(left, deadline)
            again: dict[str, dict[TP, Committed]] = {}
            for group, refusals in outcome.items():
                for tp, error in refusals.items():
                    if is_passing(error) and not is_refusal_of_members(error) and not deadline.expired:
                        again.setdefault(group, {})[tp] = left[group][tp]
                    else:
                        refused.setdefault(group, {})[tp] = str(error)
            left = again
            if left:
                time.sleep(deadline.slice_s(0.1))
        return refused

    def offsets(self, order: Order, groups: Iterable[str], *, on_destination: bool) -> Mapping[str, GroupOffsets]:
        """See `executor.World`."""
        return self._read(self._side(order, destination=on_destination), list(groups))

    def hook(self, name: str, document: Mapping[str, Any]) -> None:
        """See `executor.World`."""
        run_hook(self._hooks, name, document)

    def claim(self) -> None:
        """See `executor.World`."""
        self._audit.begin(self.clusters.budget())
        self._moves = None  # another operator's move may have ended meanwhile

    def record(self, plan: MovePlan, state: str, result: str) -> None:
        """See `executor.World`."""
        document = plan.as_json(state)
        record = AuditRecord.new(
            plan.order.move_id, plan.order.command.value, self._flow.name, state, document["partitions"], result
        )
        self._audit.write(record, self.clusters.budget())

    def halt(self, order: Order) -> None:
        """See `executor.World`; returns when the maps end where the flow was halted."""
        tasks = range(self.clusters.tasks)
        left = to_halt(self.clusters.view(by_target=True).syncs.halted, tasks, HaltReason.FAILOVER)
        if left:
            body = halt_body(HaltReason.FAILOVER, order.move_id)
            halt(self._flow, self.clusters.target, left, body, self.clusters.budget())
        deadline = self.clusters.budget()
        while to_halt(self.clusters.view(by_target=True).syncs.halted, tasks, HaltReason.FAILOVER):
            if deadline.expired:
                raise KafkaOpError(
                    f"the halt is not visible after {deadline.seconds:g} s", op=f"halt {self._flow.name}"
                )
            time.sleep(0.02)

    def uninterrupted(self) -> AbstractContextManager[None]:
        """See `executor.World`."""
        return held_back(self._say)


def _routed(order: Order, router: Router, origin: Mapping[str, GroupFacts]) -> Order:
    def concerns(it: GroupFacts) -> bool:
        return bool(it.problem) or any(router.route(tp) is not None for tp in it.origin_offsets)

    return replace(order, groups=tuple(group for group in order.groups if concerns(origin[group])))


def _no_pattern(text: str) -> str:
    """Why it fits no group, if that is its own fault."""
    try:
        re.compile(text)
    except re.error as error:
        return f"; it is not a valid regular expression: {error}"
    return ""


def _fits(pattern: str, group: str) -> bool:
    try:
        return re.fullmatch(pattern, group) is not None
    except re.error:
        return False


def origin_by_checkpoints(known: KnownGroups, view: FlowView) -> dict[str, dict[TP, Committed]]:
    """What groups had committed on the source, by the checkpoints. Pure.

    What a group read of a topic that the source has deleted and created again since is nothing of the one that was
    replicated last: it begins with that (invariant D).
    """
    originals = view.remote_topics
    found: dict[str, dict[TP, Committed]] = {}
    for (group, remote), it in known.checkpoints.items():
        original = originals.get(remote.topic)
        if original is not None:
            upstream = TP(original, remote.partition)
            newest = view.syncs.newest.get(upstream)
            is_former = newest is not None and not newest.topic_id.same_as(it.topic_id)
            at = Committed(0) if is_former else Committed(it.upstream_next, it.metadata)
            found.setdefault(group, {})[upstream] = at
    return found


def last_moves(records: Iterable[AuditRecord]) -> dict[str, LastMove]:
    """The last move of each group that got so far as to begin, from one flow's audit. Pure."""
    moves: dict[str, LastMove] = {}
    for record in records:
        is_move = record.command in (MoveCommand.SWITCHOVER, MoveCommand.FAILOVER, MoveCommand.FAILBACK)
        if not is_move or record.state == "refused":
            continue
        is_done = record.state == "done"
        positions: dict[str, dict[TP, int]] = {}
        places: dict[str, dict[TP, int]] = {}
        for row in record.plan:
            is_moved = row["state"] == "committed" if is_done else row["state"] != "skipped"
            if not is_moved:
                continue
            for topic, next_offset, found in (
                (row["topic"], row["upstream_next"], positions),
                (row["target_topic"], row["downstream_next"], places),
            ):
                if topic is not None and next_offset is not None:
                    found.setdefault(row["group"], {})[TP(topic, row["partition"])] = next_offset
        for group in positions.keys() | places.keys():
            there = positions.get(group, {}), places.get(group, {})
            moves[group] = LastMove(record.id, record.command, is_done, *there)
    return moves
