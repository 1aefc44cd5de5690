"""The checkpoints topic: what the target knows of the source's groups, read and written. The source may be gone.

Our own checkpoints come with a pulse, which tells how fresh they are; those that MirrorMaker 2 wrote do not.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import cast

from replicator.checkpoints.freshness import Freshness, decode_pulse, pulse_key
from replicator.config import Flow
from replicator.deadline import Deadline
from replicator.errors import TP, RetriableError
from replicator.kafka.cluster import AdminClient, Cluster, KafkaError, KafkaException, Message, Producer
from replicator.kafka.internal_topics import ensure_compacted
from replicator.kafka.log_reader import LogReader
from replicator.offset_map.mm2_format import (
    Checkpoint,
    Header,
    checkpoint_headers,
    decode_checkpoint,
    decode_checkpoint_key,
    encode_checkpoint,
)
from replicator.offset_map.sync_format import WireError

SHOWN_GROUPS = 3
MESSAGE_TIMEOUT_MS = 10_000
NOW_MS = 0
"""As the client understands a timestamp of 0."""
Key = tuple[str, TP]
"""A group, and a partition as it is called on the target."""


@dataclass(frozen=True, slots=True)
class KnownGroups:
    """The newest checkpoint of every group and partition.

    Args:
        written_ms: when each of them was written, by the record's timestamp; -1 where it has none.
        pulse_ms: what the groups had committed then is known, except the `late` ones; None: not published.
        late: groups whose offsets could not be read then, and up to when they are known; None: unknown.
        broken: why a group's place is not known: it has a checkpoint that can't be read, of a newer release perhaps.
        unreadable: records that are no checkpoints, in words; empty when there are none.
    """

    checkpoints: Mapping[Key, Checkpoint]
    written_ms: Mapping[Key, int]
    pulse_ms: int | None
    late: Mapping[str, int | None]
    broken: Mapping[str, str] = field(default_factory=dict)
    unreadable: str = ""

    @property
    def groups(self) -> set[str]:
        """All groups with a checkpoint."""
        return {group for group, _ in self.checkpoints} | self.broken.keys()

    def known_ms(self, group: str) -> int | None:
        """Up to when it is known what a group had committed; None if unknown.

        Says nothing of a group that the flow does not follow.
        """
        if group not in self.late:
            return self.pulse_ms
        heard_ms = self.late[group]
        if heard_ms is None:
            written = (ms for (name, _), ms in self.written_ms.items() if name == group)
            heard_ms = max(written, default=-1)
        return None if heard_ms < 0 else heard_ms

    def age_s(self, group: str, now_ms: float) -> float | None:
        """How old the knowledge of a group is: nothing is known of what it committed within that time.

        None if unknown; never negative, also when the clocks differ.
        """
        known_ms = self.known_ms(group)
        return None if known_ms is None else max(0.0, (now_ms - known_ms) / 1000)


def knowledge_text(known: KnownGroups, groups: Iterable[str], now_ms: float) -> str:
    """Up to when it is known what these groups had committed, in words. Pure."""
    up_to = {group: known.known_ms(group) for group in groups}
    newest_ms = max((it for it in up_to.values() if it is not None), default=known.pulse_ms)
    if newest_ms is None:
        return "the age of the checkpoints is unknown"
    text = f"checkpoints are complete up to {_time_text(newest_ms, now_ms, '%Y-%m-%d ')}"
    behind = {group: it for group, it in up_to.items() if it is not None and it < newest_ms}
    if behind:
        text += f"; for {_some(behind)} only up to {_time_text(min(behind.values()), now_ms)}"
    if untold := [group for group, it in up_to.items() if it is None]:
        text += f"; of unknown age for {_some(untold)}"
    return text


def _time_text(at_ms: int, now_ms: float, day: str = "") -> str:
    at = dt.datetime.fromtimestamp(at_ms / 1000, dt.UTC)
    ago_s = max(0.0, (now_ms - at_ms) / 1000)
    return f"{at:{day}%H:%M:%S}.{at_ms % 1000:03} UTC, {ago_s:,.1f} s ago"


def _some(groups: Collection[str]) -> str:
    shown = sorted(groups)[:SHOWN_GROUPS]
    more = f" and {len(groups) - len(shown):,} more" if len(groups) > len(shown) else ""
    return ", ".join(shown) + more


def read_checkpoints(target: Cluster, flow: Flow, deadline: Deadline) -> KnownGroups:
    """Read the flow's checkpoints topic from its beginning to its end; without one nothing is known.

    A record that can't be read concerns its own group only: the topic can't be repaired on the day when it is needed.

    Raises:
        KafkaOpError: not read within `deadline`, or not allowed to.
    """
    log = _Log(flow.naming.checkpoints_topic, pulse_key(flow.group, flow.syncs_topic))
    with closing(LogReader(target, flow.naming.checkpoints_topic, [0], log.take)) as reader:
        if reader.exists(deadline):
            reader.read_to_end(deadline)
    return log.known()


class _Log:
    """The records so far, the last one of each key."""

    def __init__(self, topic: str, pulse: Key) -> None:
        self._topic = topic
        self._pulse_key = pulse
        self._checkpoints: dict[Key, Checkpoint] = {}
        self._written_ms: dict[Key, int] = {}
        self._broken: dict[Key, str] = {}
        self._unreadable: dict[bytes, str] = {}

    def take(self, message: Message) -> None:
        key, value = message.key() or b"", message.value()
        try:
            name = decode_checkpoint_key(key)
        except WireError as error:
            self._unreadable.pop(key, None)
            if value is not None:
                self._unreadable[key] = f"at offset {message.offset()}: {error}"
            return
        for facts in (self._checkpoints, self._written_ms, self._broken):
            facts.pop(name, None)
        if value is None:  # neither we nor MM2 write tombstones, but an operator may
            return
        try:
            headers = cast("list[Header]", message.headers() or [])
            self._checkpoints[name] = decode_checkpoint(key, value, headers)
            self._written_ms[name] = message.timestamp()[1]
        except WireError as error:
            where = f"its checkpoint of {name[1]} at offset {message.offset()} of {self._topic}"
            self._broken[name] = f"{where} can't be read: {error}"

    def known(self) -> KnownGroups:
        found = self._checkpoints.get(self._pulse_key)
        pulse = None if found is None else _pulse_or_none(found)
        checkpoints = {key: it for key, it in self._checkpoints.items() if key != self._pulse_key}
        written_ms = {key: self._written_ms[key] for key in checkpoints}
        began_ms, late = (None, {}) if pulse is None else (pulse.began_ms, pulse.late)
        broken = {key[0]: text for key, text in self._broken.items() if key != self._pulse_key}
        return KnownGroups(checkpoints, written_ms, began_ms, late, broken, self._unreadable_text())

    def _unreadable_text(self) -> str:
        if not self._unreadable:
            return ""
        first = next(iter(self._unreadable.values()))
        return f"{self._topic} holds {len(self._unreadable):,} records that are no checkpoints; the first: {first}"


def _pulse_or_none(found: Checkpoint) -> Freshness | None:
    """The checkpoints are as good without it, only of unknown age: no failover fails for that."""
    try:
        return decode_pulse(found)
    except WireError:
        return None


class CheckpointWriter:
    """Whatever fails is its end: make another one. Threading: one thread."""

    def __init__(self, target: Cluster, admin: AdminClient, topic: str, budget: Deadline) -> None:
        """Make the topic, if it is missing.

        Raises:
            KafkaOpError: that was refused, or there is no answer.
        """
        ensure_compacted(admin, target, topic, budget)
        self._target = target
        self._topic = topic
        self._producer: Producer = target.producer({"linger.ms": 5, "message.timeout.ms": MESSAGE_TIMEOUT_MS})

    def write(
        self, checkpoints: Iterable[Checkpoint], budget: Deadline,
        written: Callable[[Checkpoint], None] = lambda checkpoint: None,
        times_ms: Mapping[tuple[str, TP], int] | None = None,
    ) -> None:  # fmt: skip
        """Write them, and wait for that; `written` is called for each that is.

        Args:
            times_ms: how old each is said to be, where that is not now.

        Raises:
            KafkaOpError: one was not written.
        """
        failed: list[KafkaError] = []
        for checkpoint in checkpoints:
            at_ms = (times_ms or {}).get((checkpoint.group, checkpoint.tp), NOW_MS)
            self._produce(checkpoint, max(NOW_MS, at_ms), written, failed)
        while self._producer.flush(0.1) and not budget.expired:
            pass
        if failed:
            raise self._target.error(failed[0], op=f"write {self._topic}", right="WRITE", topic=self._topic)
        if len(self._producer):
            raise RetriableError(f"not written within {budget.seconds:g} s", op=f"write {self._topic}")

    def _produce(
        self, checkpoint: Checkpoint, at_ms: int, written: Callable[[Checkpoint], None], failed: list[KafkaError]
    ) -> None:
        def delivered(error: KafkaError | None, _: Message) -> None:
            if error is None:
                written(checkpoint)
            else:
                failed.append(error)

        key, value = encode_checkpoint(checkpoint)
        headers = checkpoint_headers(checkpoint)
        while True:
            try:
                self._producer.produce(
                    self._topic, value, key, 0, on_delivery=delivered, timestamp=at_ms, headers=headers
                )
            except BufferError:
                self._producer.poll(0.05)
            except KafkaException as cause:
                raise self._target.error(cause, op=f"write {self._topic}", right="WRITE", topic=self._topic) from cause
            else:
                return
