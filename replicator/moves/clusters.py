"""Both clusters of a flow, for commands about groups: who answers, what the maps say, in both directions.

The flow back, where there is one in the configuration, matters for groups that read topics of both clusters.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from replicator.config import Flow, Settings
from replicator.deadline import Deadline
from replicator.errors import TP, KafkaOpError, RefusedError, ReplicatorError, RetriableError
from replicator.groups.offsets import Committed, GroupOffsets
from replicator.groups.reader import OffsetsReader
from replicator.groups.select import ClusterGroups
from replicator.kafka.cluster import EARLIEST, LATEST, AdminClient, Cluster, OffsetSpec
from replicator.kafka.offset_probe import OffsetProbe
from replicator.kafka.topic_queries import describe_topics, list_offsets, list_topics, topic_ids
from replicator.kafka.topics import Catalog, Snapshot
from replicator.log import NO_LOG
from replicator.moves.routes import FlowView, Route, Router
from replicator.offset_map.topic_id import TopicId
from replicator.offset_map.translate import NO_END, TargetLog, is_at_end
from replicator.syncs.reader import SyncsReader, syncs_ends
from replicator.syncs.state import MapsState

SYNCS_TIMEOUT_S = 300.0
"""For the whole history of a large flow; a small one takes milliseconds."""
SOURCE_PATIENCE_S = 3.0
"""How long a command that can do without the source waits for its answer: on the worst day each second counts."""
LEADERS_PATIENCE_S = 3.0
"""How long partitions without a leader may hold up a move, which can do without their ends."""
OPEN_PATIENCE_S = 2.0
"""How long open transactions of the flow are waited for where they matter; those of a busy flow end at once."""
GONE = frozenset({"UNKNOWN_TOPIC_OR_PART", "TOPIC_AUTHORIZATION_FAILED"})
"""What a cluster that answers says of a topic that it does not have, or does not show."""
TOPICS_FOR_S = 5.0
"""How long a list of topics is taken for current."""


class FlowClusters:
    """Looks at both clusters, again and again, each time reading only what was added.

    Args:
        flow: which the command is about.

    Threading: one thread, which must call `close`.
    """

    def __init__(self, settings: Settings, flow: Flow) -> None:
        self.flow = flow
        self.timeout_s = settings.connect_timeout_s
        self.source = Cluster(flow.source, "source", flow.source_cluster, flow.group)
        self.target = Cluster(flow.target, "target", flow.target_cluster, flow.group)
        self.admins: dict[str, AdminClient] = {}
        self.source_problem = ""
        """Why the source does not answer; empty when it does. Once it is set, a failover does not ask it again."""
        backs = [it for it in settings.all_flows() if (it.source, it.target) == (flow.target, flow.source)]
        self.back = backs[0] if backs else None
        """The flow in the other direction, if the configuration has one."""
        self._views: dict[str, _ViewReader] = {}
        self._ends: dict[str, OffsetProbe] = {}
        self._groups: dict[str, ClusterGroups] = {}
        self._offset_readers: dict[str, OffsetsReader] = {}

    def connect(self, *, needs_source: bool, otherwise: str = "") -> None:
        """Reach both clusters, side by side.

        Args:
            otherwise: what the operator can do where the source is needed and gives no answer.

        Raises:
            KafkaOpError: the target gives no answer.
            RefusedError: the source gives none, and is needed.
        """
        with ThreadPoolExecutor(2) as pool:
            patience_s = self.timeout_s if needs_source else min(self.timeout_s, SOURCE_PATIENCE_S)
            waiting = {
                self.source.alias: pool.submit(self.source.connect, patience_s),
                self.target.alias: pool.submit(self.target.connect, self.timeout_s),
            }
        self.admins[self.target.alias] = waiting[self.target.alias].result()
        try:
            self.admins[self.source.alias] = waiting[self.source.alias].result()
        except ReplicatorError as error:
            self.source_problem = str(error)
            if needs_source:
                hint = f"\n{otherwise}" if otherwise else ""
                raise RefusedError(f"{error.for_terminal}{hint}") from error

    def close(self) -> None:
        """Let go of the consumers and connections."""
        with ExitStack() as stack:
            for view in self._views.values():
                stack.callback(view.close)
            for ends in self._ends.values():
                stack.callback(ends.close)
            for groups in self._groups.values():
                stack.callback(groups.close)

    def admin(self, cluster: Cluster) -> AdminClient:
        """The admin client of a cluster that answered."""
        return self.admins[cluster.alias]

    def budget(self) -> Deadline:
        """For one step."""
        return Deadline(self.timeout_s)

    # --- maps ---------------------------------------------------------------------------------------------------------

    def view(self, *, backwards: bool = False, by_target: bool = False) -> FlowView:
        """The flow, as its target tells it now.

        Args:
            by_target: the source is not asked which topics it has, for a failover: they may be gone, or others.
            backwards: the maps will be read backwards, for positions that were read before this is called. Those may
                lie behind records whose sync no reader sees yet, since the markers of one transaction reach its
                partitions one by one; so transactions that are open now are waited for.

        Raises:
            RefusedError: the flow never ran.
            KafkaOpError: the target gave no answer.
        """
        clusters = self.source, self.target
        found = self._view_of(self.flow, *clusters, backwards=backwards, by_target=by_target)
        if found is None:
            text = f"{self.flow.target} has no topic {self.flow.syncs_topic}: the flow {self.flow.name} never ran"
            raise RefusedError(text)
        return found

    @property
    def tasks(self) -> int:
        """Partitions of the flow's syncs topic; known after `view`."""
        return self._views[self.flow.name].tasks

    def router(self, view: FlowView, *, is_homeward: bool) -> Router:
        """The ways from the flow's source to its target, or home, with those of the flow back."""
        back = None
        if self.back is not None:
            back = self._view_of(self.back, self.target, self.source, backwards=not is_homeward)
        return Router(back, view) if is_homeward else Router(view, back)

    def _view_of(
        self, flow: Flow, source: Cluster, target: Cluster, *, backwards: bool, by_target: bool = False
    ) -> FlowView | None:
        if flow.name not in self._views:
            topics = list_topics(target, self.admin(target), self.budget()).topics
            if flow.syncs_topic not in topics:
                return None
            tasks = len(topics[flow.syncs_topic].partitions)
            admins = self.admins.get(source.alias), self.admin(target)
            self._views[flow.name] = _ViewReader(flow, (source, target), admins, tasks)
        return self._views[flow.name].read(self.budget(), backwards=backwards, by_target=by_target)

    # --- offsets ------------------------------------------------------------------------------------------------------

    def offsets_reader(self, cluster: Cluster) -> OffsetsReader:
        """The reader of what groups committed on a cluster."""
        return self._offset_readers.setdefault(cluster.alias, OffsetsReader(self.groups(cluster), NO_LOG))

    def groups(self, cluster: Cluster) -> ClusterGroups:
        """The client for the groups of a cluster."""
        if cluster.alias not in self._groups:
            self._groups[cluster.alias] = ClusterGroups(cluster)
        return self._groups[cluster.alias]

    def destination_logs(
        self, destination: Cluster, router: Router, offsets: Iterable[GroupOffsets]
    ) -> Mapping[TP, TargetLog]:
        """Where the logs begin and end that groups go to; without those that give no answer in time."""
        routes = [(route, it) for committed in offsets for tp, it in committed.items() if (route := router.route(tp))]
        ends = self._destination_offsets(destination, {route.destination for route, _ in routes}, LATEST)
        begins = self._destination_offsets(destination, ends, EARLIEST)
        read = self._read_past_markers(destination, routes)
        return {
            tp: TargetLog(begins.get(tp, 0), ends.get(tp, NO_END), *read.get(tp, (0, 0)))
            for tp in {route.destination for route, _ in routes}
        }

    def _destination_offsets(self, destination: Cluster, tps: Iterable[TP], spec: OffsetSpec) -> Mapping[TP, int]:
        deadline = Deadline(min(self.timeout_s, LEADERS_PATIENCE_S))
        found = list_offsets(destination, self.admin(destination), dict.fromkeys(tps, spec), deadline, committed=False)
        return {tp: offset for tp, offset in found.items() if isinstance(offset, int)}

    def _read_past_markers(
        self, destination: Cluster, routes: Iterable[tuple[Route, Committed]]
    ) -> Mapping[TP, tuple[int, int]]:
        """How far the logs were read, from the replicated end, for groups that have read all."""
        starts = {
            route.destination: newest.downstream_next
            for route, it in routes
            if not route.is_inverse
            and (newest := route.offset_map.newest) is not None
            and is_at_end(route.translate(it.next_offset))
        }
        if not starts:
            return {}
        if destination.alias not in self._ends:
            self._ends[destination.alias] = OffsetProbe(destination)
        ends = self._ends[destination.alias].first_at_or_after(starts, self.budget())
        return {tp: (start, ends[tp]) for tp, start in starts.items()}

    def source_ends(self, view: FlowView, tps: Iterable[TP]) -> Mapping[TP, int] | None:
        """Ends of the source's committed logs, of those that were replicated; None when it gives no answer.

        A topic that is gone, or was created again, has no end that says what of the replicated one is missing.
        """
        if self.source_problem:
            return None
        wanted = list(tps)
        deadline, admin = Deadline(min(self.timeout_s, SOURCE_PATIENCE_S)), self.admin(self.source)
        described = describe_topics(admin, {tp.topic for tp in wanted}, deadline)
        failures = [it for it in described.values() if isinstance(it, Exception)]
        errors = [self.source.error(it, op="describe topics", right="DESCRIBE") for it in failures]
        ids = topic_ids(described)
        asked = [tp for tp in wanted if tp.topic in ids and view.is_copy_of(tp, ids[tp.topic])]
        found = list_offsets(self.source, admin, dict.fromkeys(asked, LATEST), deadline)
        errors += [it for it in found.values() if isinstance(it, KafkaOpError)]
        silent = [it for it in errors if it.code not in GONE]
        ends = {tp: end for tp, end in found.items() if isinstance(end, int)}
        if silent and not ends:
            self.source_problem = str(silent[0])
            return None
        return ends


class _ViewReader:
    """Follows one flow's syncs topic, and its topics."""

    def __init__(
        self, flow: Flow, clusters: tuple[Cluster, Cluster], admins: tuple[AdminClient | None, AdminClient], tasks: int
    ) -> None:
        self.tasks = tasks
        self._flow = flow
        self._target = clusters[1]
        source_admin, self._target_admin = admins
        self._catalog: Catalog | None = None
        if source_admin is not None:
            self._catalog = Catalog(flow, *clusters, (source_admin, self._target_admin), NO_LOG)
        self._snapshot: Snapshot | None = None
        self._target_ids: dict[str, TopicId] = {}
        self._listed_s = 0.0
        self._reader = SyncsReader(clusters[1], flow.syncs_topic, range(tasks), MapsState())

    def read(self, budget: Deadline, *, backwards: bool, by_target: bool) -> FlowView:
        """Up to what is committed now, and with `backwards` what is open now, if that ends soon."""
        is_due = time.monotonic() - self._listed_s > TOPICS_FOR_S
        if is_due and self._catalog is not None and not by_target:
            self._snapshot = self._catalog.refresh(budget)
        state = self._reader.read_to_end(Deadline(max(SYNCS_TIMEOUT_S, budget.seconds)))
        opened = self._ends(budget, committed=False) if backwards else {}
        self._reader.read_on(self._ends(budget, committed=True), budget)
        unfinished = ""
        try:
            self._reader.read_on(opened, Deadline(budget.slice_s(OPEN_PATIENCE_S)))
        except RetriableError:
            unfinished = f"a transaction of the flow is open or hanging in {self._flow.syncs_topic}"
        if is_due:
            remote = {target.name for target in state.targets.values()}
            self._target_ids = topic_ids(describe_topics(self._target_admin, remote, budget))
            self._listed_s = time.monotonic()
        ids = None
        if self._snapshot is not None and not by_target:
            ids = {name: topic.topic_id for name, topic in self._snapshot.topics.items()}
        return FlowView(self._flow, ids, state, unfinished, self._target_ids)

    def _ends(self, budget: Deadline, *, committed: bool) -> dict[int, int]:
        topic = self._flow.syncs_topic
        return syncs_ends(self._target, self._target_admin, topic, self.tasks, budget, committed=committed)

    def close(self) -> None:
        self._reader.close()
