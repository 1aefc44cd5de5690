"""``/metrics``, ``/livez`` and ``/readyz`` over HTTP, with workers that say what they are told to."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import cast

import pytest
from prometheus_client import CollectorRegistry, Counter

from replicator.config import HttpSettings
from replicator.errors import ConfigError
from replicator.worker.health import PORTS_TRIED, HealthServer
from replicator.worker.worker import FlowWorker


@dataclass
class FakeWorker:
    """What the probes ask of a worker."""

    problem: str = ""
    turns: bool = True
    note: str = ""

    def notes(self) -> list[str]:
        return [self.note] if self.note else []

    def not_ready(self) -> str:
        return self.problem

    def is_alive_inside(self) -> bool:
        return self.turns


@contextmanager
def serving(registry: CollectorRegistry | None = None, /, **workers: FakeWorker) -> Iterator[HealthServer]:
    """A server on a free port."""
    known = {name: cast("FlowWorker", worker) for name, worker in workers.items()}
    with closing(HealthServer(HttpSettings(port=0), registry or CollectorRegistry(), known)) as server:
        yield server


def get(server: HealthServer, path: str) -> tuple[int, str, str]:
    """Status, content type, body."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=5) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def test_all_is_well() -> None:
    with serving(east=FakeWorker(), west=FakeWorker()) as server:
        assert get(server, "/livez")[::2] == (200, "ok\n")
        assert get(server, "/readyz?verbose=1")[::2] == (200, "ok\n")


def test_not_ready_says_which_flow_and_why() -> None:
    """A cluster that is away is no reason to restart the process: it stays alive."""
    with serving(east=FakeWorker("no answer from west"), west=FakeWorker()) as server:
        assert get(server, "/readyz")[::2] == (503, "east: no answer from west\n")
        assert get(server, "/livez")[0] == 200


def test_every_problem_is_told() -> None:
    with serving(a=FakeWorker("one"), b=FakeWorker("two")) as server:
        assert get(server, "/readyz")[2] == "a: one\nb: two\n"


def test_a_worker_that_hangs_is_not_alive() -> None:
    with serving(east=FakeWorker(turns=False), west=FakeWorker()) as server:
        status, _, body = get(server, "/livez")
        assert status == 503
        assert body.startswith("east: ")
        assert "west" not in body


def test_probes_follow_the_worker() -> None:
    worker = FakeWorker("connecting")
    with serving(east=worker) as server:
        assert get(server, "/readyz")[0] == 503
        worker.problem = ""
        assert get(server, "/readyz")[0] == 200


def test_metrics_are_what_the_registry_has() -> None:
    registry = CollectorRegistry()
    Counter("replicator_things", "Things", registry=registry).inc(3)
    with serving(registry) as server:
        status, content_type, body = get(server, "/metrics")
    assert status == 200
    assert content_type.startswith("text/plain; version=")
    assert "replicator_things_total 3.0" in body


@pytest.mark.parametrize("path", ["/", "/metric", "/../etc/passwd", "/readyz/x"])
def test_other_paths_say_what_there_is(path: str) -> None:
    with serving() as server:
        status, _, body = get(server, path)
    assert status == 404
    assert all(it in body for it in ("/metrics", "/livez", "/readyz"))


def test_a_taken_port_is_replaced_by_the_next_free_one() -> None:
    """`--processes N` uses N of them."""
    with serving() as first:
        taken = HttpSettings(port=first.port)
        with closing(HealthServer(taken, CollectorRegistry(), {})) as second:
            assert first.port < second.port < first.port + PORTS_TRIED


def test_no_free_port_is_a_mistake_in_the_configuration() -> None:
    """With the ports that were tried, and the reason of the last one."""
    with ExitStack() as stack:
        first = stack.enter_context(serving())
        for port in range(first.port + 1, first.port + PORTS_TRIED):
            blocker = stack.enter_context(socket.socket())
            blocker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                blocker.bind(("127.0.0.1", port))
                blocker.listen()
            except OSError:
                continue  # somebody else has it: just as well
        with pytest.raises(ConfigError, match=rf"from {first.port} to {first.port + PORTS_TRIED - 1} on 127\.0\.0\.1"):
            HealthServer(HttpSettings(port=first.port), CollectorRegistry(), {})


def test_an_address_that_is_not_ours_is_a_mistake_in_the_configuration() -> None:
    with pytest.raises(ConfigError, match="http: no free port"):
        HealthServer(HttpSettings(host="192.0.2.1", port=0), CollectorRegistry(), {})


def test_closing_frees_the_port() -> None:
    with serving() as server:
        port = server.port
    with closing(HealthServer(HttpSettings(port=port), CollectorRegistry(), {})) as again:
        assert again.port == port


def test_what_fails_beside_replication_is_told_and_harms_nothing() -> None:
    """A duty that fails is no reason to restart or to wait."""
    with serving(east=FakeWorker(note="heartbeats: grant WRITE")) as server:
        assert get(server, "/readyz")[::2] == (200, "ok\neast: heartbeats: grant WRITE\n")
        assert get(server, "/livez")[::2] == (200, "ok\n")
