"""`replicator status` and `replicator lag`: what runs where, and how far it is behind. Neither needs a worker."""

from __future__ import annotations

import contextlib
import datetime as dt
import re
import signal
import time
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from replicator.cli.app import Context, FlowOption, Output, OutputOption, app
from replicator.cli.output import (
    busy,
    complain,
    count_text,
    new_table,
    print_json,
    print_result,
    seconds_text,
    stdout,
)
from replicator.errors import ConfigError, ReplicatorError
from replicator.status.lag import Lag, PartitionLag, State, Trend
from replicator.status.lag_reader import Observer
from replicator.status.status import FlowStatus, Side, flow_status

REFRESH_S = 2.0
DEFAULT_TOP = 30
WIDE = 110
"""Narrower terminals leave out the source's end and the worker, so that topics stay readable."""
OLD_S = 60.0
"""Lag older than this is coloured."""
STYLES = {
    State.STOPPED: "bold red",
    State.HALTED: "yellow",
    State.UNASSIGNED: "red",
    State.NEW: "yellow",
    State.RUNNING: "",
}


@app.command()
def lag(
    context: typer.Context,
    flow: FlowOption = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Refresh every 2 seconds, until Ctrl-C.")] = False,
    top: Annotated[
        int | None, typer.Option("--top", min=1, metavar="N", help="Rows [table: 30, JSON: all]; worst first.")
    ] = None,
    topic: Annotated[
        str | None, typer.Option("--topic", metavar="REGEX", help="Only source topics whose name matches.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show how far each partition is behind: stopped ones first, then the largest lag."""
    options: Context = context.obj
    settings, the_flow = options.flow(flow)
    pattern = _pattern(topic)
    shown = top if output is Output.JSON else top or DEFAULT_TOP
    with contextlib.closing(Observer(the_flow, settings.connect_timeout_s)) as observer:
        with busy(f"reading {the_flow.name}"):
            if failed := observer.connect():
                _fail(failed.values())
            now = observer.lag(pattern)
        if watch:
            _watch(observer, now, lambda: observer.lag(pattern), shown, output)
        elif output is Output.JSON:
            print_json(now.as_json(shown))
        else:
            print_result(_lag_view(now, shown))


@app.command()
def status(context: typer.Context, flow: FlowOption = None, output: OutputOption = Output.TABLE) -> None:
    """Show the clusters, workers and tasks of every flow, or of one. Exit code 1: a cluster is unreachable."""
    options: Context = context.obj
    settings = options.settings()
    flows = [settings.flow(flow)] if flow else settings.all_flows()
    found = []
    for the_flow in flows:
        with busy(f"reading {the_flow.name}"):
            found.append(flow_status(the_flow, settings.connect_timeout_s))
        if output is Output.TABLE:
            print_result(_status_view(found[-1]))
    if output is Output.JSON:
        print_json({"flows": [it.as_json() for it in found]})
    errors = dict.fromkeys(side.error for it in found for side in (it.source, it.target) if side.error)
    if errors:
        _fail(errors)


def _pattern(topic: str | None) -> re.Pattern[str] | None:
    try:
        return re.compile(topic) if topic else None
    except re.error as error:
        raise ConfigError("--topic", f"{topic!r} is not a regular expression: {error}") from error


def _fail(errors: Iterable[ReplicatorError | str]) -> None:
    for error in errors:
        complain(error)
    raise typer.Exit(1)


# --- watching ---------------------------------------------------------------------------------------------------------


def _watch(observer: Observer, now: Lag, look: Callable[[], Lag], shown: int | None, output: Output) -> None:
    """Show `now`, then what `look` finds, until Ctrl-C or SIGTERM; an unreachable cluster is tried again."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the terminal's cursor comes back
    on_screen = output is Output.TABLE and stdout.is_terminal
    screen = Console(highlight=False)  # this one wraps lines: nothing can be scrolled into view here
    live = Live(console=screen, screen=True, auto_refresh=False) if on_screen else contextlib.nullcontext()
    problem = ""
    trend = Trend()
    trend.note(time.monotonic(), now.total_records)
    with contextlib.suppress(KeyboardInterrupt), live:
        while True:
            if isinstance(live, Live):
                rows = max(3, min(shown or DEFAULT_TOP, screen.height - 9 - 2 * len(_stopped_lines(now))))
                footer = _footer(now.total_records, trend.per_s)
                live.update(Group(_lag_view(now, rows, problem), footer), refresh=True)
            elif problem:
                complain(problem)
            elif output is Output.JSON:
                print_json(now.as_json(shown), line=True)
            else:
                print_result(_lag_view(now, shown))
            observer.wait(REFRESH_S)
            try:
                if problem:
                    observer.renew()
                now, problem = look(), ""
                trend.note(time.monotonic(), now.total_records)
            except ReplicatorError as error:
                problem = str(error)
    if on_screen:
        print_result(_lag_view(now, shown, problem))


def _trend_text(records: int, per_s: float) -> str:
    """``lag falls by 1,200 records/s, caught up in 3 m 05 s; ``; empty while the lag is steady."""
    if abs(per_s) < 1:
        return ""
    end = f", caught up in {seconds_text(records / -per_s)}" if per_s < 0 < records else ""
    return f"lag {'grows' if per_s > 0 else 'falls'} by {abs(per_s):,.0f} records/s{end}; "


def _footer(records: int, per_s: float) -> Text:
    clock = f"{dt.datetime.now(dt.UTC):%H:%M:%S} UTC, refreshes every {REFRESH_S:g} s; Ctrl-C exits"
    return Text(_trend_text(records, per_s) + clock, style="dim")


# --- views ------------------------------------------------------------------------------------------------------------


def _lag_view(lag: Lag, shown: int | None, problem: str = "") -> Group:
    rows = lag.partitions[:shown]
    parts: list[Any] = [_summary(lag)]
    if problem:
        parts.append(Text(f"not up to date: {problem}", style="bold red"))
    if lag.halted:
        parts.append(Text(lag.halted, style="bold yellow"))
    if not lag.workers.tasks:
        parts.append(Text("no worker is running: nothing is replicated", style="bold red"))
    parts.append(Text(""))
    if rows:
        parts.append(_lag_table(rows))
    if len(rows) < len(lag.partitions):
        rest = len(lag.partitions) - len(rows)
        parts.append(Text(f"… and {rest:,} more partitions (--top N, --topic REGEX)", style="dim"))
    parts += _stopped_lines(lag)
    parts += [Text(f"the pattern {pattern!r} matches no topic", style="yellow") for pattern in lag.unmatched]
    return Group(*parts)


def _summary(lag: Lag) -> Text:
    text = Text()
    text.append(lag.flow, style="bold")
    behind = f", oldest {seconds_text(lag.oldest_seconds)}" if lag.total_records else ""
    text.append(f"   lag {count_text(lag.total_records)} records{behind}")
    counts = [f"{lag.count(state):,} {state.value}" for state in State if lag.count(state)]
    text.append(f"   {len(lag.partitions):,} partitions" + (f": {', '.join(counts)}" if counts else ""))
    text.append(f"   {len(lag.workers.tasks)} workers" if len(lag.workers.tasks) != 1 else "   1 worker")
    return text


def _lag_table(rows: Iterable[PartitionLag]) -> Table:
    is_wide = not stdout.is_terminal or stdout.width >= WIDE
    wide = {"source_end": True, "worker": False} if is_wide else {}
    table = new_table(
        topic=False, part=True, state=False, lag_records=True, age=True, position=True, task=True, **wide
    )  # fmt: skip
    for it in rows:
        is_old = it.lag_seconds is not None and it.lag_seconds > OLD_S
        code = it.reason.partition(":")[0]
        state = f"stopped: {code}" if it.state is State.STOPPED else it.state.value
        cells: list[str | Text] = [
            it.tp.topic,
            str(it.tp.partition),
            Text(state, style=STYLES[it.state]),
            count_text(it.lag_records),
            Text(seconds_text(it.lag_seconds) if it.lag_records != 0 else "-", style="yellow" if is_old else ""),
            "-" if it.replicated_next is None else count_text(it.replicated_next),
            str(it.task),
        ]
        table.add_row(*cells, *([count_text(it.source_end), it.worker or "-"] if is_wide else []))
    return table


def _stopped_lines(lag: Lag, at_most: int = 5) -> list[Text]:
    """Why partitions stopped: one line for each reason, with the details of the first partition."""
    by_code: dict[str, list[PartitionLag]] = {}
    for it in lag.partitions:
        if it.state is State.STOPPED:
            by_code.setdefault(it.reason.partition(": ")[0], []).append(it)
    lines = []
    for code, stopped in list(by_code.items())[:at_most]:
        first = stopped[0]
        more = f" (and {len(stopped) - 1:,} more)" if len(stopped) > 1 else ""
        detail = first.reason.partition(": ")[2].replace(f" of {first.tp}:", ":")
        line = Text()
        line.append(f"{code}: ", style="red")
        line.append(f"{first.tp}{more}{_since(first.since)}: {detail}")
        lines.append(line)
    return [Text(""), *lines] if lines else []


def _since(iso: str) -> str:
    """`` since 2026-01-31 03:00:00 UTC, 5 m 10 s ago``; nothing where it is not known."""
    try:
        at = dt.datetime.fromisoformat(iso)
    except ValueError:
        return ""
    ago = seconds_text(max(0.0, (dt.datetime.now(dt.UTC) - at).total_seconds()))
    return f" since {at.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S} UTC, {ago} ago"


def _status_view(it: FlowStatus) -> Group:
    parts: list[Any] = [Text(it.flow, style="bold"), _facts(it)]
    if it.tasks:
        halted = {"halted": True} if it.halted else {}
        columns = {"task": True, "worker": False, "partitions": True, "running": True, "stopped": True, "new": True}
        table = new_table(**columns, lag=True, **halted)
        for task in it.tasks:
            stopped = task.partitions.get(State.STOPPED, 0)
            table.add_row(
                str(task.task),
                task.worker or Text("no worker", style="red"),
                count_text(sum(task.partitions.values())),
                count_text(task.partitions.get(State.RUNNING, 0)),
                Text(count_text(stopped), style="bold red" if stopped else ""),
                count_text(task.partitions.get(State.NEW, 0)),
                count_text(task.lag_records) if it.is_reachable else "?",
                *([count_text(task.partitions.get(State.HALTED, 0))] if it.halted else []),
            )
        parts += [Text(""), table]
    parts += [Text(f"! {problem}", style="yellow") for problem in it.problems]
    return Group(*parts, *_stopped_lines(it.lag), Text(""))


def _facts(it: FlowStatus) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("source", _side(it.source))
    table.add_row("target", _side(it.target))
    if not it.target.error:
        table.add_row("workers", _workers(it))
        counts = [f"{it.lag.count(state):,} {state.value}" for state in State if it.lag.count(state)]
        table.add_row("partitions", ", ".join(counts) or "none")
        known = it.is_reachable
        age = f", oldest {seconds_text(it.lag.oldest_seconds)}" if it.lag.total_records else ""
        table.add_row("lag", f"{count_text(it.lag.total_records)} records{age}" if known else "? (needs the source)")
    table.add_row("data plane", it.data_plane)
    return table


def _side(side: Side) -> Text:
    if side.error:
        return Text(f"{side.alias} ({side.bootstrap_servers}) DOES NOT ANSWER", style="bold red")
    brokers = f"{side.brokers} broker{'s' if side.brokers != 1 else ''}"
    return Text(f"{side.alias} ({side.bootstrap_servers}): {brokers}")


def _workers(it: FlowStatus) -> Text:
    if not it.workers.tasks:
        return Text("none", style="bold red")
    each = [f"{name} (tasks {', '.join(map(str, tasks)) or 'none'})" for name, tasks in it.workers.tasks.items()]
    moving = "; the group is rebalancing" if it.workers.is_moving else ""
    return Text("\n".join(each) + moving)
