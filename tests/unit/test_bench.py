"""The bench's arithmetic: figures from samples, /proc, tables, configurations. Nothing is started."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from bench import __main__ as program
from bench import memory, offset_map, proc, report, results
from bench.backlog import BenchError, payloads
from bench.contenders import MM2_TUNED, Task, check_name, mm2_config, our_config
from bench.results import Run, Sample, summarise
from replicator.config import build

TASK = Task("127.0.0.1:1001", "127.0.0.1:1002", "bench-100", 4)


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


def test_our_contender_runs_with_our_defaults() -> None:
    """Nothing is tuned for the bench, and the file is one that the program accepts."""
    settings = build(yaml.safe_load(our_config(TASK)))
    flow = settings.flow().settings
    assert flow.model_dump(exclude={"topics", "data_plane"}) == type(flow)(topics=["x"]).model_dump(
        exclude={"topics", "data_plane"}
    )
    assert settings.worker == type(settings.worker)()
    limited = dataclasses.replace(TASK, worker=(("buffer_bytes", 8_388_608),))
    assert build(yaml.safe_load(our_config(limited))).worker.buffer_bytes == 8_388_608


def test_the_tuned_mirrormaker_is_tuned_and_both_are_exactly_once() -> None:
    """The comparison is with the best configuration that its users know, and never with at-least-once."""
    stock, tuned = (mm2_config(TASK, is_tuned=flag, rest_port=1) for flag in (False, True))
    for text in (stock, tuned):
        assert "target.exactly.once.source.support=enabled\n" in text
        assert "source.consumer.isolation.level=read_committed\n" in text
        assert "source->target.topics=bench-100\n" in text
    for key, value in MM2_TUNED.items():
        assert f"{key}={value}\n" in tuned
        assert key not in stock
    assert f"tasks.max={min(4, os.cpu_count() or 1)}\n" in tuned


@pytest.mark.parametrize("name", ["ours", "ours-2", "mm2-stock-eos", "mm2-tuned-eos"])
def test_contenders_are_known_by_name(name: str) -> None:
    """The names of the help."""
    check_name(name)


@pytest.mark.parametrize("name", ["our", "ours-", "mm2", "mm2-tuned", "ours@/nowhere"])
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


def run(contender: str, rate: float, cpu: float, number: int = 1) -> dict[str, object]:
    made = Run(contender, 100, number, 1000, 1, 2, rate, rate, cpu, cpu, 2**20, 5, 0.1)
    return dict(json.loads(json.dumps(dataclasses.asdict(made))))


def test_the_report_shows_medians_their_range_and_the_ratio() -> None:
    """What is compared is the median, against the tuned MirrorMaker 2."""
    runs = [run("ours", rate, 2.0, number) for number, rate in enumerate((100.0, 300.0, 200.0), 1)]
    runs.append(run("mm2-tuned-eos", 50.0, 8.0))
    ours, theirs = report.rows(runs)
    assert ours[2] == "200 (100 to 300)"
    assert ours[-1] == "3"
    assert theirs[2] == "50"
    (ratio,) = report.ratios(runs)
    assert ratio[0] == "ours / mm2-tuned-eos"
    assert ratio[2] == "4.00 ×"
    assert ratio[4] == "0.25 ×"


def test_without_mirrormaker_there_is_no_ratio() -> None:
    """Not a ratio to something else."""
    assert report.ratios([run("ours", 1.0, 1.0)]) == []


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


def test_peaks_are_told_apart_by_phase() -> None:
    """And the kernel's peak counts for the bound, not the highest of the looks."""
    options = memory.Options(partitions=2, backlog_bytes=1, buffer_bytes=100, stall_s=1, tree=None)
    looks = [memory.Look(0, 50, False), memory.Look(1, 120, True), memory.Look(2, 110, True), memory.Look(3, 90, False)]
    made = memory.found(options, [], 40, looks, 140)
    assert (made.drain_peak_bytes, made.stall_peak_bytes, made.peak_bytes) == (90, 120, 140)
    assert made.factor == 1.0


def test_the_offset_map_is_measured_at_every_age() -> None:
    """Bounded in runs; what is recent is exact, and what is far back leaves something to count."""
    made = offset_map.measure(30_000, print)
    assert 64 < made.kept <= made.most == 673
    assert 100 < made.size_bytes / made.kept < 1000
    assert [age.runs for age in made.ages] == [10, 100, 1000, 10_000]
    assert made.ages[0].to_count == 0 < made.ages[2].to_count < made.ages[3].to_count
    assert len(report.offset_map_rows(dataclasses.asdict(made))) == 4
    slow = dataclasses.replace(made, kept=674, ages=(offset_map.Age(10, 1.0, 50.1, 0),))
    assert len(slow.complaints()) == 2


def test_the_published_document_is_what_the_published_results_say() -> None:
    """Nobody edits the figures by hand."""
    assert sorted(path.name for path in results.PUBLISHED.glob("*.json")) == [
        "failover.json",
        "memory.json",
        "offset-map.json",
        "throughput.json",
    ]
    assert report.DOCUMENT.read_text() == program.published()


def test_the_newest_results_win(tmp_path: Path) -> None:
    """File names sort by time."""
    for name in ("memory-20260101T000000.json", "memory-20260102T000000.json", "throughput-20270101T000000.json"):
        (tmp_path / name).write_text("{}")
    newest = results.newest("memory", tmp_path)
    assert newest is not None
    assert newest.name == "memory-20260102T000000.json"
    assert results.newest("memory", tmp_path / "none") is None
