"""The planes under test, and a driver that does with a plane what a task does, without syncs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from replicator.config import ClusterSettings
from replicator.deadline import Deadline
from replicator.errors import TP, AbortTransactionError, PartitionError
from replicator.kafka.cluster import Cluster
from replicator.offset_map.runs import Placement
from replicator.planes import Batch, Fetched, Plane, PlaneSettings
from replicator.planes.batches.plane import BatchesPlane
from replicator.planes.records import RecordsPlane
from tests.support.eventually import eventually
from tests.support.records import Record

TIMEOUT_S = 60.0
BUFFER_BYTES = 33_554_432

Placed = dict[TP, list[Placement]]
OnZero = Callable[[TP, int], None]


@dataclass(frozen=True, slots=True)
class PlaneKind:
    """One implementation.

    Args:
        make: builds it.
        keeps_zero_timestamp: whether a timestamp of 0 arrives as 0; if not, it arrives as 1 and is counted.
    """

    make: Callable[[Cluster, Cluster, PlaneSettings, OnZero], Plane]
    keeps_zero_timestamp: bool


def _batches(source: Cluster, target: Cluster, wanted: PlaneSettings, on_zero: OnZero) -> Plane:
    return BatchesPlane(source, target, wanted)


PLANES: Mapping[str, PlaneKind] = {
    "batches": PlaneKind(_batches, keeps_zero_timestamp=True),
    "records": PlaneKind(RecordsPlane, keeps_zero_timestamp=False),
}


def settings(transactional_id: str, buffer_bytes: int = BUFFER_BYTES) -> PlaneSettings:
    """Settings of a plane under test."""
    return PlaneSettings(transactional_id, transaction_timeout_s=60, compression="lz4", buffer_bytes=buffer_bytes)


def connect(kind: PlaneKind, servers: tuple[str, str], plane_settings: PlaneSettings, on_zero: OnZero) -> Plane:
    """A plane between two clusters, given by their bootstrap servers."""
    source, target = (ClusterSettings(bootstrap_servers=address) for address in servers)
    group = plane_settings.transactional_id
    return kind.make(
        Cluster("east", "source", source, group), Cluster("west", "target", target, group), plane_settings, on_zero
    )


@dataclass
class Driver:
    """A plane, and what it delivered since it was last assigned.

    Args:
        plane: under test; opened by `start`.
        target_topic: where every partition goes.
    """

    plane: Plane
    target_topic: str
    positions: dict[TP, int] = field(default_factory=dict)
    batches: list[Batch] = field(default_factory=list)
    passed: dict[TP, int] = field(default_factory=dict)
    failed: list[PartitionError] = field(default_factory=list)

    def start(self, positions: Mapping[TP, int]) -> Driver:
        """Open and assign."""
        self.plane.open(Deadline(TIMEOUT_S))
        self.assign(positions)
        return self

    def assign(self, positions: Mapping[TP, int]) -> None:
        """Begin again from `positions`, as after an abort."""
        self.plane.assign(positions)
        self.positions = dict(positions)
        self.batches, self.passed, self.failed = [], {}, []

    def fetch(self) -> Fetched:
        """One fetch; what it brought is kept, and checked to be in order."""
        fetched = self.plane.fetch(0.1)
        for batch in fetched.batches:
            assert batch.first_offset >= self.positions[batch.tp], f"{batch.tp} came again, or in another order"
            assert batch.records > 0
            assert batch.next_offset > batch.first_offset
            self.positions[batch.tp] = batch.next_offset
            self.batches.append(batch)
        for tp, next_offset in fetched.passed.items():
            assert next_offset >= self.positions[tp], f"{tp} was passed backwards"
            self.positions[tp] = self.passed[tp] = next_offset
        self.failed += fetched.failed
        return fetched

    def fetch_to(self, ends: Mapping[TP, int]) -> list[Batch]:
        """Everything up to `ends`, which are positions: the markers at the end are passed, too."""

        def is_there() -> bool:
            self.fetch()
            assert not self.failed, self.failed
            return all(self.positions[tp] >= end for tp, end in ends.items())

        eventually(is_there, within_s=TIMEOUT_S, every_s=0)
        return self.batches

    def append(self, batches: Iterable[Batch]) -> Placed:
        """Begin, append, flush."""
        self.plane.begin()
        for batch in batches:
            self.plane.append(batch, self.target_topic, Deadline(TIMEOUT_S))
        return self.plane.flush(Deadline(TIMEOUT_S))

    def try_append(self, batches: Iterable[Batch]) -> Placed | None:
        """As `append`; None when the plane wants a repetition because somebody else writes there, and was aborted."""
        try:
            return self.append(batches)
        except AbortTransactionError as error:
            if error.code != "INTERLEAVED":
                raise
        self.abort()
        return None

    def commit(self) -> None:
        self.plane.commit(Deadline(TIMEOUT_S))

    def abort(self) -> None:
        self.plane.abort(Deadline(TIMEOUT_S))

    def carry(self, ends: Mapping[TP, int], syncs_topic: str = "") -> Placed:
        """Everything up to `ends` in one committed transaction; a plane may ask for one repetition.

        Args:
            syncs_topic: where a record of our own goes, if anywhere.
        """
        start = dict(self.positions)
        placed = self.try_append(self.fetch_to(ends))
        if placed is None:
            self.assign(start)
            placed = self.append(self.fetch_to(ends))
        if syncs_topic:
            self.plane.write(syncs_topic, 0, b"key", b"value")
        self.commit()
        self.batches = []
        return placed


def assert_placed(placed: Placed, source: list[Record], target: list[Record]) -> None:
    """Placements name exactly the records of `source`, in order, at the offsets where `target` has them."""
    wanted = {TP("", r.partition): [o for o in source if o.partition == r.partition] for r in source}
    by_offset = {(r.partition, r.offset): r for r in target}
    found: dict[TP, list[Record]] = {}
    for tp, places in placed.items():
        assert places
        ends = [(p.upstream_next, p.downstream_base + p.count) for p in places]
        for (upstream, downstream), after in zip(ends, places[1:], strict=False):
            assert after.upstream_base >= upstream, "placements ascend on the source"
            assert after.downstream_base >= downstream, "placements ascend on the target"
        for place in places:
            offsets = upstream_offsets(place)
            assert len(offsets) == place.count
            assert offsets[-1] + 1 == place.upstream_next
            for index, offset in enumerate(offsets):
                landed = by_offset[tp.partition, place.downstream_base + index]
                found.setdefault(TP("", tp.partition), []).append(landed._replace(offset=offset))
    assert {tp: [r.content for r in rs] for tp, rs in found.items()} == {
        tp: [r.content for r in rs] for tp, rs in wanted.items()
    }
    assert {tp: [r.offset for r in rs] for tp, rs in found.items()} == {
        tp: [r.offset for r in rs] for tp, rs in wanted.items()
    }


def upstream_offsets(place: Placement) -> list[int]:
    """The source offsets that a placement stands for, by its gaps."""
    offsets: list[int] = []
    offset = place.upstream_base
    for records, length in place.gaps:
        offsets += range(offset, offset + records)
        offset += records + length
    return [*offsets, *range(offset, offset + place.count - len(offsets))]
