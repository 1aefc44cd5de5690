"""Checkpoints and moves look at the same facts: they put a group at the same place."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.checkpoints.checkpoints import placed, translate_groups
from replicator.errors import TP, StopReason
from replicator.groups.offsets import Committed
from replicator.kafka.topics import Snapshot, SourceTopic
from replicator.moves.model import MoveCommand, Order
from replicator.moves.plan import GroupFacts, MoveFacts, plan_move
from replicator.moves.routes import FlowView, Router
from replicator.offset_map.sync_format import TargetTopic
from replicator.offset_map.topic_id import NO_ID, TopicId
from replicator.offset_map.translate import NO_END, TargetLog
from replicator.syncs.state import MapsState
from tests.unit.moves.two_clusters import EAST_WEST, a_flow
from tests.unit.offset_map.model import MODELS, OTHER_ID, TOPIC_ID, Model

ORDERS, COPY = TP("orders", 0), TP("east.orders", 0)
FLOW = a_flow(EAST_WEST, "orders")
IDS = st.sampled_from([NO_ID, TOPIC_ID, OTHER_ID])
STOPS = st.sampled_from(["", *(it.value for it in StopReason)])


@settings(max_examples=100)
@given(MODELS, IDS, IDS, IDS, STOPS, st.data())
def test_checkpoints_and_moves_agree(
    model: Model, source_id: TopicId, copied_to: TopicId, target_id: TopicId, stop: str, data: st.DataObject
) -> None:
    """Whatever the ids, the reason for which the partition stopped, and what is left of the log."""
    syncs = MapsState()
    for run in model.runs:
        syncs.take_run(ORDERS, run)
    syncs.targets[ORDERS] = TargetTopic(COPY.topic, copied_to)
    if stop:
        syncs.stopped[ORDERS] = {"reason": stop}
    end = data.draw(st.just(NO_END) | st.integers(0, model.downstream_end), "end")
    begin = data.draw(st.just(0) | st.integers(0, min(end, model.downstream_end)), "begin")
    last = model.runs[-1].downstream_next
    log = TargetLog(begin, end, last, max(last, min(end, last + 1)))
    position = data.draw(st.integers(0, model.upstream_next + 2), "position")
    offsets = {"g": {ORDERS: Committed(position)}}

    topic = SourceTopic("orders", source_id, 1, 1, COPY.topic, 1, target_id)
    checkpoints = placed(translate_groups(offsets, syncs, Snapshot(1, {"orders": topic}, (), 1)), {COPY: log})

    view = FlowView(FLOW, {"orders": source_id}, syncs, target_ids={COPY.topic: target_id})
    known = MoveFacts("east", "west", {"g": GroupFacts(origin_offsets=offsets["g"])}, Router(view, None), {COPY: log})
    for command in (MoveCommand.SWITCHOVER, MoveCommand.RESYNC):
        (row,) = plan_move(Order("now", command, EAST_WEST, ("g",)), known).rows
        found = {key: it.downstream_next for key, it in checkpoints.items()}
        assert found == ({} if row.destination_next is None else {("g", COPY): row.destination_next})

    by_copy = replace(known, router=Router(replace(view, topic_ids=None), None))
    (row,) = plan_move(Order("now", MoveCommand.FAILOVER, EAST_WEST, ("g",)), by_copy).rows
    if checkpoints:
        assert row.destination_next == checkpoints["g", COPY].downstream_next
