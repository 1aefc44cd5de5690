"""Records of the audit: bytes, what is cut, and what several records of one move say together."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.audit.audit import (
    MAX_RECORD_BYTES,
    UNREADABLE,
    AuditRecord,
    decode,
    encode,
    merged,
    new_move_id,
    operator_name,
)

ROW = {"group": "billing", "topic": "orders", "partition": 0, "upstream_next": 5, "state": "planned"}
RECORD = AuditRecord(
    id="20260131T030000-7f3a",
    time="2026-01-31T03:00:00.000+00:00",
    operator="alice",
    host="bastion",
    command="switchover",
    flow="east->west",
    state="started",
    plan=(ROW,),
    result="",
)
TEXT = st.text(max_size=30)
ROWS = st.lists(st.dictionaries(TEXT, TEXT | st.integers() | st.none(), max_size=4), max_size=12)


def test_a_record_as_json() -> None:
    """The contract of `history -o json`, and the bytes in the topic."""
    expected = {
        "id": "20260131T030000-7f3a",
        "time": "2026-01-31T03:00:00.000+00:00",
        "operator": "alice",
        "host": "bastion",
        "command": "switchover",
        "flow": "east->west",
        "state": "started",
        "plan": [ROW],
        "result": "",
    }
    assert RECORD.as_json() == expected
    assert json.loads(encode(RECORD)) == expected
    assert decode(b"any", encode(RECORD)) == RECORD


@given(rows=ROWS, result=TEXT, room=st.integers(0, 600))
def test_a_record_that_is_too_large_is_cut_and_says_so(rows: list[dict[str, Any]], result: str, room: int) -> None:
    """The first rows stay; not more than fit, and all that fit."""
    record = replace(RECORD, plan=tuple(rows), result=result)
    limit = len(encode(replace(RECORD, plan=(), plan_rows_left_out=99))) + room
    value = encode(record, limit)
    found = decode(b"", value)
    assert len(value) <= limit
    assert found.plan == record.plan[: len(found.plan)]
    assert len(found.plan) + found.plan_rows_left_out == len(rows)
    assert result.startswith(found.result)
    if len(encode(record)) <= limit:
        assert found == record


def test_what_fits_is_not_cut() -> None:
    record = replace(RECORD, plan=(ROW,) * 5000)
    assert len(encode(record)) < MAX_RECORD_BYTES
    assert decode(b"", encode(record)) == record


@pytest.mark.parametrize(
    "value",
    [None, b"", b"null", b"7", b"[]", b"{}", b"not json", b"\xff", b'{"id": "x", "plan": 7}', b"[" * 100_000],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_not_ours_is_told_and_hides_nothing(value: bytes | None) -> None:
    found = decode(b"\xfftheirs", value)
    assert (found.state, found.plan) == (UNREADABLE, ())
    assert found.id.endswith("theirs")
    assert found.result


@given(st.binary(max_size=60))
def test_any_bytes_can_be_decoded(value: bytes) -> None:
    assert decode(value, value).state


def test_keys_that_a_later_release_adds_are_ignored() -> None:
    value = json.dumps(RECORD.as_json() | {"ticket": "OPS-1"}).encode()
    assert decode(b"", value) == RECORD


def test_the_records_of_a_move_become_one() -> None:
    """The time of the first, the state and result of the last, the last plan that there is."""
    done = replace(RECORD, time="later", state="done", plan=({**ROW, "state": "committed"},), result="all")
    other = replace(RECORD, id="other", state="started")
    silent = replace(RECORD, id="other", state="failed", plan=(), result="no answer", operator="bob")
    assert merged([RECORD, other, done, silent]) == [
        replace(done, time=RECORD.time),
        replace(other, state="failed", result="no answer"),
    ]
    cut = replace(RECORD, plan=(ROW,), plan_rows_left_out=4)
    assert merged([cut, replace(RECORD, state="done", plan=())])[0].plan_rows_left_out == 4
    assert merged([cut, done])[0].plan_rows_left_out == 0
    assert merged([]) == []


def test_move_ids_are_short_sort_by_time_and_differ() -> None:
    ids = {new_move_id() for _ in range(50)}
    assert len(ids) > 40
    assert all(re.fullmatch(r"\d{8}T\d{6}-[0-9a-f]{4}", it) for it in ids)


def test_an_operator_without_a_name_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container, whose user is in no password file."""

    def no_name() -> str:
        raise KeyError("getpwuid(): uid not found: 10001")

    monkeypatch.setattr("getpass.getuser", no_name)
    assert operator_name() == f"uid {os.getuid()}"
