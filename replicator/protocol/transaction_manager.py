"""Speaks with the transaction coordinator: producer id and epoch, partitions added to a transaction, its end.

Requests follow the coordinator of the transactional id wherever it moves. A request without a response is sent again:
each of these requests may be repeated.

Every abort is followed by a new epoch (KIP-360), so that sequences start at 0 and no request that is still in flight
can become part of a later transaction. So is a commit that was requested more than once: the request that got no
response could arrive later, and commit what the next transaction holds by then (KIP-890).

Source: KIP-98, KIP-360, KIP-588, KIP-890; clients `TransactionManager`; core `TransactionCoordinator`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from kafka.protocol.admin.transactions import DescribeTransactionsRequest
from kafka.protocol.metadata import FindCoordinatorRequest
from kafka.protocol.producer import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    InitProducerIdRequest,
)

from replicator.deadline import Deadline, backoff_s
from replicator.errors import TP, FatalError, KafkaOpError, RetriableError
from replicator.kafka.cluster import Cluster, KafkaError
from replicator.protocol.brokers import CONTROL, Brokers
from replicator.protocol.connection import NoResponseError
from replicator.protocol.event_loop import EventLoop, Timer
from replicator.protocol.schemas import by_topic

REQUEST_TIMEOUT_S = 10.0
TRANSACTION_KEY = 1
FIND_COORDINATOR_VERSION = 3
INIT_VERSION = 4
ADD_VERSION = 3
"""The newest version for clients; later ones are for brokers."""
ADD_OFFSETS_VERSION = 3
END_VERSION = 3
"""The newest version of the protocol before KIP-890; from 5 on, each commit raises the epoch."""
DESCRIBE_VERSION = 0
UNKNOWN_TOPIC_PATIENCE_S = 5.0
"""How long a coordinator may take to learn of a topic that was just created."""
_MOVED = frozenset({KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.NOT_COORDINATOR})
_BUSY = frozenset({KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.CONCURRENT_TRANSACTIONS})
_NOT_TRIED = KafkaError.OPERATION_NOT_ATTEMPTED
_NO_TOPIC = KafkaError.UNKNOWN_TOPIC_OR_PART

Refusals = Mapping[TP, int]
"""Target partitions that can't be added to a transaction → their error codes."""


class TransactionSettings(Protocol):
    """The settings of a transactional producer.

    Attributes:
        transactional_id: the same for every owner of a task, so that the next owner fences the last one.
        transaction_timeout_s: after this time the coordinator aborts an open transaction.
    """

    @property
    def transactional_id(self) -> str: ...
    @property
    def transaction_timeout_s(self) -> float: ...


class TransactionManager:
    """The transactions of one transactional id. Threading: the plane's thread.

    Attributes:
        producer_id, epoch: what batches carry; -1 before `initialise`.
        has_stray: a request of this epoch got no response, and may still arrive.
    """

    def __init__(self, loop: EventLoop, brokers: Brokers, cluster: Cluster, settings: TransactionSettings) -> None:
        self.producer_id = -1
        self.epoch = -1
        self.has_unanswered_request = False
        self._loop = loop
        self._brokers = brokers
        self._cluster = cluster
        self._id = settings.transactional_id
        self._timeout_ms = int(settings.transaction_timeout_s * 1000)
        self._node: int | None = None

    def init_transactions(self, deadline: Deadline) -> None:
        """Fence every earlier owner of the transactional id, and end its open transaction.

        Raises:
            RetriableError, FatalError: as `replicator.planes.Plane.open`.
        """
        self._init_producer_id(-1, -1, "initialise transactions", deadline)

    def bump_epoch(self, deadline: Deadline) -> None:
        """Take a higher epoch. No transaction may be open.

        Raises:
            FencedError: a newer owner exists.
            KafkaOpError: no response in time, or refused.
        """
        self._init_producer_id(self.producer_id, self.epoch, "take a new epoch", deadline)

    def _init_producer_id(self, producer_id: int, epoch: int, op: str, deadline: Deadline) -> None:
        def ask() -> Any:
            return InitProducerIdRequest(
                transactional_id=self._id, transaction_timeout_ms=self._timeout_ms, producer_id=producer_id,
                producer_epoch=epoch, enable2_pc=False, keep_prepared_txn=False,
            )  # fmt: skip

        answer = self._ask(op, ask, INIT_VERSION, deadline)
        self.producer_id, self.epoch = answer.producer_id, answer.producer_epoch
        self.has_unanswered_request = False

    def end(self, deadline: Deadline, *, commit: bool) -> None:
        """Commit or abort the transaction, to which at least one partition was added.

        Raises:
            FencedError: a newer owner exists.
            FatalError: no response to a commit in time; whether it was carried out is unknown.
            KafkaOpError: the coordinator refused.
        """
        op = "commit transaction" if commit else "abort transaction"

        def ask() -> Any:
            return EndTxnRequest(
                transactional_id=self._id, producer_id=self.producer_id, producer_epoch=self.epoch, committed=commit
            )

        try:
            self._ask(op, ask, END_VERSION, deadline)
        except FatalError as error:
            is_over = not commit and error.code == "INVALID_TXN_STATE"  # no partition was added
            if not is_over:
                raise
        except RetriableError as error:
            if not commit or not deadline.expired:
                raise
            text = f"no answer within {deadline.seconds:g} s; the task's next owner finds out whether it was committed"
            raise FatalError(text, op=op, hint=error.hint, code=error.code) from error

    def describe(self, deadline: Deadline) -> tuple[str, int] | None:
        """Return the transaction's state, by Kafka's name for it, and its producer id; None: brokers before Kafka 3.0.

        Raises:
            RetriableError: no response before `deadline`.
            KafkaOpError: the coordinator refused.
        """
        op = "describe the transaction"
        node = self._find(op, deadline)
        if not self._loop.run_until(lambda: self._brokers.connection(node, CONTROL) is not None, deadline):
            raise self._brokers.error(op)
        question = DescribeTransactionsRequest(transactional_ids=[self._id])
        if self._brokers.version(node, question.API_KEY) is None:
            return None

        def pick(answer: Any) -> Any:
            if not answer.transaction_states:
                why = f"{self._brokers.address(node)} described no transaction"
                raise self._brokers.error(op, NoResponseError(why))
            return answer.transaction_states[0]

        answer = self._ask(op, lambda: question, DESCRIBE_VERSION, deadline, pick)
        return answer.transaction_state, answer.producer_id

    def add_partitions(self, tps: Iterable[TP], on_done: Callable[[Refusals], None]) -> None:
        """Add target partitions to the transaction; repeated until there is a response.

        Args:
            on_done: called with the partitions that were refused; not called after the epoch was bumped.
        """
        _AddPartitions(self, tuple(tps), on_done).ask()

    def add_offsets(self, group: str, deadline: Deadline) -> None:
        """Take a group's offsets into the transaction: they can be committed in it then.

        Raises:
            FencedError: a newer owner exists.
            RetriableError: no answer in time.
            KafkaOpError: refused; the code begins with ``GROUP_`` where that concerns the group alone.
        """

        def ask() -> Any:
            return AddOffsetsToTxnRequest(
                transactional_id=self._id, producer_id=self.producer_id, producer_epoch=self.epoch, group_id=group
            )

        self._ask(f"commit for the group {group}", ask, ADD_OFFSETS_VERSION, deadline, group=group)

    # --- asking -------------------------------------------------------------------------------------------------------

    def _ask(
        self, op: str, make: Callable[[], Any], version: int, deadline: Deadline,
        pick: Callable[[Any], Any] = lambda answer: answer, group: str = "",
    ) -> Any:  # fmt: skip
        """Send a request to the coordinator until it answers without an error.

        Args:
            pick: returns the part of the response that has the error code.
            group: that it is about, for the hint.

        Raises:
            RetriableError: no such response within `deadline`.
            KafkaOpError: the coordinator refused.
        """
        waits = backoff_s(0.002, 0.1)
        last: KafkaOpError | None = None
        while True:
            try:
                node = self._find(op, deadline)
                message = make()
                budget = Deadline(deadline.slice_s(REQUEST_TIMEOUT_S))
                answer = pick(self._brokers.call(node, message, self._version(node, message, version), budget, op))
            except RetriableError as error:
                self._node = None
                self.has_unanswered_request = True
                if last is None or not deadline.expired:  # the error before says more than "timed out"
                    last = error
            else:
                if answer.error_code == 0:
                    return answer
                last = self._error(answer.error_code, op, group)
                if not self._may_try_again(answer.error_code):
                    raise last
            if deadline.expired:
                raise RetriableError(last.message, op=last.op, hint=last.hint, code=last.code) from last
            self._loop.run_for(next(waits), deadline)

    def _version(self, node: int, message: Any, version: int) -> int:
        known = self._brokers.version(node, message.API_KEY)
        return version if known is None else min(version, known[1])

    def _may_try_again(self, code: int) -> bool:
        if code in _MOVED:
            self._node = None
        return code in _MOVED or code in _BUSY

    def _find(self, op: str, deadline: Deadline) -> int:
        """Find the coordinator's node."""
        waits = backoff_s(0.02, 0.5)
        while self._node is None:
            question = FindCoordinatorRequest(key=self._id, key_type=TRANSACTION_KEY)
            budget = Deadline(deadline.slice_s(REQUEST_TIMEOUT_S))
            answer = self._brokers.call(None, question, FIND_COORDINATOR_VERSION, budget, op)
            if answer.error_code == 0:
                self._node = int(answer.node_id)
                break
            if not self._may_try_again(answer.error_code):
                raise self._error(answer.error_code, op)
            if deadline.expired:
                text = "no transaction coordinator is available"
                raise RetriableError(text, op=f"{op} on {self._cluster.alias}", code="COORDINATOR")
            self._brokers.refresh()
            self._loop.run_for(next(waits), deadline)
        return self._node

    def _error(self, code: int, op: str, group: str = "") -> KafkaOpError:
        right = "READ" if group else "WRITE and DESCRIBE"
        return self._cluster.error(KafkaError(code), op=op, right=right, group=group)

    # --- for _Adding --------------------------------------------------------------------------------------------------

    def send_add_partitions(self, tps: Sequence[TP], on_done: Callable[[Any], None]) -> None:
        """Send AddPartitionsToTxn once.

        `on_done` gets the response, `NoResponseError`, or None while the coordinator is unknown.
        """
        if self._node is None:
            self._find_async(on_done)
            return
        kind = AddPartitionsToTxnRequest.AddPartitionsToTxnTopic
        message = AddPartitionsToTxnRequest(
            v3_and_below_transactional_id=self._id,
            v3_and_below_producer_id=self.producer_id,
            v3_and_below_producer_epoch=self.epoch,
            v3_and_below_topics=[kind(name=name, partitions=numbers) for name, numbers in by_topic(tps).items()],
        )
        self._brokers.send_async(self._node, message, ADD_VERSION, on_done, timeout_s=REQUEST_TIMEOUT_S)

    def _find_async(self, on_done: Callable[[Any], None]) -> None:
        def found(answer: Any) -> None:
            if not isinstance(answer, NoResponseError) and answer.error_code == 0:
                self._node = int(answer.node_id)
            on_done(answer if isinstance(answer, NoResponseError) else None)

        question = FindCoordinatorRequest(key=self._id, key_type=TRANSACTION_KEY)
        self._brokers.send_async(None, question, FIND_COORDINATOR_VERSION, found, timeout_s=REQUEST_TIMEOUT_S)

    def later(self, seconds: float, call: Callable[[], None]) -> Timer:
        return self._loop.call_later(seconds, call)

    def forget_coordinator(self) -> None:
        """Look the coordinator up again before the next request: it moved."""
        self._node = None


class _AddPartitions:
    """One AddPartitionsToTxn request, repeated until it is answered."""

    def __init__(
        self, transaction_manager: TransactionManager, tps: Sequence[TP], on_done: Callable[[Refusals], None]
    ) -> None:
        self._transaction_manager = transaction_manager
        self._tps = tps
        self._on_done = on_done
        self._epoch = transaction_manager.epoch
        self._waits = backoff_s(0.002, 0.1)
        self._patience = Deadline(UNKNOWN_TOPIC_PATIENCE_S)

    def ask(self) -> None:
        if self._transaction_manager.epoch == self._epoch:  # else that transaction is over
            self._transaction_manager.send_add_partitions(self._tps, self._answered)

    def _answered(self, answer: Any) -> None:
        if self._transaction_manager.epoch != self._epoch:
            return
        if answer is None or isinstance(answer, NoResponseError):
            if answer is not None:
                self._transaction_manager.forget_coordinator()
            self._again()
            return
        codes = {
            TP(topic.name, it.partition_index): int(it.partition_error_code)
            for topic in answer.results_by_topic_v3_and_below
            for it in topic.results_by_partition
        }
        found = set(codes.values()) - {0, _NOT_TRIED}
        if found & _MOVED:
            self._transaction_manager.forget_coordinator()
        is_young = found == {_NO_TOPIC} and not self._patience.expired
        if found & (_MOVED | _BUSY) or is_young:
            self._again()
            return
        refused = {tp: codes.get(tp, int(KafkaError.UNKNOWN)) for tp in self._tps}
        self._on_done({tp: code for tp, code in refused.items() if code not in (0, _NOT_TRIED)})

    def _again(self) -> None:
        self._transaction_manager.later(next(self._waits), self.ask)
