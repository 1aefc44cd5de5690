"""One connection: pieces of any size, hostile peers, timeouts; each request gets one response or error, in order."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import ssl
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from replicator.deadline import Deadline
from replicator.protocol import connection as module
from replicator.protocol import response_reader
from replicator.protocol.buffer_pool import BufferPool
from replicator.protocol.connection import Connection, NoResponseError, Request
from replicator.protocol.event_loop import EventLoop
from replicator.protocol.primitives import Buffer
from tests.support.certificates import Authority
from tests.unit.protocol.fake_broker import FakeBroker, Peer

WAIT_S = 20.0
Talk = Callable[[Peer], None]


class Bench:
    """A connection to a fake broker, and what its requests came to."""

    def __init__(self, loop: EventLoop, tls: tuple[ssl.SSLContext, ssl.SSLContext] | None) -> None:
        self.loop = loop
        self.buffers = BufferPool()
        self.results: list[tuple[str, memoryview | NoResponseError]] = []
        self.closed: list[str] = []
        self._tls = tls
        self.brokers: list[FakeBroker] = []

    def connect(
        self, talk: Talk, limit: int = module.MAX_RESPONSE_BYTES, receive_buffer_bytes: int | None = None
    ) -> Connection:
        broker = FakeBroker(talk, tls=self._tls[0] if self._tls else None)
        self.brokers.append(broker)
        sock = socket.create_connection(("127.0.0.1", broker.port))
        if receive_buffer_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        if self._tls:
            sock = self._tls[1].wrap_socket(sock, server_hostname="localhost")
        return Connection(
            self.loop, sock, self.buffers, address="b:1", node=1, client_id="me",
            on_closed=lambda _, why: self.closed.append(why), max_response_bytes=limit,
        )  # fmt: skip

    def send(self, connection: Connection, name: str, *body: Buffer, timeout_s: float = WAIT_S, **more: Any) -> None:
        def done(result: memoryview | NoResponseError) -> None:
            self.results.append((name, result))

        connection.send(Request(1, 12, body or (b"?",), done, timeout_s, **more))

    def await_results(self, count: int) -> None:
        assert self.loop.run_until(lambda: len(self.results) >= count, Deadline(WAIT_S))
        assert len(self.results) == count

    def only_lost(self) -> NoResponseError:
        self.await_results(1)
        lost = self.results[0][1]
        assert isinstance(lost, NoResponseError)
        assert "b:1" in str(lost)
        return lost


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = Authority(Path(tmp_path_factory.mktemp("ca")), "ca")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(authority.server())
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(authority.file)
    return server, client


@pytest.fixture(params=["plain", "tls"])
def bench(request: pytest.FixtureRequest, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> Iterator[Bench]:
    yield from opened(contexts if request.param == "tls" else None)


def opened(tls: tuple[ssl.SSLContext, ssl.SSLContext] | None) -> Iterator[Bench]:
    loop = EventLoop()
    made = Bench(loop, tls)
    yield made
    loop.close()
    for broker in made.brokers:
        broker.stop()


@pytest.fixture
def plain() -> Iterator[Bench]:
    yield from opened(None)


def test_requests_and_answers_are_paired_in_order(bench: Bench) -> None:
    """Many in flight at once; the header is v2 with the client's id, or v1; answers of one byte and of none."""

    def talk(peer: Peer) -> None:
        for number in range(50):
            asked = peer.ask(header_version=1 if number == 7 else 2)
            assert (asked.api_key, asked.version, asked.client_id) == (1, 12, "me")
            assert asked.body == b"%d" % number
            peer.say(asked, b"" if number == 3 else b"<%d>" % number, header=b"" if number == 7 else b"\0")

    connection = bench.connect(talk)
    for number in range(50):
        bench.send(connection, str(number), b"%d" % number, is_flexible=number != 7)
    assert connection.in_flight == 50
    bench.await_results(50)
    assert connection.in_flight == 0
    assert [(name, bytes(it)) for name, it in bench.results if not isinstance(it, NoResponseError)] == [
        (str(number), b"" if number == 3 else b"<%d>" % number) for number in range(50)
    ]
    assert connection.answers == 50


def test_requests_of_one_round_leave_together(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each system call is a chance for another task to take the interpreter's lock."""
    writes: list[Connection] = []
    write = Connection._write

    def counted(self: Connection) -> None:
        writes.append(self)
        write(self)

    monkeypatch.setattr(Connection, "_write", counted)

    def talk(peer: Peer) -> None:
        for _ in range(3):
            peer.say(peer.ask(), b"ok")

    connection = bench.connect(talk)
    for name in "abc":
        bench.loop.call_soon(partial(bench.send, connection, name))
    bench.await_results(3)
    assert writes == [connection]


class Busy:
    """A connection with five requests in flight, and a peer that answers when it is told.

    Args:
        answer_bytes: what is said of the answers, which have `SIZE` bytes.
    """

    SIZE = 60

    def __init__(self, bench: Bench, min_response_bytes: int) -> None:
        self.bench = bench
        self._tokens = threading.Semaphore(0)
        self.connection = bench.connect(self._talk)
        for number in range(5):
            bench.send(self.connection, str(number), min_response_bytes=min_response_bytes)

    def _talk(self, peer: Peer) -> None:
        for asked in [peer.ask() for _ in range(5)]:
            assert self._tokens.acquire(timeout=WAIT_S)
            peer.say(asked, bytes(self.SIZE - 9))
        peer.read(1)

    def answer(self, count: int, arrived: int) -> bool:
        """Answer so many, and whether that wakes the reader, once so many answers have arrived and were not read."""
        for _ in range(count):
            self._tokens.release()
        waiting = bytearray(4)
        deadline = Deadline(WAIT_S)
        while int.from_bytes(waiting, sys.byteorder) < arrived * self.SIZE:
            assert not deadline.expired
            fcntl.ioctl(self.connection.fileno(), termios.FIONREAD, waiting)
        return bool(select.select([self.connection], [], [], 0)[0])


@pytest.mark.skipif(sys.platform != "linux", reason="SO_RCVLOWAT")
def test_answers_are_read_several_at_a_time_while_the_broker_is_busy(plain: Bench) -> None:
    busy = Busy(plain, min_response_bytes=Busy.SIZE)
    assert not busy.answer(2, arrived=2)
    assert busy.answer(1, arrived=3)
    plain.await_results(3)
    for number in (4, 5):
        assert busy.answer(1, arrived=1), "it has next to nothing to do"
        plain.await_results(number)


def test_answers_that_are_shorter_than_they_may_be_are_read(plain: Bench) -> None:
    busy = Busy(plain, min_response_bytes=2 * Busy.SIZE)
    busy.answer(5, arrived=5)
    plain.await_results(5)


def test_a_large_request_of_many_parts_arrives_whole(bench: Bench) -> None:
    """More parts than one `sendmsg` takes, empty ones, large ones; the peer reads slowly, and the rest waits for it."""
    parts: list[Buffer] = [os.urandom(1 + number % 90) for number in range(3000)]
    parts[5:5] = [b"", bytearray(os.urandom(3_000_000)), memoryview(os.urandom(2_000_000)), b""]
    whole = b"".join(parts)
    go = threading.Event()

    def talk(peer: Peer) -> None:
        assert go.wait(WAIT_S)
        asked = peer.ask()
        assert asked.body == whole
        peer.say(asked, b"ok")
        peer.say(peer.ask(), b"ok too")

    connection = bench.connect(talk)
    bench.send(connection, "large", *parts)
    bench.send(connection, "next")
    bench.loop.run_once(0)
    go.set()
    bench.await_results(2)
    assert [bytes(it) for _, it in bench.results if not isinstance(it, NoResponseError)] == [b"ok", b"ok too"]


def test_a_large_answer_has_memory_of_its_own_that_can_be_written(bench: Bench) -> None:
    """Two answers that are held at once don't share anything."""
    answers = [os.urandom(5_000_000), os.urandom(3_000_000)]

    def talk(peer: Peer) -> None:
        for body in answers:
            peer.say(peer.ask(), body)

    connection = bench.connect(talk)
    bench.send(connection, "a")
    bench.send(connection, "b")
    bench.await_results(2)
    views = [it for _, it in bench.results if isinstance(it, memoryview)]
    assert [bytes(it) for it in views] == answers
    views[0][:4] = b"mine"
    assert bytes(views[1]) == answers[1]
    assert not views[0].readonly


@pytest.mark.parametrize("piece", [1, 7, 13, 4095, 4096, 4097, 1_000_000])
def test_small_answers_among_large_ones_in_pieces(bench: Bench, piece: int) -> None:
    """Sent at once, cut anywhere: several small ones are taken at a time, and what begins behind them is not lost."""
    sizes = [0, 1, 40, 40, 40, 4080, 4087, 4088, 4089, 5000, 3, 70_000, 0, 2000, 2000, 2000, 130_000, 9]
    answers = [os.urandom(size) for size in (sizes if piece > 20 else sizes[:5] + sizes[9:11])]

    def talk(peer: Peer) -> None:
        frames = b""
        for body in answers:
            asked = peer.ask()
            frame = asked.correlation_id.to_bytes(4, "big") + b"\0" + body
            frames += len(frame).to_bytes(4, "big") + frame
        for at in range(0, len(frames), piece):
            peer.sock.sendall(frames[at : at + piece])
        peer.read(1)

    connection = bench.connect(talk)
    for number in range(len(answers)):
        bench.send(connection, str(number))
    bench.await_results(len(answers))
    assert [bytes(it) for _, it in bench.results if not isinstance(it, NoResponseError)] == answers
    assert connection.in_flight == 0


def test_memory_of_answers_is_used_again_once_nobody_holds_them(bench: Bench) -> None:
    """And never before: a view of a part is enough to keep it."""
    answers = [os.urandom(300_000) for _ in range(20)]

    def talk(peer: Peer) -> None:
        for body in answers:
            peer.say(peer.ask(), body)

    connection = bench.connect(talk)
    held: list[tuple[int, memoryview]] = []
    for number in range(len(answers)):
        bench.send(connection, str(number))
        bench.await_results(1)
        result = bench.results.pop()[1]
        assert isinstance(result, memoryview)
        if number in {3, 4, 11}:
            held.append((number, result[1000:1010]))
        else:
            assert bytes(result) == answers[number]
        del result
    assert [bytes(view) for _, view in held] == [answers[number][1000:1010] for number, _ in held]
    assert bench.buffers.size_bytes < 5 * 400_000


@pytest.mark.parametrize("receive_buffer_bytes", [16_384, 131_072, None])
def test_a_large_answer_through_a_small_buffer(bench: Bench, receive_buffer_bytes: int | None) -> None:
    """We ask to be woken late, yet no buffer fills before that; a small answer behind it comes at once."""
    body = os.urandom(2_345_678)

    def talk(peer: Peer) -> None:
        peer.say(peer.ask(), body)
        peer.say(peer.ask(), b"small")

    connection = bench.connect(talk, receive_buffer_bytes=receive_buffer_bytes)
    bench.send(connection, "large")
    bench.await_results(1)
    bench.send(connection, "small")
    bench.await_results(2)
    assert [bytes(it) for _, it in bench.results if not isinstance(it, NoResponseError)] == [body, b"small"]


def test_an_answer_in_pieces_of_one_byte(bench: Bench) -> None:
    def talk(peer: Peer) -> None:
        asked = peer.ask()
        frame = asked.correlation_id.to_bytes(4, "big") + b"\0" + b"tiny"
        for byte in len(frame).to_bytes(4, "big") + frame:
            peer.sock.sendall(bytes([byte]))
        peer.say(peer.ask(), b"after")

    connection = bench.connect(talk)
    bench.send(connection, "a")
    bench.send(connection, "b")
    bench.await_results(2)
    assert [bytes(it) for _, it in bench.results if not isinstance(it, NoResponseError)] == [b"tiny", b"after"]


def test_tagged_fields_of_the_header_are_skipped(bench: Bench) -> None:
    def talk(peer: Peer) -> None:
        peer.say(peer.ask(), b"body", header=b"\x02" + b"\x05\x03abc" + b"\x81\x01\x00")

    connection = bench.connect(talk)
    bench.send(connection, "a")
    bench.await_results(1)
    result = bench.results[0][1]
    assert not isinstance(result, NoResponseError)
    assert bytes(result) == b"body"


def test_memory_for_a_large_answer_grows_with_what_arrives(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the answer is whole, whatever the steps."""
    monkeypatch.setattr(response_reader, "ALLOCATED_AT_ONCE_BYTES", 100_000)
    monkeypatch.setattr(response_reader, "FIRST_PIECE_BYTES", 5000)
    body = os.urandom(1_234_567)

    def talk(peer: Peer) -> None:
        peer.say(peer.ask(), body)
        asked = peer.ask()
        peer.sock.sendall((1 << 30).to_bytes(4, "big") + asked.correlation_id.to_bytes(4, "big") + b"\0" * 500)
        peer.ask()

    connection = bench.connect(talk)
    bench.send(connection, "a")
    bench.await_results(1)
    result = bench.results[0][1]
    assert not isinstance(result, NoResponseError)
    assert bytes(result) == body
    bench.send(connection, "lie")

    def is_begun() -> bool:
        arriving = connection._reader
        return arriving._body is not None and arriving._have == 500

    assert bench.loop.run_until(is_begun, Deadline(WAIT_S))
    assert connection._reader._body is not None
    assert len(connection._reader._body) == 5000, "a length that lies allocates nothing to speak of"


@pytest.mark.parametrize(
    ("garbage", "why"),
    [
        (b"\xff\xff\xff\xff", "a response of -1 bytes"),
        (b"\x00\x00\x00\x00", "a response of 0 bytes"),
        (b"\x00\x00\x00\x03", "a response of 3 bytes"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "a response of 1213486160 bytes"),
        (b"\x00\x00\x00\x08\x00\x00\x00\x09\x00\x00\x00\x00", "a response to request 9 instead of 1"),
        (b"\x7f\xff\xff\xff", "a response of 2147483647 bytes"),
        (b"\x00\x00\x00\x04\x00\x00\x00\x01", "a header that is longer than its response"),
        (b"\x00\x00\x00\x08\x00\x00\x00\x01\xff\xff\xff\xff", "a header that is longer than its response"),
        (b"\x00\x00\x00\x0a\x00\x00\x00\x01\xff\xff\xff\xff\xff\xff", "a number of more than 5 bytes"),
        (b"\x00\x00\x00\x07\x00\x00\x00\x01\x01\x00\x7f", "a header that is longer than its response"),
    ],
)
def test_nonsense_ends_the_connection(bench: Bench, garbage: bytes, why: str) -> None:
    """The text names the peer and what was wrong; nothing loops, nothing is allocated."""

    def talk(peer: Peer) -> None:
        peer.ask()
        peer.sock.sendall(garbage)
        peer.read(1)

    connection = bench.connect(talk)
    bench.send(connection, "a")
    assert why in str(bench.only_lost())
    assert connection.is_closed
    bench.loop.run_once(0)
    assert len(bench.closed) == 1


def test_an_answer_over_the_limit_is_refused(bench: Bench) -> None:
    def talk(peer: Peer) -> None:
        peer.say(peer.ask(), b"x" * 2000)

    bench.send(bench.connect(talk, limit=1000), "a")
    assert "a response of 2005 bytes (allowed: 4 to 1000)" in str(bench.only_lost())


def test_an_answer_that_nobody_asked_for(bench: Bench) -> None:
    def talk(peer: Peer) -> None:
        asked = peer.ask()
        peer.say(asked, b"answer")
        peer.say(asked, b"again")
        peer.read(1)

    connection = bench.connect(talk)
    bench.send(connection, "a")
    assert bench.loop.run_until(lambda: connection.is_closed, Deadline(WAIT_S))
    bench.loop.run_once(0)
    assert "a response to no request" in bench.closed[0]
    assert [name for name, it in bench.results if not isinstance(it, NoResponseError)] == ["a"]


@pytest.mark.parametrize("sent", [0, 2, 6, 9, 5000])
def test_a_peer_that_goes_away_in_the_middle(bench: Bench, sent: int) -> None:
    """What was answered before is delivered; the rest gets `NoResponseError`, in order, and then the owner is told."""

    def talk(peer: Peer) -> None:
        peer.say(peer.ask(), b"whole")
        asked = peer.ask()
        frame = (10_005).to_bytes(4, "big") + asked.correlation_id.to_bytes(4, "big") + b"\0" + b"x" * 10_000
        for _ in range(3):
            peer.ask()
        peer.sock.sendall(frame[:sent])

    connection = bench.connect(talk)
    for name in "abcde":
        bench.send(connection, name)
    bench.await_results(5)
    assert [(name, isinstance(it, NoResponseError)) for name, it in bench.results] == [
        (it, it != "a") for it in "abcde"
    ]
    bench.loop.run_once(0)
    assert connection.is_closed
    assert len(bench.closed) == 1
    assert connection.in_flight == 0


def test_no_answer_in_time_ends_the_connection_for_all(bench: Bench) -> None:
    """Also for requests whose own time is not over: their answers could come only after the missing one."""

    def talk(peer: Peer) -> None:
        peer.ask()
        peer.read(1_000_000)

    connection = bench.connect(talk)
    bench.send(connection, "a", timeout_s=0.05)
    bench.send(connection, "b")
    bench.await_results(2)
    assert [name for name, _ in bench.results] == ["a", "b"]
    for _, lost in bench.results:
        assert isinstance(lost, NoResponseError)
        assert "b:1 ended: no answer within 0.05 s" in str(lost)
        assert lost.code == "_TIMED_OUT"


def test_a_peer_that_reads_nothing_is_given_up_too(bench: Bench) -> None:
    """A request that could not even be sent has its time as well."""
    go = threading.Event()

    def talk(_: Peer) -> None:
        go.wait(WAIT_S)

    connection = bench.connect(talk)
    bench.send(connection, "a", bytes(50_000_000), timeout_s=0.2)
    assert "no answer within 0.2 s" in str(bench.only_lost())
    go.set()


def test_a_closed_connection_loses_at_once(bench: Bench) -> None:
    connection = bench.connect(lambda peer: peer.say(peer.ask(), b""))
    connection.close("because")
    connection.close("twice")
    bench.send(connection, "a")
    assert not bench.results, "completions run inside pump only"
    assert "the connection to b:1 is closed" in str(bench.only_lost())
    bench.loop.run_once(0)
    assert bench.closed == ["because"]
    assert not connection.is_ready


@pytest.mark.parametrize("is_answered", [True, False])
def test_what_is_unsent_does_not_follow_a_request_that_was_given_up(bench: Bench, is_answered: bool) -> None:
    """The end of an idle connection is an orderly one."""
    may_read = threading.Event()
    ends: list[str] = []

    def talk(peer: Peer) -> None:
        if is_answered:
            peer.say(peer.ask(), b"x")
        assert may_read.wait(WAIT_S)
        try:
            with socket.socket(fileno=os.dup(peer.sock.fileno())) as below:  # TLS tells no difference
                while below.recv(1 << 20):
                    pass
            ends.append("closed")
        except ConnectionResetError:
            ends.append("reset")

    connection = bench.connect(talk)
    bench.send(connection, "a", bytes(1 << 10 if is_answered else 64 << 20))
    if is_answered:
        bench.await_results(1)
    else:
        bench.loop.run_once(0)
    connection.close("given up")
    may_read.set()
    bench.await_results(1)
    assert bench.loop.run_until(lambda: bool(ends), Deadline(WAIT_S))
    assert ends == ["closed" if is_answered else "reset"]


def test_a_completion_that_raises_leaves_the_connection_usable(bench: Bench) -> None:
    def talk(peer: Peer) -> None:
        while True:
            peer.say(peer.ask(), b"ok")

    connection = bench.connect(talk)

    def fail(_: memoryview | NoResponseError) -> None:
        raise ValueError("ours")

    connection.send(Request(1, 12, [b"?"], fail))
    bench.send(connection, "b")
    with pytest.raises(ValueError, match="ours"):
        bench.await_results(1)
    bench.await_results(1)
    assert not isinstance(bench.results[0][1], NoResponseError)


def test_sending_from_a_completion(bench: Bench) -> None:
    """The usual way of a fetcher: the next request goes out when the answer came."""

    def talk(peer: Peer) -> None:
        while True:
            peer.say(peer.ask(), b"ok")

    connection = bench.connect(talk)
    count = 0

    def again(result: memoryview | NoResponseError) -> None:
        nonlocal count
        assert not isinstance(result, NoResponseError)
        assert connection.in_flight == 0
        count += 1
        if count < 100:
            connection.send(Request(1, 12, [b"?"], again))

    connection.send(Request(1, 12, [b"?"], again))
    assert bench.loop.run_until(lambda: count == 100, Deadline(WAIT_S))


def test_both_directions_at_once(bench: Bench) -> None:
    """Large requests and large answers cross each other; neither waits for the other to end."""
    size, rounds = 1_000_000, 6

    def talk(peer: Peer) -> None:
        asked = [peer.ask() for _ in range(2)]
        for _ in range(rounds):
            peer.say(asked.pop(0), b"y" * size)
            asked.append(peer.ask())

    connection = bench.connect(talk)
    for number in range(rounds + 2):
        bench.send(connection, str(number), b"x" * size)
    bench.await_results(rounds + 2)
    good = [it for _, it in bench.results if not isinstance(it, NoResponseError)]
    assert [len(it) for it in good] == [size] * rounds
