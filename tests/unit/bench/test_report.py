"""What the bench writes down: tables, plots, and docs/benchmarks.md. Nothing is started."""

from __future__ import annotations

import dataclasses
import json
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from rich.console import Console

from bench import __main__ as program
from bench import latency, live_report, partitions, plots, promises, report, results, takeover, throughput_report
from bench.catalog import MEASUREMENTS
from bench.charts import Bar, Panel, draw, scale, short
from bench.results import Kind, Run
from bench.text import Column, grouped, times

REPLAYER = ("replayer", 1000.0, 0.1)


def document(kind: Kind, *runs: object) -> dict[str, Any]:
    saved = {"kind": kind, "at": "now", "machine": {"CPU": "2"}, "result": runs}
    return dict(json.loads(json.dumps(saved, default=dataclasses.asdict)))


def drained(contender: str, rate: float, cpu: float, number: int = 1, size: int = 100, records: int = 1000) -> Run:
    return Run(contender, size, number, records, 1, 2, rate, rate, cpu, cpu, 2**20, 5, 0.1)


DRAINED = document(
    "throughput",
    *(drained("ours-batches", rate, 2.0, number) for number, rate in enumerate((100.0, 300.0, 200.0), 1)),
    drained("mm2-tuned-eos", 50.0, 8.0),
    drained(*REPLAYER),
    drained("ours-batches", 70.0, 9.0, size=1024),
)
LATENCY = document(
    "latency",
    *(latency.Run("ours-batches", number, 10_000, p50, 60, 90, 5.5, 2**27, 0.02) for number, p50 in ((1, 20), (2, 24))),
    latency.Run("mm2-tuned-eos", 1, 9_999, 480, 1200, 1500, 80.0, 2**30, 0.04),
)
PARTITIONS = document(
    "partitions",
    partitions.Run("ours-batches", 1, 10, 10, 10_000, 0.1, 2**26, 0.0),
    partitions.Run("ours-batches", 1, 1000, 10, 10_000, 0.15, 2**26, 0.0),
)
TAKEOVER = document(
    "takeover",
    takeover.Run("ours-batches", 1, 10.4, [0.1, 10.4, 0.1, 10.2], 0.6, 420, 0.0),
    takeover.Run("mm2-tuned-eos", 1, None, [0.1, None, 0.1, None], 0.6, 420, 0.0),
)
ALL: dict[Kind, dict[str, Any]] = {
    "throughput": DRAINED,
    "tiny": {**DRAINED, "kind": "tiny"},
    "latency": LATENCY,
    "partitions": PARTITIONS,
    "takeover": TAKEOVER,
}


def test_the_report_shows_medians_their_range_and_the_ratio() -> None:
    """What is compared is the median, against the tuned MirrorMaker 2; and against the replayer's rate."""
    ours, theirs, replayer, larger = throughput_report.rows(DRAINED["result"])
    assert ours[:3] == ["ours-batches", "1,000 × 100 B", "200 (100 to 300)"]
    assert ours[-1] == "3"
    assert theirs[2] == "50"
    assert replayer[6:8] == ["–", "–"]
    assert larger[1] == "1,000 × 1,024 B"
    (ratio,) = throughput_report.ratios(DRAINED["result"])
    assert ratio[:2] == ["ours-batches / mm2-tuned-eos", "1,000 × 100 B"]
    assert ratio[2] == "4.00 ×"
    assert ratio[4] == "0.250 ×"
    assert ratio[-1] == "20%"
    assert len(ours) == len(ratio) == len(throughput_report.HEADINGS) == len(throughput_report.SHORT)


def test_without_mirrormaker_there_is_no_ratio() -> None:
    """Not a ratio to something else; and without the replayer no share of it."""
    alone = document("throughput", drained("ours-batches", 1.0, 1.0), drained(*REPLAYER))["result"]
    assert throughput_report.ratios(alone) == []
    two = document("throughput", drained("ours-batches", 1.0, 1.0), drained("mm2-tuned-eos", 1.0, 1.0))["result"]
    assert throughput_report.ratios(two)[0][-1] == "–"


def test_a_figure_that_a_run_lacks_is_said() -> None:
    """A median of the rest would be another figure."""
    column = Column("it", "it", "it", lacking="never")
    assert column.cell([{"it": 1.0}, {"it": None}]) == "never"
    assert column.cell([{"it": 1.0}, {"it": 3.0}]) == "2 (1 to 3)"
    assert column.ratio([{"it": 1.0}], [{"it": 0.0}]) is None
    assert column.ratio([{"it": 1.0}], []) is None
    assert times(None) == "–"
    assert list(grouped([{"a": 2}, {"a": 1}, {"a": 2}], "a")) == [(2,), (1,)]


def test_live_measurements_have_a_row_for_each_case() -> None:
    """With ranges, and with what did not come in time."""
    assert live_report.rows(LATENCY["result"], live_report.LATENCY, "contender")[0][:3] == [
        "ours-batches",
        "22 (20 to 24)",
        "60 (60 to 60)",
    ]
    found = live_report.rows(TAKEOVER["result"], live_report.TAKEOVERS, "contender")
    assert [row[1] for row in found] == ["10.4", "not in time"]
    ((name, busy, every, ratio),) = live_report.partition_ratios(PARTITIONS["result"])
    assert (name, busy, every) == ("ours-batches", 10, 1000)
    assert ratio == pytest.approx(1.5)


@pytest.mark.parametrize("kind", ALL)
def test_the_terminal_and_the_document_show_the_same_figures(kind: Kind) -> None:
    """With the machine, its plots, and whether it was idle; every row as wide as its heading."""
    made = ALL[kind]
    console = Console(width=250)
    with console.capture() as captured:
        console.print(MEASUREMENTS[kind].table(made))
    text = "\n".join(report.SECTIONS[kind](made, plots.links(made)))
    assert "ours-batches" in captured.get()
    assert "Measured now on: CPU 2." in text
    assert "have nothing to do with it used" in text
    assert "![" in text
    for before, line in zip(text.splitlines(), text.splitlines()[1:], strict=False):
        if before.startswith("|") and line.startswith("|"):
            assert before.count("|") == line.count("|")


def test_promises_are_held_against_what_was_found() -> None:
    """Medians count; without a contender to compare with, nothing is said."""
    verdicts = {it.promise: it for it in promises.judge(ALL)}
    for part in ("whole run", "second half"):
        verdict = verdicts[f"CPU for a record, {part} of 1,000 × 100 B"]
        assert (verdict.found, verdict.is_kept) == ("1/4.0", False)
    verdict = verdicts["records per second, second half of 1,000 × 100 B"]
    assert (verdict.found, verdict.is_kept) == ("4.0 ×, 20% of the replayer", True)
    assert not any("1,024 B" in name for name in verdicts)
    assert [verdicts[f"latency at 10,000 rec/s, {it}"].found for it in ("p50", "p99")] == ["22 ms", "60 ms"]
    assert verdicts["CPU with 1,000 partitions, 10 of them busy"].found == "1.50 ×"
    assert "batches of one record, CPU" not in verdicts
    tiny = document("tiny", drained("ours-batches", 9.0, 2.0), drained("ours-records", 10.0, 4.0))
    assert [(it.found, it.is_kept) for it in promises.judge({"tiny": tiny})] == [("0.90 ×", False), ("0.50 ×", True)]
    assert promises.section({}) == []
    assert "| **no** |" in "\n".join(promises.section(ALL))
    at_limit = (("ours-batches", 950.0), ("mm2-tuned-eos", 900.0), ("replayer", 1000.0))
    runs = [drained(name, rate, 1.0) for name, rate in at_limit]
    verdict = promises.judge({"throughput": document("throughput", *runs)})[2]
    assert verdict.is_kept
    longer = [drained(name, rate / 2, 1.0, records=9000) for name, rate in at_limit]
    names = [it.promise for it in promises.judge({"throughput": document("throughput", *runs, *longer)})]
    assert [it for it in names if "second" in it] == [
        "CPU for a record, second half of 9,000 × 100 B",
        "records per second, second half of 9,000 × 100 B",
    ]


# --- plots ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("largest", "last", "count"), [(0, 1, 2), (1, 1, 6), (97, 100, 6), (1_234_567, 1_250_000, 6), (0.31, 0.4, 5)]
)
def test_the_axis_has_round_numbers_that_hold_everything(largest: float, last: float, count: int) -> None:
    """From 0: a bar's length is its value."""
    ticks = scale(largest)
    assert ticks[0] == 0
    assert ticks[-1] == pytest.approx(last)
    assert len(ticks) == count


def test_large_numbers_on_the_axis_are_short() -> None:
    """They stand close together."""
    assert [short(it) for it in (0, 0.25, 500, 2500, 1_500_000)] == ["0", "0.25", "500", "2.5k", "1.5M"]


def test_bars_are_as_long_as_their_values() -> None:
    """With the range as a line, and no bar where there is no value; names are escaped."""
    bars = [
        Bar("a<b", "ours", 50, 40, 60, "50"),
        Bar("c", "mm2", 100, 100, 100, "100"),
        Bar("d", "x", None, 0, 0, "never"),
    ]
    text = draw("two & three", [Panel("panel", bars, limit=90, limit_label="limit")])
    root = ET.fromstring(text)
    widths = [float(it.attrib["width"]) for it in root if it.tag.endswith("rect")][1:]
    assert len(widths) == 2
    assert widths[1] == pytest.approx(2 * widths[0])
    written = [it.text for it in root if it.tag.endswith("text")]
    assert {"two & three", "a<b", "never", "limit", "50", "100"} <= set(written)
    assert text.count("stroke-dasharray") == 1


@pytest.mark.parametrize("kind", ALL)
def test_every_measurement_has_plots_that_are_well_formed(kind: Kind) -> None:
    """Small, and named in the document; the replayer is a line in those of throughput, never a bar."""
    made = plots.plots(ALL[kind])
    assert made
    for name, text in made.items():
        ET.fromstring(text)
        assert len(text) < 30_000
        assert f"(benchmarks/{name})" in plots.links(ALL[kind])
        assert ("the broker&apos;s own limit: 1,000" in text or "the broker's own limit: 1,000" in text) == (
            "throughput" in name
        )
        assert ">replayer<" not in text


def test_without_results_there_is_no_plot() -> None:
    """A plane without brokers, say."""
    assert plots.plots(None) == {}
    assert plots.plots(document("latency")) == {}
    assert plots.plots(document("memory", 1)) == {}


# --- what is published ------------------------------------------------------------------------------------------------


def test_the_published_document_is_what_the_published_results_say() -> None:
    """Nobody edits the figures by hand, or the plots."""
    assert {path.stem for path in results.PUBLISHED.glob("*.json")} <= set(MEASUREMENTS)
    assert report.DOCUMENT.read_text() == program.published()
    wanted: dict[str, str] = {}
    for it in program.published_results().values():
        wanted |= plots.plots(it)
    folder = report.DOCUMENT.parent / plots.FOLDER
    assert wanted
    assert {file.name: file.read_text() for file in folder.glob("*.svg")} == wanted


def test_every_kind_of_result_has_a_part_in_the_document() -> None:
    """Those that are published, in the order in which they are asked for most."""
    parts = [line for line in program.published().splitlines() if line.startswith("## ")]
    assert {"## Draining a backlog", "## Moving groups", "## Memory", "## The offset map"} <= set(parts)
    assert set(report.SECTIONS) == set(MEASUREMENTS)
