"""The broker's side of SASL: PLAIN and SCRAM, honest or not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import threading
from dataclasses import dataclass, field

from kafka.protocol.sasl import SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeResponse

from tests.unit.protocol.fake_broker import Asked, Peer

HANDSHAKE = 17
AUTHENTICATE = 36
FAILED = 58


@dataclass(slots=True)
class Login:
    """What a broker knows, and how it behaves.

    Args:
        proves_itself: it knows the password too; else its signature is wrong.
        lifetime_ms: of the session.
    """

    mechanism: str = "SCRAM-SHA-512"
    username: str = "me"
    password: str = "secret"
    iterations: int = 4096
    proves_itself: bool = True
    lifetime_ms: int = 0

    def accept(self, peer: Peer) -> bool:
        """Whether the client got in."""
        asked = peer.ask(header_version=1)
        assert asked.api_key == HANDSHAKE
        name = asked.body[2:].decode()
        error = 0 if name == self.mechanism else 33
        peer.say_message(asked, SaslHandshakeResponse(error_code=error, mechanisms=[self.mechanism]), header=b"")
        if error:
            return False
        return self._plain(peer) if self.mechanism == "PLAIN" else self._scram(peer)

    def _plain(self, peer: Peer) -> bool:
        asked = peer.ask()
        is_right = said(asked) == f"{self.username}\0{self.username}\0{self.password}".encode()
        answer(peer, asked, b"", self.lifetime_ms, "" if is_right else f"no such login: {self.password}")
        return is_right

    def _scram(self, peer: Peer) -> bool:
        """RFC 5802, without channel binding."""
        algorithm = self.mechanism.replace("SCRAM-", "").replace("-", "").lower()
        asked = peer.ask()
        bare = said(asked).removeprefix(b"n,,")
        fields = dict(it.split(b"=", 1) for it in bare.split(b","))
        first = b"r=" + fields[b"r"] + b"server,s=" + base64.b64encode(b"salt") + b",i=%d" % self.iterations
        answer(peer, asked, first)
        asked = peer.ask()
        without_proof, _, proof = said(asked).rpartition(b",p=")
        salted = hashlib.pbkdf2_hmac(algorithm, self.password.encode(), b"salt", self.iterations)
        message = b",".join((bare, first, without_proof))
        client_key = hmac.digest(salted, b"Client Key", algorithm)
        signature = hmac.digest(hashlib.new(algorithm, client_key).digest(), message, algorithm)
        expected = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        wanted_name = self.username.replace("=", "=3D").replace(",", "=2C").encode()
        is_right = fields[b"n"] == wanted_name and base64.b64decode(proof) == expected
        if self.proves_itself and not is_right:
            answer(peer, asked, b"", 0, "Authentication failed due to invalid credentials")
            return False
        server_key = hmac.digest(salted if self.proves_itself else b"a guess", b"Server Key", algorithm)
        final = b"v=" + base64.b64encode(hmac.digest(server_key, message, algorithm))
        answer(peer, asked, final, self.lifetime_ms)
        return True


@dataclass(slots=True)
class SlowLogin(Login):
    """Lets nobody in before it may."""

    may_answer: threading.Event = field(default_factory=threading.Event)

    def accept(self, peer: Peer) -> bool:
        return self.may_answer.wait(20) and Login.accept(self, peer)


def said(asked: Asked) -> bytes:
    """The client's part."""
    assert asked.api_key == AUTHENTICATE
    return bytes(SaslAuthenticateRequest.decode(asked.body, version=asked.version).auth_bytes)


def answer(peer: Peer, asked: Asked, data: bytes, lifetime_ms: int = 0, error: str = "") -> None:
    code = FAILED if error else 0
    message = SaslAuthenticateResponse(
        error_code=code, error_message=error or None, auth_bytes=data, session_lifetime_ms=lifetime_ms
    )
    peer.say_message(asked, message)
