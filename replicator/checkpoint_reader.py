"""What the target knows of the groups of the source, from its checkpoints topic alone: the source may be gone.

Our own checkpoints come with a pulse, which tells how fresh they are; those that MirrorMaker 2 wrote do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

from replicator.clients import Cluster, Message
from replicator.compacted import CompactedReader
from replicator.config import Flow
from replicator.deadline import Deadline
from replicator.errors import TP
from replicator.mm2_wire import Checkpoint, decode_checkpoint, decode_checkpoint_key
from replicator.pulse import decode_pulse, pulse_key

Key = tuple[str, TP]
"""A group, and a partition as it is called on the target."""


@dataclass(frozen=True, slots=True)
class KnownGroups:
    """The newest checkpoint of every group and partition.

    Args:
        written_ms: when each of them was written, by the record's timestamp; -1 where it has none.
        pulse_ms: what the groups had committed then is known, but for those that are `late`; None: nobody said so.
        late: groups whose offsets could not be read then.
    """

    checkpoints: Mapping[Key, Checkpoint]
    written_ms: Mapping[Key, int]
    pulse_ms: int | None
    late: frozenset[str]

    def age_s(self, group: str, now_ms: float) -> float | None:
        """How old the knowledge of a group is: nothing is known of what it committed within that time.

        Says nothing of a group that the flow does not follow. None when nobody can tell; never negative, also when
        the clocks differ.
        """
        known_ms = self.pulse_ms
        if group in self.late:
            written = (ms for (name, _), ms in self.written_ms.items() if name == group)
            known_ms = max(written, default=-1)
        if known_ms is None or known_ms < 0:
            return None
        return max(0.0, (now_ms - known_ms) / 1000)


def read_checkpoints(target: Cluster, flow: Flow, deadline: Deadline) -> KnownGroups:
    """Read the flow's checkpoints topic from its beginning to its end; without one nothing is known.

    Raises:
        KafkaOpError: not read within `deadline`, or not allowed to.
        WireError: a record can't be read.
    """
    log = _Log(pulse_key(flow.group, flow.syncs_topic))
    with closing(CompactedReader(target, flow.naming.checkpoints_topic, [0], log.take)) as reader:
        if reader.exists(deadline):
            reader.read_to_end(deadline)
    return log.known()


class _Log:
    """The records so far, the last one of each key."""

    def __init__(self, pulse: Key) -> None:
        self._pulse_key = pulse
        self._checkpoints: dict[Key, Checkpoint] = {}
        self._written_ms: dict[Key, int] = {}

    def take(self, message: Message) -> None:
        key, value = message.key() or b"", message.value()
        if value is None:  # neither we nor MM2 write tombstones, but an operator may
            gone = decode_checkpoint_key(key)
            self._checkpoints.pop(gone, None)
            self._written_ms.pop(gone, None)
            return
        checkpoint = decode_checkpoint(key, value)
        name = checkpoint.group, checkpoint.tp
        self._checkpoints[name] = checkpoint
        self._written_ms[name] = message.timestamp()[1]

    def known(self) -> KnownGroups:
        found = self._checkpoints.get(self._pulse_key)
        pulse = None if found is None else decode_pulse(found)
        checkpoints = {key: it for key, it in self._checkpoints.items() if key != self._pulse_key}
        written_ms = {key: self._written_ms[key] for key in checkpoints}
        if pulse is None:
            return KnownGroups(checkpoints, written_ms, None, frozenset())
        return KnownGroups(checkpoints, written_ms, pulse.began_ms, pulse.late)
