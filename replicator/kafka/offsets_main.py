"""The process that asks for the offsets of groups: see `offsets_process`. It ends with its standard input.

It may end at any moment, and imports next to nothing, so that it is there again at once.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
import threading
from concurrent.futures import Future
from functools import partial
from typing import Any, BinaryIO

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException
from confluent_kafka.admin import AdminClient

Offset = tuple[str, int, int, str | None, Any]
"""Topic, partition, offset, metadata, KafkaError or None."""
Question = tuple[int, str, dict[str, Any]]
"""Its number, the group, the options of the request."""
Reply = tuple[int, Any, list[Offset]]
"""The question's number; KafkaError or None; offsets."""


def main() -> None:
    questions, replies = sys.stdin.buffer, sys.stdout.buffer
    lock = threading.Lock()
    silent = logging.Logger("silent")
    silent.addHandler(logging.NullHandler())
    try:
        admin = AdminClient(pickle.load(questions), logger=silent)
        while True:
            number, group, options = pickle.load(questions)
            (future,) = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)], **options).values()
            future.add_done_callback(partial(reply, number, replies, lock))
    except EOFError:
        os._exit(0)  # nobody waits for what is open


def reply(number: int, replies: BinaryIO, lock: threading.Lock, future: Future[Any]) -> None:
    error, offsets = None, []
    try:
        found = future.result().topic_partitions
        offsets = [(it.topic, it.partition, it.offset, it.metadata, it.error) for it in found]
    except KafkaException as cause:
        error = cause.args[0]
    answer: Reply = (number, error, offsets)
    with lock:
        pickle.dump(answer, replies)
        replies.flush()


if __name__ == "__main__":
    main()
