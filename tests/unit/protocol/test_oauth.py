"""Tokens: asked for as the provider wants it, kept until they get old, and the secret goes nowhere else."""

from __future__ import annotations

import base64
import http.server
import json
import threading
import time
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest

from replicator.config import MASK, SecuritySettings, build, shown
from replicator.errors import ConfigError
from replicator.kafka.client_properties import security_properties
from replicator.protocol import oauth
from replicator.protocol.connect_errors import ConnectError
from replicator.protocol.oauth import TokenProvider
from replicator.protocol.security import Security
from tests.unit.protocol.fake_broker import Peer, broker
from tests.unit.protocol.fake_sasl import HANDSHAKE, answer, said
from tests.unit.protocol.test_handshake import reach, refusal

SECRET = "cl1ent-secret"


class Provider(http.server.ThreadingHTTPServer):
    """Hands out `token-1`, `token-2`, … or what the test says."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, dict[str, str], str]] = []
        """Path, form and Authorization header of each question."""
        self.status = 200
        self.headers: dict[str, str] = {}
        self.answer: bytes | None = None
        self.lifetime_s: float = 3600

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/realms/kafka/token"


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        provider = self.server
        assert isinstance(provider, Provider)
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        provider.asked.append((self.path, dict(urllib.parse.parse_qsl(body)), self.headers["Authorization"]))
        token = {"access_token": f"token-{len(provider.asked)}", "expires_in": provider.lifetime_s}
        said = json.dumps(token).encode() if provider.answer is None else provider.answer
        self.send_response(provider.status)
        for name, value in provider.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def do_GET(self) -> None:
        raise AssertionError("a redirect was followed")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def provider() -> Iterator[Provider]:
    made = Provider()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def settings(url: str, **more: Any) -> SecuritySettings:
    login = {"token_url": url, "client_id": "replicator", "client_secret": SECRET, **more}
    return SecuritySettings.model_validate({"protocol": "SASL_PLAINTEXT", "mechanism": "OAUTHBEARER", "oauth": login})


def tokens(url: str, **more: Any) -> TokenProvider:
    found = settings(url, **more).oauth
    assert found is not None
    return TokenProvider(found)


def refused(given: TokenProvider) -> ConnectError:
    with pytest.raises(ConnectError) as caught:
        given.token()
    assert SECRET not in f"{caught.value} {caught.value.__cause__!r} {caught.value.__context__!r}"
    assert caught.value.code == "_AUTHENTICATION"
    return caught.value


def test_the_question(provider: Provider) -> None:
    """The client credentials grant, with the scope where one is given."""
    assert tokens(provider.url).token() == "token-1"
    assert tokens(provider.url, scope="kafka read").token() == "token-2"
    login = "Basic " + base64.b64encode(f"replicator:{SECRET}".encode()).decode()
    assert provider.asked == [
        ("/realms/kafka/token", {"grant_type": "client_credentials"}, login),
        ("/realms/kafka/token", {"grant_type": "client_credentials", "scope": "kafka read"}, login),
    ]


def test_a_token_is_kept_until_it_gets_old(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """80 % of what the provider says; the claim of a JWT where it says nothing; never where nobody knows."""
    now_s = 1000.0
    monkeypatch.setattr(oauth.time, "monotonic", lambda: now_s)  # type: ignore[attr-defined]
    given = tokens(provider.url)
    assert given.token() == "token-1"
    now_s += 3600 * 0.79
    assert given.token() == "token-1"
    now_s += 3600 * 0.02
    assert given.token() == "token-2"
    claims = base64.urlsafe_b64encode(json.dumps({"exp": time.time() + 100}).encode()).rstrip(b"=").decode()
    provider.answer = json.dumps({"access_token": f"e30.{claims}.x"}).encode()
    given = tokens(provider.url)
    asked = len(provider.asked)
    given.token()
    now_s += 70
    given.token()
    assert len(provider.asked) == asked + 1
    now_s += 20
    given.token()
    assert len(provider.asked) == asked + 2
    provider.answer = b'{"access_token": "opaque", "expires_in": "soon"}'
    given = tokens(provider.url)
    given.token()
    given.token()
    assert len(provider.asked) == asked + 4


def test_a_redirect_is_not_followed(provider: Provider) -> None:
    """It would take the secret to another address."""
    provider.status, provider.headers = 302, {"Location": provider.url + "/elsewhere"}
    assert "it answers 302" in str(refused(tokens(provider.url)))
    assert len(provider.asked) == 1


def test_a_proxy_does_not_get_the_secret_in_the_clear(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert tokens(provider.url).token() == "token-1"


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"[]",
        b"<html>",
        b"{}",
        b'{"access_token": 5}',
        b'{"access_token": ""}',
        b'{"access_token": "a\\u0001auth=other"}',
        b"[" * 200_000,
        b'{"access_token": "' + b"x" * (1 << 20) + b'"}',
    ],
)
def test_an_answer_without_a_token(provider: Provider, said: bytes) -> None:
    provider.answer = said
    assert "no access_token" in str(refused(tokens(provider.url)))


def test_a_provider_that_refuses_or_is_not_there(provider: Provider) -> None:
    provider.status, provider.answer = 401, f'{{"error": "bad secret {SECRET}"}}'.encode()
    assert "it answers 401" in str(refused(tokens(provider.url)))
    assert "refused" in str(refused(tokens("http://127.0.0.1:1/token")))


def login_with(peer: Peer, wanted: bytes) -> None:
    """The broker's side: one step, or an error as JSON, the client's `\\x01`, and the refusal."""
    peer.introduce()
    asked = peer.ask(header_version=1)
    assert asked.api_key == HANDSHAKE
    peer.say(asked, b"\0\0\0\0\0\1\0\x0bOAUTHBEARER", header=b"")
    asked = peer.ask()
    if said(asked) == wanted:
        answer(peer, asked, b"", 60_000)
        peer.read(1)
        return
    answer(peer, asked, b'{"status":"invalid_token"}')
    asked = peer.ask()
    assert said(asked) == b"\x01"
    answer(peer, asked, b"", 0, "invalid credentials")


def test_login_with_a_token(provider: Provider) -> None:
    """With extensions (RFC 7628), and the session's lifetime told."""
    wanted = b"n,,\x01auth=Bearer token-1\x01logicalCluster=lkc-1\x01\x01"
    with broker(lambda peer: login_with(peer, wanted)) as fake:
        made = reach(fake, Security(settings(provider.url, extensions={"logicalCluster": "lkc-1"})))
    assert made.lifetime_s == 60


def test_a_token_that_the_broker_does_not_take(provider: Provider) -> None:
    with broker(lambda peer: login_with(peer, b"another")) as fake:
        assert refusal(fake, Security(settings(provider.url))).code == "SASL_AUTHENTICATION_FAILED"


def test_no_token_is_a_connection_that_was_not_made(provider: Provider) -> None:
    provider.status = 500
    with broker(lambda peer: login_with(peer, b"")) as fake:
        error = refusal(fake, Security(settings(provider.url)))
    assert error.code == "_AUTHENTICATION"
    assert "no token from security.oauth.token_url: it answers 500" in str(error)


# --- configuration ----------------------------------------------------------------------------------------------------


def content(**security: Any) -> dict[str, Any]:
    clusters = {"east": {"bootstrap_servers": "e:1"}, "west": {"bootstrap_servers": "w:1", "security": security}}
    return {"clusters": clusters, "flows": {"east->west": {"topics": ["a"]}}}


OAUTH = {"token_url": "https://id.example.com/token", "client_id": "replicator", "client_secret": SECRET}


def test_the_section_in_librdkafkas_words(tmp_path: Any) -> None:
    """The secret from a file too; and masked wherever settings are shown."""
    file = tmp_path / "secret"
    file.write_text(SECRET + "\n")
    given: dict[str, Any] = {key: value for key, value in OAUTH.items() if key != "client_secret"}
    given |= {"client_secret_file": str(file), "scope": "kafka", "extensions": {"a": "1", "b": "2"}}
    loaded = build(content(protocol="SASL_SSL", mechanism="OAUTHBEARER", oauth=given | {"ca_file": str(file)}))
    assert security_properties(loaded.clusters["west"]) == {
        "security.protocol": "SASL_SSL",
        "sasl.mechanisms": "OAUTHBEARER",
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.token.endpoint.url": "https://id.example.com/token",
        "sasl.oauthbearer.client.id": "replicator",
        "sasl.oauthbearer.client.secret": SECRET,
        "sasl.oauthbearer.scope": "kafka",
        "sasl.oauthbearer.extensions": "a=1,b=2",
        "https.ca.location": str(file),
        "ssl.endpoint.identification.algorithm": "https",
    }
    printed = shown(loaded)
    assert printed["clusters"]["west"]["security"]["oauth"]["client_secret"] == MASK
    assert SECRET not in str(printed)
    assert SECRET not in repr(loaded)


@pytest.mark.parametrize(
    ("security", "why"),
    [
        ({"mechanism": "OAUTHBEARER"}, "need each other"),
        ({"mechanism": "PLAIN", "username": "u", "password": "p", "oauth": OAUTH}, "need each other"),
        (
            {"mechanism": "OAUTHBEARER", "oauth": OAUTH, "username": "u"},
            "OAUTHBEARER takes client_id and client_secret instead",
        ),
        (
            {"mechanism": "OAUTHBEARER", "oauth": OAUTH | {"client_secret": ""}},
            "needs client_secret or client_secret_file",
        ),
        ({"mechanism": "OAUTHBEARER", "oauth": OAUTH | {"client_secret_file": "/nowhere"}}, ""),
        ({"mechanism": "OAUTHBEARER", "oauth": OAUTH | {"token_url": "http://id.example.com/token"}}, "token_url"),
        ({"mechanism": "OAUTHBEARER", "oauth": OAUTH | {"token_url": "http://127.0.0.1.evil.com/"}}, "token_url"),
        ({"mechanism": "OAUTHBEARER", "oauth": OAUTH | {"token_url": "http://127.0.0.1@evil.com/"}}, "token_url"),
        (
            {"mechanism": "OAUTHBEARER", "oauth": OAUTH | {"token_url": f"https://u:{SECRET}@id.example.com/"}},
            "token_url",
        ),
        ({"mechanism": "OAUTHBEARER", "oauth": OAUTH | {"token_url": "file:///etc/passwd"}}, "token_url"),
        ({"mechanism": "OAUTHBEARER", "oauth": OAUTH | {"extensions": {"auth": "x"}}}, "reserved for the token"),
        ({"mechanism": "OAUTHBEARER", "oauth": OAUTH | {"extensions": {"a": "x\x01y"}}}, "extensions"),
        ({"mechanism": "OAUTHBEARER", "oauth": OAUTH | {"ca_file": "/nowhere/ca"}}, "can't be read"),
        ({"mechanism": "OAUTHBEARER", "oauth": {"client_secret": SECRET}}, "token_url: missing"),
        ({"mechanism": "OAUTHBEARER", "oauth": OAUTH | {"secret": SECRET}}, "unknown key"),
    ],
)
def test_mistakes_are_refused_and_the_secret_not_shown(security: dict[str, Any], why: str) -> None:
    if not why:  # the secret itself wins over its file, as with passwords
        build(content(protocol="SASL_SSL", **security))
        return
    with pytest.raises(ConfigError) as caught:
        build(content(protocol="SASL_SSL", **security))
    assert why in str(caught.value)
    assert SECRET not in str(caught.value)
