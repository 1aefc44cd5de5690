"""Where a flow begins and how it names topics: exactly the records and the names that were asked for."""

from __future__ import annotations

import pytest

from replicator.embedded import EmbeddedCluster
from tests.support.flows import FlowBenches
from tests.support.records import NewRecord, admin_client, read_topic

HOUR_MS = 3_600_000
SIX_MS = 1_769_839_200_000
"""2026-01-31T06:00:00Z."""


@pytest.mark.parametrize(
    ("start_from", "expected"),
    [
        ("earliest", [b"0", b"1", b"2", b"3", b"4", b"5"]),
        ("latest", [b"4", b"5"]),
        ("2026-01-31T06:00:00Z", [b"2", b"3", b"4", b"5"]),
        ("2026-01-31T08:00:00+01:00", [b"3", b"4", b"5"]),
        ("2199-01-01T00:00:00Z", [b"4", b"5"]),
    ],
)
def test_start_from(
    make_flow: FlowBenches, source: EmbeddedCluster, target: EmbeddedCluster, start_from: str, expected: list[bytes]
) -> None:
    """Also after a restart the beginning stays what it was, though nothing was replicated yet."""
    flow = make_flow(source, target, flow={"start_from": start_from})
    flow.create(flow.topic)
    before = [NewRecord(b"%d" % n, b"k", 0, SIX_MS + (n - 2) * HOUR_MS) for n in range(4)]
    flow.produce(flow.topic, before)
    flow.start()
    flow.stop()
    flow.produce(flow.topic, [NewRecord(b"4", b"k", 0, 1), NewRecord(b"5", b"k", 0, SIX_MS)])
    flow.start()
    flow.await_caught_up(flow.topic)
    assert [it.value for it in read_topic(flow.target, flow.remote(flow.topic))] == expected
    wanted = [it.content for it in read_topic(flow.source, flow.topic)][-len(expected) :]
    assert [it.content for it in read_topic(flow.target, flow.remote(flow.topic))] == wanted


def test_names(make_flow: FlowBenches, source: EmbeddedCluster, target: EmbeddedCluster) -> None:
    """Identity naming, a rename, and an excluded topic, which is not even created."""
    flow = make_flow(source, target)
    excluded = f"secret-{flow.topic}"
    flow.set(naming="identity", renames={flow.other: f"renamed-{flow.other}"}, exclude_topics=["secret-.*"])
    for topic in (flow.topic, flow.other, excluded):
        flow.create(topic, config={"retention.ms": "86400001"})
        flow.produce(topic, [NewRecord(b"%d" % n, b"k") for n in range(50)])
    flow.start()
    flow.verify(flow.topic, remote=flow.topic)
    flow.verify(flow.other, remote=f"renamed-{flow.other}")
    found = set(admin_client(flow.target).list_topics(timeout=60).topics)
    assert {flow.topic, f"renamed-{flow.other}"} <= found
    assert not {excluded, flow.remote(excluded), flow.other, flow.remote(flow.topic)} & found
