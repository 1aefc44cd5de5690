"""Makes the TLS context, and authenticates new connections by SASL.

No error and no log line holds a secret: it is masked in the broker's texts, and kafka-python's logging is off.

Source: KIP-152 (SaslAuthenticate), KIP-368 (re-authentication); RFC 5802; clients `SaslClientAuthenticator`.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable, Mapping
from typing import Any

from kafka.net.sasl import get_sasl_mechanism
from kafka.protocol.sasl import SaslAuthenticateRequest, SaslHandshakeRequest

from replicator.config import MASK, SecuritySettings
from replicator.protocol.connect_errors import ConnectError
from replicator.protocol.oauth import TokenProvider

SASL_AUTHENTICATE = 36
NO_SUCH_MECHANISM = 33
SASL_AUTHENTICATION_FAILED = 58
MAX_STEPS = 10
MIN_SCRAM_ITERATIONS = 4096
"""RFC 5802, and Kafka's own client: fewer would let a false broker guess the password from the client's proof."""

Exchange = Callable[[Any, int], Any]
"""Sends a request in a version, and returns the answer. Raises ConnectError."""
Versions = Mapping[int, tuple[int, int]]
"""What a broker supports: API key → lowest and highest version."""

logging.getLogger("kafka").setLevel(logging.CRITICAL + 1)


class Security:
    """The `security` block of a cluster, for many connections.

    Threading: any thread.
    """

    def __init__(self, settings: SecuritySettings) -> None:
        self.settings = settings
        self.uses_tls = settings.protocol.endswith("SSL")
        self.uses_sasl = settings.protocol.startswith("SASL")
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None
        self._tokens = None if settings.oauth is None else TokenProvider(settings.oauth)

    def tls_context(self) -> ssl.SSLContext:
        """Return the TLS context, which is made once.

        Raises:
            ConnectError: a file can't be used.
        """
        with self._lock:
            if self._context is None:
                self._context = tls_context(self.settings)
            return self._context

    def authenticate(self, exchange: Exchange, versions: Versions) -> float | None:
        """Authenticate by SASL.

        Returns:
            Seconds until the broker wants re-authentication; None: never.

        Raises:
            ConnectError: refused, or the broker could not prove that it knows the password.
        """
        mechanism = str(self.settings.mechanism)
        answer = exchange(SaslHandshakeRequest(mechanism=mechanism), 1)
        if answer.error_code:
            enabled = ", ".join(answer.mechanisms or ())
            is_unknown = answer.error_code == NO_SUCH_MECHANISM
            code = "UNSUPPORTED_SASL_MECHANISM" if is_unknown else "_AUTHENTICATION"
            raise ConnectError(f"the broker does not accept {mechanism} (it accepts: {enabled or 'none'})", code)
        return self._converse(self._mechanism(mechanism), exchange, min(2, versions.get(SASL_AUTHENTICATE, (0, 0))[1]))

    def _mechanism(self, mechanism: str) -> Any:
        username = str(self.settings.username)
        if mechanism.startswith("SCRAM"):
            username = username.replace("=", "=3D").replace(",", "=2C")  # RFC 5802 §5.1, which kafka-python leaves out
        if self._tokens is not None:
            return get_sasl_mechanism(mechanism)(sasl_oauth_token_provider=self._tokens)
        return get_sasl_mechanism(mechanism)(
            sasl_mechanism=mechanism,
            security_protocol=self.settings.protocol,
            sasl_plain_username=username,
            sasl_plain_password=self._password,
        )

    @property
    def _password(self) -> str:
        oauth = self.settings.oauth
        secret = self.settings.password if oauth is None else oauth.client_secret
        return secret.get_secret_value() if secret else ""

    def _converse(self, mechanism: Any, exchange: Exchange, version: int) -> float | None:
        lifetime_ms = 0
        for _ in range(MAX_STEPS):
            if mechanism.is_done():
                break
            answer = exchange(SaslAuthenticateRequest(auth_bytes=self._next_bytes(mechanism)), version)
            if answer.error_code:
                self._refuse(answer)
            self._receive(mechanism, bytes(answer.auth_bytes or b""))
            lifetime_ms = int(getattr(answer, "session_lifetime_ms", 0) or 0)
        if not (mechanism.is_done() and mechanism.is_authenticated()):
            raise ConnectError("Authentication failed: the broker ended it too early", "_AUTHENTICATION")
        return lifetime_ms / 1000 if lifetime_ms > 0 else None

    def _next_bytes(self, mechanism: Any) -> bytes:
        try:
            return bytes(mechanism.auth_bytes())
        except ConnectError:
            raise
        except Exception as error:
            raise ConnectError(f"Authentication failed: {type(error).__name__}", "_AUTHENTICATION") from None

    def _receive(self, mechanism: Any, data: bytes) -> None:
        """Process the broker's message. A broker whose signature shows that it lacks the password is refused."""
        if str(self.settings.mechanism).startswith("SCRAM"):
            _check_iterations(data)
        try:
            mechanism.receive(data)
        except Exception as error:
            text = self._without_secrets(str(error)) if isinstance(error, ValueError) else type(error).__name__
            raise ConnectError(f"Authentication failed: {text}", "_AUTHENTICATION") from None

    def _refuse(self, answer: Any) -> None:
        text = self._without_secrets(str(answer.error_message or "")) or f"error {answer.error_code}"
        if answer.error_code == SASL_AUTHENTICATION_FAILED:
            raise ConnectError(text, "SASL_AUTHENTICATION_FAILED")
        raise ConnectError(f"Authentication failed: {text}", "_AUTHENTICATION")

    def _without_secrets(self, text: str) -> str:
        return text.replace(self._password, MASK) if self._password else text


def tls_context(settings: SecuritySettings) -> ssl.SSLContext:
    """TLS 1.2 at least; the broker's certificate is always checked, its name unless `verify_hostname` is off.

    Raises:
        ConnectError: a file can't be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = settings.verify_hostname
    context.verify_mode = ssl.CERT_REQUIRED
    secret = settings.key_password.get_secret_value() if settings.key_password else ""
    file = settings.ca_file
    try:
        if file is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(file)
        if settings.cert_file is not None:
            file = settings.cert_file
            # an empty password instead of None, for which OpenSSL would prompt on the terminal
            context.load_cert_chain(settings.cert_file, settings.key_file, lambda: secret)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
        what = f"{file} or its key" if file == settings.cert_file else str(file)
        raise ConnectError(f"TLS: {what} can't be used: {reason}", "_SSL") from None
    return context


def _check_iterations(data: bytes) -> None:
    """Refuse a SCRAM server-first message (``r=…,s=…,i=…``) whose few iterations would make the password easy to guess.

    Raises:
        ConnectError: refused.
    """
    fields = dict(pair.split(b"=", 1) for pair in data.split(b",") if b"=" in pair)
    count = fields.get(b"i")
    if count is not None and not (count.isdigit() and int(count) >= MIN_SCRAM_ITERATIONS):
        text = f"Authentication failed: the broker asks for fewer than {MIN_SCRAM_ITERATIONS} iterations"
        raise ConnectError(text, "_AUTHENTICATION")
