"""What the demo showed: the numbers, as a table for a person and as JSON for a program. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from replicator.demo.compare import EXAMPLES, Comparison


@dataclass(frozen=True, slots=True)
class Latency:
    """From the produce call on the source to being visible to a read_committed consumer of the target, in seconds."""

    p50_s: float
    p99_s: float
    max_s: float

    @classmethod
    def of(cls, latencies_s: Sequence[float]) -> Latency | None:
        """None when nothing was measured."""
        if not latencies_s:
            return None
        ordered = sorted(latencies_s)
        return cls(percentile(ordered, 50), percentile(ordered, 99), ordered[-1])


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Nearest rank: the smallest value that at least `percent` of all do not exceed."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


@dataclass(frozen=True, slots=True)
class Measured:
    """Speed and latency of one run.

    Args:
        offered_per_s: the rate at which records were produced, once it was calibrated.
        average_per_s: visible records, from the first produced to the last visible.
        peak_per_s: the most that became visible within one second.
        latency: of all records.
        before_kill: of the records produced at that rate before the kill.
        takeover_s: from the kill until the other worker ran every task.
        standstill_s: the longest time in which a partition got no record, from the kill on.
        session_timeout_s: after this long without a heartbeat Kafka gives a worker's tasks to another one.
    """

    offered_per_s: float
    average_per_s: float
    peak_per_s: int
    latency: Latency | None
    before_kill: Latency | None
    takeover_s: float
    standstill_s: float
    session_timeout_s: float


def throughput(produced_s: Sequence[float], visible_s: Sequence[float]) -> tuple[float, int]:
    """Visible records per second: on average, and in the best second. Zeros in `visible_s` are records never seen."""
    seen_s = [at_s for at_s in visible_s if at_s]
    if not seen_s:
        return 0.0, 0
    began_s = produced_s[0]
    per_second = Counter(int(at_s - began_s) for at_s in seen_s)
    return len(seen_s) / max(max(seen_s) - began_s, 1e-9), max(per_second.values())


def latencies(
    produced_s: Sequence[float], visible_s: Sequence[float], since_s: float = 0.0, before_s: float = math.inf
) -> list[float]:
    """Seconds from produced to visible, of the visible records produced from `since_s` until before `before_s`."""
    pairs = zip(produced_s, visible_s, strict=True)
    return [visible - produced for produced, visible in pairs if visible and since_s <= produced < before_s]


@dataclass(frozen=True, slots=True)
class Account:
    """What a consumer group did with the records, wherever it worked.

    Args:
        processed: different records.
        twice: processed more often than once; each surplus time counts.
        never: not processed.
        unknown: processed and never produced; each time counts.
        examples: a few of these, in words.
    """

    processed: int = 0
    twice: int = 0
    never: int = 0
    unknown: int = 0
    examples: tuple[str, ...] = ()

    @classmethod
    def of(cls, times: Sequence[int], unknown: int, again: Mapping[int, Sequence[str]]) -> Account:
        """From how often each record was processed, by its number.

        Args:
            again: who processed a record that was processed more often than once.
        """
        never = times.count(0)
        odd = islice(((n, count) for n, count in enumerate(times) if count != 1), EXAMPLES)
        examples = [
            f"processed {count} times by the group: n = {n} {', '.join(again.get(n, ()))}".rstrip() for n, count in odd
        ]
        examples += [f"processed and never produced: {unknown} records"] if unknown else []
        return cls(len(times) - never, sum(times) - (len(times) - never), never, unknown, tuple(examples))

    @property
    def is_clean(self) -> bool:
        """Whether each record was processed once, and there was one at all."""
        return self.processed > 0 and self.twice == self.never == self.unknown == 0


@dataclass(frozen=True, slots=True)
class Move:
    """One move of the group.

    Args:
        command: that moved it.
        partitions: that it was about.
        exact: of these, moved to the exact place.
        took_s: from stopping the group's consumers until the command has moved it and read that back.
        pause_s: from there until the group processed its first record where it is now; None when there was none.
    """

    command: str
    partitions: int
    exact: int
    took_s: float
    pause_s: float | None = None


MOVES = 2
"""There and back."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What `--keep` left running.

    Args:
        bootstrap_servers: by cluster alias.
        config: a configuration for `replicator -c`.
        source_topic: on the source.
        remote_topic: its copy.
        group: the consumer group.
        stop: the shell command that removes it all.
    """

    bootstrap_servers: dict[str, str]
    config: str
    source_topic: str
    remote_topic: str
    group: str
    stop: str


@dataclass(frozen=True, slots=True)
class SummaryRow:
    """One line of the table: what, how much, and a remark.

    Args:
        is_bad: to be shown in red.
    """

    name: str
    amount: str
    remark: str = ""
    is_bad: bool = False

    @classmethod
    def of_damage(cls, name: str, count: int, remark: str = "") -> SummaryRow:
        """A count that should be 0."""
        return cls(name, f"{count:,}", remark, count != 0)


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the table."""

    title: str
    rows: Sequence[SummaryRow]


@dataclass(frozen=True, slots=True)
class Summary:
    """The result of a run.

    Args:
        produced: records that the source acknowledged.
        comparison: of everything on both sides.
        account: of the consumer group.
        moves: of the group, in order.
        measured: speed and latency.
        duration_s: of the whole demo.
        kept: what still runs; None without `--keep`.
    """

    produced: int
    comparison: Comparison
    account: Account
    moves: tuple[Move, ...]
    measured: Measured
    duration_s: float
    kept: Kept | None = None

    @property
    def is_clean(self) -> bool:
        """Whether every record produced is on both sides, once, in order and unchanged, and was processed once."""
        is_copied = self.comparison.is_clean and self.comparison.source_records == self.produced
        is_processed = self.account.is_clean and self.account.processed == self.produced
        return is_copied and is_processed and len(self.moves) == MOVES

    @property
    def examples(self) -> tuple[str, ...]:
        """A few of the things that are not as they should be."""
        return (*self.comparison.examples, *self.account.examples)

    def to_json(self) -> dict[str, Any]:
        """For `-o json`; names are a contract."""
        found, measured = self.comparison, self.measured
        return {
            "clean": self.is_clean,
            "records": self.produced,
            "source_records": found.source_records,
            "target_records": found.target_records,
            "lost": found.lost,
            "duplicated": found.duplicated,
            "out_of_order": found.out_of_order,
            "changed": found.changed,
            "unknown": found.unknown,
            "group": {
                "processed": self.account.processed,
                "twice": self.account.twice,
                "never": self.account.never,
                "unknown": self.account.unknown,
                "moves": [_move(it) for it in self.moves],
            },
            "examples": list(self.examples),
            "throughput_records_per_s": {
                "offered": measured.offered_per_s,
                "average": round(measured.average_per_s, 1),
                "peak": measured.peak_per_s,
            },
            "latency_s": {"all": _latency(measured.latency), "before_kill": _latency(measured.before_kill)},
            "takeover_s": round(measured.takeover_s, 3),
            "longest_standstill_s": round(measured.standstill_s, 3),
            "session_timeout_s": measured.session_timeout_s,
            "duration_s": round(self.duration_s, 1),
            "kept": None
            if self.kept is None
            else {
                "bootstrap_servers": self.kept.bootstrap_servers,
                "config": self.kept.config,
                "source_topic": self.kept.source_topic,
                "remote_topic": self.kept.remote_topic,
                "group": self.kept.group,
                "stop": self.kept.stop,
            },
        }

    def sections(self) -> list[Section]:
        """What a person reads: the flow at work, what the kill did, and the comparison of all records."""
        measured = self.measured
        at_rate = f"at {measured.offered_per_s:,.0f} records/s, before the kill"
        steady = [
            SummaryRow("latency p50", _percentile(measured.before_kill, "p50_s"), f"source to target, {at_rate}"),
            SummaryRow("latency p99", _percentile(measured.before_kill, "p99_s"), "the same"),
            *(SummaryRow(it.command, seconds(it.took_s), _remark(it)) for it in self.moves),
        ]
        takeover = f"until the other worker ran all tasks (session timeout {measured.session_timeout_s:g} s)"
        kill = [
            SummaryRow("takeover", seconds(measured.takeover_s), takeover),
            SummaryRow("standstill", seconds(measured.standstill_s), "longest time in which a partition got no record"),
            SummaryRow("catching up", f"{measured.peak_per_s:,}/s", "records replicated in the fastest second"),
        ]
        return [
            Section("Steady flow and planned moves", steady),
            Section("One of two workers killed with kill -9", kill),
            Section("Every record of both clusters compared", self._compared()),
        ]

    def _compared(self) -> list[SummaryRow]:
        found, account = self.comparison, self.account
        remark = "produced, and found on both clusters"
        if found.source_records != self.produced or found.target_records != self.produced:
            remark = f"produced; {found.source_records:,} on the source, {found.target_records:,} on the target"
        rows = [
            SummaryRow("records", f"{self.produced:,}", remark),
            SummaryRow.of_damage("lost", found.lost),
            SummaryRow.of_damage("duplicated", found.duplicated),
            SummaryRow.of_damage("out of order", found.out_of_order),
            SummaryRow.of_damage("changed", found.changed, "key, value, headers or timestamp"),
        ]
        if found.unknown:
            rows.append(SummaryRow.of_damage("unknown", found.unknown, "never produced"))
        rows.append(
            SummaryRow.of_damage("read twice", account.twice, "by the consumer group, on both clusters together")
        )
        rows.append(SummaryRow.of_damage("never read", account.never))
        return rows


def _remark(move: Move) -> str:
    first = "" if move.pause_s is None else f"; first record processed after {seconds(move.pause_s)}"
    return f"{move.exact} of {move.partitions} partitions exact{first}"


def _percentile(latency: Latency | None, name: str) -> str:
    return seconds(getattr(latency, name, None))


def _move(move: Move) -> dict[str, Any]:
    return {
        "command": move.command,
        "partitions": move.partitions,
        "exact": move.exact,
        "took_s": round(move.took_s, 3),
        "pause_s": None if move.pause_s is None else round(move.pause_s, 3),
    }


def _latency(latency: Latency | None) -> dict[str, float] | None:
    if latency is None:
        return None
    return {"p50": round(latency.p50_s, 4), "p99": round(latency.p99_s, 4), "max": round(latency.max_s, 4)}


def seconds(value_s: float | None) -> str:
    """For a person: ``62 ms``, ``9.8 s``."""
    if value_s is None:
        return "-"
    return f"{value_s * 1000:,.0f} ms" if value_s < 1 else f"{value_s:,.1f} s"
