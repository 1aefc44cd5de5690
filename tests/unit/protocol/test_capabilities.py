"""Which clusters the plane takes on."""

from __future__ import annotations

import socket

import pytest

from replicator.config import ClusterSettings
from replicator.errors import RetriableError
from replicator.protocol.capabilities import NEEDED, missing_apis, probe, reason_against
from tests.unit.protocol.fake_broker import Peer, broker, cluster
from tests.unit.protocol.fake_sasl import Login

KAFKA_4 = {0: (3, 13), 1: (4, 18), 3: (0, 13), 10: (0, 6), 22: (0, 6), 24: (0, 5), 26: (0, 5)}
KAFKA_2_7 = {0: (0, 8), 1: (0, 12), 3: (0, 9), 10: (0, 3), 22: (0, 4), 24: (0, 2), 26: (0, 2)}


@pytest.mark.parametrize(
    "key",
    [
        "ssl.keystore.location",
        "ssl.ca.pem",
        "sasl.kerberos.service.name",
        "sasl.oauthbearer.config",
        "enable.ssl.certificate.verification",
        "broker.address.family",
        "client.dns.lookup",
        "plugin.library.paths",
        "topic.blacklist",
    ],
)
def test_properties_of_librdkafka_that_decide_whom_we_reach(key: str) -> None:
    """The text names the property, not its value: it may be a secret."""
    client: dict[str, str | int | float | bool] = {key: "value", "fetch.wait.max.ms": 5}
    settings = ClusterSettings(bootstrap_servers="a:1", client=client)
    reason = reason_against(settings)
    assert reason is not None
    assert key in reason
    assert "value" not in reason
    assert "fetch.wait" not in reason


def test_harmless_properties_are_left_to_librdkafka() -> None:
    tuning: dict[str, str | int | float | bool] = {"client.rack": "r1", "queued.min.messages": 5, "linger.ms": 3.5}
    assert reason_against(ClusterSettings(bootstrap_servers="a:1", client=tuning)) is None


def test_brokers_that_speak_all_that_is_needed() -> None:
    assert missing_apis(KAFKA_4) is None
    assert missing_apis({key: (0, wanted) for key, (_, wanted) in NEEDED.items()}) is None


def test_brokers_that_are_too_old_or_too_new() -> None:
    """The text has the versions."""
    assert missing_apis(KAFKA_2_7) == (
        "the brokers speak Produce 0 to 8, and 9 is needed; AddPartitionsToTxn 0 to 2, and 3 is needed; "
        "EndTxn 0 to 2, and 3 is needed (Kafka 2.8 or newer does)"
    )
    assert "Fetch 13 to 20, and 12 is needed" in str(missing_apis(KAFKA_4 | {1: (13, 20)}))
    without = {key: it for key, it in KAFKA_4.items() if key != 22}
    assert "no InitProducerId, and version 3 of it is needed" in str(missing_apis(without))


def test_probe_asks_the_first_server_that_answers() -> None:
    with socket.socket() as unused, broker(lambda peer: peer.introduce(KAFKA_4)) as fake:
        unused.bind(("127.0.0.1", 0))
        servers = f"127.0.0.1:{unused.getsockname()[1]},{fake.endpoint}"
        assert probe(cluster(servers), 5) == KAFKA_4


def test_probe_says_what_stands_in_the_way() -> None:
    def talk(peer: Peer) -> None:
        peer.introduce()
        Login(password="another").accept(peer)

    login = {"protocol": "SASL_PLAINTEXT", "mechanism": "SCRAM-SHA-512", "username": "me", "password": "secret"}
    with broker(talk) as fake, pytest.raises(RetriableError) as caught:
        probe(cluster(str(fake.endpoint), **login), 5)
    assert caught.value.code == "SASL_AUTHENTICATION_FAILED"
    assert "clusters.east.security" in caught.value.hint
    assert str(fake.endpoint) in str(caught.value)
