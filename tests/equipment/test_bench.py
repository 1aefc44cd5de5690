"""The bench's arithmetic: figures from samples and /proc, tables, plots, configurations. No broker is started."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from bench import figures, latency, memory, offset_map, plot, proc, results
from bench.arrivals import Arrival, ages_ms, note_first_reads
from bench.backlog import BenchError, payloads
from bench.catalog import MEASUREMENTS
from bench.contenders import MM2_TUNED, Task, check_name, mm2_config, our_config
from bench.replayer import transactions
from bench.results import Kind, Sample, summarise
from replicator.config import build

TASK = Task("127.0.0.1:1001", "127.0.0.1:1002", "bench-100", 4)
PUBLISHED = {file.stem: results.load(file) for file in results.PUBLISHED.glob("*.json")}
TASKS = min(4, os.cpu_count() or 1)


def samples(*looks: tuple[float, int, float]) -> list[Sample]:
    return [Sample(at_s, visible, cpu_s, 0) for at_s, visible, cpu_s in looks]


def test_the_second_half_counts_from_the_first_look_that_saw_half() -> None:
    """Its rate and its CPU leave the start and the warm-up out."""
    found = summarise(samples((1, 0, 0.5), (2, 100, 1.0), (4, 600, 2.0), (6, 1000, 2.4)), 1000)
    assert found["wall_s"] == 6
    assert found["first_record_s"] == 2
    assert found["records_per_s"] == pytest.approx(1000 / 6)
    assert found["half_records_per_s"] == pytest.approx(400 / 2)
    assert found["cpu_us"] == pytest.approx(2400)
    assert found["half_cpu_us"] == pytest.approx(1000)


def test_a_second_half_between_two_looks_is_measured_from_the_look_before() -> None:
    """A slow transaction may make all records visible at once: never a division by zero, never an absurd rate."""
    found = summarise(samples((1, 0, 0.0), (3, 1000, 2.0)), 1000)
    assert found["half_records_per_s"] == pytest.approx(500)
    assert found["half_cpu_us"] == pytest.approx(2000)


def test_a_second_half_that_is_too_short_to_be_measured_begins_earlier() -> None:
    """Else the distance of two looks would count, or the size of one transaction."""
    looks = [(1, 0, 0.0), (2, 100, 1.0), (2.5, 100, 1.4), (3, 400, 1.5), (3.9, 900, 2.0), (4.1, 1000, 2.2)]
    found = summarise(samples(*looks), 1000)
    assert found["half_records_per_s"] == pytest.approx(600 / 1.1)
    assert found["half_cpu_us"] == pytest.approx(0.7 / 600 * 1e6)
    found = summarise(samples((1, 0, 0.0), (1.1, 100, 1.0), (1.2, 900, 1.1), (1.3, 1000, 1.2)), 1000)
    assert found["half_records_per_s"] == pytest.approx(900 / 0.2)


def test_the_cpu_of_a_process_is_read_behind_its_name() -> None:
    """A name may hold spaces and parentheses."""
    stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 10 0 0 0 25 5 3 2 20 0 9 0 100 1000 50"
    assert proc.cpu_ticks(stat) == 30


def test_idle_time_is_not_busy_time() -> None:
    """User, nice, system, interrupts and what the hypervisor took count; idle and waiting for disks don't."""
    assert proc.busy_ticks("cpu  10 1 5 1000 100 2 3 4 0 0\ncpu0 1 1 1 1 1 1 1 1\n") == 25


def test_a_process_costs_what_it_and_its_children_use() -> None:
    """Workers with `--processes` are children: they have to be found and counted."""
    burn = "x = bytearray(50_000_000)\nprint('ready', flush=True)\nwhile True: pass"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            pids = proc.tree(process.pid)
            assert len(pids) == 2
            before_s, began_s = proc.cpu_s(pids), time.monotonic()
            while proc.cpu_s(pids) < before_s + 0.05:
                assert time.monotonic() < began_s + 20
            assert proc.rss_bytes(pids) > 50_000_000
            assert proc.peak_rss_bytes(pids) >= proc.rss_bytes(pids) * 0.9
            assert proc.machine_busy_s() > 0
        finally:
            for pid in reversed(proc.tree(process.pid)):
                os.kill(pid, 9)


def test_a_process_that_is_gone_costs_nothing() -> None:
    """The last look may come after the end."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert proc.cpu_s([process.pid]) == 0
    assert proc.rss_bytes([process.pid]) == 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ours-batches", {"data_plane": "batches"}),
        ("ours-records-2", {"data_plane": "records"}),
        ("ours", {}),
        ("ours-batches-tuned", {"data_plane": "batches", "tasks": TASKS}),
        ("ours-tuned-2@/tree", {"tasks": TASKS}),
    ],
)
def test_our_contender_runs_with_our_defaults(name: str, said: dict[str, object]) -> None:
    """But for what its name says, and the file is one that the program accepts."""
    settings = build(yaml.safe_load(our_config(TASK, name)))
    flow = settings.flow().settings
    usual = type(flow)(topics=["x"]).model_dump()
    assert flow.model_dump() == usual | {"topics": ["bench-100"]} | said
    assert settings.worker == type(settings.worker)()
    limited = dataclasses.replace(TASK, worker=(("buffer_bytes", 8_388_608),))
    assert build(yaml.safe_load(our_config(limited, name))).worker.buffer_bytes == 8_388_608


def test_the_tuned_mirrormaker_is_tuned_and_both_are_exactly_once() -> None:
    """The comparison is with the best configuration that its users know, never with at-least-once."""
    stock, tuned = (mm2_config(TASK, is_tuned=flag, rest_port=1) for flag in (False, True))
    for text in (stock, tuned):
        assert "target.exactly.once.source.support=enabled\n" in text
        assert "source.consumer.isolation.level=read_committed\n" in text
        assert "source->target.topics=bench-100\n" in text
    for key, value in MM2_TUNED.items():
        assert f"{key}={value}\n" in tuned
        assert key not in stock
    assert f"tasks.max={TASKS}\n" in tuned


@pytest.mark.parametrize(
    "name", ["ours", "ours-2", "ours-batches-tuned", "ours-records-4", "mm2-stock-eos", "replayer"]
)
def test_contenders_are_known_by_name(name: str) -> None:
    """The names of the help."""
    check_name(name)


@pytest.mark.parametrize("name", ["our", "ours-", "ours-rows", "mm2", "mm2-tuned", "ours@/nowhere", "replayer-2"])
def test_an_unknown_contender_is_refused(name: str) -> None:
    """A tree without our package, too: Python would silently run the installed one instead."""
    with pytest.raises(BenchError, match=r"no contender|no replicator"):
        check_name(name)


@pytest.mark.parametrize("size", [92, 1016, 99_992])
def test_values_have_the_size_that_is_reported(size: int) -> None:
    """And several of them are different."""
    values = payloads(size)
    assert {len(value) for value in values} == {size}
    assert len(set(values)) == len(values) > 5


def found(**changes: object) -> memory.Found:
    values = {field.name: 1 for field in dataclasses.fields(memory.Found)}
    usual = {"buffer_bytes": 64 << 20, "factor": 1.0, "allowed_factor": 2.0, "peak_bytes": 300 << 20}
    return memory.Found(**{**values, **usual, **changes})  # type: ignore[arg-type]


def test_memory_over_its_bound_is_complained_about() -> None:
    """Growth counts in buffers, and with the default buffer the whole process counts, too."""
    assert found().complaints() == []
    assert len(found(factor=2.1).complaints()) == 1
    assert found(peak_bytes=351 << 20).complaints() == []
    assert len(found(peak_bytes=351 << 20, buffer_bytes=memory.DEFAULT_BUFFER_BYTES).complaints()) == 1


def test_peaks_are_separate_by_phase() -> None:
    """And the kernel's peak counts for the bound, not the highest of the looks."""
    options = memory.Options(partitions=2, backlog_bytes=1, buffer_bytes=100, stall_s=1, contender="ours")
    looks = [memory.Look(0, 50, False), memory.Look(1, 120, True), memory.Look(2, 110, True), memory.Look(3, 90, False)]
    made = memory.found(options, [], 40, looks, 140)
    assert (made.drain_peak_bytes, made.stall_peak_bytes, made.peak_bytes) == (90, 120, 140)
    assert made.factor == 1.0


def test_the_offset_map_is_measured_at_every_age() -> None:
    """Bounded in runs; what is recent is exact, and what is far back leaves something to count."""
    made = offset_map.measure(offset_map.Options(30_000), print)
    assert 64 < made.kept <= made.most == 673
    assert 100 < made.size_bytes / made.kept < 1000
    assert [age.runs for age in made.ages] == [10, 100, 1000, 10_000]
    assert made.ages[0].to_count == 0 < made.ages[2].to_count < made.ages[3].to_count
    slow = dataclasses.replace(made, kept=674, ages=(offset_map.Age(10, 1.0, 50.1, 0),))
    assert len(slow.complaints()) == 2


def test_every_measurement_has_a_short_and_a_full_configuration() -> None:
    """The full one is larger, and both name contenders that exist."""
    for kind, measurement in MEASUREMENTS.items():
        short, full = (measurement.configuration([], is_full=flag) for flag in (False, True))
        assert short != full, kind
        for name in {*getattr(short, "contenders", ()), *getattr(full, "contenders", ())} - {latency.NOTHING}:
            check_name(name)
    assert MEASUREMENTS["tiny"].full.batch_records == 1


def test_the_configuration_can_be_changed_on_the_command_line() -> None:
    """As JSON, or as a plain text; a key that does not exist and a value of another type are refused."""
    changes = ("sizes=[[100, 8]]", "rounds=2", "contenders=ours-batches-2,replayer", 'existing={"source": "h:1"}')
    options = MEASUREMENTS["throughput"].configuration((*changes, "limit_s=5"), is_full=True)
    assert (options.sizes, options.rounds, options.limit_s) == (((100, 8),), 2, 5.0)
    assert (options.contenders, options.existing) == (("ours-batches-2", "replayer"), {"source": "h:1"})
    for wrong in ("size=1", "rounds=many", "sizes=3"):
        with pytest.raises(BenchError, match=wrong.partition("=")[0]):
            MEASUREMENTS["throughput"].configuration([wrong], is_full=False)


# --- saved runs -------------------------------------------------------------------------------------------------------


def test_a_run_is_saved_with_all_that_a_reader_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures, machine, versions, commit and configuration, in one file; the published ones have the same keys."""
    monkeypatch.setattr(results, "OUT", tmp_path)
    configuration = dataclasses.asdict(MEASUREMENTS["offset-map"].short)
    document = results.begin("offset-map", configuration, is_full=False)
    file = results.save(document, offset_map.measure(offset_map.Options(1000), print))
    saved = results.load(file)
    assert saved["configuration"] == configuration
    assert saved["result"]["runs"] == 1000
    for published in PUBLISHED.values():
        assert published.keys() == saved.keys()
        assert published["versions"].keys() == saved["versions"].keys()
        assert published["machine"].keys() == saved["machine"].keys()
    assert PUBLISHED.keys() == MEASUREMENTS.keys()


@pytest.mark.parametrize("kind", MEASUREMENTS)
def test_saved_runs_make_a_table(kind: Kind) -> None:
    """Markdown, with one row per contender and case."""
    lines = figures.table(PUBLISHED[kind]).splitlines()
    assert len(lines) > 2
    assert len({line.count("|") for line in lines}) == 1


def test_a_table_has_medians_with_their_range() -> None:
    """A figure that one round lacks has none: an average of the others would flatter."""
    runs = [{"contender": "a", "round": n, "x_ms": n * 10, "y_s": None if n == 2 else 1.0} for n in (1, 2, 3)]
    assert figures.table({"kind": "latency", "result": runs}).splitlines() == [
        "| contender | x_ms | y_s | rounds |",
        "| --- | --- | --- | --- |",
        "| a | 20 (10 to 30) | none | 3 |",
    ]


def test_the_pictures_of_the_document_are_those_of_the_published_runs() -> None:
    """Each one is there, and shown; bars and text alike come from the figures."""
    wanted = {f"{it.file}.svg" for document in PUBLISHED.values() for it in plot.plots_of(document)}
    assert len(wanted) == 11
    assert {file.name for file in plot.FOLDER.glob("*.svg")} == wanted
    page = (plot.FOLDER.parent / "benchmarks.md").read_text()
    assert set(re.findall(r"\(benchmarks/(.+?\.svg)\)", page)) == wanted


def test_the_replayer_is_a_limit_and_no_bar() -> None:
    """It replicates nothing."""
    (first, *_) = plot.plots_of(PUBLISHED["throughput"])
    assert len(first.panels) == 4
    for panel in first.panels:
        assert panel.limit is not None
        assert [label for label, _ in panel.bars][:2] == ["ours-batches-tuned", "ours-batches"]
        assert "replayer" not in dict(panel.bars)


# --- under load -------------------------------------------------------------------------------------------------------


def test_ages_are_of_records_that_were_written_in_the_window() -> None:
    """However late they were read: leaving those out would flatter who is slow."""
    arrivals = [Arrival(0, 99, 500), Arrival(0, 100, 107), Arrival(1, 199, 5000), Arrival(1, 200, 201)]
    assert ages_ms(arrivals, 100, 200) == [7, 4801]


def test_a_takeover_ends_with_a_record_that_was_written_after_the_kill() -> None:
    """What was written before may still arrive from the dead worker's last transaction."""
    reads: list[int | None] = [None, None, None]
    note_first_reads(reads, [Arrival(0, 90, 120), Arrival(0, 101, 130), Arrival(1, 100, 140)], 100)
    note_first_reads(reads, [Arrival(0, 102, 150)], 100)
    assert reads == [130, 140, None]


@dataclasses.dataclass
class _Piece:
    size_bytes: int


def test_the_replayer_cuts_its_batches_into_transactions() -> None:
    """In order, none left out."""
    pieces = [_Piece(size) for size in (4, 4, 4, 4, 4)]
    cut: list[list[Any]] = transactions(cast(list[Any], pieces), 8)
    assert [len(it) for it in cut] == [2, 2, 1]
    assert [piece for it in cut for piece in it] == pieces
    assert transactions([], 8) == [[]]
