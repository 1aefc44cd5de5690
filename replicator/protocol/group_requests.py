"""Groups of one cluster, asked over connections of our own: which there are, their states, their offsets, commits.

Five thousand groups are a handful of requests: FindCoordinator, DescribeGroups and OffsetFetch take many groups each.
Brokers before Kafka 3.0 take one group per request in FindCoordinator and OffsetFetch; these go out all at once.

An error of a group, or of a partition, is a value: it concerns no other group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from replicator.deadline import Deadline, backoff_s
from replicator.errors import TP, KafkaOpError
from replicator.kafka.client_properties import client_id
from replicator.kafka.cluster import Cluster, KafkaError
from replicator.protocol import group_codecs
from replicator.protocol.brokers import CONTROL, SHORTEST_TIMEOUT_S, Brokers
from replicator.protocol.connection import NoResponseError
from replicator.protocol.event_loop import EventLoop
from replicator.protocol.group_codecs import DescribedGroup, FetchedOffsets, GroupMessage, Places
from replicator.protocol.group_coordinators import BUSY, MOVED, GroupCoordinators
from replicator.protocol.group_query import GroupNetwork, GroupQuery, GroupQuestion, Reply

DEAD = "Dead"
"""The state of a group that does not exist."""
_LIST = "list groups"
LIST_VERSIONS = (3, 5)
LIST_PATIENCE_S = 2.0
"""How long a list waits for a broker that is not connected, or loads groups."""
_UNSTABLE = int(KafkaError.UNSTABLE_OFFSET_COMMIT)
_NOT_FOUND = int(KafkaError.GROUP_ID_NOT_FOUND)
_NOT_THERE = frozenset({_NOT_FOUND, int(KafkaError.INVALID_GROUP_ID), int(KafkaError.UNSUPPORTED_VERSION)})
"""Of this type is no such group: INVALID_GROUP_ID is what the empty id gets, which can have no members."""

Codes = Mapping[TP, int]
"""Error code by partition; 0: taken."""


@dataclass(slots=True)
class ListedGroups:
    """What the brokers list.

    Args:
        states: Kafka's word for the state, by group.
        errors: of brokers whose groups are missing.
    """

    states: dict[str, str] = field(default_factory=dict)
    errors: list[KafkaOpError] = field(default_factory=list)
    answers: int = 0


class GroupRequests:
    """Asks one cluster. Threading: one thread, which must call `close`."""

    def __init__(self, cluster: Cluster) -> None:
        loop = EventLoop()
        brokers = Brokers(loop, cluster, client_id())
        self.network = GroupNetwork(cluster, loop, brokers, GroupCoordinators(loop, brokers))

    def close(self) -> None:
        """Close the connections."""
        self.network.loop.close()

    # --- which there are ----------------------------------------------------------------------------------------------

    def list(self, deadline: Deadline) -> ListedGroups:
        """All groups, of every type, that the principal may DESCRIBE.

        Raises:
            RetriableError: no broker can be reached.
        """
        listed = ListedGroups()
        nodes = self.network.brokers.nodes_now(deadline, _LIST)
        listings = [_Listing(self.network, node, listed, deadline) for node in nodes]
        self.network.loop.run_until(lambda: all(it.is_done for it in listings), deadline)
        for listing in listings:
            listing.give_up()
        return listed

    def describe(self, groups: Iterable[str], deadline: Deadline) -> dict[str, DescribedGroup | KafkaOpError]:
        """State and members of each group, of whichever type; one that does not exist is `DEAD`."""
        found: dict[str, DescribedGroup | KafkaOpError] = {}
        left = list(groups)
        for question in _DESCRIPTIONS:
            if left:
                found |= self._all(question, left, deadline)
            left = [group for group in left if isinstance(it := found[group], DescribedGroup) and it.state == DEAD]
        return found

    # --- offsets ------------------------------------------------------------------------------------------------------

    def fetch(self, groups: Iterable[str], deadline: Deadline, *, stable: bool) -> GroupQuery:
        """Begin to ask what groups have committed: `FetchedOffsets` of each, or its error.

        Args:
            stable: whether partitions over which a transaction is open are asked for again, until it ends.
        """
        return GroupQuery(self.network, _STABLE if stable else _COMMITTED, groups, deadline)

    def commit(self, wanted: Mapping[str, Places], deadline: Deadline) -> dict[str, Codes | KafkaOpError]:
        """Commit offsets of groups without members."""
        return self._all(_commits(wanted), wanted, deadline)

    def _all(self, question: GroupQuestion, groups: Iterable[str], deadline: Deadline) -> dict[str, Any]:
        query = GroupQuery(self.network, question, groups, deadline)
        query.wait(deadline, deadline)
        query.give_up()
        return query.results


class _Listing:
    """The list of one broker."""

    def __init__(self, network: GroupNetwork, node: int, into: ListedGroups, deadline: Deadline) -> None:
        self.is_done = False
        self._network = network
        self._node = node
        self._into = into
        self._deadline = deadline
        self._patience = Deadline(deadline.slice_s(LIST_PATIENCE_S))
        self._waits = backoff_s(0.02, 0.2)
        self._ask()

    def _ask(self) -> None:
        brokers = self._network.brokers
        if self.is_done:
            return
        if brokers.connection(self._node, CONTROL) is None:
            if self._patience.expired:
                self._fail(brokers.error(_LIST, f"no connection to {brokers.address(self._node)}"))
            else:
                self._network.loop.call_later(next(self._waits), self._ask)
            return
        _, highest = brokers.version(self._node, group_codecs.LIST_GROUPS) or LIST_VERSIONS
        version = min(highest, LIST_VERSIONS[1])
        timeout_s = max(SHORTEST_TIMEOUT_S, self._deadline.left_s())
        brokers.send_async(self._node, group_codecs.list_groups(version), version, self._answered, timeout_s)

    def _answered(self, answer: tuple[int, list[tuple[str, str]]] | NoResponseError) -> None:
        if isinstance(answer, NoResponseError):
            self._fail(self._network.brokers.error(_LIST, answer))
            return
        code, found = answer
        if (code in MOVED or code in BUSY) and not self._patience.expired:
            self._network.loop.call_later(next(self._waits), self._ask)
        elif code:
            self._fail(self._network.cluster.error(KafkaError(code), op=_LIST, right="DESCRIBE"))
        elif not self.is_done:
            self.is_done = True
            self._into.answers += 1
            self._into.states.update(found)

    def _fail(self, error: KafkaOpError) -> None:
        if not self.is_done:
            self.is_done = True
            self._into.errors.append(error)

    def give_up(self) -> None:
        """There is no time left for it."""
        brokers = self._network.brokers
        self._fail(brokers.error(_LIST, f"no answer from {brokers.address(self._node)} in time"))


# --- questions --------------------------------------------------------------------------------------------------------


def _read_described(answer: dict[str, DescribedGroup]) -> dict[str, Reply]:
    dead = DescribedGroup(0, DEAD)
    return {
        group: Reply(0, dead) if it.code in _NOT_THERE else Reply(it.code, it)
        for group, it in answer.items()
    }  # fmt: skip


def _description(api_key: int, version: int, make: Callable[[list[str], int], GroupMessage]) -> GroupQuestion:
    return GroupQuestion(
        "describe the group", "DESCRIBE", api_key, (version, version), 0, make, _read_described,
        absent=DescribedGroup(0, DEAD),
    )  # fmt: skip


_DESCRIPTIONS = (
    _description(group_codecs.DESCRIBE_GROUPS, 5, group_codecs.describe_groups),
    _description(group_codecs.CONSUMER_GROUP_DESCRIBE, 0, group_codecs.describe_consumer_groups),
    _description(group_codecs.STREAMS_GROUP_DESCRIBE, 0, group_codecs.describe_streams_groups),
)
"""What one does not know is asked for with the next."""


def _read_fetched(answer: dict[str, FetchedOffsets]) -> dict[str, Reply]:
    replies: dict[str, Reply] = {}
    for group, it in answer.items():
        if it.code == _NOT_FOUND:  # share groups have none
            replies[group] = Reply(0, FetchedOffsets())
        else:
            replies[group] = Reply(it.code, it, is_final=not it.codes or _UNSTABLE not in it.codes.values())
    return replies


def _fetching(*, stable: bool) -> GroupQuestion:
    return GroupQuestion(
        "read the offsets of the group", "DESCRIBE", group_codecs.OFFSET_FETCH, (7, 8), group_codecs.MANY_GROUPS_SINCE,
        partial(group_codecs.fetch_offsets, stable=stable), _read_fetched,
    )  # fmt: skip


_STABLE, _COMMITTED = _fetching(stable=True), _fetching(stable=False)


def read_codes(answer: dict[str, Codes]) -> dict[str, Reply]:
    """What an answer to a commit says of its group: the coordinator's errors stand at each partition."""
    return {
        group: Reply(next((code for code in codes.values() if code in MOVED or code in BUSY), 0), codes)
        for group, codes in answer.items()
    }


def _commits(wanted: Mapping[str, Places]) -> GroupQuestion:
    def make(groups: list[str], version: int) -> GroupMessage:
        (group,) = groups
        return group_codecs.commit_offsets(group, wanted[group])

    return GroupQuestion("commit for the group", "READ", group_codecs.OFFSET_COMMIT, (8, 8), None, make, read_codes)
