"""What must hold whatever happened, read from the model's logs and from nothing that the program keeps.

`Ledger.check` may be called at any moment: a transaction whose outcome is decided counts, although its markers are
still missing somewhere. `Ledger.check_healed` asks for everything.

    A   each committed source record is on the target at most once, in source order, unchanged
    B   a run of the syncs matches the records that it is about
    A,B a position never passes a committed record that is not on the target
    C   what is on the target was appended by owners in the order of their epochs
    D   the map made of the syncs never passes a record that a group has not read; where it says exact, it is
    E   a translation never points behind the end of the target's log
    H   what is not replicated in the end is in a partition whose published state has a reason for it

What a log of the target lost after it was decided (retention, an unclean election, a deleted topic) is no fault of the
replicator, and left out. What it lost of a transaction that was aborted later is not: it has to be replicated again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from replicator.errors import TP, StopReason
from replicator.offset_map.map import Exact
from replicator.offset_map.runs import Run
from replicator.syncs.state import MapsState
from tests.unit.copy.world.cluster import ModelCluster
from tests.unit.copy.world.flow import World
from tests.unit.copy.world.log import Entry, Stored

CAUSES = {
    StopReason.TARGET_LOG_SHORTER: "target cut",
    StopReason.TARGET_GONE: "target deleted",
    StopReason.TARGET_RECREATED: "target deleted",
    StopReason.RECREATED: "source deleted",
    StopReason.SOURCE_GONE: "source deleted",
    StopReason.TRUNCATED: "source trimmed",
}
"""Reasons for which a partition may stand in the end, and what must have happened to it."""


class BrokenInvariantError(AssertionError):
    """An invariant does not hold; the text begins with its letter."""


@dataclass(frozen=True, slots=True)
class _Original:
    """A record as the source had it."""

    offset: int
    record: Stored


class Ledger:
    """Follows a world. `note` before anything is taken out of a log.

    Attributes:
        happened: what was done to a source partition or its copy: "target cut", "source trimmed" and so on.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.happened: dict[TP, set[str]] = {}
        self._originals: dict[tuple[bytes, int], dict[bytes, _Original]] = {}
        self._taken_back: set[TP] = set()
        """Partitions whose positions the syncs' log lost: their records may be there twice."""

    # --- what was ---------------------------------------------------------------------------------------------------

    def note(self) -> None:
        """Remember what the source has committed."""
        for tp in self.world.source.tps():
            topic = self.world.source.topics[tp.topic]
            known = self._originals.setdefault((topic.id, tp.partition), {})
            for _, record in self.world.source.log(tp).visible():
                assert record.key is not None
                known.setdefault(record.key, _Original(record.offset, record))

    def did(self, what: str, tp: TP) -> None:
        self.happened.setdefault(tp, set()).add(what)

    def syncs_lost(self, entries: Iterable[Entry]) -> None:
        """The syncs' log lost these."""
        state = MapsState()
        for entry in entries:
            if entry.transaction is not None and entry.transaction.outcome != "abort":
                for record in entry.records:
                    state.take_at(record.offset, record.key or b"", record.value)
        self._taken_back |= state.newest.keys()

    # --- what is ----------------------------------------------------------------------------------------------------

    def state(self) -> MapsState:
        """What the syncs say to a reader of committed records."""
        state = MapsState()
        for _, record in self.world.target.log(self.world.syncs).visible():
            state.take_at(record.offset, record.key or b"", record.value)
        return state

    def check(self) -> None:
        """See the module.

        Raises:
            BrokenInvariantError: one does not hold.
        """
        self._check_program()
        self.note()
        state = self.state()
        for tp in self._copied():
            self._check_records(tp)
            run = state.newest.get(tp)
            if run is not None and "target deleted" not in self.happened.get(tp, ()):
                self._check_position(tp, run, state.maps[tp].first_upstream, self._decided(tp))
                if not self.happened.get(tp) and not self.world.target.coordinator.lost and tp not in self._taken_back:
                    self._check_map(tp, state)

    def check_healed(self) -> None:
        """As `check`, when all is well again and the flow has caught up.

        Raises:
            BrokenInvariantError: one does not hold, or something is neither replicated nor stopped for a reason.
        """
        self.check()
        state = self.state()
        for tp in self.world.source.tps():
            if not self.is_settled(tp, state):
                raise BrokenInvariantError(f"H: {tp} is not replicated, and nothing says why")
            run = state.newest.get(tp)
            if run is not None and "target deleted" not in self.happened.get(tp, ()):
                self._check_position(tp, run, state.maps[tp].first_upstream, self._visible_keys(tp))

    def is_settled(self, tp: TP, state: MapsState) -> bool:
        """Whether a source partition is replicated to its end, or stopped with a reason that is true."""
        published = state.stopped.get(tp)
        if published is not None:
            return CAUSES.get(StopReason(published["reason"])) in self.happened.get(tp, ())
        run = state.newest.get(tp)
        last = max((record.offset for _, record in self.world.source.log(tp).visible()), default=-1)
        return run is not None and run.upstream_next > last

    # --- A ----------------------------------------------------------------------------------------------------------

    def _copied(self) -> Iterator[TP]:
        for name in self.world.flow.settings.topics:
            remote = self.world.flow.naming.remote_topic(name)
            topic = self.world.target.topics.get(remote)
            for number in range(len(topic.partitions) if topic else 0):
                yield TP(name, number)

    def _of(self, tp: TP) -> dict[bytes, _Original]:
        """Every record that the source ever committed there, whatever topic had the name."""
        found: dict[bytes, _Original] = {}
        for (_, number), originals in self._originals.items():
            if number == tp.partition:
                found |= originals
        return found

    def _check_records(self, tp: TP) -> None:
        originals = self._of(tp)
        before = -1
        epoch = (-1, -1)
        for entry, record in self.world.target.log(self.world.remote(tp)).visible():
            original = originals.get(record.key or b"")
            if original is None:
                raise BrokenInvariantError(f"A: {record} of {tp} was never committed on the source")
            theirs = original.record
            if (record.timestamp_ms, record.value, record.headers) != (
                theirs.timestamp_ms,
                theirs.value,
                theirs.headers,
            ):
                raise BrokenInvariantError(f"A: {record} of {tp} was {theirs}")
            if original.offset <= before and tp not in self._taken_back:
                raise BrokenInvariantError(f"A: {tp} offset {original.offset} comes after {before}")
            before = original.offset
            if (entry.producer_id, entry.epoch) < epoch:
                raise BrokenInvariantError(f"C: {record} of {tp} was appended under an epoch that was over")
            epoch = entry.producer_id, entry.epoch

    # --- A, B: positions ----------------------------------------------------------------------------------------------

    def _visible_keys(self, tp: TP) -> set[bytes]:
        """The records that readers of the target see, or could see once."""
        remote = self.world.remote(tp)
        found = {record.key or b"" for _, record in self.world.target.log(remote).visible()}
        for lost in self.world.target.lost:
            if lost.tp == remote:
                found |= {
                    record.key or b"" for entry in lost.entries if _is_committed(entry) for record in entry.records
                }
        return found

    def _decided(self, tp: TP) -> set[bytes]:
        """And those whose transaction is decided, though a marker may be missing; or gone, with what it would show."""
        log = self.world.target.log(self.world.remote(tp))
        found = {record.key or b"" for entry in log.entries if _is_committed(entry) for record in entry.records}
        return found | self._visible_keys(tp)

    def _check_position(self, tp: TP, run: Run, floor: int, there: set[bytes]) -> None:
        for (topic_id, number), originals in self._originals.items():
            if number != tp.partition or topic_id != run.topic_id:
                continue
            for key, it in originals.items():
                if floor <= it.offset < run.upstream_next and key not in there:
                    text = f"{tp} is at {run.upstream_next}, but record {it.offset} ({key!r}) is not on the target"
                    raise BrokenInvariantError(f"A, B: {text}")

    # --- B, D, E ------------------------------------------------------------------------------------------------------

    def _check_map(self, tp: TP, state: MapsState) -> None:
        log = self.world.target.log(self.world.remote(tp))
        places = {record.key or b"": record.offset for _, record in log.visible()}
        run = state.newest[tp]
        originals = self._originals.get((run.topic_id, tp.partition), {})
        copied = sorted((it.offset, places[key]) for key, it in originals.items() if key in places)
        behind = [place for offset, place in copied if offset < run.upstream_next]
        if behind and behind[-1] >= run.downstream_next:
            raise BrokenInvariantError(f"B: {run} of {tp}, whose last record is at {behind[-1]}")
        for position in {0, *(offset for offset, _ in copied), *(offset + 1 for offset, _ in copied)}:
            found = state.maps[tp].translate(position)
            if not isinstance(found, Exact) or position > run.upstream_next:
                continue
            if found.next_offset > log.end:
                raise BrokenInvariantError(f"E: {tp} {position} → {found}, behind the end {log.end}")
            for offset, place in copied:
                is_read, is_passed = offset < position, place < found.next_offset
                if is_read != is_passed and offset < run.upstream_next:
                    raise BrokenInvariantError(f"D: {tp} {position} → {found}, but {offset} is at {place}")

    # --- the program --------------------------------------------------------------------------------------------------

    def _check_program(self) -> None:
        if self.world.trouble:
            raise BrokenInvariantError(f"the program failed: {self.world.trouble[0]}")


def _is_committed(entry: Entry) -> bool:
    return entry.transaction is None or entry.transaction.outcome == "commit"


def end_of(cluster: ModelCluster, tp: TP) -> int:
    """Where readers of committed records stand."""
    return cluster.log(tp).stable
