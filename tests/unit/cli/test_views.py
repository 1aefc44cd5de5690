"""What tables show, and in which order: what hurts most first, and never more than fits."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from replicator.cli.group_views import GroupsView, check_view
from replicator.cli.status import _trend_text
from replicator.errors import TP
from replicator.moves.model import NOTHING, Row
from replicator.operations.checks import Condition
from replicator.operations.group_report import GroupRow
from replicator.status.lag import TREND_LOOKS, Trend


def row(group: str, partition: int = 0, translation: str = "exact", **changes: Any) -> GroupRow:
    origin, destination = TP("orders", partition), TP("east.orders", partition)
    found = {"reason": "", "reread_records": 0, "synced": True, "age_s": 1.5, "on_target": False, **changes}
    plan = Row(
        group, origin, destination, 1000 + partition, 2000 + partition, translation,
        reason=found["reason"], reread_records=found["reread_records"], is_obstacle=translation != "exact",
    )  # fmt: skip
    return GroupRow(plan, found["age_s"], False, found["on_target"], found["synced"])


def lines(parts: list[Any], *, colour: bool = False) -> list[str]:
    """As printed on a wide terminal, without the spaces at the ends."""
    out = io.StringIO()
    console = Console(file=out, width=200, highlight=False, color_system="standard" if colour else None)
    for part in parts:
        console.print(part)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def view(rows: list[GroupRow], shown: int = 30) -> list[str]:
    return lines(GroupsView("east", "west", rows, shown).parts())


def test_a_few_partitions_are_shown_one_by_one() -> None:
    """With both places, and how old what is known of them is."""
    total, header, _, first, second = view([row("billing", p, on_target=True) for p in (0, 1)])
    assert total == "1 group, 2 partitions, 2 exact"
    titles = ["group", "topic", "part", "on east", "on west", "translation", "known", "active", "synced", "remark"]
    assert re.split(r"\s{2,}", header) == titles
    assert re.split(r"\s{2,}", first) == [
        "billing",
        "orders",
        "0",
        "1,000",
        "2,000",
        "exact",
        "1.5 s ago",
        "west",
        "yes",
    ]
    assert second.split()[2] == "1"


def test_a_place_that_nobody_knows_is_a_question_mark() -> None:
    unknown = row("billing", translation="unknown")
    unknown = replace(unknown, row=replace(unknown.row, origin_next=NOTHING, destination_next=None))
    assert view([unknown])[3].split()[3:5] == ["?", "?"]


def test_many_partitions_become_a_line_for_each_group() -> None:
    """The worst partition speaks for its group; sums and the oldest age for all."""
    bad = row("audit", 3, "expired", reason="expired: 3 lies before", reread_records=None, synced=False, age_s=9.0)
    rows = [
        bad,
        *(row("audit", p) for p in range(3)),
        *(row("billing", p, "between", reread_records=5) for p in (0, 1)),
    ]
    total, _, _, first, second, hint = view(rows, shown=5)
    assert total == "2 groups, 6 partitions, 3 exact"
    reason = "orders[3]: expired: 3 lies before"
    assert re.split(r"\s{2,}", first) == ["audit", "4", "3", "?", "9.0 s ago", "-", "3 of 4", reason]
    assert re.split(r"\s{2,}", second) == ["billing", "2", "0", "10", "1.5 s ago", "-", "yes"]
    assert hint == "use --group REGEX or a larger --top to see each partition"


def test_what_does_not_fit_is_counted() -> None:
    """5,000 groups are a screen, not a book."""
    found = view([row(f"g{group:04}", p) for group in range(5000) for p in range(10)])
    assert len(found) == 3 + 30 + 1
    assert found[0] == "5,000 groups, 50,000 partitions, 50,000 exact"
    assert found[-1].startswith("… and 4,970 more groups; ")


def test_colour_means_that_something_is_not_exact() -> None:
    """None where all is well."""
    well = lines(GroupsView("east", "west", [row("a")], 30).parts(), colour=True)
    assert not any("\x1b[33m" in line or "\x1b[31m" in line for line in well)
    for translation, code in (("between", "\x1b[33m"), ("expired", "\x1b[31m")):
        for shown in (1, 30):
            rows = [row("a", translation=translation), row("a", 1)]
            found = lines(GroupsView("east", "west", rows, shown).parts(), colour=True)
            assert sum(code in line for line in found) == 1


@pytest.mark.parametrize(
    ("bad", "verdict"), [(0, "a failover would work now"), (1, "1 condition fails"), (2, "2 cond")]
)
def test_a_verdict_counts(bad: int, verdict: str) -> None:
    conditions = [Condition(f"c{n}", n >= bad, "text") for n in range(3)]
    assert lines(check_view("east->west", conditions))[-1].startswith(verdict)


def test_a_trend_needs_two_looks_and_forgets_old_ones() -> None:
    """Records per second, over the last looks."""
    trend = Trend()
    assert trend.per_s == 0
    trend.note(0.0, 10_000)
    assert trend.per_s == 0
    trend.note(2.0, 8_000)
    assert trend.per_s == -1000
    for look in range(TREND_LOOKS):
        trend.note(10.0 + 2 * look, 100 * look)
    assert trend.per_s == 50


@pytest.mark.parametrize(
    ("records", "per_s", "text"),
    [
        (0, 0.0, ""),
        (500, -0.4, ""),
        (0, -300.0, "lag falls by 300 records/s; "),
        (6000, -100.0, "lag falls by 100 records/s, caught up in 1 m 00 s; "),
        (6000, 1234.0, "lag grows by 1,234 records/s; "),
    ],
)
def test_a_trend_tells_when_it_is_over(records: int, per_s: float, text: str) -> None:
    assert _trend_text(records, per_s) == text
