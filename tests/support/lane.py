"""A topic on both clusters with planes between them, for tests that drive a plane without a worker."""

from __future__ import annotations

from dataclasses import dataclass, field

from replicator.errors import TP
from replicator.planes import Plane
from tests.support.eventually import eventually
from tests.support.planes import BUFFER_BYTES, TIMEOUT_S, Driver, PlaneKind, connect, settings
from tests.support.records import Record, create_topic, end_offsets, read_topic


@dataclass
class Lane:
    """A fresh topic on both clusters, and planes between them.

    Attributes:
        zeros: partitions for which a plane reported timestamps of 0.
    """

    kind: PlaneKind
    source: str
    target: str
    topic: str
    remote: str
    transactional_id: str
    planes: list[Plane] = field(default_factory=list)
    zeros: dict[TP, int] = field(default_factory=dict)

    def create(self, partitions: int = 1, config: dict[str, str] | None = None) -> None:
        """Create the topics; `config` is the source topic's."""
        create_topic(self.source, self.topic, partitions=partitions, config=config)
        create_topic(self.target, self.remote, partitions=partitions)

    def plane(self, buffer_bytes: int = BUFFER_BYTES) -> Plane:
        """A plane with the lane's transactional id."""

        def note(tp: TP, records: int) -> None:
            self.zeros[tp] = self.zeros.get(tp, 0) + records

        wanted = settings(self.transactional_id, buffer_bytes)
        self.planes.append(connect(self.kind, (self.source, self.target), wanted, note))
        return self.planes[-1]

    def driver(self, *partitions: int, buffer_bytes: int = BUFFER_BYTES) -> Driver:
        """A driver of a new plane, assigned to the beginning of `partitions` (default: the first)."""
        start = {self.tp(partition): 0 for partition in partitions or (0,)}
        return Driver(self.plane(buffer_bytes), self.remote).start(start)

    def tp(self, partition: int = 0) -> TP:
        return TP(self.topic, partition)

    def end(self) -> int:
        """Where the first partition of the source ends, once its transactions are decided."""
        return settled(self.source, self.topic)[0]

    def written(self) -> list[Record]:
        """What a read_committed reader finds on the source, once its transactions are decided."""
        settled(self.source, self.topic)
        return read_topic(self.source, self.topic)

    def arrived(self) -> list[Record]:
        """What a read_committed reader finds on the target, once its transactions are decided."""
        settled(self.target, self.remote)
        return read_topic(self.target, self.remote)


def settled(servers: str, topic: str) -> dict[int, int]:
    """The ends of a topic, when every transaction is decided: markers come a moment after the commit's answer."""

    def is_decided() -> dict[int, int] | None:
        ends = end_offsets(servers, topic, isolation="read_uncommitted")
        return ends if end_offsets(servers, topic) == ends else None

    ends = eventually(is_decided, within_s=TIMEOUT_S)
    assert ends is not None
    return ends
