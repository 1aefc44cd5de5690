"""Writes a flow's checkpoints topic, and makes it where it is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from replicator.clients import AdminClient, Cluster, KafkaError, KafkaException, Message, Producer
from replicator.deadline import Deadline
from replicator.errors import RetriableError
from replicator.internal_topics import ensure_compacted
from replicator.mm2_wire import Checkpoint, encode_checkpoint

MESSAGE_TIMEOUT_MS = 10_000


class CheckpointWriter:
    """Whatever fails is its end: make another one. Threading: one thread."""

    def __init__(self, target: Cluster, admin: AdminClient, topic: str, budget: Deadline) -> None:
        """Make the topic, if it is missing.

        Raises:
            KafkaOpError: that was refused, or there is no answer.
        """
        ensure_compacted(admin, target, topic, budget)
        self._target = target
        self._topic = topic
        self._producer: Producer = target.producer({"linger.ms": 5, "message.timeout.ms": MESSAGE_TIMEOUT_MS})

    def write(
        self, checkpoints: Iterable[Checkpoint], budget: Deadline,
        written: Callable[[Checkpoint], None] = lambda checkpoint: None,
    ) -> None:  # fmt: skip
        """Write them, and wait for that; `written` is called for each that is.

        Raises:
            KafkaOpError: one was not written.
        """
        failed: list[KafkaError] = []
        for checkpoint in checkpoints:
            self._produce(checkpoint, written, failed)
        while self._producer.flush(0.1) and not budget.expired:
            pass
        if failed:
            raise self._target.error(failed[0], op=f"write {self._topic}", right="WRITE", topic=self._topic)
        if len(self._producer):
            raise RetriableError(f"not written within {budget.seconds:g} s", op=f"write {self._topic}")

    def _produce(
        self, checkpoint: Checkpoint, written: Callable[[Checkpoint], None], failed: list[KafkaError]
    ) -> None:  # fmt: skip
        def delivered(error: KafkaError | None, _: Message) -> None:
            if error is None:
                written(checkpoint)
            else:
                failed.append(error)

        key, value = encode_checkpoint(checkpoint)
        while True:
            try:
                self._producer.produce(self._topic, value, key, 0, on_delivery=delivered)
            except BufferError:
                self._producer.poll(0.05)
            except KafkaException as cause:
                raise self._target.error(cause, op=f"write {self._topic}", right="WRITE", topic=self._topic) from cause
            else:
                return
