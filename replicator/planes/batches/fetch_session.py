"""Keeps the fetch session of one broker (KIP-227): what it knows, and what the next request has to name. Pure.

The first request of a session names all of its partitions; each later one only those that are new or have another
position, and those that left. A session names topics by id where every one has an id, else by name, because a broker
keeps one kind per session.

Source: KIP-227, KIP-516; clients `FetchSessionHandler`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from replicator.deadline import backoff_s
from replicator.errors import TP
from replicator.protocol.fetch import BY_ID, BY_NAME, FetchPosition, FetchResponse, TopicKey, encode_fetch
from replicator.protocol.metadata import NO_ID
from replicator.protocol.record_format.header import RawBatch

MAX_WAIT_MS = 100
LAST_EPOCH = 0x7FFF_FFFF


class FetchedBatches:
    """Consecutive record batches of one partition, from one Fetch response: this plane's `replicator.planes.Batch`."""

    __slots__ = ("first_offset", "max_timestamp_ms", "next_offset", "raw", "records", "size_bytes", "topic_id", "tp")

    def __init__(self, tp: TP, topic_id: bytes, raw: list[RawBatch]) -> None:
        last = raw[-1]
        self.tp = tp
        self.topic_id = topic_id
        self.raw = raw
        self.first_offset = raw[0].first_offset
        self.next_offset = last.next_offset
        self.max_timestamp_ms = last.max_timestamp_ms
        self.records = sum([it.records for it in raw])
        self.size_bytes = sum([it.size_bytes for it in raw])

    def take_batches(self) -> list[RawBatch]:
        """Hand over the record batches, and keep no reference to their memory."""
        raw, self.raw = self.raw, []
        return raw


class Assigned:
    """One assigned partition.

    Attributes:
        position: to fetch from.
        topic_id: id of the topic that is read; `NO_ID` until its leader is known.
        last_epoch: leader epoch of the last batch that was read; -1: none yet.
        end: the high watermark as last seen; -1: not seen yet.
        node: the broker of its session; None: it has no session.
        follower: the follower in our rack to read from instead of the leader, until `follower_until_s`; -1: none.
        missing_since_s: since when brokers don't know the partition, on the monotonic clock; 0: they know it.
        failed: nothing is fetched until it is assigned again.
    """

    __slots__ = (
        "backoff", "end", "failed", "follower", "follower_until_s", "last_epoch", "leader_epoch", "missing_since_s",
        "no_earlier_than_s", "node", "position", "topic_id",
    )  # fmt: skip

    def __init__(self, position: int) -> None:
        self.position = position
        self.topic_id = NO_ID
        self.last_epoch = -1
        self.leader_epoch = -1
        self.end = -1
        self.node: int | None = None
        self.follower = -1
        self.follower_until_s = 0.0
        self.no_earlier_than_s = 0.0
        self.missing_since_s = 0.0
        self.failed = False
        self.backoff = backoff_s(0.05, 1.0)


@dataclass(slots=True)
class Session:
    """See the module.

    Args:
        epoch: session epoch of the next request; 0 begins a session.
        members: partitions that are read here.
        requested: the position and topic id of the last request, by partition.
        changed: partitions to name in the next request.
        forgotten: partitions that left, for the next request to remove from the session.
        is_in_flight: a request is in flight.
        login_refused_since_s: since when the broker refuses the login, on the monotonic clock; 0: it does not.
    """

    id: int = 0
    epoch: int = 0
    by_id: bool = False
    members: set[TP] = field(default_factory=set)
    requested: dict[TP, tuple[int, bytes]] = field(default_factory=dict)
    changed: set[TP] = field(default_factory=set)
    forgotten: set[TP] = field(default_factory=set)
    is_in_flight: bool = False
    no_earlier_than_s: float = 0.0
    leader_checked_s: float = 0.0
    login_refused_since_s: float = 0.0

    def join(self, tp: TP, topic_id: bytes) -> None:
        """Add a partition to the session."""
        self.members.add(tp)
        self.changed.add(tp)
        self.forgotten.discard(tp)
        known = self.requested.get(tp)
        if known is not None and known[1] != topic_id:
            self.reset()  # the broker knows the partition of the topic that was deleted

    def leave(self, tp: TP) -> None:
        """Remove a partition from the session."""
        self.members.discard(tp)
        self.changed.discard(tp)
        if tp in self.requested:
            self.forgotten.add(tp)

    def reset(self) -> None:
        """Begin a new session with the next request."""
        self.id = self.epoch = 0
        self.requested.clear()
        self.forgotten.clear()
        self.changed = set(self.members)

    @property
    def version(self) -> int:
        """The version of Fetch."""
        return BY_ID if self.by_id else BY_NAME

    def request(self, partitions: Mapping[TP, Assigned], fetch_bytes: int, rack: str, newest: int) -> list[bytes]:
        """Encode the next request's body.

        Args:
            partitions: the members, and perhaps others.
            fetch_bytes: the largest response; a single batch may be larger.
            newest: the newest version of Fetch that the broker supports.
        """
        if self.epoch == 0:
            have_ids = all(partitions[tp].topic_id != NO_ID for tp in self.members)
            self.by_id = newest >= BY_ID and have_ids
        topics: dict[TopicKey, list[FetchPosition]] = {}
        for tp in self.changed if self.epoch else self.members:
            it = partitions[tp]
            position = FetchPosition(tp.partition, it.position, it.leader_epoch, it.last_epoch)
            topics.setdefault(self._name(tp, it.topic_id), []).append(position)
            self.requested[tp] = it.position, it.topic_id
        forgotten: dict[TopicKey, list[int]] = {}
        for tp in self.forgotten:
            _, topic_id = self.requested.pop(tp)
            forgotten.setdefault(self._name(tp, topic_id), []).append(tp.partition)
        self.changed = set()
        self.forgotten = set()
        return encode_fetch(
            max_wait_ms=MAX_WAIT_MS, min_bytes=1, max_bytes=fetch_bytes, partition_max_bytes=fetch_bytes,
            session_id=self.id, session_epoch=self.epoch, topics=topics, forgotten=forgotten, rack=rack,
        )  # fmt: skip

    def _name(self, tp: TP, topic_id: bytes) -> TopicKey:
        return topic_id if self.by_id else tp.topic

    def on_response(self, response: FetchResponse) -> None:
        """Continue the session after a response without an error. A broker without room for a session answers id 0."""
        self.id = response.session_id
        self.epoch = self.epoch % LAST_EPOCH + 1 if response.session_id else 0

    def is_current_answer(self, tp: TP, partition: Assigned, topic: TopicKey) -> bool:
        """Whether a response is for the partition's present topic id and position; if not, it is requested again."""
        requested = self.requested.get(tp)
        if requested is None or (self.by_id and topic != partition.topic_id):
            return False
        if requested[0] != partition.position:
            self.changed.add(tp)
            return False
        return True
