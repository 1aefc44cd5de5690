"""The measurements as commands: their arguments, and what they measure by default, in short and in full."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType

from bench import (
    failover,
    failover_report,
    latency,
    live_report,
    memory,
    offset_map,
    partitions,
    report,
    takeover,
    throughput,
    throughput_report,
)
from bench.contenders import KNOWN, SOURCE, TARGET
from bench.results import Kind
from bench.stage import Say

SHORT_SIZES = ((100, 1_000_000), (1024, 400_000))
FULL_SIZES = ((100, 4_000_000), (1024, 1_000_000), (10_240, 100_000), (10_240, 400_000))
"""Bytes of a record, and how many. 100,000 of 10 KiB is what the promises were made of, but takes us one second."""
OTHER_RECORDS = 100_000
TINY_BYTES, SHORT_TINY, FULL_TINY = 100, 100_000, 400_000
OURS = "ours-batches,ours-records"
BOTH, ALL = f"{OURS},mm2-tuned-eos", f"{OURS},mm2-tuned-eos,mm2-stock-eos"
FULL_ROUNDS = 3

Parser = argparse.ArgumentParser
Arguments = argparse.Namespace


@dataclass(frozen=True, slots=True)
class Measurement:
    """One subcommand.

    Args:
        arguments: adds its own to a parser; `--full` is there.
        options: from the parsed ones.
        measure: takes the options; its result is saved, and may have `complaints`.
        table: of a saved document.
        is_short: whether `make bench` runs it, too.
    """

    help: str
    arguments: Callable[[Parser], None]
    options: Callable[[Arguments], Any]
    measure: Callable[[Any, Say], Any]
    table: Callable[[dict[str, Any]], RenderableType]
    is_short: bool = True


def _usual(parser: Parser, short: str, full: str) -> None:
    """Arguments of all that compare contenders."""
    default = f"default: {short}" + ("" if short == full else f"; with --full {full}")
    parser.add_argument("--contenders", help=f"{default}. Known: {KNOWN}")
    parser.add_argument("--rounds", type=int, help=f"default: 1; with --full {FULL_ROUNDS}")
    parser.set_defaults(defaults=(short, full))


def _clusters(parser: Parser) -> None:
    parser.add_argument("--source-bootstrap", help="a cluster that runs already; every topic on it is DELETED")
    parser.add_argument("--target-bootstrap", help="a cluster that runs already; every topic on it is DELETED")


def _names(given: Arguments) -> tuple[str, ...]:
    short, full = given.defaults
    return tuple((given.contenders or (full if given.full else short)).split(","))


def _rounds(given: Arguments) -> int:
    return int(given.rounds or (FULL_ROUNDS if given.full else 1))


def _existing(given: Arguments) -> dict[str, str]:
    known = {SOURCE: given.source_bootstrap, TARGET: given.target_bootstrap}
    return {name: servers for name, servers in known.items() if servers}


def _period(given: Arguments, short_s: float, full_s: float) -> float:
    return float(given.window or (full_s if given.full else short_s))


# --- draining ---------------------------------------------------------------------------------------------------------


def _drain(parser: Parser) -> None:
    parser.add_argument("--records", type=int, help="for each size")
    parser.add_argument("--limit", type=float, default=300, metavar="S", help="how long one run may take")
    parser.add_argument("--no-count", action="store_true", help="don't read every record back in the first round")
    _clusters(parser)


def _throughput_arguments(parser: Parser) -> None:
    _usual(parser, f"{BOTH},replayer", f"ours-batches-tuned,{ALL},replayer")
    parser.add_argument("--size", type=int, action="append", help="bytes of a record; may be repeated")
    _drain(parser)


def _throughput_options(given: Arguments) -> throughput.Options:
    usual = FULL_SIZES if given.full else SHORT_SIZES
    sizes = []
    for size in given.size or dict(usual):
        amounts = [records for it, records in usual if it == size] or [OTHER_RECORDS]
        sizes += [(size, records) for records in ([given.records] if given.records else amounts)]
    return _drain_options(given, sizes)


def _drain_options(
    given: Arguments, sizes: Sequence[tuple[int, int]], batch_records: int | None = None
) -> throughput.Options:
    return throughput.Options(
        sizes=tuple(sizes),
        rounds=_rounds(given),
        contenders=_names(given),
        limit_s=given.limit,
        count_all=not given.no_count,
        existing=_existing(given),
        batch_records=batch_records,
    )


def _tiny_arguments(parser: Parser) -> None:
    _usual(parser, OURS, f"{BOTH},replayer")
    _drain(parser)


def _tiny_options(given: Arguments) -> throughput.Options:
    records = given.records or (FULL_TINY if given.full else SHORT_TINY)
    return _drain_options(given, [(TINY_BYTES, records)], batch_records=1)


# --- under load -------------------------------------------------------------------------------------------------------


def _latency_arguments(parser: Parser) -> None:
    _usual(parser, f"{latency.NOTHING},{BOTH}", f"{latency.NOTHING},{ALL}")
    parser.add_argument("--rate", type=int, default=latency.RECORDS_PER_S, help="records per second")
    parser.add_argument("--window", type=float, metavar="S", help="how long; default: 10, --full 45")
    _clusters(parser)


def _latency_options(given: Arguments) -> latency.Options:
    return latency.Options(
        contenders=_names(given),
        rounds=_rounds(given),
        records_per_s=given.rate,
        warm_up_s=15.0 if given.full else 5.0,
        window_s=_period(given, 10, 45),
        existing=_existing(given),
    )


def _partitions_arguments(parser: Parser) -> None:
    _usual(parser, "ours-batches", "ours-batches")
    parser.add_argument("--busy", type=int, default=10, help="partitions with records")
    parser.add_argument("--all", type=int, default=1000, help="partitions in all")
    parser.add_argument("--rate", type=int, default=partitions.RECORDS_PER_S, help="records per second")
    parser.add_argument("--window", type=float, metavar="S", help="how long; default: 10, --full 60")
    _clusters(parser)


def _partitions_options(given: Arguments) -> partitions.Options:
    return partitions.Options(
        contenders=_names(given),
        rounds=_rounds(given),
        busy=given.busy,
        all=given.all,
        records_per_s=given.rate,
        warm_up_s=15.0 if given.full else 5.0,
        window_s=_period(given, 10, 60),
        existing=_existing(given),
    )


def _takeover_arguments(parser: Parser) -> None:
    _usual(parser, "ours-batches", BOTH)
    parser.add_argument("--limit", type=float, default=420, metavar="S", help="how long a takeover is waited for")
    _clusters(parser)


def _takeover_options(given: Arguments) -> takeover.Options:
    return takeover.Options(
        contenders=_names(given),
        rounds=_rounds(given),
        warm_up_s=10.0 if given.full else 5.0,
        limit_s=given.limit,
        existing=_existing(given),
    )


def _failover_arguments(parser: Parser) -> None:
    _usual(parser, "ours-batches,mm2-tuned-eos", "ours-batches,mm2-tuned-eos,mm2-stock-eos")
    parser.add_argument("--window", type=float, metavar="S", help="how long commits are timed; default: 10, --full 75")


def _failover_options(given: Arguments) -> failover.Options:
    return failover.Options(
        contenders=_names(given),
        rounds=_rounds(given),
        warm_up_s=30.0 if given.full else 5.0,
        window_s=_period(given, 10, 75),
    )


# --- bounds -----------------------------------------------------------------------------------------------------------


def _memory_arguments(parser: Parser) -> None:
    parser.add_argument("--contender", default="ours", help="default: ours; one of ours")
    parser.add_argument("--partitions", type=int, help="default: 200; with --full 400")
    parser.add_argument("--mib", type=int, default=1024, help="size of the backlog")
    parser.add_argument("--buffer-mib", type=int, default=64, help="worker.buffer_bytes; 0: the default")
    parser.add_argument("--stall", type=float, default=30, metavar="S", help="how long the target stands still")


def _memory_options(given: Arguments) -> memory.Options:
    return memory.Options(
        partitions=given.partitions or (400 if given.full else 200),
        backlog_bytes=given.mib << 20,
        buffer_bytes=(given.buffer_mib << 20) or memory.DEFAULT_BUFFER_BYTES,
        stall_s=given.stall,
        contender=given.contender,
    )


def _offset_map_arguments(parser: Parser) -> None:
    parser.add_argument("--runs", type=int, default=offset_map.RUNS)


def _offset_map_options(given: Arguments) -> offset_map.Options:
    return offset_map.Options(runs=given.runs)


MEASUREMENTS: dict[Kind, Measurement] = {
    "throughput": Measurement(
        "contenders in turn over the same backlog",
        _throughput_arguments, _throughput_options, throughput.measure, throughput_report.table,
    ),
    "tiny": Measurement(
        "the same, with one record in each batch of the source",
        _tiny_arguments, _tiny_options, throughput.measure, throughput_report.table,
    ),
    "latency": Measurement(
        "how old records are when a reader of the target gets them, under a steady load",
        _latency_arguments, _latency_options, latency.measure, live_report.latency_table,
    ),
    "partitions": Measurement(
        "what idle partitions cost",
        _partitions_arguments, _partitions_options, partitions.measure, live_report.partitions_table,
    ),
    "takeover": Measurement(
        "how long partitions stand still when a worker is killed",
        _takeover_arguments, _takeover_options, takeover.measure, live_report.takeover_table,
    ),
    "failover": Measurement(
        "groups move to the target: records read twice or never, and time",
        _failover_arguments, _failover_options, failover.measure, failover_report.table,
    ),
    "memory": Measurement(
        "a backlog on many partitions, and a target that stalls",
        _memory_arguments, _memory_options, memory.measure, report.memory_table, is_short=False,
    ),
    "offset-map": Measurement(
        "ten million runs through one offset map",
        _offset_map_arguments, _offset_map_options, offset_map.measure, report.offset_map_table, is_short=False,
    ),
}  # fmt: skip
"""In the order in which they run."""
