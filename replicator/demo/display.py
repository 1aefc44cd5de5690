"""Progress: three bars and the workers on a terminal, a line every few seconds elsewhere. Always on stderr."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

PLAIN_INTERVAL_S = 5.0
REFRESHES_PER_S = 8


@dataclass(frozen=True, slots=True)
class Status:
    """How far it is.

    Args:
        records: how many there will be.
        produced: of these, on the source.
        replicated: of these, visible on the target.
        processed: of these, by the consumer group.
        where: the alias of the cluster where the group works.
        workers: name and state.
    """

    records: int
    produced: int
    replicated: int
    processed: int
    where: str
    workers: Sequence[tuple[str, str]]

    @property
    def lag(self) -> int:
        """Produced and not yet visible."""
        return max(0, self.produced - self.replicated)


class Display(Protocol):
    """Where the demo shows what it does. A context manager: the progress is removed at its end, the lines stay."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def say(self, text: str, style: str = "") -> None:
        """One line that stays."""

    def update(self, status: Status) -> None:
        """The progress now; called several times a second."""


def open_display(console: Console) -> Display:
    """Bars on a terminal, lines elsewhere."""
    return TerminalDisplay(console) if console.is_terminal else PlainDisplay(console)


class PlainDisplay:
    """Lines, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next_s = 0.0
        self._is_done = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to take down."""

    def say(self, text: str, style: str = "") -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def update(self, status: Status) -> None:
        now_s = time.monotonic()
        is_last = min(status.replicated, status.processed) >= status.records and not self._is_done
        if now_s < self._next_s and not is_last:
            return
        self._is_done |= is_last
        self._next_s = now_s + PLAIN_INTERVAL_S
        workers = ", ".join(f"{name}: {state}" for name, state in status.workers)
        self.say(
            f"produced {status.produced:>7,} of {status.records:,}  replicated {status.replicated:>7,}  "
            f"processed {status.processed:>7,} on {status.where}  {workers}"
        )


class TerminalDisplay:
    """Three bars and a line for each worker at the bottom, the lines of `say` above them."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(bar_width=32),
            TextColumn("{task.fields[count]}"),
            TextColumn("{task.fields[remark]}"),
            console=console,
        )
        self._produced = self._bars.add_task("produced", total=None, count="", remark="")
        self._replicated = self._bars.add_task("replicated", total=None, count="", remark="")
        self._processed = self._bars.add_task("processed", total=None, count="", remark="")
        self._live = Live(console=console, refresh_per_second=REFRESHES_PER_S, transient=True)
        self._is_shown = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def say(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style=style))

    def update(self, status: Status) -> None:
        for task, completed, remark in (
            (self._produced, status.produced, ""),
            (self._replicated, status.replicated, f"lag {status.lag:,}"),
            (self._processed, status.processed, f"by the group on {status.where}"),
        ):
            count = f"{completed:>9,} of {status.records:,}"
            self._bars.update(task, total=status.records, completed=completed, count=count, remark=remark)
        lines = [
            Text(f"{name:<10} {state}", style="red" if state == "killed" else "dim") for name, state in status.workers
        ]
        self._live.update(Group(self._bars, *lines))
        if not self._is_shown:
            self._is_shown = True
            self._live.start()
