"""A question about many groups: each is asked for at its coordinator, again and again until there is an answer.

    coordinator known?  ── no ──> find it, all that are missing in one request
          │ yes
    connected?          ── not within `CONNECT_PATIENCE_S` ──> it may have moved: find it again
          │ yes
    ask, many groups in one request where the broker's version can
          │
    answered            each group on its own: a value, an error, or again later

Groups of a coordinator that moves, loads or is away hold up no other group.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from replicator.deadline import Deadline, backoff_s, seconds_text
from replicator.errors import KafkaOpError, RetriableError
from replicator.kafka.cluster import Cluster, KafkaError
from replicator.protocol.brokers import CONTROL, SHORTEST_TIMEOUT_S, Brokers
from replicator.protocol.connection import NoResponseError
from replicator.protocol.event_loop import EventLoop
from replicator.protocol.group_codecs import GroupMessage
from replicator.protocol.group_coordinators import BUSY, MOVED, GroupCoordinators, chunks

CONNECT_PATIENCE_S = 1.0
LOOK_AGAIN_S = 0.01
AT_ONCE = 500
"""Groups in one request."""
FEWEST_AT_ONCE = 50
"""After a connection was lost: the answer may have been too large."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What an answer says of one group.

    Args:
        code: Kafka's error code.
        value: without an error.
        is_final: else it is asked for again, and the value is better than nothing.
    """

    code: int
    value: Any = None
    is_final: bool = True


@dataclass(frozen=True, slots=True)
class GroupQuestion:
    """What is asked.

    Args:
        op: in words, for errors; the group's name follows.
        right: on the group that the principal needs.
        versions: the lowest and the highest that are used here.
        many_since: the version that takes many groups in one request; None: no version does.
        make: groups and version → the request.
        read: its decoded answer → what it says by group.
        absent: the value for groups whose broker does not know this kind of request; None: that is an error.
        may_repeat: whether it may be asked again when no answer came.
    """

    op: str
    right: str
    api_key: int
    versions: tuple[int, int]
    many_since: int | None
    make: Callable[[list[str], int], GroupMessage]
    read: Callable[[Any], dict[str, Reply]]
    absent: Any = None
    may_repeat: bool = True


@dataclass(frozen=True, slots=True)
class GroupNetwork:
    """What questions go through: the owner's loop, its connections, the coordinators that are known."""

    cluster: Cluster
    loop: EventLoop
    brokers: Brokers
    coordinators: GroupCoordinators


class GroupQuery:
    """One question, from the first request to the last answer. Threading: the loop's thread.

    Args:
        deadline: when it is over, groups without an answer fail with the last thing that was heard.

    Attributes:
        results: the value or the error of each group that has one.
        partial: values of groups that are asked for again; the newest.
    """

    def __init__(
        self, network: GroupNetwork, question: GroupQuestion, groups: Iterable[str], deadline: Deadline
    ) -> None:
        self.results: dict[str, Any] = {}
        self.partial: dict[str, Any] = {}
        self._network = network
        self._question = question
        self._deadline = deadline
        self._left = set(groups)
        self._errors: dict[str, KafkaOpError] = {}
        self._waits: dict[int | None, Iterator[float]] = {}
        self._at_once = AT_ONCE
        self._timer = network.loop.call_later(deadline.left_s(), self.give_up)
        self._start(sorted(self._left))

    @property
    def is_done(self) -> bool:
        return not self._left

    def drop(self, groups: Iterable[str]) -> None:
        """Ask no more for these."""
        self._left.difference_update(groups)

    def add(self, group: str) -> None:
        """Ask for one more."""
        self._left.add(group)
        if not self._timer.is_pending:
            self._timer = self._network.loop.call_later(self._deadline.left_s(), self.give_up)
        self._start([group])

    def wait(self, patience: Deadline, deadline: Deadline) -> None:
        """Until every group has a result, or one of both is over. `deadline` may be cut short by another thread."""
        self._network.loop.run_until(lambda: self.is_done or deadline.expired, patience)

    # --- asking -------------------------------------------------------------------------------------------------------

    def _start(self, groups: Iterable[str]) -> None:
        coordinators = self._network.coordinators
        by_node: dict[int, list[str]] = {}
        unknown: list[str] = []
        for group in groups:
            if group in self._left:
                node = coordinators.node(group)
                (unknown if node is None else by_node.setdefault(node, [])).append(group)
        if unknown:
            coordinators.find(unknown, self._found, self._timeout_s())
        for node, some in by_node.items():
            self._send(node, some, time.monotonic() + CONNECT_PATIENCE_S)

    def _found(self, groups: Collection[str], why: int | NoResponseError) -> None:
        if isinstance(why, NoResponseError):
            self._again(None, groups, self._network.brokers.error(self._question.op, why))
        elif not why:
            self._start(groups)
        elif why in MOVED or why in BUSY:
            self._network.brokers.refresh()
            self._again(None, groups, self._error(why))
        else:
            self._settle({group: self._error(why, group) for group in groups})

    def _send(self, node: int, groups: list[str], give_up_s: float) -> None:
        """Send as soon as there is a connection."""
        brokers, question = self._network.brokers, self._question
        if brokers.connection(node, CONTROL) is None:
            if time.monotonic() < give_up_s:
                self._network.loop.call_later(LOOK_AGAIN_S, lambda: self._send(node, groups, give_up_s))
                return
            self._network.coordinators.forget(groups)
            self._again(node, groups, brokers.error(question.op, f"no connection to {brokers.address(node)}"))
            return
        lowest, highest = brokers.version(node, question.api_key) or (0, -1)
        version = min(question.versions[1], highest)
        if version < max(question.versions[0], lowest):
            code = int(KafkaError.UNSUPPORTED_VERSION)
            is_error = question.absent is None
            self._settle({group: self._error(code, group) if is_error else question.absent for group in groups})
            return
        takes_many = question.many_since is not None and version >= question.many_since
        for some in chunks(groups, self._at_once if takes_many else 1):
            self._ask(node, some, version)

    def _ask(self, node: int, asked: list[str], version: int) -> None:
        def answered(answer: Any) -> None:
            self._lost(node, asked, answer) if isinstance(answer, NoResponseError) else self._answered(
                node, asked, answer
            )

        message = self._question.make(asked, version)
        self._network.brokers.send_async(node, message, version, answered, self._timeout_s())

    def _lost(self, node: int, groups: list[str], lost: NoResponseError) -> None:
        brokers, op = self._network.brokers, self._question.op
        self._network.coordinators.forget(groups)
        brokers.refresh()
        if not self._question.may_repeat:
            self._settle({group: brokers.error(self._op(group), lost) for group in groups})
            return
        self._at_once = max(FEWEST_AT_ONCE, self._at_once // 2)
        self._again(node, groups, brokers.error(op, lost))

    def _answered(self, node: int, asked: list[str], answer: Any) -> None:
        replies = self._question.read(answer)
        again: dict[int, list[str]] = {}
        settled: dict[str, Any] = {}
        for group in asked:
            reply = replies.get(group) or Reply(int(KafkaError.UNKNOWN))
            if reply.code in MOVED or reply.code in BUSY:
                again.setdefault(reply.code, []).append(group)
            elif reply.code:
                settled[group] = self._error(reply.code, group)
            elif reply.is_final:
                settled[group] = reply.value
            else:
                self.partial[group] = reply.value
                again.setdefault(0, []).append(group)
        self._settle(settled)
        for code, groups in again.items():
            if code in MOVED:
                self._network.coordinators.forget(groups)
            self._again(node, groups, self._error(code) if code else None)

    # --- the end ------------------------------------------------------------------------------------------------------

    def _again(self, node: int | None, groups: Iterable[str], error: KafkaOpError | None) -> None:
        """Ask again after a pause, which grows for each coordinator on its own."""
        wanted = [group for group in groups if group in self._left]
        if not wanted:
            return
        if error is not None:
            self._errors.update(dict.fromkeys(wanted, error))
        wait_s = next(self._waits.setdefault(node, backoff_s(0.02, 0.5)))
        self._network.loop.call_later(wait_s, lambda: self._start(wanted))

    def _settle(self, results: dict[str, Any]) -> None:
        for group, result in results.items():
            if group in self._left:
                self._left.discard(group)
                self.results[group] = result
        if not self._left:
            self._timer.cancel()

    def give_up(self) -> None:
        """There is no time left: groups without an answer fail with the last thing that was heard."""
        self._settle({group: self.partial.get(group) or self._too_late(group) for group in self._left})

    def _too_late(self, group: str) -> KafkaOpError:
        last = self._errors.get(group)
        op = f"{self._op(group)} on {self._network.cluster.alias}"
        if last is not None:
            return RetriableError(last.message, op=op, hint=last.hint, code=last.code)
        text = f"no answer within {seconds_text(self._deadline.seconds)}"
        return RetriableError(text, op=op, code="_TIMED_OUT")

    def _error(self, code: int, group: str = "") -> KafkaOpError:
        question = self._question
        op = self._op(group) if group else question.op
        return self._network.cluster.error(KafkaError(code), op=op, right=question.right, group=group)

    def _op(self, group: str) -> str:
        return f"{self._question.op} {group}"

    def _timeout_s(self) -> float:
        return max(SHORTEST_TIMEOUT_S, self._deadline.left_s())
