"""The client of groups over connections of our own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from replicator.deadline import Deadline
from replicator.errors import KafkaOpError
from replicator.groups.client import Listing, ReadOffsets
from replicator.groups.offsets import Committed, GroupOffsets, GroupState
from replicator.groups.refusals import Refusals
from replicator.kafka.cluster import Cluster, KafkaError
from replicator.protocol.group_codecs import FetchedOffsets, Places
from replicator.protocol.group_query import GroupQuery
from replicator.protocol.group_requests import Codes, GroupRequests
from replicator.protocol.group_transaction import GroupTransaction


class WireGroups:
    """See `client.GroupClient`. Nothing is connected before the first request."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._requests = GroupRequests(cluster)

    def list(self, deadline: Deadline) -> Listing:
        found = self._requests.list(deadline)
        if found.errors and not found.answers:
            raise found.errors[0]
        return Listing({group: _in_capitals(state) for group, state in found.states.items()}, tuple(found.errors))

    def describe(self, groups: Iterable[str], deadline: Deadline) -> dict[str, GroupState | KafkaOpError]:
        return {
            group: it
            if isinstance(it, KafkaOpError)
            else GroupState(_in_capitals(it.state), tuple(f"{name} at {host.lstrip('/')}" for name, host in it.members))
            for group, it in self._requests.describe(groups, deadline).items()
        }

    def ask_offsets(self, groups: Iterable[str], deadline: Deadline, *, stable: bool) -> WireOffsetsQuery:
        return WireOffsetsQuery(self._requests.fetch(groups, deadline, stable=stable))

    def commit(self, wanted: Mapping[str, GroupOffsets], deadline: Deadline) -> dict[str, Refusals]:
        asked = {group: _places(it) for group, it in wanted.items()}
        outcome = self._requests.commit(asked, deadline)
        return {group: self._refusals(group, wanted[group], it) for group, it in outcome.items()}

    def _refusals(self, group: str, wanted: GroupOffsets, outcome: Codes | KafkaOpError) -> Refusals:
        if isinstance(outcome, KafkaOpError):
            return dict.fromkeys(wanted, outcome)
        op, lost = f"commit for the group {group}", int(KafkaError.UNKNOWN)
        return {
            tp: self.cluster.error(KafkaError(code), op=op, right="READ", topic=tp.topic, group=group)
            for tp in wanted
            if (code := outcome.get(tp, lost))
        }

    def transaction(self, transactional_id: str, deadline: Deadline) -> WireOffsetsTransaction:
        transaction = GroupTransaction(self._requests, transactional_id)
        transaction.open(deadline)
        return WireOffsetsTransaction(transaction)

    def close(self) -> None:
        self._requests.close()


class WireOffsetsQuery:
    """See `client.OffsetsQuery`."""

    def __init__(self, query: GroupQuery) -> None:
        self._results: dict[str, ReadOffsets | KafkaOpError] = {}
        self._query = query

    @property
    def is_done(self) -> bool:
        return self._query.is_done

    @property
    def results(self) -> Mapping[str, ReadOffsets | KafkaOpError]:
        """Answers also come, and time also runs out, while the owner of the loop waits for another query."""
        arrived = self._query.results
        while arrived:
            group, it = arrived.popitem()
            self._results[group] = it if isinstance(it, KafkaOpError) else _read(it)
        return self._results

    def wait(self, patience: Deadline, deadline: Deadline) -> None:
        self._query.wait(patience, deadline)

    def take_partial(self, groups: Iterable[str]) -> dict[str, ReadOffsets]:
        found = {group: _read(self._query.partial[group]) for group in groups if group in self._query.partial}
        self._query.drop(found)
        return found


class WireOffsetsTransaction:
    """See `client.OffsetsTransaction`."""

    def __init__(self, transaction: GroupTransaction) -> None:
        self._transaction = transaction

    def place(self, wanted: Mapping[str, GroupOffsets], deadline: Deadline) -> dict[str, KafkaOpError]:
        return self._transaction.place({group: _places(it) for group, it in wanted.items()}, deadline)

    def commit(self, deadline: Deadline) -> None:
        self._transaction.commit(deadline)

    def abort(self, deadline: Deadline) -> None:
        self._transaction.abort(deadline)

    def close(self) -> None:
        """The connections are the client's."""


def _places(offsets: GroupOffsets) -> Places:
    return {tp: (it.next_offset, it.metadata) for tp, it in offsets.items()}


def _read(found: FetchedOffsets) -> ReadOffsets:
    return ReadOffsets({tp: Committed(*place) for tp, place in found.places.items()}, not found.codes)


def _in_capitals(state: str) -> str:
    """``PREPARING_REBALANCE``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", state).upper()
