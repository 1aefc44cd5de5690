"""Asks the workers' group whether this worker still owns a task.

A process that was suspended past its session timeout would otherwise fence its own successor when it wakes up. The
group's coordinator answers: it refuses a commit of a member that it has expelled.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from replicator.deadline import Deadline
from replicator.kafka.cluster import Cluster, Consumer, KafkaError, KafkaException, TopicPartition

ASK_AGAIN_S = 1.0
_REFUSED = {KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_MEMBER_ID, KafkaError._ASSIGNMENT_LOST}
_FORBIDDEN = {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED}


class Membership:
    """Asks the coordinator whether this worker owns a task.

    Threading: `confirm` by tasks, `serve` by the polling thread.
    """

    def __init__(self, target: Cluster, topic: str) -> None:
        self._target = target
        self._topic = topic
        self._lock = threading.Lock()
        self._questions: dict[int, threading.Event] = {}
        self._asked_s: dict[int, float] = {}
        self._answers: dict[int, KafkaError | None] = {}

    def confirm(self, task: int, deadline: Deadline, is_stopped: Callable[[], bool]) -> bool:
        """Whether the coordinator accepted a commit for the task's partition. False: it refused, or did not answer.

        The polling thread, which receives the answer, may be the one that waits for the task to stop.

        Raises:
            KafkaOpError: the principal may not commit, so that there can be no answer.
        """
        answered = threading.Event()
        with self._lock:
            self._answers.pop(task, None)
            self._asked_s.pop(task, None)
            self._questions[task] = answered
        while not deadline.expired and not is_stopped() and not answered.wait(min(0.1, deadline.left_s())):
            pass
        with self._lock:
            self._questions.pop(task, None)
            is_answered = task in self._answers
            error = self._answers.pop(task, None)
        if error is not None and error.code() in _FORBIDDEN:
            raise self._target.error(error, op=f"commit for {self._topic}", right="READ", topic=self._topic)
        return is_answered and error is None

    def serve(self, consumer: Consumer) -> None:
        """Send the waiting questions, as commits; the committed offset itself means nothing."""
        now_s = time.monotonic()
        with self._lock:
            tasks = [t for t in self._questions if t not in self._answers and self._is_due(t, now_s)]
            self._asked_s |= dict.fromkeys(tasks, now_s)
        for task in tasks:
            try:
                # offset 0 on purpose: positions live in the syncs records, never in group offsets (invariant B)
                consumer.commit(offsets=[TopicPartition(self._topic, task, 0)], asynchronous=True)
            except KafkaException as cause:
                self._answer(task, cause.args[0])

    def _is_due(self, task: int, now_s: float) -> bool:
        """Whether the question was not sent yet, or so long ago that its answer is lost."""
        return now_s - self._asked_s.get(task, -ASK_AGAIN_S) >= ASK_AGAIN_S

    def committed(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        """The client's `on_commit`."""
        for partition in partitions:
            self._answer(partition.partition, error or partition.error)

    def _answer(self, task: int, error: KafkaError | None) -> None:
        is_final = error is None or error.code() in _REFUSED | _FORBIDDEN
        with self._lock:
            if task in self._questions and is_final:
                self._answers[task] = error
                self._questions[task].set()
