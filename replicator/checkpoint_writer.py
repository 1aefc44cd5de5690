"""Writes a flow's checkpoints topic, and makes it where it is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from replicator.clients import AdminClient, Cluster, KafkaError, KafkaException, Message, Producer
from replicator.deadline import Deadline
from replicator.errors import TP, RetriableError
from replicator.internal_topics import ensure_compacted
from replicator.mm2_wire import Checkpoint, checkpoint_headers, encode_checkpoint

MESSAGE_TIMEOUT_MS = 10_000
NOW_MS = 0
"""As the client understands a timestamp of 0."""


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
        times_ms: Mapping[tuple[str, TP], int] | None = None,
    ) -> None:  # fmt: skip
        """Write them, and wait for that; `written` is called for each that is.

        Args:
            times_ms: how old each is said to be, where that is not now.

        Raises:
            KafkaOpError: one was not written.
        """
        failed: list[KafkaError] = []
        for checkpoint in checkpoints:
            at_ms = (times_ms or {}).get((checkpoint.group, checkpoint.tp), NOW_MS)
            self._produce(checkpoint, max(NOW_MS, at_ms), written, failed)
        while self._producer.flush(0.1) and not budget.expired:
            pass
        if failed:
            raise self._target.error(failed[0], op=f"write {self._topic}", right="WRITE", topic=self._topic)
        if len(self._producer):
            raise RetriableError(f"not written within {budget.seconds:g} s", op=f"write {self._topic}")

    def _produce(
        self, checkpoint: Checkpoint, at_ms: int, written: Callable[[Checkpoint], None], failed: list[KafkaError]
    ) -> None:
        def delivered(error: KafkaError | None, _: Message) -> None:
            if error is None:
                written(checkpoint)
            else:
                failed.append(error)

        key, value = encode_checkpoint(checkpoint)
        headers = checkpoint_headers(checkpoint)
        while True:
            try:
                self._producer.produce(
                    self._topic, value, key, 0, on_delivery=delivered, timestamp=at_ms, headers=headers
                )
            except BufferError:
                self._producer.poll(0.05)
            except KafkaException as cause:
                raise self._target.error(cause, op=f"write {self._topic}", right="WRITE", topic=self._topic) from cause
            else:
                return
