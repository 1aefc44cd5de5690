"""MirrorMaker 2's own code reads the records of our syncs topic."""

from __future__ import annotations

import subprocess
from pathlib import Path

from replicator.embedded import ensure_kafka
from replicator.errors import TP
from replicator.offset_map.runs import Run
from replicator.offset_map.sync_format import PARTITION_STATE, ControlRecord, encode_control, encode_sync
from replicator.offset_map.topic_id import TopicId

PROGRAM = Path(__file__).parent / "java" / "ReadSyncs.java"


def read_by_mm2(records: list[tuple[bytes, bytes]]) -> list[str]:
    """``topic-partition upstream downstream`` of each record, as `OffsetSync.deserializeRecord` understands it."""
    kafka = ensure_kafka()
    command = [str(kafka.java.path), "-Dfile.encoding=UTF-8", "-cp", kafka.classpath, str(PROGRAM)]
    lines = "\n".join(f"{key.hex()} {value.hex()}" for key, value in records)
    done = subprocess.run(command, input=lines, capture_output=True, encoding="utf-8", timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_mm2_reads_our_syncs() -> None:
    """Its reader takes its own fields and ignores ours, with and without gaps, and a floor."""
    topic_id = TopicId(range(16))
    runs = [
        Run(1, 7, 9, 0, 0, 7, topic_id, ()),
        Run(2, 7, 9, 500, 0, 509, topic_id, ((3, 1), (400, 1))),
        Run(96, 2**40, 2**41, 10, 5000, 2**40 + 10, topic_id, None),
    ]
    records = [encode_sync(TP("orders.größe", 3), run) for run in runs]
    assert read_by_mm2(records) == [
        "orders.größe-3 7 9",
        "orders.größe-3 7 9",
        f"orders.größe-3 {2**40} {2**41}",
    ]


def test_mm2_survives_our_control_records() -> None:
    """They name no topic, so that no reader takes them for a sync of one."""
    key, value = encode_control(ControlRecord(PARTITION_STATE, TP("orders", 3), {"reason": "truncated"}))
    assert value is not None
    assert read_by_mm2([(key, value)]) == ["-3 0 0"]
