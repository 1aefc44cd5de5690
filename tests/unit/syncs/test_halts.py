"""Which tasks are halted: the records in the syncs topic, what they say, and what is left to do."""

from __future__ import annotations

from typing import Any

import pytest

from replicator.errors import TP, KafkaOpError
from replicator.offset_map.sync_format import HALTED, PARTITION_STATE, ControlRecord, decode, encode_control, task_tp
from replicator.syncs.control_records import PartlyDoneError
from replicator.syncs.halts import HaltReason, halt_body, halt_text, halted_text, to_halt
from replicator.syncs.state import MapsState, SyncsState

PAUSED = {"reason": "paused", "id": "20260131T030000-7f3a", "by": "alice", "at": "2026-01-31T03:00:00.000+00:00"}
FAILED_OVER = PAUSED | {"reason": "failover"}


def test_a_halt_byte_for_byte() -> None:
    """What earlier releases wrote is what this one reads."""
    key, value = encode_control(ControlRecord(HALTED, task_tp(3), {"reason": "paused"}))
    assert key == b"\0\0\0\0\0\3\0\x06halted\0\0"
    assert value == bytes(16) + b"\0\0" + b'{"reason":"paused"}'
    assert decode(key, value) == ControlRecord(HALTED, TP("", 3), {"reason": "paused"})
    assert decode(key, None) == ControlRecord(HALTED, TP("", 3), None)


@pytest.mark.parametrize("kind", [SyncsState, MapsState])
def test_the_state_of_the_syncs_topic_knows_what_is_halted(kind: type[SyncsState]) -> None:
    """The last record of each task counts; a task is no partition, and a partition's state is no halt."""
    state = kind()

    def take(what: str, tp: TP, body: dict[str, Any] | None) -> None:
        state.take(*encode_control(ControlRecord(what, tp, body)))

    take(HALTED, task_tp(0), PAUSED)
    take(HALTED, task_tp(2), PAUSED)
    take(PARTITION_STATE, TP("orders", 2), {"reason": "truncated"})
    take(HALTED, task_tp(2), FAILED_OVER)
    take(HALTED, task_tp(0), None)
    take(HALTED, task_tp(1), None)
    assert state.halted == {2: FAILED_OVER}
    assert state.stopped == {TP("orders", 2): {"reason": "truncated"}}
    assert state.newest == {}


def test_a_later_release_may_write_controls_that_this_one_does_not_know() -> None:
    state = SyncsState()
    state.take(*encode_control(ControlRecord("resized", TP("", 0), {"tasks": 8})))
    assert (state.halted, state.stopped, state.records) == ({}, {}, 1)


@pytest.mark.parametrize(
    ("halted", "reason", "left"),
    [
        ({}, HaltReason.PAUSED, [0, 1, 2]),
        ({1: PAUSED}, HaltReason.PAUSED, [0, 2]),
        ({0: PAUSED, 1: FAILED_OVER, 2: PAUSED}, HaltReason.PAUSED, []),
        ({0: PAUSED, 1: FAILED_OVER}, HaltReason.FAILOVER, [0, 2]),
        ({0: FAILED_OVER, 1: FAILED_OVER, 2: FAILED_OVER}, HaltReason.FAILOVER, []),
    ],
)
def test_what_is_left_to_halt(halted: dict[int, dict[str, Any]], reason: HaltReason, left: list[int]) -> None:
    """A failover takes over what was only paused, so that whoever resumes is told; a pause changes no failover."""
    assert to_halt(halted, range(3), reason) == left


def test_texts_say_who_and_when_and_what_to_do() -> None:
    assert halt_text(PAUSED) == "paused: 20260131T030000-7f3a by alice at 2026-01-31T03:00:00.000+00:00"
    assert halted_text("east->west", {}) == ""
    text = halted_text("east->west", {2: PAUSED, 1: FAILED_OVER})
    assert text.startswith("the flow east->west is halted (failover: 20260131T030000-7f3a by alice at ")
    assert text.endswith("to resume it: `replicator resume --flow 'east->west'`")


def test_the_body_names_the_operator_and_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "alice")
    body = halt_body(HaltReason.PAUSED, "move")
    assert (body["reason"], body["id"], body["by"]) == ("paused", "move", "alice")
    assert body["at"].endswith("+00:00")


def test_the_error_names_every_task_that_is_not_done() -> None:
    failed = {3: KafkaOpError("no answer", op="write"), 1: KafkaOpError("fenced", op="write")}
    error = PartlyDoneError("halt east->west", [0, 2], failed)
    assert error.done == {0, 2}
    assert list(error.failed) == [1, 3]
    assert "tasks 1, 3 not done, 2 done; task 1: write: fenced" in str(error)
