"""The process that asks for groups' offsets may crash at any moment: that costs its open questions, no more."""

from __future__ import annotations

import gc
import os
import signal
import subprocess

import pytest

from replicator.kafka.offsets_process import OffsetsProcess
from tests.support.eventually import eventually

NOBODY = {"bootstrap.servers": "127.0.0.1:1", "log_level": 0}
SOON_S = 30.0


class EndedError(Exception):
    """What open questions fail with."""


def error_of(error: object) -> Exception:
    return EndedError() if error is None else ValueError(error)


def running(process: OffsetsProcess) -> subprocess.Popen[bytes]:
    assert process._process is not None
    return process._process


def test_a_crash_fails_what_is_open_and_the_next_question_starts_it_anew() -> None:
    """Of the groups that were asked for, each one's asker hears of it."""
    process = OffsetsProcess(NOBODY, error_of)
    answers = process.ask(["a", "b"], require_stable=True, request_timeout=60)
    first = running(process)
    os.kill(first.pid, signal.SIGSEGV)
    for answer in answers.values():
        assert isinstance(answer.exception(SOON_S), EndedError)
    late = process.ask(["c"], request_timeout=0.1)["c"]
    assert running(process).pid != first.pid
    error = late.exception(SOON_S)
    assert isinstance(error, ValueError), "the new one answers"
    assert error.args[0].name() == "_TIMED_OUT"


def test_it_ends_with_its_owner() -> None:
    """Whether that lets go of it or dies: nothing is left running."""
    process = OffsetsProcess(NOBODY, error_of)
    process.ask(["a"], request_timeout=60)
    orphan = running(process)
    del process
    gc.collect()
    assert orphan.wait(SOON_S) != 0

    process = OffsetsProcess(NOBODY, error_of)
    process.ask(["a"], request_timeout=60)
    orphan = running(process)
    assert orphan.stdin
    orphan.stdin.close()  # as the kernel does when the owner is killed
    assert orphan.wait(SOON_S) == 0


@pytest.mark.parametrize("conf", [{"bootstrap.servers": "127.0.0.1:1", "no.such.property": 1}])
def test_one_that_cannot_start_is_an_error(conf: dict[str, object]) -> None:
    """Not a wait without end."""
    process = OffsetsProcess(conf, error_of)
    assert isinstance(process.ask(["a"], request_timeout=60)["a"].exception(SOON_S), EndedError)
    eventually(lambda: running(process).poll() is not None, SOON_S)
