"""The audit: who moved, halted, resumed or re-replicated what, when, with what result. One topic on the target.

    key     move id, UTF-8
    value   JSON: id, time, operator, host, command, flow, state, plan (rows), result; plan_rows_left_out when cut

A command writes a record when it begins to act, and one when it ends; `merged` combines them.

`Audit.begin` claims the flow: it initialises a transactional id that all commands on the flow use. Of two operators at
once the later one continues; the earlier one is fenced, and refused at its next record.
"""

from __future__ import annotations

import datetime as dt
import getpass
import json
import os
import secrets
import socket
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from replicator.config import Flow
from replicator.deadline import Deadline
from replicator.errors import TP, FencedError, KafkaOpError, RefusedError, ReplicatorError
from replicator.kafka.cluster import AdminClient, Cluster, Message
from replicator.kafka.internal_topics import ensure_topic
from replicator.kafka.log_reader import LogReader
from replicator.kafka.transactions import FencingWriter
from replicator.names import AUDIT_TOPIC, moves_id

MAX_RECORD_BYTES = 900_000
"""Below Kafka's default of `max.message.bytes`, with room for the key and the batch header."""
TOPIC_CONFIG = {"cleanup.policy": "delete", "retention.ms": "-1"}
UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One record, or the records of one command combined.

    Args:
        time: ISO, UTC.
        state: started | done | refused | partly_done | failed | interrupted; or `UNREADABLE`: of another program.
        plan: rows as in ``-o json``.
        result: the outcome, in words.
        plan_rows_left_out: the number of rows that did not fit.
    """

    id: str
    time: str
    operator: str
    host: str
    command: str
    flow: str
    state: str
    plan: tuple[Mapping[str, Any], ...] = ()
    result: str = ""
    plan_rows_left_out: int = 0

    @classmethod
    def new(
        cls, move_id: str, command: str, flow: str, state: str, plan: Sequence[Mapping[str, Any]], result: str
    ) -> AuditRecord:
        """A record with the time of now, by the user who runs this process."""
        time = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
        return cls(move_id, time, operator_name(), socket.gethostname(), command, flow, state, tuple(plan), result)

    def as_json(self) -> dict[str, Any]:
        """The contract of ``history -o json``, and the bytes in the topic."""
        content = {
            "id": self.id,
            "time": self.time,
            "operator": self.operator,
            "host": self.host,
            "command": self.command,
            "flow": self.flow,
            "state": self.state,
            "plan": list(self.plan),
            "result": self.result,
        }
        return content | ({"plan_rows_left_out": self.plan_rows_left_out} if self.plan_rows_left_out else {})


def operator_name() -> str:
    """The user who runs this process, or the numeric uid if it has no name, as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def new_move_id() -> str:
    """An id that sorts by time, and is short enough to read aloud: ``20260131T030000-7f3a``."""
    return f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"


# --- bytes ------------------------------------------------------------------------------------------------------------


def encode(record: AuditRecord, max_bytes: int = MAX_RECORD_BYTES) -> bytes:
    """The value, at most `max_bytes`: a larger plan keeps its first rows, a longer result its beginning."""
    whole = _json(record.as_json())
    if len(whole) <= max_bytes:
        return whole
    rows = [_json(row) for row in record.plan]
    bare = replace(record, plan=(), plan_rows_left_out=record.plan_rows_left_out + len(rows))
    room = max_bytes - len(_json(bare.as_json()))
    if room < 0:  # a character takes a byte at least
        bare = replace(bare, result=record.result[: max(0, len(record.result) + room)])
        room = 0
    kept = 0
    while kept < len(rows) and room >= len(rows[kept]) + 1:
        room -= len(rows[kept]) + 1
        kept += 1
    left_out = record.plan_rows_left_out + len(rows) - kept
    return _json(replace(bare, plan=record.plan[:kept], plan_rows_left_out=left_out).as_json())


def _json(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":"), default=str).encode()


def decode(key: bytes, value: bytes | None) -> AuditRecord:
    """One record of the topic; a record of another program becomes `UNREADABLE`: it must not hide the others."""
    name = key.decode(errors="replace")
    try:
        content = json.loads(value or b"null")
        plan = [dict(row) for row in content.get("plan", [])]
        texts = {it: str(content[it]) for it in ("id", "time", "operator", "host", "command", "flow", "state")}
        left_out = int(content.get("plan_rows_left_out", 0))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return AuditRecord(name, "", "", "", "", "", UNREADABLE, (), f"{type(error).__name__}: {error}")
    return AuditRecord(**texts, plan=tuple(plan), result=str(content.get("result", "")), plan_rows_left_out=left_out)


def merged(records: Iterable[AuditRecord]) -> list[AuditRecord]:
    """One record per command, in the order in which they began: the first time, the last state and plan. Pure."""
    moves: dict[str, AuditRecord] = {}
    for it in records:
        first = moves.get(it.id)
        if first is None:
            moves[it.id] = it
            continue
        with_plan = it if it.plan else first
        moves[it.id] = replace(
            first,
            state=it.state,
            result=it.result,
            plan=with_plan.plan,
            plan_rows_left_out=with_plan.plan_rows_left_out,
        )
    return list(moves.values())


# --- the topic --------------------------------------------------------------------------------------------------------


def read_audit(target: Cluster, deadline: Deadline) -> list[AuditRecord]:
    """Every command on every flow to this cluster, newest last; empty if there was none.

    Raises:
        KafkaOpError: not read within `deadline`, or not authorized.
    """
    records: list[AuditRecord] = []

    def take(message: Message) -> None:
        records.append(decode(message.key() or b"", message.value()))

    with closing(LogReader(target, AUDIT_TOPIC, [0], take)) as reader:
        if reader.exists(deadline):
            reader.read_to_end(deadline)
    return merged(records)


class Audit:
    """Writes the records of commands on one flow. Threading: one thread, which must call `close`."""

    def __init__(self, flow: Flow, target: Cluster, admin: AdminClient) -> None:
        self._flow = flow
        self._target = target
        self._admin = admin
        self._writer: FencingWriter | None = None
        self._failure: ReplicatorError | None = None

    def __enter__(self) -> Audit:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def begin(self, deadline: Deadline) -> None:
        """Claim the flow: the command of another operator is refused at its next record.

        Raises:
            KafkaOpError: the topic can't be created, or the target did not answer within `deadline`.
        """
        self.close()
        self._failure = None
        ensure_topic(self._admin, self._target, AUDIT_TOPIC, TOPIC_CONFIG, deadline)
        writer = FencingWriter(self._target, moves_id(self._flow.source, self._flow.target))
        self._writer = writer
        try:
            writer.open(deadline)
        except KafkaOpError as error:
            self._give_up(error)
            raise

    def write(self, record: AuditRecord, deadline: Deadline) -> None:
        """Write one record; claims the flow first, if it is not claimed.

        Raises:
            RefusedError: another operator claimed the flow since.
            KafkaOpError: not written, or the outcome is unknown; nothing more can be written with this claim.
        """
        if self._failure is not None:
            raise self._failure
        if self._writer is None:
            self.begin(deadline)
        assert self._writer is not None
        try:
            self._writer.write(TP(AUDIT_TOPIC, 0), [(record.id.encode(), encode(record))], deadline)
        except FencedError as error:
            refused = RefusedError("another operator has started a command on this flow; see `replicator history`")
            self._give_up(refused)
            raise refused from error
        except KafkaOpError as error:
            self._give_up(error)
            raise

    def _give_up(self, error: ReplicatorError) -> None:
        """Write no more: a new producer would fence the operator who may have claimed the flow meanwhile."""
        self.close()
        self._failure = error

    def close(self) -> None:
        """Close the producer at once."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
