"""The truth about a flow: what the source holds, what the target holds, and what the syncs say of both."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from replicator.errors import TP
from replicator.offset_map.runs import RESOLUTION, Run
from replicator.offset_map.sync_format import Forgotten, SyncRecord, decode
from tests.support.records import Record, end_offsets, read_topic

FOREIGN = ("foreign", b"1")
"""The header of records that somebody else writes to a target topic."""

Content = tuple[Any, ...]


class Outcome(NamedTuple):
    """What a comparison found; all but the first have to be 0."""

    records: int
    lost: int
    duplicated: int
    reordered: int
    invented: int


def is_foreign(record: Record) -> bool:
    return FOREIGN in record.headers


def by_partition(records: Sequence[Record]) -> dict[int, list[Record]]:
    grouped: dict[int, list[Record]] = defaultdict(list)
    for record in records:
        grouped[record.partition].append(record)
    return grouped


def compare(source: Sequence[Record], target: Sequence[Record]) -> Outcome:
    """Source and target record by record, in every partition's order (invariant A).

    A producer whose broker was killed may have written a record twice: then twice is what the target has to hold.
    """
    lost = duplicated = reordered = invented = 0
    copies = by_partition([record for record in target if not is_foreign(record)])
    originals = by_partition(source)
    for partition in originals.keys() | copies.keys():
        wanted = [record.content for record in originals.get(partition, [])]
        found = [record.content for record in copies.get(partition, [])]
        missing, extra = Counter(wanted) - Counter(found), Counter(found) - Counter(wanted)
        known = set(wanted)
        lost += missing.total()
        invented += sum(count for content, count in extra.items() if content not in known)
        duplicated += sum(count for content, count in extra.items() if content in known)
        places = {content: index for index, content in enumerate(numbered(wanted))}
        order = [places[content] for content in numbered(found) if content in places]
        reordered += sum(after < before for before, after in itertools.pairwise(order))
        if not (lost or duplicated or reordered or invented):
            assert found == wanted
    return Outcome(len(source), lost, duplicated, reordered, invented)


def differences(source: Sequence[Record], target: Sequence[Record], at_most: int = 40) -> str:
    """What the copies of each partition lack or have too much of, with the offsets of both sides."""
    lines = []
    copies, originals = by_partition([it for it in target if not is_foreign(it)]), by_partition(source)
    for partition in sorted(originals.keys() | copies.keys()):
        places: dict[Content, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for side, records in enumerate((originals.get(partition, []), copies.get(partition, []))):
            for record in records:
                places[record.content][side].append(record.offset)
        lines += [
            f"{partition}: {wanted} is at {found}" for wanted, found in places.values() if len(wanted) != len(found)
        ]
    return "\n".join(lines[:at_most])


def numbered(contents: Sequence[Content]) -> Iterator[tuple[Content, int]]:
    """Each with how many of its like came before."""
    seen: Counter[Content] = Counter()
    for content in contents:
        yield content, seen[content]
        seen[content] += 1


class Syncs(NamedTuple):
    """The syncs topic in log order."""

    runs: dict[TP, list[Run]]
    records: int

    def position(self, tp: TP) -> int:
        """Where the newest run ends; -1 without any."""
        return self.runs[tp][-1].upstream_next if tp in self.runs else -1


def read_syncs(bootstrap_servers: str, topic: str) -> Syncs:
    """Every run that a read_committed reader sees."""
    runs: dict[TP, list[Run]] = defaultdict(list)
    records = read_topic(bootstrap_servers, topic)
    for record in records:
        found = decode(record.key or b"", record.value)
        if isinstance(found, SyncRecord):
            known = runs[found.tp]
            while known and known[-1].seq >= found.run.seq:  # a run that was emptied: those under its number are void
                known.pop()
            known.append(found.run)
        elif isinstance(found, Forgotten):
            runs.pop(found.tp, None)
    return Syncs(dict(runs), len(records))


def upstream_offsets(run: Run) -> Iterator[int]:
    """The source offsets of a run's records, as its gaps tell."""
    assert run.gaps is not None, "the test's gaps are never too long to keep"
    offset, done = run.upstream_base, 0
    for records, length in run.gaps:
        yield from range(offset, offset + records)
        offset += records + length
        done += records
    yield from range(offset, offset + run.count - done)


def check_syncs(
    syncs: Syncs, topic: str, source: Sequence[Record], target: Sequence[Record], *, everything: bool = True
) -> None:
    """Hold every run against both logs (invariants A, B, D).

    Args:
        everything: the syncs cover every copy on the target, and no run was compacted away.

    Raises:
        AssertionError: a run is wrong; the text says which and how.
    """
    sources, targets = by_partition(source), by_partition(target)
    assert sources
    for partition in sources:
        tp = TP(topic, partition)
        runs = syncs.runs[tp]
        _check_series(tp, runs)
        originals = {record.offset: record for record in sources[partition]}
        copies = {record.offset: record for record in targets.get(partition, [])}
        covered: set[int] = set()
        for run in runs:
            _check_run(tp, run, originals, copies)
            covered.update(range(run.downstream_base, run.downstream_next))
        if everything:
            ours = {offset for offset, record in copies.items() if not is_foreign(record)}
            assert ours == covered, f"{tp}: {len(ours ^ covered)} offsets of the target are in no run, or not there"


def _check_series(tp: TP, runs: Sequence[Run]) -> None:
    seqs = [run.seq for run in runs]
    assert seqs == sorted(set(seqs)), f"B: {tp}: seqs not ascending in log order"
    newest = seqs[-RESOLUTION:]
    assert newest == list(range(newest[0], newest[0] + len(newest))), f"B: {tp}: a newest run is missing: {newest}"
    for before, after in itertools.pairwise(runs):
        if after.seq != before.seq + 1:
            continue
        assert after.ordinal_base == before.ordinal_next, f"B: {tp}: ordinals don't tile: {before} {after}"
        assert after.upstream_base >= before.upstream_next, f"A: {tp}: went back on the source: {before} {after}"
        assert after.downstream_base >= before.downstream_next, f"A: {tp}: went back on the target: {before} {after}"


def _check_run(tp: TP, run: Run, originals: Mapping[int, Record], copies: Mapping[int, Record]) -> None:
    inside = [offset for offset in range(run.upstream_base, run.upstream_next) if offset in originals]
    mapped = list(upstream_offsets(run))
    assert mapped == inside, f"D: {tp}: the run's gaps are not the source's: {run}\nmapped {mapped}\nis     {inside}"
    for index, offset in enumerate(mapped):
        copy = copies.get(run.downstream_base + index)
        is_same = copy is not None and copy.content == originals[offset].content
        assert is_same, f"D: {tp}: upstream {offset} is not at {run.downstream_base + index}: {run}, there is {copy}"


def check_flow(source_servers: str, target_servers: str, topic: str, target_topic: str, syncs_topic: str) -> Outcome:
    """Read both topics and the syncs, and hold them against each other; the flow must have caught up.

    What is aborted is what the source's own readers do not see: a source that loses a marker of an aborted transaction
    ends that one together with the producer's next, and shows it when that is committed (KAFKA-20734).

    Raises:
        AssertionError: a record was lost, duplicated, reordered or changed, or a run is wrong.
    """
    source = read_topic(source_servers, topic)
    target = read_topic(target_servers, target_topic)
    hidden = {record.content for record in read_topic(source_servers, topic, isolation="read_uncommitted")}
    hidden -= {record.content for record in source}
    came_over = hidden.intersection(record.content for record in target)
    assert not came_over, f"A: {topic}: records that the source aborted came over: {sorted(map(str, came_over))[:5]}"
    outcome = compare(source, target)
    assert outcome[1:] == (0, 0, 0, 0), f"A: {topic}: {outcome}\n{differences(source, target)}"
    check_syncs(read_syncs(target_servers, syncs_topic), topic, source, target)
    return outcome


def lag(source_servers: str, target_servers: str, topic: str, syncs_topic: str) -> dict[int, int]:
    """Source offsets not passed yet, of the partitions where there are any."""
    syncs = read_syncs(target_servers, syncs_topic)
    ends = end_offsets(source_servers, topic)
    return {p: end - syncs.position(TP(topic, p)) for p, end in ends.items() if end > syncs.position(TP(topic, p))}
