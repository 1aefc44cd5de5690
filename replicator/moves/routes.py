"""Where a topic of one cluster is found on the other, when a group goes from `origin` to `destination`. Pure.

    origin's own topic    orders        → east.orders    by the map of the flow origin→destination
    origin's copies       west.payments → payments       by the inverse map of the flow destination→origin

The second is the way home; with flows in both directions a group needs both at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from replicator.config import Flow
from replicator.errors import TP
from replicator.offset_map.map import OffsetMap
from replicator.offset_map.topic_id import NO_ID, TopicId
from replicator.offset_map.translate import Mapped, NoPlace, Placed, ReplicatedPartition, TargetLog, Why
from replicator.syncs.state import MapsState


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

    def partition(self, tp: TP) -> ReplicatedPartition:
        """All that is known of a source partition, to translate with."""
        copied_to = self.syncs.targets.get(tp)
        return self.syncs.partition(
            tp,
            (self.topic_ids or {}).get(tp.topic, NO_ID),
            NO_ID if copied_to is None else copied_to.now(self.target_ids).topic_id,
            ignores_recreation=self.topic_ids is None,
        )

    def is_copy_of(self, tp: TP, topic_id: TopicId) -> bool:
        """Whether what was replicated of the partition, if anything, came from the topic with this id."""
        offset_map = self.syncs.maps.get(tp)
        return offset_map is None or offset_map.topic_id.same_as(topic_id)

    def unusable_text(self, tp: TP, why: Why) -> str:
        """Why a position of a source partition has no place, in words."""
        match why:
            case Why.OTHER_TARGET:
                remote = self.flow.naming.remote_topic(tp.topic)
                return f"{remote} on {self.flow.target} is no longer the topic that was replicated to"
            case Why.OTHER_SOURCE:
                return f"{tp.topic} on {self.flow.source} no longer holds the records that were replicated"
            case Why.OPEN_TRANSACTION:
                return f"{self.unfinished}; it may hold the last records that the group read"
            case Why.END_NOT_KNOWN:
                remote = self.flow.naming.remote_topic(tp.topic)
                return f"{remote} on {self.flow.target} lost records, and its end is not known"
            case Why.NOTHING_REPLICATED | Why.BEGINNING_LOST:
                return "nothing of this partition was replicated yet"


@dataclass(frozen=True, slots=True)
class Route:
    """How one partition's positions translate.

    Args:
        view: the flow that replicates it.
        partition: what that knows of it.
        is_inverse: `origin` is the copy: the map is read backwards.
    """

    origin: TP
    destination: TP
    view: FlowView
    partition: ReplicatedPartition
    is_inverse: bool

    def translate(self, next_offset: int) -> Mapped:
        """What the map says of a position on `origin`."""
        if self.is_inverse:
            return self.partition.translate_back(next_offset, is_unfinished=bool(self.view.unfinished))
        return self.partition.translate(next_offset)

    def place(self, mapped: Mapped, log: TargetLog) -> Placed | NoPlace:
        """Where a group goes on, on `destination`; `log` is of that partition."""
        return self.partition.place_back(mapped, log) if self.is_inverse else self.partition.place(mapped, log)

    def unusable_text(self, why: Why) -> str:
        """Why a position has no place, in words."""
        return self.view.unusable_text(self.upstream, why)

    @property
    def offset_map(self) -> OffsetMap:
        return self.partition.offset_map

    @property
    def upstream(self) -> TP:
        """The partition on the source of the flow whose map this is."""
        return self.destination if self.is_inverse else self.origin


class Router:
    """Finds routes.

    Args:
        forward: the flow origin→destination; None when there is none.
        backward: the flow destination→origin; None when there is none.
    """

    def __init__(self, forward: FlowView | None, backward: FlowView | None) -> None:
        self._forward = forward
        self._backward = backward
        self._copies = backward.remote_topics if backward is not None else {}

    @cached_property
    def _originals(self) -> Mapping[str, str]:
        return self._forward.remote_topics if self._forward is not None else {}

    def original_of(self, destination: TP) -> TP | None:
        """The partition of `origin` that this one of `destination` is a copy of; None when it is no copy."""
        topic = self._originals.get(destination.topic)
        return None if topic is None else TP(topic, destination.partition)

    def route(self, origin: TP) -> Route | None:
        """The way of one partition of `origin`; None when no flow carries it."""
        original = self._copies.get(origin.topic)
        if self._backward is not None and original is not None:
            destination = TP(original, origin.partition)
            return Route(origin, destination, self._backward, self._backward.partition(destination), is_inverse=True)
        forward = self._forward
        if forward is None or not forward.flow.topic_filter.matches(origin.topic):
            return None
        if forward.topic_ids is not None and origin.topic not in forward.topic_ids:
            return None
        destination = TP(forward.flow.naming.remote_topic(origin.topic), origin.partition)
        return Route(origin, destination, forward, forward.partition(origin), is_inverse=False)
