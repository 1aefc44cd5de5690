"""Tables of `groups`, `explain` and `check`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from replicator.cli.output import count_text, new_table, seconds_text
from replicator.moves.model import Row, counted
from replicator.operations.checks import Condition
from replicator.operations.group_report import Explanation, GroupRow


@dataclass(frozen=True, slots=True)
class GroupsView:
    """Where groups would continue: a line per partition, or per group if there are too many partitions.

    Args:
        source: alias.
        target: alias.
        rows: the worst first.
        shown: lines at most.
    """

    source: str
    target: str
    rows: Sequence[GroupRow]
    shown: int

    def parts(self) -> list[Any]:
        """What to print, one after the other."""
        by_group: dict[str, list[GroupRow]] = {}
        for it in self.rows:
            by_group.setdefault(it.row.group, []).append(it)
        exact = sum(it.row.translation == "exact" for it in self.rows)
        sizes = f"{counted(len(by_group), 'group')}, {counted(len(self.rows), 'partition')}"
        total = Text(f"{sizes}, {exact:,} exact")
        if not self.rows:
            return [Text("no group has a committed offset in a topic of this flow")]
        if len(self.rows) <= self.shown:
            return [total, self._partitions()]
        groups = list(by_group.values())
        parts = [total, self._groups(groups[: self.shown])]
        more = f"… and {len(groups) - self.shown:,} more groups" if len(groups) > self.shown else ""
        hint = "use --group REGEX or a larger --top to see each partition"
        return [*parts, Text(f"{more}; {hint}" if more else hint, style="dim")]

    def _partitions(self) -> Table:
        table = new_table(
            group=False, topic=False, part=True, **{f"on_{self.source}": True, f"on_{self.target}": True},
            translation=False, known=True, active=False, synced=False, remark=False,
        )  # fmt: skip
        for it in self.rows:
            row = it.row
            table.add_row(
                row.group,
                row.origin.topic,
                str(row.origin.partition),
                count_text(row.known_origin_next),
                count_text(row.destination_next),
                Text(row.translation, style=_style(row)),
                _age(it.checkpoint_age_s),
                self._active(it),
                "yes" if it.synced else "no",
                row.reason,
            )
        return table

    def _groups(self, groups: Iterable[Sequence[GroupRow]]) -> Table:
        table = new_table(
            group=False, partitions=True, exact=True, **{"re-read_≤": True}, known=True, active=False, synced=False,
            remark=False,
        )  # fmt: skip
        for rows in groups:
            worst = rows[0].row
            exact = sum(it.row.translation == "exact" for it in rows)
            synced = sum(it.synced for it in rows)
            ages_s = [it.checkpoint_age_s for it in rows if it.checkpoint_age_s is not None]
            reread = [it.row.reread_records for it in rows]
            table.add_row(
                worst.group,
                count_text(len(rows)),
                Text(count_text(exact), style=_style(worst) if exact < len(rows) else ""),
                count_text(None if None in reread else sum(it or 0 for it in reread)),
                _age(max(ages_s, default=None)),
                self._active(rows[0]),
                "yes" if synced == len(rows) else f"{synced:,} of {len(rows):,}" if synced else "no",
                f"{worst.origin}: {worst.reason}" if worst.reason else "",
            )
        return table

    def _active(self, it: GroupRow) -> str:
        where = ((self.source, it.active_on_source), (self.target, it.active_on_target))
        return ", ".join(alias for alias, is_active in where if is_active) or "-"


def _style(row: Row) -> str:
    """Colours a row that would not move to an exact offset."""
    if row.translation == "exact":
        return ""
    return "red" if row.translation in ("expired", "unknown") and row.is_obstacle else "yellow"


def _age(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds_text(seconds)} ago"


def explain_view(it: Explanation) -> list[Any]:
    """Why a group would not move to exact offsets, and what to do: one paragraph for each reason."""
    title = Text(f"{it.group} on {it.flow}", style="bold")
    title.append(f"   {it.exact} of {len(it.rows)} partitions are exact", style="default")
    parts: list[Any] = [title]
    for reason, text, advice in it.whole:
        parts.append(Text(f"! {reason}: {text}", style="yellow"))
        parts.append(Text(f"  {advice}"))
    by_reason: dict[str, list[Any]] = {}
    for row, advice in it.rows:
        if row.reason:
            by_reason.setdefault(row.reason.partition(":")[0], []).append((row, advice))
    for reason, rows in by_reason.items():
        first, advice = rows[0]
        more = f" (and {counted(len(rows) - 1, 'more partition')})" if len(rows) > 1 else ""
        parts.append(Text(f"{first.origin}{more}: {first.reason}", style="yellow"))
        parts.append(Text(f"  {advice}" if advice else f"  {reason}"))
    if len(parts) == 1:
        parts.append(Text("every partition would move to its exact offset", style="green"))
    return parts


def check_view(flow: str, conditions: Sequence[Condition]) -> list[Any]:
    """One line for each condition, and the verdict."""
    table = new_table(condition=False, **{"": False}, found=False)
    for it in conditions:
        table.add_row(it.name, Text("ok" if it.ok else "FAILS", style="green" if it.ok else "bold red"), it.detail)
    failing = sum(not it.ok for it in conditions)
    text = f"{failing} conditions fail" if failing > 1 else "1 condition fails"
    verdict = text if failing else "a failover would work now"
    return [Text(flow, style="bold"), table, Text(verdict, style="bold red" if failing else "green")]
