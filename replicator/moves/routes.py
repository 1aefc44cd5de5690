"""Where a topic of one cluster is found on the other, when a group goes from `near` to `far`. Pure.

    near's own topic      orders        → east.orders    by the map of the flow near→far
    far's topic, copied   west.payments → payments       by the inverse map of the flow far→near

The second is the way home; with flows in both directions a group needs both at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from replicator.config import Flow
from replicator.errors import TP, StopReason
from replicator.offset_map.map import Ahead, OffsetMap, Translation, Unknown
from replicator.offset_map.topic_id import TopicId
from replicator.syncs.state import OTHER_OFFSETS, MapsState


@dataclass(frozen=True, slots=True)
class FlowView:
    """One flow, as its target tells it.

    Args:
        topic_ids: of the flow's topics on its source, by name; None for a failover, which goes by what was replicated,
            whatever the source has now.
        syncs: with the maps.
        unfinished: why the maps may lack what readers of the target have seen; empty when they have it all.
        target_ids: of the remote topics that the target has now, by name.
    """

    flow: Flow
    topic_ids: Mapping[str, TopicId] | None
    syncs: MapsState
    unfinished: str = ""
    target_ids: Mapping[str, TopicId] = field(default_factory=dict)

    @property
    def remote_topics(self) -> dict[str, str]:
        """Source topic by remote topic, of all that is or was replicated."""
        names = {tp.topic for tp in self.syncs.newest} | set(self.topic_ids or ())
        return {self.flow.naming.remote_topic(name): name for name in names}

    def map_of(self, tp: TP) -> tuple[OffsetMap, str]:
        """(the map of a source partition, why it does not hold); an empty map where nothing was replicated.

        Checkpoints are written only while the source has the topic that was replicated (`checkpoints`), so that for a
        failover the map holds for them when the source has another one. A log that was cut is the same topic.
        """
        offset_map = self.syncs.maps.get(tp, OffsetMap())
        topic_id = (self.topic_ids or {}).get(tp.topic)
        is_other_topic = topic_id is not None and not self.is_copy_of(tp, topic_id)
        told = self.syncs.targets.get(tp)
        reason = self.syncs.stopped.get(tp, {}).get("reason")
        is_other_copy = told is not None and told.differs(told.now(self.target_ids))
        if is_other_copy or reason == StopReason.TARGET_RECREATED:
            remote = self.flow.naming.remote_topic(tp.topic)
            return offset_map, f"{remote} on {self.flow.target} is no longer the topic that was replicated to"
        is_passed = self.topic_ids is None and reason == StopReason.RECREATED
        if is_other_topic or (reason in OTHER_OFFSETS and not is_passed):
            return offset_map, f"{tp.topic} on {self.flow.source} no longer holds the records that were replicated"
        return offset_map, ""

    def is_copy_of(self, tp: TP, topic_id: TopicId) -> bool:
        """Whether what was replicated of the partition, if anything, came from the topic with this id."""
        newest = self.syncs.newest.get(tp)
        return newest is None or self.syncs.maps[tp].topic_id.same_as(topic_id)

    def stopped(self, tp: TP) -> str:
        """Why the partition is not replicated at the moment; empty when nothing is known to stop it."""
        stop = self.syncs.stopped.get(tp, {})
        return str(stop.get("reason", ""))


@dataclass(frozen=True, slots=True)
class Route:
    """How one partition's positions translate.

    Args:
        is_inverse: `near` is the copy: the map is read backwards.
        problem: why the map can't be used; empty when it can.
        stopped: why nothing more of it is replicated at the moment.
        unfinished: of an inverse map, why it may lack the newest records of `near`.
    """

    near: TP
    far: TP
    offset_map: OffsetMap
    is_inverse: bool
    problem: str = ""
    stopped: str = ""
    unfinished: str = ""

    def translate(self, next_offset: int) -> Translation:
        """Where a position on `near` is on `far`."""
        if self.problem:
            return Unknown(self.problem)
        if self.is_inverse:
            newest = self.offset_map.newest
            known_next = newest.downstream_next if newest is not None else 0
            if self.unfinished and next_offset > known_next:
                return Ahead(known_next)
            return self.offset_map.translate_back(next_offset)
        return self.offset_map.translate(next_offset)

    @property
    def upstream(self) -> TP:
        """The partition on the source of the flow whose map this is."""
        return self.far if self.is_inverse else self.near


class Router:
    """Finds routes.

    Args:
        forward: the flow near→far; None when there is none.
        backward: the flow far→near; None when there is none.
    """

    def __init__(self, forward: FlowView | None, backward: FlowView | None) -> None:
        self._forward = forward
        self._backward = backward
        self._copies = backward.remote_topics if backward is not None else {}

    @cached_property
    def _originals(self) -> Mapping[str, str]:
        return self._forward.remote_topics if self._forward is not None else {}

    def original_of(self, far: TP) -> TP | None:
        """The partition of `near` that this one of `far` is a copy of; None when it is no copy."""
        topic = self._originals.get(far.topic)
        return None if topic is None else TP(topic, far.partition)

    def route(self, near: TP) -> Route | None:
        """The way of one partition of `near`; None when no flow carries it."""
        original = self._copies.get(near.topic)
        if self._backward is not None and original is not None:
            far = TP(original, near.partition)
            offset_map, problem = self._backward.map_of(far)
            unfinished = self._backward.unfinished
            return Route(near, far, offset_map, is_inverse=True, problem=problem, unfinished=unfinished)
        forward = self._forward
        if forward is None or not forward.flow.topic_filter.matches(near.topic):
            return None
        if forward.topic_ids is not None and near.topic not in forward.topic_ids:
            return None
        offset_map, problem = forward.map_of(near)
        far = TP(forward.flow.naming.remote_topic(near.topic), near.partition)
        return Route(near, far, offset_map, is_inverse=False, problem=problem, stopped=forward.stopped(near))
