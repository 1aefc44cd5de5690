"""The offset map against a model that keeps everything (invariant D, on every example)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.offset_map.map import (
    Ahead,
    Between,
    Exact,
    Expired,
    OffsetMap,
    Translation,
    Unknown,
    refine_on_destination,
    skip_on_origin,
)
from replicator.offset_map.runs import MAX_LEVEL, RESOLUTION, Run
from replicator.offset_map.topic_id import NO_ID, TopicId
from tests.unit.offset_map.model import MODELS, OTHER_ID, TOPIC_ID, Model, a_model


def check(model: Model, upstream_next: int, answer: Translation) -> None:
    """Invariant D for one answer, and for what refining makes of it."""
    floor = model.runs[0]
    if upstream_next < floor.upstream_base:
        assert answer == Expired(floor.upstream_base, floor.downstream_base)
    elif upstream_next > model.upstream_next:
        assert answer == Ahead(model.upstream_next)
    elif isinstance(answer, Exact):
        assert model.is_exact(upstream_next, answer.next_offset)
        assert answer.is_end == all(up < upstream_next for up, _ in model.pairs)
    else:
        assert isinstance(answer, Between)
        assert not model.skips(upstream_next, answer.low)
        check_refined(model, upstream_next, answer)


def check_refined(model: Model, upstream_next: int, answer: Between) -> None:
    origin = [up for up, _ in model.pairs if answer.origin_low <= up < answer.origin_high]
    ours = [down for _, down in model.pairs if answer.low <= down < answer.high]
    theirs = [down for down in model.foreign if answer.low <= down < answer.high]
    assert len(origin) == len(ours) == answer.records
    skip = skip_on_origin(answer, upstream_next, origin)
    assert skip is not None
    assert answer.skip in (None, skip)
    refined = refine_on_destination(answer, skip, sorted(ours + theirs))
    assert (refined is None) == bool(theirs)
    if refined is not None:
        assert model.is_exact(upstream_next, refined.next_offset)


@settings(max_examples=60)
@given(MODELS)
def test_every_position_is_translated_without_skipping(model: Model) -> None:
    """D: groups at 0, inside gaps and runs, at the end and ahead; dense, gapped, shared and thinned histories."""
    offset_map = OffsetMap(model.runs)
    step = max(1, model.upstream_next // 300)
    positions = {*range(0, model.upstream_next + 3, step), model.upstream_next, model.upstream_next + 1}
    for upstream_next in positions:
        check(model, upstream_next, offset_map.translate(upstream_next))


@settings(max_examples=60)
@given(MODELS)
def test_the_way_back_is_the_inverse(model: Model) -> None:
    """D, for failback: a place on the target leads to the first source record that was not read there."""
    offset_map = OffsetMap(model.runs)
    step = max(1, model.downstream_end // 300)
    for downstream_next in {*range(0, model.downstream_end + 2, step), model.downstream_end}:
        answer = offset_map.translate_back(downstream_next)
        if isinstance(answer, Exact):
            assert model.is_exact(answer.next_offset, downstream_next)
        elif isinstance(answer, Between):
            assert not any(down >= downstream_next and up < answer.low for up, down in model.pairs)
        else:
            assert answer == Expired(model.runs[0].downstream_base, model.runs[0].upstream_base)


@settings(max_examples=40)
@given(MODELS, st.integers(0, 400))
def test_a_restart_at_any_point_reads_the_same_map(model: Model, cut: int) -> None:
    """A reader of a log that compaction has, or has not yet, cleaned ends up with the same runs."""
    whole = OffsetMap(model.runs)
    cleaned = OffsetMap(model.runs[:cut])
    assert list(OffsetMap([*cleaned, *model.runs])) == list(whole)
    assert list(OffsetMap(list(whole))) == list(whole)


@pytest.mark.parametrize("runs", [300, 3000])
def test_recent_positions_of_a_dense_log_are_exact(runs: int) -> None:
    """The newest 2R runs are all there: a group within them translates exactly."""
    model = a_model(seed=7, transactions=runs, density=1.0, foreigners=0.0, long_gaps=0.0)
    offset_map = OffsetMap(model.runs)
    recent = model.runs[-2 * RESOLUTION + 1].upstream_base
    answers = [offset_map.translate(position) for position in range(recent, model.upstream_next + 1)]
    assert answers
    assert all(isinstance(answer, Exact) for answer in answers)
    assert any(isinstance(offset_map.translate(position), Between) for position in range(recent))


def test_memory_is_bounded_by_the_levels() -> None:
    """At most 21 R + 1 runs, however long the history; the floor stays."""
    offset_map = OffsetMap()
    for seq in range(1, 200_001):
        offset_map.add(Run(seq, seq * 10, seq * 11, 10, (seq - 1) * 10, seq * 10 + 10, TOPIC_ID, ()))
    assert len(offset_map) <= (MAX_LEVEL + 1) * RESOLUTION + 1
    assert next(iter(offset_map)).seq == 1
    assert offset_map.newest is not None
    assert offset_map.newest.seq == 200_000


def test_expired_history_is_said_to_be_expired() -> None:
    """A map whose oldest syncs were lost does not guess."""
    model = a_model(seed=1, transactions=20, density=1.0, foreigners=0.0, long_gaps=0.0)
    offset_map = OffsetMap(model.runs[10:])
    first = model.runs[10].upstream_base
    assert offset_map.translate(first - 1) == Expired(first, None)
    first_place = model.runs[10].downstream_base
    assert offset_map.translate_back(first_place - 1) == Expired(first_place, None)


def test_an_empty_map_knows_nothing() -> None:
    assert isinstance(OffsetMap().translate(0), Unknown)
    assert isinstance(OffsetMap().translate_back(0), Unknown)


def test_a_recreated_topic_forgets_the_old_offsets() -> None:
    """Offsets of the topic before mean other records: they must not be translated."""
    old = Run(1, 0, 0, 100, 0, 100, TOPIC_ID, ())
    new = Run(2, 0, 101, 5, 100, 5, OTHER_ID, ())
    offset_map = OffsetMap([old, new])
    assert offset_map.translate(3) == Exact(104)
    assert offset_map.translate(50) == Ahead(5)


@pytest.mark.parametrize("ids", [(NO_ID, TOPIC_ID), (TOPIC_ID, NO_ID), (TOPIC_ID, NO_ID, TOPIC_ID)])
def test_a_topic_whose_id_becomes_known_keeps_its_map(ids: tuple[TopicId, ...]) -> None:
    """A source that is upgraded from before 2.8, or metadata that comes through a proxy: it is the same topic."""
    offset_map = OffsetMap(Run(n + 1, 10 * n, 11 * n, 10, 10 * n, 10 * n + 10, it, ()) for n, it in enumerate(ids))
    assert offset_map.translate(5) == Exact(5)
    assert offset_map.topic_id == TOPIC_ID


def test_a_topic_that_was_recreated_while_ids_were_not_known_is_another_one() -> None:
    """The last id that is known counts, not that of the newest run."""
    runs = [Run(n + 1, 0, 11 * n, 10, 10 * n, 10, it, ()) for n, it in enumerate((TOPIC_ID, NO_ID, OTHER_ID))]
    assert OffsetMap(runs).translate(5) == Exact(27)
    assert len(OffsetMap(runs)) == 1


def test_counting_proves_nothing_when_records_are_missing() -> None:
    """Compaction on the source since, or a foreign record on the target: `low` has to do."""
    between = Between(low=100, high=111, origin_low=10, origin_high=30, records=10, skip=None)
    assert skip_on_origin(between, 20, range(11, 20)) is None
    assert refine_on_destination(between, 3, range(100, 111)) is None
    assert refine_on_destination(between, 10, range(100, 110)) == Exact(111)
