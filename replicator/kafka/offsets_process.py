"""Asks for the offsets of groups in a process of its own, which may crash.

librdkafka follows a null pointer when a broker answers NOT_COORDINATOR to that question, which brokers do whenever they
stop in good order, start, or hand a coordinator over: a worker that asks every second would die with every rolling
restart of a cluster. Here a process dies that does nothing else; what was open fails, and the next question starts it
anew.

Source: `rd_kafka_handle_OffsetFetch` in rdkafka_request.c, which asks the handle's own group for its coordinator: an
admin client has none. Issue 5040 of librdkafka, open in 2.16.
"""

from __future__ import annotations

import contextlib
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import count
from typing import IO, Any, NamedTuple

from replicator.kafka.offsets_main import Question, Reply

END_WITHIN_S = 5.0


class GroupOffset(NamedTuple):
    """What a group has committed for a partition: as confluent_kafka's TopicPartition, with which it shares names."""

    topic: str
    partition: int
    offset: int
    metadata: str | None
    error: Any


@dataclass(frozen=True, slots=True)
class OffsetsAnswer:
    """As confluent_kafka's ConsumerGroupTopicPartitions."""

    topic_partitions: list[GroupOffset]


class OffsetsProcess:
    """Has the process that asks. Threading: one thread at a time.

    Args:
        conf: of the admin client: plain values.
        make_error: the exception for an error of the client, or for None when the process ended.
    """

    def __init__(self, conf: Mapping[str, Any], make_error: Callable[[Any], Exception]) -> None:
        self._conf = dict(conf)
        self._make_error = make_error
        self._numbers = count()
        self._open: dict[int, Future[Any]] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None

    def ask(self, groups: Iterable[str], **options: Any) -> dict[str, Future[Any]]:
        """What each group committed, an `OffsetsAnswer`; options as of `AdminClient.list_consumer_group_offsets`."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        answers: dict[str, Future[Any]] = {}
        for group in groups:
            number = next(self._numbers)
            answers[group] = self._open[number] = Future()
            question: Question = (number, group, options)
            self._send(question)
        with contextlib.suppress(OSError):  # it ended: its reader tells
            assert self._process is not None
            assert self._process.stdin is not None
            self._process.stdin.flush()
        return answers

    def _start(self) -> None:
        self._open = {}  # what was open before belongs to the former reader
        self._process = subprocess.Popen(
            [sys.executable, "-m", "replicator.kafka.offsets_main"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for us
        )
        if self._finalizer is not None:
            self._finalizer.detach()
        self._finalizer = weakref.finalize(self, _end, self._process)
        # the reader must not refer to this object, or it would never end
        reader = threading.Thread(
            target=_read, args=(self._process, self._open, self._make_error), name="offsets", daemon=True
        )
        reader.start()
        self._send(self._conf)

    def _send(self, message: Any) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it ended: its reader tells
            pickle.dump(message, self._process.stdin)


def _read(
    process: subprocess.Popen[bytes], questions: dict[int, Future[Any]], make_error: Callable[[Any], Exception]
) -> None:
    """Hand on what the process answers; when it has ended, the rest fails."""
    assert process.stdout is not None
    with contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):
        while True:
            number, error, offsets = _reply(process.stdout)
            answer = questions.pop(number)
            if error is not None:
                answer.set_exception(make_error(error))
            else:
                answer.set_result(OffsetsAnswer([GroupOffset(*it) for it in offsets]))
    process.kill()
    process.wait()
    while questions:
        with contextlib.suppress(KeyError):
            questions.popitem()[1].set_exception(make_error(None))


def _reply(stream: IO[bytes]) -> Reply:
    reply: Reply = pickle.load(stream)
    return reply


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(END_WITHIN_S)
