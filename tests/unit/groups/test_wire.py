"""Groups over our own connections: what arrives while somebody else drives the connections counts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from replicator.errors import TP, RetriableError
from replicator.groups.wire import WireOffsetsQuery
from replicator.protocol.group_codecs import FetchedOffsets
from replicator.protocol.group_query import GroupQuery

ORDERS = TP("orders", 0)


def test_answers_that_arrived_during_another_wait_are_results() -> None:
    """All queries of a client share one event loop: one may be answered, or run out of time, while another waits.

    Without this its groups were late for ever: nobody waits for a query that is done.
    """
    answers: dict[str, Any] = {
        "read": FetchedOffsets(places={ORDERS: (5, "")}),
        "late": RetriableError("no answer within 5 s", op="read the offsets of the group late on east"),
    }
    query = WireOffsetsQuery(cast(GroupQuery, SimpleNamespace(results=answers, is_done=True)))
    assert query.is_done
    assert query.results.keys() == {"read", "late"}
    assert isinstance(query.results["late"], RetriableError)
    assert query.results["read"], "they stay results when they are looked at again"
