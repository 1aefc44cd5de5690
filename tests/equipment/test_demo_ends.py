"""However `replicator demo` ends, nothing unwanted stays behind, and with `--keep` what was asked for."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys

import pytest

from replicator.deadline import Deadline
from replicator.embedded import ClusterSpec
from replicator.errors import TP
from tests.support.brokers import OwnClusters
from tests.support.demo import RUN_TIMEOUT_S, Home, is_running, pids
from tests.support.demo import home as home  # noqa: PLC0414
from tests.support.eventually import eventually
from tests.support.groups import commit
from tests.support.records import admin_client, create_topic, produce, read_topic

GONE_WITHIN_S = 60.0


def test_kept_clusters_stay_until_they_are_ended(home: Home) -> None:
    """`--keep` prints addresses that answer, a configuration that works, and a command that removes all of it."""
    result = home.run("--records", "3000", "--keep")
    assert result.returncode == 0, result.stderr
    stop = result.stdout.strip().splitlines()[-1].strip()
    try:
        addresses = dict(re.findall(r"^  (east|west) +(\S+:\d+)$", result.stdout, re.MULTILINE))
        assert addresses.keys() == {"east", "west"}, result.stdout
        for alias, topic in (("east", "flights"), ("west", "east.flights")):
            assert len(read_topic(addresses[alias], topic)) == 3_000
        config = re.search(r"-c (\S+) run", result.stdout)
        assert config is not None
        check = [sys.executable, "-m", "replicator", "-c", config[1], "config", "check"]
        assert subprocess.run(check, capture_output=True, timeout=60, check=False).returncode == 0
        switchover = re.search(r"-c \S+ (switchover \S+ --dry-run)", result.stdout)
        assert switchover is not None
        again = [*check[:-2], *switchover[1].split(), "-o", "json"]
        plan = json.loads(subprocess.run(again, capture_output=True, timeout=60, check=True).stdout)
        assert [row["translation"] for row in plan["partitions"]] == ["exact"] * 6
        assert not any(is_running(pid) for pid in pids(result.stderr))
    finally:
        ended = subprocess.run(stop, shell=True, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    assert eventually(home.is_empty, within_s=GONE_WITHIN_S)


def test_on_existing_clusters_only_what_is_its_own_is_removed(home: Home, own_clusters: OwnClusters) -> None:
    """It works where other topics and groups are, with names of its own, and takes these alone away."""
    clusters = own_clusters(ClusterSpec("source"), ClusterSpec("target"))
    servers = [cluster.bootstrap_servers for cluster in clusters.values()]
    for address in servers:
        produce(address, create_topic(address, "flights"), [b"not the demo's"])
        commit(address, "theirs", {TP("flights", 0): 1})

    def topics() -> list[set[str]]:
        return [set(admin_client(it).list_topics(timeout=60).topics) - {"__consumer_offsets"} for it in servers]

    def groups() -> list[set[str]]:
        admins = [admin_client(it) for it in servers]  # an answer to a client that is let go never comes
        listed = [admin.list_consumer_groups().result(timeout=60) for admin in admins]
        return [{group.group_id for group in it.valid} for it in listed]

    before, groups_before = topics(), groups()
    arguments = ["--source-bootstrap", servers[0], "--target-bootstrap", servers[1]]
    result = home.run("--records", "3000", "-o", "json", *arguments)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["target_records"] == 3_000
    assert "not removed" not in result.stderr

    def is_as_before() -> bool:
        now = topics()
        assert all(found - {"__transaction_state"} <= had for found, had in zip(now, before, strict=True)), now
        assert all(had <= found for found, had in zip(now, before, strict=True)), now
        assert groups() == groups_before
        return True

    assert eventually(is_as_before, within_s=60)
    assert home.is_empty()


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_an_interrupted_demo_leaves_nothing(home: Home, signum: signal.Signals, status: int) -> None:
    """Ctrl-C, a polite end and kill -9 while records flow: brokers, workers and files are gone."""
    with home.start() as process:
        assert process.stderr is not None
        deadline = Deadline(RUN_TIMEOUT_S)
        said = ""
        while "replicated" not in said:
            assert not deadline.expired, said
            line = process.stderr.readline()
            assert line, said
            said += line
        assert len(home.processes()) >= 4  # brokers and workers, at least
        process.send_signal(signum)
        assert process.wait(GONE_WITHIN_S) == status
    assert eventually(home.is_empty, within_s=GONE_WITHIN_S)
    assert not any(is_running(pid) for pid in pids(said))
