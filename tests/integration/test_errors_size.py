"""Records and batches that the target calls too large: batches shrink, and only a record that can't fit stops."""

from __future__ import annotations

import os

from replicator.embedded import EmbeddedCluster
from tests.support.flows import FlowBenches, on_both_planes
from tests.support.records import NewRecord, alter_topic_config, create_topic

pytestmark = on_both_planes

LIMIT = "100000"


def small_records(number: int, partitions: int = 2, size_bytes: int = 2000) -> list[NewRecord]:
    """Incompressible records, each far below the limit, together far above it."""
    return [NewRecord(b"%06d" % n + os.urandom(size_bytes), b"k", n % partitions) for n in range(number)]


def test_batches_above_the_targets_limit_are_made_smaller(
    make_flow: FlowBenches, source: EmbeddedCluster, target: EmbeddedCluster
) -> None:
    """Small records go over to a topic whose max.message.bytes is below our batch size; nothing stops."""
    flow = make_flow(source, target)
    flow.create(flow.topic, partitions=2)
    create_topic(flow.target, flow.remote(flow.topic), partitions=2, config={"max.message.bytes": LIMIT})
    flow.produce(flow.topic, small_records(1000))
    flow.start()
    assert flow.verify(flow.topic).records == 1000
    assert not flow.found("partition_stopped")


def test_a_record_above_the_targets_limit_stops_its_partition_alone(
    make_flow: FlowBenches, source: EmbeddedCluster, target: EmbeddedCluster
) -> None:
    """The others go on; when the limit is raised, the partition goes on by itself with nothing lost."""
    flow = make_flow(source, target)
    flow.create(flow.topic, partitions=2)
    remote = create_topic(flow.target, flow.remote(flow.topic), partitions=2, config={"max.message.bytes": LIMIT})
    flow.start()
    flow.produce(flow.topic, [*small_records(40), NewRecord(os.urandom(150_000), b"big", 1), *small_records(40)])
    reason = flow.await_stopped(flow.topic, 1, "record_too_large")
    assert "MSG_SIZE_TOO_LARGE" in reason or "too large" in reason
    assert f"raise max.message.bytes of {remote} on {flow.target_alias}" in reason
    flow.produce(flow.topic, small_records(50, partitions=1))
    flow.await_caught_up(flow.topic, without=(1,))
    published = flow.published(flow.topic, 1)
    assert published is not None
    assert published["reason"] == "record_too_large"
    alter_topic_config(flow.target, remote, {"max.message.bytes": "1048588"})
    assert flow.verify(flow.topic).records == 131
    assert flow.published(flow.topic, 1) is None
    assert flow.metric("replicator_partition_stopped") == 0
