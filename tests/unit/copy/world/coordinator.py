"""The transaction coordinator of one cluster: every transactional id, and the markers that it sends.

Its state survives every broker: `__transaction_state` is replicated. Markers do not: a partition without a leader gets
its marker when it has one again, or never, where brokers take it for deleted (KAFKA-20734).

Source: KIP-98, KIP-360, KIP-588; core `TransactionCoordinator`, `TransactionMetadata`,
`TransactionMarkerChannelManager`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from replicator.errors import TP
from replicator.kafka.cluster import KafkaError
from tests.unit.copy.world.simulation import Simulation

MARKER_S = 0.002
NO_LEADER_RETRY_S = 0.1
FENCED = int(KafkaError.PRODUCER_FENCED)
BUSY = int(KafkaError.CONCURRENT_TRANSACTIONS)
NOT_ATTEMPTED = int(KafkaError.OPERATION_NOT_ATTEMPTED)
INVALID_STATE = int(KafkaError.INVALID_TXN_STATE)
NO_SUCH_ID = int(KafkaError.INVALID_PRODUCER_ID_MAPPING)
NO_TOPIC = int(KafkaError.UNKNOWN_TOPIC_OR_PART)


@dataclass(eq=False, slots=True)
class Transaction:
    """One transaction of an id, from its first partition to its end.

    Args:
        outcome: "commit" or "abort", once that is decided.
    """

    producer_id: int
    epoch: int
    partitions: dict[TP, bytes] = field(default_factory=dict)
    outcome: str = ""


@dataclass(slots=True)
class Id:
    """One transactional id."""

    producer_id: int
    timeout_s: float
    epoch: int = 0
    last_epoch: int = -1
    state: str = "Empty"
    transaction: Transaction | None = None
    waiting: set[TP] = field(default_factory=set)
    """Partitions whose markers are on their way."""


@dataclass(slots=True)
class Partitions:
    """How the coordinator reaches partitions.

    Args:
        topic_id: of a partition's topic; None: there is no such partition.
        has_leader: whether one leads it.
        is_down: whether the broker that should lead it is down.
        mark: appends a marker: partition, transaction, epoch.
    """

    topic_id: Callable[[TP], bytes | None]
    has_leader: Callable[[TP], bool]
    is_down: Callable[[TP], bool]
    mark: Callable[[TP, Transaction, int], None]


class Coordinator:
    """See the module.

    Attributes:
        forgets: whether a partition whose broker is down counts as deleted.
        delays: how long a partition's next marker takes, where that is not usual.
        lost: markers that will never come: what was lost so far.
    """

    def __init__(self, simulation: Simulation, partitions: Partitions) -> None:
        self.ids: dict[str, Id] = {}
        self.forgets = False
        self.delays: dict[TP, float] = {}
        self.lose_next: set[TP] = set()
        self.lost: list[TP] = []
        self._simulation = simulation
        self._partitions = partitions
        self._next_id = 1000

    def open_transaction(self, producer_id: int, tp: TP) -> Transaction | None:
        """The open transaction of a producer that has this partition."""
        for it in self.ids.values():
            if it.producer_id == producer_id and it.transaction is not None and tp in it.transaction.partitions:
                return it.transaction
        return None

    # --- requests -----------------------------------------------------------------------------------------------------

    def initialise(self, name: str, timeout_s: float, producer_id: int, epoch: int) -> tuple[int, int, int]:
        """InitProducerId: (error, producer id, epoch)."""
        it = self.ids.get(name)
        if it is None:
            self._next_id += 1
            self.ids[name] = it = Id(self._next_id, timeout_s)
            return 0, it.producer_id, it.epoch
        if it.state.startswith("Prepare"):
            return BUSY, -1, -1
        if producer_id >= 0:
            is_repeated = (producer_id, epoch) == (it.producer_id, it.last_epoch)
            if is_repeated:
                return 0, it.producer_id, it.epoch
            if (producer_id, epoch) != (it.producer_id, it.epoch):
                return FENCED, -1, -1
        if it.state == "Ongoing":
            self._fence(it)
            return BUSY, -1, -1
        it.last_epoch = it.epoch if producer_id >= 0 else -1
        it.epoch += 1
        it.timeout_s = timeout_s
        it.state = "Empty"
        return 0, it.producer_id, it.epoch

    def add(self, name: str, producer_id: int, epoch: int, tps: Iterable[TP]) -> dict[TP, int]:
        """AddPartitionsToTxn: an error code for each."""
        tps = list(tps)
        it = self.ids.get(name)
        code = self._refusal(it, producer_id, epoch)
        if code or it is None or it.state.startswith("Prepare"):
            return dict.fromkeys(tps, code or BUSY)
        missing = [tp for tp in tps if self._partitions.topic_id(tp) is None]
        if missing:
            return {tp: NO_TOPIC if tp in missing else NOT_ATTEMPTED for tp in tps}
        if it.transaction is None:
            it.state = "Ongoing"
            it.transaction = Transaction(producer_id, epoch)
            self._watch(it, it.transaction)
        it.transaction.partitions.update({tp: self._partitions.topic_id(tp) or b"" for tp in tps})
        return dict.fromkeys(tps, 0)

    def end(self, name: str, producer_id: int, epoch: int, *, commit: bool) -> int:
        """EndTxn: an error code."""
        it = self.ids.get(name)
        code = self._refusal(it, producer_id, epoch)
        if code or it is None:
            return code
        wanted = "Commit" if commit else "Abort"
        if it.state == "Ongoing":
            self._end(it, commit=commit, epoch=it.epoch)
            return 0
        if it.state == f"Complete{wanted}":
            return 0
        return BUSY if it.state == f"Prepare{wanted}" else INVALID_STATE

    def _refusal(self, it: Id | None, producer_id: int, epoch: int) -> int:
        if it is None or it.producer_id != producer_id:
            return NO_SUCH_ID
        return FENCED if it.epoch != epoch else 0

    # --- ends ---------------------------------------------------------------------------------------------------------

    def _watch(self, it: Id, transaction: Transaction) -> None:
        def expire() -> None:
            if it.transaction is transaction and it.state == "Ongoing":
                self._fence(it)

        self._simulation.later(it.timeout_s, expire)

    def _fence(self, it: Id) -> None:
        """Abort the open transaction under an epoch that no producer has."""
        it.epoch += 1
        it.last_epoch = -1
        self._end(it, commit=False, epoch=it.epoch)

    def _end(self, it: Id, *, commit: bool, epoch: int) -> None:
        transaction = it.transaction
        assert transaction is not None
        transaction.outcome = "commit" if commit else "abort"
        it.state = "PrepareCommit" if commit else "PrepareAbort"
        it.waiting = set(transaction.partitions)
        for tp in transaction.partitions:
            self._send(it, transaction, tp, epoch, self.delays.pop(tp, MARKER_S))

    def _send(self, it: Id, transaction: Transaction, tp: TP, epoch: int, delay_s: float) -> None:
        def arrive() -> None:
            is_same = self._partitions.topic_id(tp) == transaction.partitions[tp]
            has_leader = self._partitions.has_leader(tp)
            is_lost = tp in self.lose_next or (self.forgets and is_same and self._partitions.is_down(tp))
            if is_lost:
                self.lose_next.discard(tp)
                self.lost.append(tp)
            elif is_same and not has_leader:
                self._send(it, transaction, tp, epoch, NO_LEADER_RETRY_S)
                return
            elif is_same:
                self._partitions.mark(tp, transaction, epoch)
            it.waiting.discard(tp)
            if not it.waiting:
                it.state = it.state.replace("Prepare", "Complete")
                it.transaction = None

        self._simulation.later(delay_s, arrive)
