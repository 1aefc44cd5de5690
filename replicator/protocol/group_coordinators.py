"""Which broker coordinates a group: asked for many groups at once, and remembered until a broker says that it moved.

Source: KIP-699; core `KafkaApis.handleFindCoordinatorRequest`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from replicator.kafka.cluster import KafkaError
from replicator.protocol.brokers import Brokers
from replicator.protocol.connection import NoResponseError
from replicator.protocol.event_loop import EventLoop
from replicator.protocol.group_codecs import FIND_COORDINATOR, MANY_KEYS_SINCE, find_coordinators

LOWEST, HIGHEST = 3, 4
AT_ONCE = 1000
"""Groups in one request."""
REMEMBERED = 100_000
"""More are forgotten: groups may be named at random."""
MOVED = frozenset({int(KafkaError.COORDINATOR_NOT_AVAILABLE), int(KafkaError.NOT_COORDINATOR)})
BUSY = frozenset({int(KafkaError.COORDINATOR_LOAD_IN_PROGRESS), int(KafkaError.REQUEST_TIMED_OUT)})

OnFound = Callable[[Collection[str], "int | NoResponseError"], None]
"""Groups, and why their coordinator is not known: an error code, or no answer; 0: it is known now."""


class GroupCoordinators:
    """Threading: the loop's thread."""

    def __init__(self, loop: EventLoop, brokers: Brokers) -> None:
        self._loop = loop
        self._brokers = brokers
        self._nodes: dict[str, int] = {}

    def node(self, group: str) -> int | None:
        """The broker; None: not known."""
        return self._nodes.get(group)

    def forget(self, groups: Iterable[str]) -> None:
        """They are somewhere else by now."""
        for group in groups:
            self._nodes.pop(group, None)

    def find(self, groups: Sequence[str], on_found: OnFound, timeout_s: float) -> None:
        """Ask once; `on_found` is called until it got all of the groups."""
        for some in chunks(groups, AT_ONCE):
            self._ask(some, on_found, timeout_s)

    def _ask(self, asked: list[str], on_found: OnFound, timeout_s: float) -> None:
        def make(node: int) -> tuple[Any, int]:
            lowest, highest = self._brokers.version(node, FIND_COORDINATOR) or (LOWEST, LOWEST)
            version = max(LOWEST, lowest, min(HIGHEST, highest))
            if version < MANY_KEYS_SINCE and len(asked) > 1:
                others = asked[1:]
                del asked[1:]
                self._loop.call_soon(lambda: self._ask_each(others, on_found, timeout_s))
            return find_coordinators(asked, version), version

        def answered(answer: dict[str, tuple[int, int]] | NoResponseError) -> None:
            if isinstance(answer, NoResponseError):
                on_found(asked, answer)
            else:
                self._take(asked, answer, on_found)

        self._brokers.ask(None, make, answered, timeout_s)

    def _ask_each(self, groups: Iterable[str], on_found: OnFound, timeout_s: float) -> None:
        for group in groups:
            self._ask([group], on_found, timeout_s)

    def _take(self, asked: Collection[str], answer: dict[str, tuple[int, int]], on_found: OnFound) -> None:
        if len(self._nodes) > REMEMBERED:
            self._nodes.clear()
        missing = int(KafkaError.COORDINATOR_NOT_AVAILABLE)
        by_code: dict[int, list[str]] = {}
        for group in asked:
            node, code = answer.get(group, (-1, missing))
            if not code and node >= 0:
                self._nodes[group] = node
            by_code.setdefault(code if code or node >= 0 else missing, []).append(group)
        for code, groups in by_code.items():
            on_found(groups, code)


def chunks(groups: Iterable[str], at_once: int) -> Iterator[list[str]]:
    """So many at a time."""
    left = iter(groups)
    while some := list(islice(left, at_once)):
        yield some
