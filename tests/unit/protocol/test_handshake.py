"""Before the first request: every way in which a connection can fail has its code and a text without secrets."""

from __future__ import annotations

import logging
import socket
import ssl
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from replicator.config import SecuritySettings
from replicator.deadline import Deadline
from replicator.protocol.connect_errors import ConnectError
from replicator.protocol.handshake import Endpoint, Established, connect
from replicator.protocol.security import Security
from tests.support.certificates import Authority
from tests.unit.protocol.fake_broker import VERSIONS, FakeBroker, Peer, api_versions, broker
from tests.unit.protocol.fake_sasl import Login, answer

PASSWORD = "secret"


def security(**settings: Any) -> Security:
    return Security(SecuritySettings.model_validate(settings))


def login(mechanism: str = "SCRAM-SHA-512", password: str = PASSWORD, username: str = "me") -> Security:
    return security(protocol="SASL_PLAINTEXT", mechanism=mechanism, username=username, password=password)


def reach(fake: FakeBroker | Endpoint, with_security: Security | None = None, within_s: float = 10) -> Established:
    endpoint = fake if isinstance(fake, Endpoint) else fake.endpoint
    made = connect(endpoint, with_security or security(), "me", Deadline(within_s))
    made.sock.close()
    return made


def refusal(fake: FakeBroker | Endpoint, with_security: Security | None = None, within_s: float = 10) -> ConnectError:
    """The error, which names the endpoint and holds no password."""
    with pytest.raises(ConnectError) as caught:
        reach(fake, with_security, within_s)
    endpoint = fake if isinstance(fake, Endpoint) else fake.endpoint
    assert str(caught.value).startswith(f"{endpoint}: ")
    assert PASSWORD not in f"{caught.value} {caught.value.__cause__!r}"
    return caught.value


def talk_with(login: Login) -> Callable[[Peer], None]:
    def talk(peer: Peer) -> None:
        peer.introduce()
        if login.accept(peer):
            peer.read(1)

    return talk


# --- plain ------------------------------------------------------------------------------------------------------------


def test_the_broker_tells_its_versions() -> None:
    def talk(peer: Peer) -> None:
        asked = peer.ask()
        assert (asked.api_key, asked.version, asked.client_id) == (18, 3, "me")
        assert b"replicator" in asked.body
        peer.say_message(asked, api_versions({1: (4, 17)}), header=b"")

    with broker(talk) as fake:
        made = reach(fake)
    assert made.versions == {1: (4, 17)}
    assert made.lifetime_s is None


def test_an_old_broker_is_asked_again_in_version_0() -> None:
    """It answers UNSUPPORTED_VERSION in the layout of version 0, whatever was asked."""

    def talk(peer: Peer) -> None:
        asked = peer.ask()
        old = bytes(api_versions({}, error=35).encode(version=0))
        peer.say(asked, old, header=b"")
        asked = peer.ask(header_version=1)
        assert (asked.api_key, asked.version) == (18, 0)
        peer.say_message(asked, api_versions({1: (0, 11)}), header=b"")

    with broker(talk) as fake:
        assert reach(fake).versions == {1: (0, 11)}


def test_a_port_where_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        error = refusal(Endpoint("127.0.0.1", unused.getsockname()[1]))
    assert error.code == "_TRANSPORT"
    assert "Connection refused" in str(error)


def test_a_name_that_does_not_exist() -> None:
    error = refusal(Endpoint("no-such-broker.invalid", 9092))
    assert error.code == "_RESOLVE"


def test_a_name_that_can_not_exist() -> None:
    for host, port in (("a" * 300, 9092), ("a\0b", 9092), ("", -1)):
        assert refusal(Endpoint(host, port)).code in ("_RESOLVE", "_TRANSPORT")
    assert refusal(Endpoint("127.0.0.1", 99_999)).code == "_TRANSPORT"


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL"])
def test_a_broker_that_says_nothing(protocol: str) -> None:
    """A stopped process: its kernel takes the connection."""

    def talk(peer: Peer) -> None:
        peer.read(1_000_000)

    with broker(talk) as fake:
        assert refusal(fake, security(protocol=protocol), within_s=0.1).code == "_TIMED_OUT"


def test_a_broker_that_hangs_up() -> None:
    def talk(peer: Peer) -> None:
        peer.ask()

    with broker(talk) as fake:
        error = refusal(fake)
    assert error.code == "_TRANSPORT"
    assert "is security.protocol what it asks for?" in str(error)


@pytest.mark.parametrize(
    "garbage",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x02ab",
        b"\x00\x00\x00\x08\x00\x00\x00\x09\x00\x00\x00\x00",
        b"\x00\x00\x00\x06\x00\x00\x00\x01\x00\x00",
        b"\x00\x00\x08\x00\x00\x00\x00\x01\x00\x00" + b"\xff" * 2042,
        b"\x00\x00\x00\x0a\x00\x00\x00\x01\x00\x00\xff\xff\xff\x7f",
    ],
)
def test_a_peer_that_is_no_broker(garbage: bytes) -> None:
    """Among others a number without an end, and a count of 268 million versions."""

    def talk(peer: Peer) -> None:
        peer.ask()
        peer.sock.sendall(garbage)
        peer.read(1)

    with broker(talk) as fake:
        error = refusal(fake)
    assert error.code == "_TRANSPORT"
    assert "does not speak Kafka's protocol" in str(error)


# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(Path(tmp_path_factory.mktemp("ca")), "own")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(Path(tmp_path_factory.mktemp("foreign")), "foreign")


def server_context(authority: Authority, *, wants_client: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.server())
    if wants_client:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(authority.file)
    return context


def serve_one(peer: Peer) -> None:
    peer.introduce()
    peer.read(1)


def test_tls_with_a_certificate_of_a_known_authority(authority: Authority) -> None:
    with broker(serve_one, tls=server_context(authority)) as fake:
        made = reach(fake, security(protocol="SSL", ca_file=str(authority.file)))
    assert made.versions == VERSIONS
    assert isinstance(made.sock, ssl.SSLSocket)


def test_tls_with_a_certificate_of_an_unknown_authority(authority: Authority, foreign: Authority) -> None:
    with broker(serve_one, tls=server_context(authority)) as fake:
        error = refusal(fake, security(protocol="SSL", ca_file=str(foreign.file)))
        assert error.code == "_SSL"
        assert "certificate is not trusted" in str(error)
        assert refusal(fake, security(protocol="SSL")).code == "_SSL", "the system's authorities don't know it either"


def test_the_name_in_the_certificate_is_checked_unless_told_otherwise(authority: Authority) -> None:
    with broker(serve_one, tls=server_context(authority)) as fake:
        endpoint = Endpoint("127.1", fake.port)  # the same host by a name that the certificate does not have
        error = refusal(endpoint, security(protocol="SSL", ca_file=str(authority.file)))
        assert error.code == "_SSL"
        assert "mismatch" in str(error) or "not valid for" in str(error)
        reach(endpoint, security(protocol="SSL", ca_file=str(authority.file), verify_hostname=False))


@pytest.mark.parametrize("kind", ["own", "foreign", "none"])
def test_a_broker_that_asks_for_a_certificate(authority: Authority, foreign: Authority, kind: str) -> None:
    """TLS 1.3 tells of a refusal only after the handshake: it is a matter of TLS all the same."""
    files = {"ca_file": str(authority.file)}
    if kind != "none":
        client = str((authority if kind == "own" else foreign).client("me"))
        files |= {"cert_file": client, "key_file": client}
    with broker(serve_one, tls=server_context(authority, wants_client=True)) as fake:
        if kind == "own":
            reach(fake, security(protocol="SSL", **files))
        else:
            assert refusal(fake, security(protocol="SSL", **files)).code == "_SSL"


@pytest.mark.parametrize("resets", [True, False])
def test_a_broker_that_ends_the_tls_handshake_refuses_nothing(resets: bool) -> None:
    """A load balancer before a broker that is stopped does so."""

    def talk(peer: Peer) -> None:
        peer.read(1)
        if resets:
            peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.sock.close()
        else:
            peer.sock.recv(1 << 16)  # what is left unread would reset it, too

    with broker(talk) as fake:
        error = refusal(fake, security(protocol="SSL"))
    assert error.code == "_TRANSPORT"
    assert "TLS handshake" in str(error)


def test_plaintext_where_tls_is_asked_for(authority: Authority) -> None:
    def talk(peer: Peer) -> None:
        peer.ask()
        peer.sock.sendall(b"\x15\x03\x03\x00\x02\x02\x50")

    with broker(talk) as fake:
        error = refusal(fake)
    assert error.code == "_TRANSPORT"
    assert "requires TLS" in str(error)


def test_tls_where_plaintext_is_spoken() -> None:
    with broker(lambda peer: peer.sock.sendall(b"\x00\x00\x00\x00") if peer.read(4) else None) as fake:
        error = refusal(fake, security(protocol="SSL"))
    assert error.code == "_TRANSPORT"
    assert "is security.protocol what it asks for?" in str(error)


def test_files_that_can_not_be_used(tmp_path: Path, authority: Authority) -> None:
    """The text names the file. A key that is locked does not ask for its password at the terminal."""
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    with broker(serve_one) as fake:
        error = refusal(fake, security(protocol="SSL", ca_file=str(junk)))
        assert (error.code, "junk.pem" in str(error)) == ("_SSL", True)
        files = {"ca_file": str(authority.file), "cert_file": str(junk), "key_file": str(junk)}
        error = refusal(fake, security(protocol="SSL", **files))
        assert (error.code, "junk.pem" in str(error)) == ("_SSL", True)
        locked = _locked_key(tmp_path, authority)
        files = {"ca_file": str(authority.file), "cert_file": str(locked), "key_file": str(locked)}
        assert refusal(fake, security(protocol="SSL", **files)).code == "_SSL"
        wrong = security(protocol="SSL", **files, key_password=PASSWORD)
        assert refusal(fake, wrong).code == "_SSL"
    with broker(serve_one, tls=server_context(authority, wants_client=True)) as fake:
        reach(fake, security(protocol="SSL", **files, key_password="right"))


def _locked_key(folder: Path, authority: Authority) -> Path:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415

    whole = authority.client("locked").read_bytes()
    key = serialization.load_pem_private_key(whole, None)
    locked = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"right")
    )
    file = folder / "locked.pem"
    file.write_bytes(locked + whole[whole.index(b"-----BEGIN CERTIFICATE") :])
    return file


# --- SASL -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_login(mechanism: str) -> None:
    """And the session's lifetime is told, in seconds."""
    with broker(talk_with(Login(mechanism, lifetime_ms=90_000))) as fake:
        assert reach(fake, login(mechanism)).lifetime_s == 90


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_a_wrong_password(mechanism: str) -> None:
    """The broker's words are shown, without the password that they may repeat."""
    with broker(talk_with(Login(mechanism, password="another"))) as fake:
        error = refusal(fake, login(mechanism))
    assert error.code == "SASL_AUTHENTICATION_FAILED"
    assert "no such login" in str(error) or "invalid credentials" in str(error)


def test_a_broker_that_repeats_the_password() -> None:
    def talk(peer: Peer) -> None:
        peer.introduce()
        asked = peer.ask(header_version=1)
        peer.say(asked, b"\0\0\0\0\0\1\0\5PLAIN", header=b"")
        answer(peer, peer.ask(), b"", 0, f"{PASSWORD} is not it")

    with broker(talk) as fake:
        assert "******** is not it" in str(refusal(fake, login("PLAIN")))


def test_a_broker_that_does_not_know_the_password_is_refused() -> None:
    """SCRAM is mutual: a signature that is wrong means that somebody else answers at this address."""
    with broker(talk_with(Login(proves_itself=False))) as fake:
        error = refusal(fake, login())
    assert error.code == "_AUTHENTICATION"
    assert "wrong signature" in str(error)


def test_a_broker_that_wants_a_cheap_proof_is_refused() -> None:
    """With few iterations it could try passwords against our proof."""
    with broker(talk_with(Login(iterations=1))) as fake:
        error = refusal(fake, login())
    assert error.code == "_AUTHENTICATION"
    assert "fewer than 4096 iterations" in str(error)


def test_a_broker_that_lets_everybody_in_is_refused() -> None:
    """SCRAM without the broker's part; with an error instead of a signature; with nonsense."""

    def talk(peer: Peer) -> None:
        peer.introduce()
        asked = peer.ask(header_version=1)
        peer.say(asked, b"\0\0\0\0\0\1\0\x0dSCRAM-SHA-512", header=b"")
        answer(peer, peer.ask(), [b"", b"e=other-error", b"\xff\xfe", b"r=x,s=y,i=4096"][peer.number])
        peer.read(1)

    with broker(talk) as fake:
        for _ in range(4):
            assert refusal(fake, login()).code == "_AUTHENTICATION"
    assert fake.accepted == 4


def test_a_mechanism_that_the_broker_does_not_take() -> None:
    with broker(talk_with(Login("PLAIN"))) as fake:
        error = refusal(fake, login("SCRAM-SHA-256"))
    assert error.code == "UNSUPPORTED_SASL_MECHANISM"
    assert "it accepts: PLAIN" in str(error)


def test_a_user_name_with_signs_that_scram_uses_itself() -> None:
    with broker(talk_with(Login(username="a=b,c"))) as fake:
        reach(fake, login(username="a=b,c"))


def test_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), broker(talk_with(Login("PLAIN"))) as fake:
        reach(fake, login("PLAIN"))
    assert caplog.text == ""
