"""Fetches the assigned partitions from their leaders or followers, with one Fetch request in flight per broker.

While a transaction is flushed or committed, the next response arrives. What was fetched and not taken yet is bounded,
so that a slow target slows the fetch. Requests are incremental (KIP-227): they name only partitions whose position
moved, so that a thousand idle partitions cost nothing.

A partition belongs to one fetch session, that of the broker where it is read: its leader, or the follower in our rack
that the leader names (KIP-392). It has no session while its leader is unknown, or after an error that passes.

A response counts for a partition only if it was requested at the partition's present position: what was requested
before `assign` or `remove` is dropped.

Source: KIP-227, KIP-320, KIP-392; clients `Fetcher`, `FetchSessionHandler`, `CompletedFetch`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from replicator.deadline import Deadline, backoff_s
from replicator.errors import TP, FatalError, KafkaOpError, PartitionError, StopReason
from replicator.kafka.cluster import Cluster, KafkaError
from replicator.planes import Fetched
from replicator.planes.batches.fetch_session import Assigned, FetchedBatches, Session
from replicator.protocol.brokers import Brokers
from replicator.protocol.connect_errors import ConnectError, unreachable
from replicator.protocol.connection import NoResponseError, Request
from replicator.protocol.event_loop import EventLoop
from replicator.protocol.fetch import API_KEY as FETCH
from replicator.protocol.fetch import PartitionData, TopicKey, decode_fetch
from replicator.protocol.metadata import NO_ID
from replicator.protocol.primitives import ProtocolError
from replicator.protocol.record_format.walk import walk

REQUEST_TIMEOUT_S = 30.0
SMALLEST_FETCH_BYTES = 1_048_576
FETCHED_SHARE = 8
"""The part of the task's memory for fetched batches, as two responses: one is taken while the next one arrives."""
MISSING_AFTER_S = 5.0
"""How long brokers may not know a partition before it stops: they learn of a topic just created only after a while."""
REFUSED_AFTER_S = 5.0
"""How long a leader may refuse the login, while other brokers do not, before its partitions stop."""
LEADER_CHECK_INTERVAL_S = 0.1
"""How often the leaders of partitions are checked whose broker can't be reached."""
FOLLOWER_S = 300.0
"""How long a follower is read before the leader is asked again (clients: `metadata.max.age.ms`), and how long none is
read after one failed."""
UNKNOWN_TOPIC_ID, INCONSISTENT_TOPIC_ID, FETCH_SESSION_TOPIC_ID_ERROR = 100, 103, 106
_SESSION_ERRORS = frozenset(
    {KafkaError.FETCH_SESSION_ID_NOT_FOUND, KafkaError.INVALID_FETCH_SESSION_EPOCH, FETCH_SESSION_TOPIC_ID_ERROR}
)
_UNKNOWN = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, UNKNOWN_TOPIC_ID})


class Fetcher:
    """See the module. Threading: the plane's thread.

    Args:
        buffer_bytes: memory of the task, see `FETCHED_SHARE`.
        max_batch_bytes: larger batches are split.
    """

    def __init__(
        self, loop: EventLoop, brokers: Brokers, source: Cluster, buffer_bytes: int, max_batch_bytes: int
    ) -> None:
        self._loop = loop
        self._brokers = brokers
        self._source = source
        self._max_batch_bytes = max_batch_bytes
        self._limit_bytes = buffer_bytes // FETCHED_SHARE
        self._fetched_bytes = 0
        self._partitions: dict[TP, Assigned] = {}
        self._unassigned: set[TP] = set()
        """Partitions without a session."""
        self._from_follower: set[TP] = set()
        """Partitions that are read from a follower."""
        self._follower_banned_until: dict[TP, float] = {}
        """Partitions whose follower failed → until when Fetch names no rack, so that the leader names no follower."""
        self._sessions: dict[int, Session] = {}
        self._epochs: dict[TP, tuple[int, int]] = {}
        """Position and leader epoch of partitions that left: shows whether a log was truncated and has grown since."""
        self._names: dict[TopicKey, str] = {}
        """Topic names by topic id."""
        self._fetched = Fetched()
        self._failure: KafkaOpError | None = None

    # --- which partitions ---------------------------------------------------------------------------------------------

    def assign(self, positions: Mapping[TP, int]) -> None:
        """Fetch exactly these partitions, from these positions; drop what was fetched earlier."""
        self._clear()
        left = [tp for tp in self._partitions if tp not in positions]
        for tp in left:
            self._drop(tp)
        self._untrack_topics(left)
        for tp, position in positions.items():
            known = self._partitions.get(tp)
            if known is None or known.failed:
                self._assign_one(tp, position)
            elif known.position != position:
                known.position = position
                known.last_epoch = -1
                self._change(tp, known)

    def add(self, positions: Mapping[TP, int]) -> None:
        """Fetch these partitions too, from these positions."""
        self._remove(set(positions))
        for tp, position in positions.items():
            self._assign_one(tp, position)

    def remove(self, tps: Iterable[TP]) -> None:
        """Stop fetching these partitions, and drop what was fetched of them."""
        gone = set(tps)
        self._remove(gone)
        self._untrack_topics(gone)

    def _untrack_topics(self, gone: Iterable[TP]) -> None:
        """Stop requesting metadata of topics of which no partition is left."""
        left = {tp.topic for tp in gone} - {tp.topic for tp in self._partitions}
        if left:
            self._brokers.untrack_topics(left)

    def _remove(self, gone: set[TP]) -> None:
        self._fetched = self._fetched.without(gone)
        self._fetched_bytes = sum(it.size_bytes for it in self._fetched.batches)
        for tp in gone:
            self._drop(tp)

    def _assign_one(self, tp: TP, position: int) -> None:
        self._drop(tp)
        self._partitions[tp] = partition = Assigned(position)
        known = self._epochs.get(tp)
        if known is not None and known[0] == position:
            partition.last_epoch = known[1]
        self._unassigned.add(tp)
        self._brokers.track_topics((tp.topic,))

    def _drop(self, tp: TP) -> None:
        partition = self._partitions.pop(tp, None)
        self._unassigned.discard(tp)
        self._from_follower.discard(tp)
        self._follower_banned_until.pop(tp, None)
        if partition is not None:
            self._leave(tp, partition)
            if partition.last_epoch >= 0:
                self._epochs[tp] = partition.position, partition.last_epoch

    def _leave(self, tp: TP, partition: Assigned) -> None:
        """Take a partition out of its session."""
        session = self._sessions.get(partition.node) if partition.node is not None else None
        partition.node = None
        if session is not None:
            session.leave(tp)

    def _change(self, tp: TP, partition: Assigned) -> None:
        session = self._sessions.get(partition.node) if partition.node is not None else None
        if session is not None:
            session.changed.add(tp)

    def ends(self, tps: Iterable[TP]) -> dict[TP, int]:
        """The high watermarks as last seen; partitions without one are left out."""
        found = {tp: self._partitions[tp].end for tp in tps if tp in self._partitions}
        return {tp: end for tp, end in found.items() if end >= 0}

    # --- asking -------------------------------------------------------------------------------------------------------

    def push(self) -> None:
        """Send a Fetch to each broker that has none in flight."""
        now_s = time.monotonic()
        self._expire_followers(now_s)
        self._join_sessions(now_s)
        for node, session in list(self._sessions.items()):
            if not session.members and not session.is_in_flight:
                del self._sessions[node]
            elif not session.is_in_flight and session.members and session.no_earlier_than_s <= now_s:
                self._send_fetch(node, session)

    def _expire_followers(self, now_s: float) -> None:
        """Return to the leader after `FOLLOWER_S`, and allow followers again whose ban is over."""
        for tp in [tp for tp, until_s in self._follower_banned_until.items() if until_s <= now_s]:
            del self._follower_banned_until[tp]
        for tp in [tp for tp in self._from_follower if self._partitions[tp].follower_until_s <= now_s]:
            partition = self._partitions[tp]
            self._from_follower.discard(tp)
            partition.follower = -1
            self._leave_session(tp, partition)

    def _join_sessions(self, now_s: float) -> None:
        """Put partitions without a session into that of their leader or follower."""
        for tp in list(self._unassigned):
            partition = self._partitions[tp]
            if partition.failed or partition.no_earlier_than_s > now_s:
                continue
            leader = self._brokers.leader(*tp)
            if leader is None:
                self._wait_for_leader(tp, partition, now_s)
                continue
            partition.node = partition.follower if partition.follower >= 0 else leader.node
            partition.leader_epoch = leader.epoch
            if not self._is_same_topic(tp, partition):
                continue
            session = self._sessions.setdefault(partition.node, Session(leader_checked_s=now_s))
            session.join(tp, partition.topic_id)
            self._unassigned.discard(tp)

    def _is_same_topic(self, tp: TP, partition: Assigned) -> bool:
        """Whether the topic has the id that was read so far; if not, the partition stops."""
        topic_id = self._brokers.topic_id(tp.topic)
        if partition.topic_id in (NO_ID, topic_id) or topic_id == NO_ID:
            partition.topic_id = topic_id if partition.topic_id == NO_ID else partition.topic_id
            self._names[partition.topic_id] = tp.topic
            return True
        partition.node = None
        self._fail(tp, partition, INCONSISTENT_TOPIC_ID)
        return False

    def _wait_for_leader(self, tp: TP, partition: Assigned, now_s: float) -> None:
        """Wait for a leader; stop the partition when the cluster has not known it for `MISSING_AFTER_S`."""
        code = self._brokers.topic_error(tp.topic)
        if code == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            self._fail(tp, partition, code)
        elif not self._brokers.lacks(*tp):
            partition.missing_since_s = 0.0
        elif not partition.missing_since_s:
            partition.missing_since_s = now_s
        elif now_s - partition.missing_since_s > MISSING_AFTER_S:
            self._fail(tp, partition, KafkaError.UNKNOWN_TOPIC_OR_PART)
        self._brokers.refresh()

    def _send_fetch(self, node: int, session: Session) -> None:
        fetch_bytes = max(SMALLEST_FETCH_BYTES, self._limit_bytes // (2 * len(self._sessions)))
        if self._fetched_bytes and self._fetched_bytes + fetch_bytes > self._limit_bytes:
            return
        connection = self._brokers.connection(node)
        if connection is None:
            self._follow_leaders(node, session)
            return
        session.login_refused_since_s = 0.0
        _, newest = self._brokers.version(node, FETCH) or (0, 0)
        rack = self._brokers.rack if session.members.isdisjoint(self._follower_banned_until) else ""
        body = session.request(self._partitions, fetch_bytes, rack, newest)
        version = session.version
        session.is_in_flight = True

        def done(answer: memoryview | NoResponseError) -> None:
            session.is_in_flight = False
            self._answered(node, session, answer, version)

        connection.send(Request(FETCH, version, body, done, REQUEST_TIMEOUT_S))

    def _follow_leaders(self, node: int, session: Session) -> None:
        """Move partitions from a broker that can't be reached to their new leaders, if there are any."""
        now_s = time.monotonic()
        if session.leader_checked_s + LEADER_CHECK_INTERVAL_S > now_s:
            return
        session.leader_checked_s = now_s
        refusal = self._brokers.login_refusal(node)
        session.login_refused_since_s = 0.0 if refusal is None else session.login_refused_since_s or now_s
        for tp in list(session.members):
            partition = self._partitions[tp]
            leader = self._brokers.leader(*tp)
            if partition.follower >= 0:
                if self._brokers.is_unreachable(node):
                    self._ban_follower(tp, partition)
                    self._leave_session(tp, partition)
            elif leader is not None and leader.node != node:
                self._leave_session(tp, partition)
            elif refusal is not None and now_s - session.login_refused_since_s > REFUSED_AFTER_S:
                self._stop_login_refused(tp, partition, refusal)

    def _stop_login_refused(self, tp: TP, partition: Assigned, refusal: ConnectError) -> None:
        cause = unreachable(self._source, "fetch", str(refusal), refusal.code)
        reason = StopReason.SOURCE_UNAVAILABLE
        error = PartitionError(
            f"its leader refuses the login: {refusal}", op="fetch", tp=tp, reason=reason, hint=cause.hint
        )
        self._stop(tp, partition, error)

    # --- answers ------------------------------------------------------------------------------------------------------

    def _answered(self, node: int, session: Session, answer: memoryview | NoResponseError, version: int) -> None:
        if isinstance(answer, NoResponseError):
            self._on_connection_lost(session)
            return
        try:
            response = decode_fetch(answer, version)
        except ProtocolError as error:
            self._close_after_invalid_response(node, f"its answer to Fetch can't be read: {error}")
            self._on_connection_lost(session)
            return
        if response.throttle_ms:
            session.no_earlier_than_s = time.monotonic() + response.throttle_ms / 1000
        if response.error:
            session.reset()
            if response.error not in _SESSION_ERRORS:
                self._on_request_error(response.error, session)
            return
        session.on_response(response)
        for data in response.partitions:
            tp = TP(self._names.get(data.topic, str(data.topic)), data.partition)
            partition = self._partitions.get(tp)
            is_read_here = partition is not None and partition.node == node and not partition.failed
            if partition is not None and is_read_here and session.is_current_answer(tp, partition, data.topic):
                self._on_partition_data(tp, partition, data, partition.topic_id if session.by_id else b"")

    def _on_connection_lost(self, session: Session) -> None:
        """The connection was closed: look for the leaders of the broker's partitions again."""
        members = list(session.members)
        session.members.clear()
        session.reset()
        for tp in members:
            partition = self._partitions[tp]
            partition.node = None
            partition.follower = -1
            self._from_follower.discard(tp)
            self._unassigned.add(tp)
        self._brokers.refresh()

    def _close_after_invalid_response(self, node: int, why: str) -> None:
        connection = self._brokers.connection(node)
        if connection is not None:
            connection.close_after_invalid_response(why)

    def _on_request_error(self, code: int, session: Session) -> None:
        """The broker refused the whole request."""
        error = self._source.error(KafkaError(code), op="fetch")
        if isinstance(error, FatalError):
            self._failure = error
        session.no_earlier_than_s = time.monotonic() + 0.5
        self._brokers.refresh()

    def _on_partition_data(self, tp: TP, partition: Assigned, data: PartitionData, topic_id: bytes) -> None:
        if data.error:
            self._partition_error(tp, partition, data)
            return
        partition.missing_since_s = 0.0
        partition.backoff = backoff_s(0.05, 1.0)
        if data.high_watermark >= 0:
            partition.end = data.high_watermark
        if data.diverging is not None:
            self._diverged(tp, partition, data.diverging)
            return
        if data.preferred_replica >= 0 and data.preferred_replica != partition.node:
            self._read_from_follower(tp, partition, data.preferred_replica)
            return
        if len(data.records):
            self._decode_records(tp, partition, data, topic_id)

    def _decode_records(self, tp: TP, partition: Assigned, data: PartitionData, topic_id: bytes) -> None:
        walked = walk(data.records, partition.position, data.aborted, max_batch_bytes=self._max_batch_bytes)
        if walked.next_offset > partition.position:
            partition.position = walked.next_offset
            partition.last_epoch = walked.last_epoch
            end = -1
            if walked.batches:
                batches = FetchedBatches(tp, topic_id, walked.batches)
                end = batches.next_offset
                self._fetched.batches.append(batches)
                self._fetched_bytes += batches.size_bytes
            is_behind = walked.next_offset < data.last_stable_offset
            if walked.next_offset > end or not is_behind:
                self._fetched.passed[tp] = walked.next_offset
            self._fetched.more |= is_behind
            self._change(tp, partition)
        if walked.bad is not None:
            text = f"{walked.bad} at offset {partition.position}"
            hint = "the source's log is damaged at that offset, or the batch has a format unknown to this version"
            reason = StopReason.BAD_RECORD
            self._stop(tp, partition, PartitionError(text, op="fetch", tp=tp, reason=reason, hint=hint))

    def _diverged(self, tp: TP, partition: Assigned, diverging: tuple[int, int]) -> None:
        """Stop a partition whose log was truncated since it was read, and went on differently (KIP-595)."""
        epoch, end = diverging
        text = f"the source's log was truncated to {end} (leader epoch {epoch}), after {partition.position} was read"
        hint = "an unclean election lost records on the source that are on the target; see `replicator recopy`"
        reason = StopReason.SOURCE_LOG_SHORTER
        self._stop(tp, partition, PartitionError(text, op="fetch", tp=tp, reason=reason, hint=hint))

    def _read_from_follower(self, tp: TP, partition: Assigned, replica: int) -> None:
        partition.follower = replica
        partition.follower_until_s = time.monotonic() + FOLLOWER_S
        self._from_follower.add(tp)
        self._leave_session(tp, partition)

    def _ban_follower(self, tp: TP, partition: Assigned) -> None:
        """Stop reading from the partition's follower, and from any other, for `FOLLOWER_S`."""
        partition.follower = -1
        self._from_follower.discard(tp)
        self._follower_banned_until[tp] = time.monotonic() + FOLLOWER_S

    def _partition_error(self, tp: TP, partition: Assigned, data: PartitionData) -> None:
        now_s = time.monotonic()
        code = data.error
        if data.leader is not None:
            self._brokers.update_leader(*tp, *data.leader)
        if partition.follower >= 0:  # the leader says more
            self._ban_follower(tp, partition)
        elif code in _UNKNOWN:
            partition.missing_since_s = partition.missing_since_s or now_s
            if now_s - partition.missing_since_s > MISSING_AFTER_S:
                self._fail(tp, partition, code)
                return
        elif code == KafkaError.OFFSET_OUT_OF_RANGE or self._is_partition_error(tp, code):
            self._fail(tp, partition, code)
            return
        partition.no_earlier_than_s = now_s + next(partition.backoff)
        self._leave_session(tp, partition)
        self._brokers.refresh()

    def _is_partition_error(self, tp: TP, code: int) -> bool:
        error = self._source.error(KafkaError(code), op="fetch", tp=tp)
        if isinstance(error, FatalError):
            self._failure = error
        return isinstance(error, PartitionError)

    def _leave_session(self, tp: TP, partition: Assigned) -> None:
        self._leave(tp, partition)
        self._unassigned.add(tp)

    def _fail(self, tp: TP, partition: Assigned, code: int) -> None:
        error = self._source.error(KafkaError(code), op="fetch", tp=tp, topic=tp.topic)
        assert isinstance(error, PartitionError), f"{code} concerns one partition"
        self._stop(tp, partition, error)

    def _stop(self, tp: TP, partition: Assigned, error: PartitionError) -> None:
        """Stop a partition: nothing more is fetched of it until it is assigned again."""
        partition.failed = True
        self._leave(tp, partition)
        self._unassigned.discard(tp)
        self._from_follower.discard(tp)
        self._fetched.failed.append(error)

    # --- what was fetched ---------------------------------------------------------------------------------------------

    def wait(self, wait_s: float) -> None:
        """Wait until something was fetched, at most so long.

        Raises:
            KafkaOpError: no partition can be fetched.
        """
        deadline = Deadline(wait_s)
        self.push()
        self._loop.run_once(0)
        while not self._has_results() and not deadline.expired:
            self.push()
            is_settled = not self._unassigned and all(it.is_in_flight for it in self._sessions.values())
            self._loop.run_until(self._has_results, Deadline(deadline.slice_s(0.1 if is_settled else 0.02)))
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        if self._fetched.is_empty and self._partitions and self._brokers.login_refusal() is not None:
            raise self._brokers.error("fetch")  # waiting longer does not help

    def _clear(self) -> None:
        self._fetched = Fetched()
        self._fetched_bytes = 0

    def _has_results(self) -> bool:
        return not self._fetched.is_empty or self._failure is not None

    def take(self) -> Fetched:
        """Return all that was fetched, and send the next requests."""
        fetched = self._fetched
        self._clear()
        self.push()
        return fetched
