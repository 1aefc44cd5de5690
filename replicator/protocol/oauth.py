"""Fetches tokens for SASL/OAUTHBEARER, by an OpenID Connect provider's client credentials grant.

Called by the threads that connect, never by the event loop's. The secret goes to the configured address and
nowhere else: redirects are not followed, and plain HTTP is for 127.0.0.1 alone.

Source: RFC 6749 §4.4, RFC 7628; KIP-768. The client's id and secret are sent as Kafka and librdkafka do: in Basic
authentication, without URL encoding.
"""

from __future__ import annotations

import base64
import binascii
import json
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from kafka.net.sasl.oauth import AbstractTokenProvider

from replicator.config import OAuthSettings
from replicator.protocol.connect_errors import ConnectError

TIMEOUT_S = 5.0
"""For the provider to connect, and for each read."""
MAX_BYTES = 1 << 20
MAX_LIFETIME_S = 86_400.0
USED_PART = 0.8
"""The part of a token's lifetime during which it is used; afterwards the next connection fetches a new one."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses redirects, which would send the secret to another address."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class TokenProvider(AbstractTokenProvider):  # type: ignore[misc]
    """Keeps one token, and replaces it in time, for kafka-python's OAUTHBEARER. Threading: any thread."""

    def __init__(self, settings: OAuthSettings) -> None:
        super().__init__()
        self._settings = settings
        self._lock = threading.Lock()
        self._token = ""
        self._good_until_s = 0.0
        self._opener: urllib.request.OpenerDirector | None = None

    def token(self) -> str:
        """Return a token that is valid for a while.

        Raises:
            ConnectError: the provider gave none.
        """
        with self._lock:
            if time.monotonic() >= self._good_until_s:
                asked_s = time.monotonic()
                self._token, lifetime_s = _token_of(self._ask())
                self._good_until_s = asked_s + USED_PART * lifetime_s
            return self._token

    def extensions(self) -> dict[str, str]:
        """SASL extensions."""
        return dict(self._settings.extensions)

    def _ask(self) -> bytes:
        if self._opener is None:
            self._opener = _opener(self._settings)
        try:
            with self._opener.open(_request(self._settings), timeout=TIMEOUT_S) as answer:
                return bytes(answer.read(MAX_BYTES + 1))
        except urllib.error.HTTPError as error:
            with error:
                raise _refused(f"it answers {error.code}") from None
        except urllib.error.URLError as error:
            raise _refused(str(error.reason)) from None
        except (OSError, ValueError) as error:
            raise _refused(str(error) or type(error).__name__) from None


def _opener(settings: OAuthSettings) -> urllib.request.OpenerDirector:
    """Make an opener for the provider alone. Plain HTTP uses no proxy, which could read the secret."""
    if not settings.token_url.startswith("https:"):
        return urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}))
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except OSError as error:
        raise ConnectError(f"TLS: security.oauth.ca_file can't be used: {error.strerror}", "_SSL") from None
    return urllib.request.build_opener(_NoRedirect, urllib.request.HTTPSHandler(context=context))


def _request(settings: OAuthSettings) -> urllib.request.Request:
    secret = settings.client_secret.get_secret_value() if settings.client_secret else ""
    login = base64.b64encode(f"{settings.client_id}:{secret}".encode()).decode()
    form = {"grant_type": "client_credentials"} | ({"scope": settings.scope} if settings.scope else {})
    headers = {
        "Authorization": f"Basic {login}",
        "Content-Type": "application/x-www-form-urlencoded",
        "Accept": "application/json",
    }
    return urllib.request.Request(settings.token_url, urllib.parse.urlencode(form).encode(), headers)


def _token_of(answer: bytes) -> tuple[str, float]:
    """Decode the token and its lifetime in seconds; 0: unknown.

    Raises:
        ConnectError: the response has no token.
    """
    try:
        said = json.loads(answer) if len(answer) <= MAX_BYTES else None
    except (ValueError, RecursionError):
        said = None
    fields = said if isinstance(said, dict) else {}
    token = fields.get("access_token")
    if not isinstance(token, str) or not token or not all("!" <= sign <= "~" for sign in token):
        raise _refused("its answer has no access_token")
    try:
        return token, min(MAX_LIFETIME_S, max(0.0, float(fields["expires_in"])))
    except (KeyError, TypeError, ValueError):
        return token, _lifetime_of(token)


def _lifetime_of(token: str) -> float:
    """Seconds until the claim ``exp`` of a JWT (RFC 7519); 0: the token has none."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return min(MAX_LIFETIME_S, max(0.0, float(claims["exp"]) - time.time()))
    except (IndexError, KeyError, TypeError, ValueError, RecursionError, binascii.Error):
        return 0.0


def _refused(why: str) -> ConnectError:
    return ConnectError(f"no token from security.oauth.token_url: {why}", "_AUTHENTICATION")
