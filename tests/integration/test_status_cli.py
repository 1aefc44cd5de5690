"""`replicator lag` and `replicator status` as processes, against real clusters, with and without a worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from replicator.embedded import EmbeddedCluster
from tests.support.eventually import eventually
from tests.support.flows import FlowBench, FlowBenches
from tests.support.records import admin_client

UNREACHABLE = "127.0.0.1:1"


def _command(flow: FlowBench, folder: Path, *arguments: str, down: tuple[str, ...] = ()) -> list[str]:
    content = flow.settings().model_dump(mode="json")
    content["connect_timeout_s"] = 3 if down else 30
    for alias in down:
        content["clusters"][alias]["bootstrap_servers"] = UNREACHABLE
    file = folder / f"replicator-{len(down)}.yaml"
    file.write_text(json.dumps(content))
    return [sys.executable, "-m", "replicator", "-c", str(file), *arguments]


def _run(command: list[str], expected: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == expected, f"{done.stdout}\n{done.stderr}"
    return done


def _lag(flow: FlowBench, folder: Path, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_run(_command(flow, folder, "lag", "-o", "json", *arguments)).stdout)
    return found


def _status(flow: FlowBench, folder: Path, expected: int = 0, down: tuple[str, ...] = ()) -> dict[str, Any]:
    done = _run(_command(flow, folder, "status", "-o", "json", down=down), expected)
    (found,) = json.loads(done.stdout)["flows"]
    assert isinstance(found, dict)
    return found


def test_lag_follows_the_flow_with_a_worker_and_without(
    source: EmbeddedCluster, target: EmbeddedCluster, make_flow: FlowBenches, tmp_path: Path
) -> None:
    flow = make_flow(source, target)
    flow.create(flow.topic, partitions=2)
    flow.produce(flow.topic, [b"1", b"2", b"3"])
    (before, _) = _lag(flow, tmp_path)["partitions"]
    assert (before["state"], before["reason"], before["lag_records"]) == ("unassigned", "no worker", 3)
    assert before["lag_seconds"] is not None

    flow.start()
    flow.await_caught_up(flow.topic)
    now = _lag(flow, tmp_path)
    assert (now["flow"], now["total_lag_records"]) == (flow.name, 0)
    assert [(it["partition"], it["state"], it["lag_seconds"]) for it in now["partitions"]] == [
        (0, "running", 0.0),
        (1, "running", 0.0),
    ]
    status = _status(flow, tmp_path)
    assert [worker["worker"].rpartition("/")[2] for worker in status["workers"]] == [str(os.getpid())]
    assert status["workers"][0]["tasks"] == [0]
    assert (status["tasks"][0]["running"], status["problems"]) == (2, [])

    flow.stop()
    flow.produce(flow.topic, [b"4", b"5"])
    (after, _) = _lag(flow, tmp_path)["partitions"]
    assert (after["state"], after["replicated_next"], after["source_end"]) == ("unassigned", 3, 5)
    assert (after["lag_records"], after["target_topic"]) == (2, flow.remote(flow.topic))
    assert 0 < after["lag_seconds"] < 600
    assert _lag(flow, tmp_path, "--topic", "^nothing")["partitions"] == []
    assert "no worker is running" in _status(flow, tmp_path)["problems"][0]


def test_status_says_which_plane_carries_the_records_and_why(
    source: EmbeddedCluster, target: EmbeddedCluster, make_flow: FlowBenches, tmp_path: Path
) -> None:
    """In the JSON, in the table, in the worker's log and metric, and all say the same."""
    for client, expected in (({}, "batches"), ({"broker.address.family": "v4"}, "records")):
        flow = make_flow(source, target, clusters={"target": {"client": client}})
        flow.create(flow.topic)
        flow.start()
        said = _status(flow, tmp_path)["data_plane"]
        event = flow.await_event("data_plane_chosen", flow=flow.name)
        assert event["plane"] == expected
        assert said == (f"{expected} ({event['reason']})" if event["reason"] else expected)
        assert ("broker.address.family" in said) == (expected == "records")
        assert flow.metric("replicator_data_plane", flow=flow.name, plane=expected) == 1
        assert f"data plane  {expected}" in _run(_command(flow, tmp_path, "status")).stdout
        flow.stop()


def test_a_stopped_partition_comes_first_with_its_reason(
    source: EmbeddedCluster, target: EmbeddedCluster, make_flow: FlowBenches, tmp_path: Path
) -> None:
    flow = make_flow(source, target)
    for topic in (flow.topic, flow.other):
        flow.create(topic)
        flow.produce(topic, [b"1"])
    flow.start()
    flow.await_caught_up(flow.topic, flow.other)
    admin = admin_client(source.bootstrap_servers)
    admin.delete_topics([flow.other])[flow.other].result(30)
    flow.await_stopped(flow.other, 0, "source_gone")

    def is_told() -> bool:
        first, second = _lag(flow, tmp_path)["partitions"]
        assert (first["topic"], first["state"], first["lag_records"]) == (flow.other, "stopped", None)
        assert (second["topic"], second["state"]) == (flow.topic, "running")
        return str(first["reason"]).startswith("source_gone: ")

    eventually(is_told, within_s=60)
    text = _run(_command(flow, tmp_path, "lag")).stdout
    assert "stopped: source_gone" in text
    assert "UTC" in text
    (stopped,) = _status(flow, tmp_path)["stopped_partitions"]
    assert (stopped["topic"], stopped["partition"]) == (flow.other, 0)


def test_offsets_without_records_are_no_lag(
    source: EmbeddedCluster, target: EmbeddedCluster, make_flow: FlowBenches, tmp_path: Path
) -> None:
    """What is left of an aborted transaction: offsets, and nothing that could be replicated."""
    flow = make_flow(source, target)
    flow.create(flow.topic)
    properties = {"bootstrap.servers": source.bootstrap_servers, "transactional.id": flow.topic}
    producer = Producer(properties)
    producer.init_transactions(30)
    producer.begin_transaction()
    for _ in range(5):
        producer.produce(flow.topic, b"aborted")
    assert producer.flush(30) == 0
    producer.abort_transaction(30)

    def is_passed() -> bool:
        (found,) = _lag(flow, tmp_path)["partitions"]
        return bool(found["source_end"] == 6 and found["lag_records"] == 0 and found["lag_seconds"] == 0.0)

    eventually(is_passed, within_s=60)


def test_a_cluster_that_does_not_answer_is_named_in_time(
    source: EmbeddedCluster, target: EmbeddedCluster, make_flow: FlowBenches, tmp_path: Path
) -> None:
    flow = make_flow(source, target)
    began_s = time.monotonic()
    done = _run(_command(flow, tmp_path, "lag", "-o", "json", down=(flow.alias,)), expected=1)
    assert time.monotonic() - began_s < 30
    assert done.stdout == ""
    assert f"{flow.alias} ({UNREACHABLE}): " in done.stderr
    assert "tried for 3 s" in done.stderr
    status = _status(flow, tmp_path, expected=1, down=(flow.alias,))
    assert (status["source"]["reachable"], status["target"]["reachable"]) == (False, True)
    assert status["total_lag_records"] is None
    both = _run(_command(flow, tmp_path, "lag", down=(flow.alias, flow.target_alias)), expected=1)
    assert f"{flow.alias} ({UNREACHABLE}): " in both.stderr
    assert f"{flow.target_alias} ({UNREACHABLE}): " in both.stderr


def test_watching_writes_one_document_per_line_until_interrupted(
    source: EmbeddedCluster, target: EmbeddedCluster, make_flow: FlowBenches, tmp_path: Path
) -> None:
    flow = make_flow(source, target)
    flow.create(flow.topic)
    command = _command(flow, tmp_path, "lag", "--watch", "-o", "json")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            first = json.loads(process.stdout.readline())
            assert first["total_lag_records"] == 0
            flow.produce(flow.topic, [b"1", b"2"])
            lines = (json.loads(process.stdout.readline()) for _ in range(10))
            assert any(line["total_lag_records"] == 2 for line in lines)
            process.send_signal(signal.SIGINT)
            rest, complaints = process.communicate(timeout=30)
            assert process.returncode == 0, complaints
            assert complaints == ""
            assert all(json.loads(line)["flow"] == flow.name for line in rest.splitlines())
        finally:
            process.kill()
