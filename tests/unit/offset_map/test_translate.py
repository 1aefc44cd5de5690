"""Each rule of a translation: the topics that the map is about, and the log that it leads to, against a model."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.offset_map.map import Ahead, Between, Exact, Expired, OffsetMap
from replicator.offset_map.runs import Run
from replicator.offset_map.topic_id import NO_ID, TopicId
from replicator.offset_map.translate import (
    NO_END,
    UNKNOWN_LOG,
    WITHIN_LOG,
    Deleted,
    Lost,
    NoPlace,
    Placed,
    ReplicatedPartition,
    TargetLog,
    Why,
    WithinLog,
)
from tests.unit.offset_map.model import MODELS, OTHER_ID, TOPIC_ID, Model

RUNS = (
    Run(1, 100, 0, 0, 0, 100, TOPIC_ID, ()),
    Run(2, 100, 0, 10, 0, 111, TOPIC_ID, ()),
    Run(3, 111, 11, 10, 10, 121, TOPIC_ID, ()),
)
"""100 to 109 → 0 to 9, a marker at 110; 111 to 120 → 11 to 20; a marker follows on the target, too."""
WHOLE = ReplicatedPartition(OffsetMap(RUNS))
THINNED = ReplicatedPartition(OffsetMap([RUNS[0], Run(9, 200, 60, 10, 50, 210, TOPIC_ID, ())]))
"""Fifty records between the two, and a gap of fifty offsets."""
DENSE = ReplicatedPartition(OffsetMap([RUNS[0], Run(9, 150, 60, 10, 50, 160, TOPIC_ID, ())]))


def go(partition: ReplicatedPartition, next_offset: int, log: TargetLog = UNKNOWN_LOG) -> Placed | NoPlace:
    return partition.place(partition.translate(next_offset), log)


def go_back(partition: ReplicatedPartition, next_offset: int, log: TargetLog = UNKNOWN_LOG) -> Placed | NoPlace:
    return partition.place_back(partition.translate_back(next_offset), log)


# --- the map's answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("position", "place"),
    [(99, 0), (100, 0), (104, 4), (110, 11), (120, 20), (121, 23), (125, 23)],
    ids=["expired", "first", "inside", "at a marker", "last", "all read", "ahead"],
)
def test_each_position_has_its_place(position: int, place: int) -> None:
    """Past the markers only at the end of what is replicated."""
    log = TargetLog(end=23, read_from=21, read_to=23)
    assert go(WHOLE, position, log) == Placed(place, WITHIN_LOG)


def test_a_log_that_was_read_from_elsewhere_says_nothing_of_the_markers() -> None:
    """D: more was replicated since; records may lie there."""
    assert go(WHOLE, 121, TargetLog(end=40, read_from=15, read_to=40)) == Placed(21, WITHIN_LOG)


def test_a_thinned_stretch_leads_to_its_first_place() -> None:
    assert go(THINNED, 150) == Placed(0, WITHIN_LOG)


def test_a_map_that_lost_its_beginning_has_no_place_before_it() -> None:
    assert go(ReplicatedPartition(OffsetMap(RUNS[1:])), 99) == NoPlace(Why.BEGINNING_LOST)


def test_an_empty_map_has_no_place() -> None:
    nothing = ReplicatedPartition(OffsetMap())
    assert go(nothing, 5) == go_back(nothing, 5) == NoPlace(Why.NOTHING_REPLICATED)


@pytest.mark.parametrize(("position", "place"), [(0, 100), (4, 104), (10, 111), (20, 120), (21, 121), (90, 121)])
def test_the_way_back_is_the_inverse(position: int, place: int) -> None:
    """Never past markers: what follows there may not be replicated yet."""
    assert go_back(WHOLE, position, TargetLog(end=500, read_from=121, read_to=500)) == Placed(place, WITHIN_LOG)


@pytest.mark.parametrize(("position", "is_known"), [(4, True), (21, True), (22, False)])
def test_on_the_way_back_an_open_transaction_hides_records(position: int, is_known: bool) -> None:
    mapped = WHOLE.translate_back(position, is_unfinished=True)
    assert (mapped == NoPlace(Why.OPEN_TRANSACTION)) == (not is_known)


# --- the topics -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({}, None),
        ({"source_id": TOPIC_ID}, None),
        ({"source_id": NO_ID}, None),
        ({"source_id": OTHER_ID}, Why.OTHER_SOURCE),
        ({"copied_to": TOPIC_ID, "target_id": TOPIC_ID}, None),
        ({"copied_to": TOPIC_ID, "target_id": NO_ID}, None),
        ({"copied_to": NO_ID, "target_id": TOPIC_ID}, None),
        ({"copied_to": TOPIC_ID, "target_id": OTHER_ID}, Why.OTHER_TARGET),
        ({"stop": "recreated"}, Why.OTHER_SOURCE),
        ({"stop": "source_log_shorter"}, Why.OTHER_SOURCE),
        ({"stop": "target_recreated"}, Why.OTHER_TARGET),
        ({"stop": "record_too_large"}, None),
        ({"stop": "recreated", "ignores_recreation": True}, None),
        ({"stop": "source_log_shorter", "ignores_recreation": True}, Why.OTHER_SOURCE),
        ({"stop": "target_recreated", "ignores_recreation": True}, Why.OTHER_TARGET),
    ],
)
def test_a_map_of_other_topics_leads_nowhere(facts: dict[str, TopicId | str | bool], why: Why | None) -> None:
    """D: the same offsets, of other records. An id that is not known is the same as any."""
    partition = ReplicatedPartition(OffsetMap(RUNS), **facts)  # type: ignore[arg-type]
    assert partition.is_usable == (why is None)
    if why is None:
        assert (go(partition, 104), go_back(partition, 4)) == (Placed(4, WITHIN_LOG), Placed(104, WITHIN_LOG))
    else:
        assert go(partition, 104) == go_back(partition, 4) == NoPlace(why)


def test_a_map_whose_newest_runs_have_no_id_is_still_of_the_topic_that_it_was() -> None:
    runs = [*RUNS, Run(4, 121, 22, 5, 20, 126, NO_ID, ())]
    assert go(ReplicatedPartition(OffsetMap(runs), TOPIC_ID), 122) == Placed(23, WITHIN_LOG)
    assert go(ReplicatedPartition(OffsetMap(runs), OTHER_ID), 122) == NoPlace(Why.OTHER_SOURCE)


# --- the log ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("position", "placed"),
    [
        (99, Placed(14, Deleted(0, 13))),
        (100, Placed(14, Deleted(0, 13))),
        (109, Placed(14, Deleted(9, 4))),
        (110, Placed(14, Deleted(11, 3))),
        (114, Placed(14, WITHIN_LOG)),
        (115, Placed(15, WITHIN_LOG)),
        (121, Placed(22, WITHIN_LOG)),
    ],
)
def test_a_group_whose_place_is_deleted_goes_to_the_beginning_of_the_log(position: int, placed: Placed) -> None:
    assert go(WHOLE, position, TargetLog(14, 22, 21, 22)) == placed


@pytest.mark.parametrize("position", [121, 125])
def test_a_group_that_read_all_of_a_log_that_is_deleted_loses_nothing(position: int) -> None:
    """The log begins where it ends."""
    assert go(WHOLE, position, TargetLog(22, 22, 21, 21)) == Placed(22, WITHIN_LOG)


@pytest.mark.parametrize(
    ("position", "placed"),
    [
        (104, Placed(4, WITHIN_LOG)),
        (114, Placed(14, WITHIN_LOG)),
        (117, Placed(14, Lost(17))),
        (121, Placed(14, Lost(21))),
    ],
)
def test_a_group_behind_the_end_of_a_log_that_was_cut_goes_to_its_end(position: int, placed: Placed) -> None:
    assert go(WHOLE, position, TargetLog(0, 14, 21, 21)) == placed


def test_a_log_that_was_cut_and_does_not_say_where_it_ends_has_no_place() -> None:
    cut = ReplicatedPartition(OffsetMap(RUNS), stop="target_log_shorter")
    assert go(cut, 104) == NoPlace(Why.END_NOT_KNOWN)
    assert go(cut, 104, TargetLog(end=14)) == Placed(4, WITHIN_LOG)
    assert go_back(cut, 4) == Placed(104, WITHIN_LOG), "the source was not cut"


@pytest.mark.parametrize(
    ("partition", "begin", "placed"),
    [
        (THINNED, 20, Placed(20, Deleted(0, 20))),
        (THINNED, 60, Placed(60, Deleted(0, 50))),
        (DENSE, 20, Placed(20, WITHIN_LOG)),
        (DENSE, 40, Placed(40, Deleted(0, 10))),
    ],
    ids=["may be deleted", "all deleted", "read before", "ten at most"],
)
def test_of_a_thinned_stretch_at_most_what_the_log_has_deleted_is_missing(
    partition: ReplicatedPartition, begin: int, placed: Placed
) -> None:
    """The group has read 30 of the 50 records of the dense stretch, and nobody knows how many of the other."""
    assert go(partition, 130, TargetLog(begin, 71)) == placed


def test_the_way_back_to_a_source_that_deleted_records() -> None:
    assert go_back(WHOLE, 4, TargetLog(107, 130)) == Placed(107, Deleted(104, 3))
    assert go_back(WHOLE, 9, TargetLog(114, 130)) == Placed(114, Deleted(109, 4))
    assert go_back(WHOLE, 20, TargetLog(0, 118)) == Placed(118, Lost(120))


# --- any of it, against the model -------------------------------------------------------------------------------------


@settings(max_examples=80)
@given(MODELS, st.data())
def test_no_place_passes_a_record_that_the_group_can_read(model: Model, data: st.DataObject) -> None:
    """D: dense, gapped, thinned and recreated topics; logs that are whole, purged at the beginning, or cut."""
    end = data.draw(st.integers(0, model.downstream_end) | st.just(model.downstream_end), "end")
    begin = data.draw(st.integers(0, end) | st.just(0), "begin")
    offset_map = OffsetMap(model.runs)
    read_from = model.runs[-1].downstream_next
    read_to = min([it for it in model.foreign if it >= read_from] + [max(read_from, end)])
    log = TargetLog(begin, end, read_from, read_to)
    partition = ReplicatedPartition(offset_map, TOPIC_ID)
    has_all_runs = list(offset_map) == model.runs and all(run.gaps is not None for run in model.runs)
    for position in positions(model.upstream_next):
        mapped = partition.translate(position)
        placed = partition.place(mapped, log)
        assert isinstance(placed, Placed)
        assert begin <= placed.next_offset <= end
        unread = [down for up, down in model.pairs if up >= position]
        assert not [down for down in unread if begin <= down < placed.next_offset]
        check_log(placed, [down for down in unread if down < begin], end)
        if isinstance(placed.log, Deleted) and has_all_runs and isinstance(mapped, Exact):
            assert placed.log.records == sum(down < begin for down in unread)
    other = ReplicatedPartition(offset_map, OTHER_ID)
    assert go(other, model.upstream_next, log) == NoPlace(Why.OTHER_SOURCE)


@settings(max_examples=60)
@given(MODELS, st.data())
def test_no_place_on_the_way_back_passes_a_record_that_the_group_can_read(model: Model, data: st.DataObject) -> None:
    """D, for failback: the source's log may be purged or cut as well."""
    end = data.draw(st.integers(0, model.upstream_next) | st.just(model.upstream_next), "end")
    begin = data.draw(st.integers(0, end) | st.just(0), "begin")
    partition = ReplicatedPartition(OffsetMap(model.runs))
    for position in positions(model.downstream_end):
        placed = go_back(partition, position, TargetLog(begin, end))
        assert isinstance(placed, Placed)
        assert begin <= placed.next_offset <= end
        unread = [up for up, down in model.pairs if down >= position]
        assert not [up for up in unread if begin <= up < placed.next_offset]
        check_log(placed, [up for up in unread if up < begin], end)


def positions(end: int) -> list[int]:
    return sorted({*range(0, end + 3, max(1, end // 200)), end, end + 1})


def check_log(placed: Placed, deleted: list[int], end: int) -> None:
    """What a place says of the log, by the records that the group has not read and that the log deleted."""
    match placed.log:
        case WithinLog():
            assert not deleted
        case Deleted(_, records):
            assert records >= len(deleted)
        case Lost(place):
            assert place > end == placed.next_offset


def test_what_the_map_says_is_a_type() -> None:
    """The users of a translation tell by it what they show: nothing stands for another."""
    found = [type(it) for it in map(WHOLE.translate, (99, 104, 125))] + [type(THINNED.translate(150))]
    assert found == [Expired, Exact, Ahead, Between]
    assert TargetLog().end == NO_END
