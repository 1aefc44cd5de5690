"""Runs, gaps and retention, against a model that keeps everything."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from replicator.offset_map.runs import (
    FLOOR_LEVEL,
    MAX_LEVEL,
    RESOLUTION,
    Gaps,
    Placement,
    Run,
    RunBuilder,
    gaps_between,
    retention_key,
)
from replicator.offset_map.topic_id import TopicId

TOPIC_ID = TopicId(range(16))
STEPS = st.sampled_from([1, 1, 1, 1, 2, 3, 1000])
"""Distances between neighbouring records on the source: dense, with a marker between, compacted."""


def spread(base: int, steps: list[int]) -> list[int]:
    """Ascending offsets: `base`, then one more for each step."""
    offsets = [base]
    for step in steps:
        offsets.append(offsets[-1] + step)
    return offsets


OFFSETS = st.builds(spread, st.integers(0, 1000), st.lists(STEPS, max_size=40))


def expand(base: int, count: int, gaps: Gaps) -> list[int]:
    """The offsets that a run or a placement says it holds: the meaning of `gaps`, written once more."""
    offsets: list[int] = []
    offset = base
    for records, length in gaps:
        offsets += range(offset, offset + records)
        offset += records + length
    left = count - len(offsets)
    assert left >= 0
    return [*offsets, *range(offset, offset + left)]


@given(OFFSETS)
def test_gaps_say_where_every_record_is(offsets: list[int]) -> None:
    """Base, count and gaps stand for exactly these offsets, and no gap is empty or stands before a record."""
    gaps = gaps_between(offsets)
    assert expand(offsets[0], len(offsets), gaps) == offsets
    assert all(records >= 1 and length >= 1 for records, length in gaps)
    assert len(gaps) == sum(b - a > 1 for a, b in itertools.pairwise(offsets))


def test_no_records_have_no_gaps() -> None:
    assert gaps_between([]) == ()
    assert gaps_between([7]) == ()
    assert gaps_between([40, 41, 42, 44, 45]) == ((3, 1),)


@dataclass
class Log:
    """One transaction on one partition: the model that the runs are compared with.

    Attributes:
        pairs: (upstream, downstream) of every record, in order.
        placements: the same, as a plane would report it.
        upstream_next: where the transaction ended on the source.
    """

    pairs: list[tuple[int, int]] = field(default_factory=list)
    placements: list[Placement] = field(default_factory=list)
    upstream_next: int = 0


@st.composite
def transactions(draw: st.DrawFn) -> Log:
    """Placements cut anywhere, with foreign records between some of them, and offsets passed over at the end."""
    log = Log()
    upstream, downstream = draw(st.integers(0, 100)), draw(st.integers(0, 100))
    for _ in range(draw(st.integers(0, 6))):
        offsets = spread(upstream + draw(STEPS) - 1, draw(st.lists(STEPS, max_size=8)))
        downstream += draw(st.sampled_from([0, 0, 0, 1, 50]))
        log.placements.append(Placement(offsets[0], offsets[-1] + 1, len(offsets), gaps_between(offsets), downstream))
        log.pairs += zip(offsets, range(downstream, downstream + len(offsets)), strict=True)
        upstream, downstream = offsets[-1] + 1, downstream + len(offsets)
    log.upstream_next = upstream + draw(st.integers(0, 5))
    return log


@given(st.lists(transactions(), min_size=1, max_size=5), st.integers(0, 1000))
def test_runs_are_exact_and_tile_the_ordinals(logs: list[Log], downstream_next: int) -> None:
    """B, D: inside a run `downstream = downstream_base + records before it`, for every record and no other offset."""
    seq = ordinal = 0
    for log in logs:
        runs = RunBuilder(seq, ordinal, TOPIC_ID).build(log.placements, log.upstream_next, downstream_next)
        found = [
            (upstream, run.downstream_base + index)
            for run in runs
            for index, upstream in enumerate(expand(run.upstream_base, run.count, run.gaps or ()))
        ]
        assert found == log.pairs
        assert [run.seq for run in runs] == list(range(seq + 1, seq + 1 + len(runs)))
        for run in runs:
            assert (run.ordinal_base, run.ordinal_next) == (ordinal, ordinal + run.count)
            assert run.topic_id == TOPIC_ID
            ordinal = run.ordinal_next
        seq = runs[-1].seq
        assert runs[-1].upstream_next == log.upstream_next
        assert_tiles(runs, log)


def assert_tiles(runs: list[Run], log: Log) -> None:
    """Runs ascend, end where their last record ends (the last one: where the transaction ends), and are few."""
    for run, after in itertools.pairwise(runs):
        assert run.upstream_next <= after.upstream_base
        assert run.downstream_next < after.downstream_base, "what is contiguous on the target is one run"
    for run in runs:
        assert run.upstream_base <= run.upstream_next
        assert run.count > 0 or len(runs) == 1
    foreign = sum(b[1] - a[1] > 1 for a, b in itertools.pairwise(log.pairs))
    assert len(runs) == 1 + foreign


def test_a_transaction_without_records_moves_the_position() -> None:
    """A run of count 0: where it is on both sides, and the new position."""
    (run,) = RunBuilder(4, 90, TOPIC_ID).build((), upstream_next=120, downstream_next=77)
    assert run == Run(5, 120, 77, 0, 90, 120, TOPIC_ID, ())


def test_foreign_records_cut_a_run() -> None:
    """Two records of ours, one of somebody else's, two of ours: two runs of one transaction."""
    placements = [Placement(10, 12, 2, (), 50), Placement(12, 14, 2, (), 53)]
    assert RunBuilder(0, 0, TOPIC_ID).build(placements, 20, 0) == [
        Run(1, 10, 50, 2, 0, 12, TOPIC_ID, ()),
        Run(2, 12, 53, 2, 2, 20, TOPIC_ID, ()),
    ]


def test_neighbours_are_joined_across_gaps() -> None:
    """Gaps inside placements and between them become one list; the drawing in the module."""
    placements = [Placement(40, 43, 3, (), 17), Placement(44, 46, 2, (), 20)]
    assert RunBuilder(0, 0, TOPIC_ID).build(placements, 48, 0) == [Run(1, 40, 17, 5, 0, 48, TOPIC_ID, ((3, 1),))]
    inside = [Placement(0, 5, 3, ((2, 2),), 0), Placement(5, 9, 3, ((1, 1),), 3), Placement(20, 21, 1, (), 6)]
    assert RunBuilder(0, 0, TOPIC_ID).build(inside, 21, 0)[0].gaps == ((2, 2), (2, 1), (2, 11))


@given(st.integers(1, 3_000_000))
def test_the_newest_runs_have_keys_of_their_own(newest: int) -> None:
    """The last 2R runs never replace each other."""
    first = max(1, newest - 2 * RESOLUTION + 1)
    keys = [retention_key(seq) for seq in range(first, newest + 1)]
    assert len(set(keys)) == len(keys)


def test_a_partition_never_has_more_runs_than_the_bound() -> None:
    """At most 21·R + 1 keys: levels 0 to 20 with R slots each, and the floor."""
    keys = {retention_key(seq) for seq in range(1, 200_000)}
    keys |= {retention_key(seq << shift) for seq in range(1, 4 * RESOLUTION) for shift in range(60) if seq << shift > 1}
    assert len(keys) == 21 * RESOLUTION + 1
    assert {level for level, _ in keys} == {*range(MAX_LEVEL + 1), FLOOR_LEVEL}
    assert {slot for _, slot in keys} == set(range(RESOLUTION))


def test_the_floor_is_never_replaced() -> None:
    """Seq 1 alone has its key, so the map has a beginning for ever."""
    assert retention_key(1) == (127, 0)
    assert [seq for seq in range(2, 300_000) if retention_key(seq)[0] == FLOOR_LEVEL] == []


def test_older_runs_thin_out_by_powers_of_two() -> None:
    """The resolution is proportional to the age: neighbours are at most age / 16 apart, and the floor is there."""
    newest = 100_000
    kept: dict[tuple[int, int], int] = {}
    for seq in range(1, newest + 1):
        kept[retention_key(seq)] = seq
    seqs = sorted(kept.values())
    assert seqs[0] == 1
    assert len(seqs) < 21 * RESOLUTION + 1
    for older, newer in itertools.pairwise(seqs):
        assert newer - older <= max(1, (newest - older) / (RESOLUTION / 2))


@given(st.integers(2, 2**62), st.sampled_from([1, 4, 32]))
def test_keys_fit_their_fields(seq: int, resolution: int) -> None:
    """INT8 level and INT16 slot on the wire."""
    level, slot = retention_key(seq, resolution)
    assert 0 <= level <= MAX_LEVEL
    assert 0 <= slot < resolution
