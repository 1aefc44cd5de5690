"""The configuration files of one broker: pure text from a spec and addresses."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath

from replicator.embedded.spec import ClusterSpec, SecuritySpec

CLIENT, INTERNAL, ADMIN, CONTROLLER = "CLIENT", "INTERNAL", "ADMIN", "CONTROLLER"
NODE = "{node}"
"""In a property of a spec: the id of the broker that gets it."""


@dataclass(frozen=True, slots=True)
class Listener:
    """Where a broker listens and what it tells others, `host:port` each."""

    bind: str
    advertised: str


@dataclass(frozen=True, slots=True)
class Addresses:
    """The listeners of one broker.

    Args:
        client: for clients, secured where the spec says so.
        controller: for the other controllers, plaintext.
        internal: for the other brokers, plaintext. None: the client listener serves them.
        admin: plaintext and reachable from here. None: the internal or the client listener is.
    """

    client: Listener
    controller: Listener
    internal: Listener | None = None
    admin: Listener | None = None


def server_properties(
    spec: ClusterSpec, node_id: int, addresses: Mapping[int, Addresses], data_dir: PurePath
) -> dict[str, str]:
    """All properties of one broker.

    The defaults are for clusters that live for minutes: small internal topics, no waiting for group members who will
    not come, a killed broker let back after 3 s instead of 9, and no retention, because tests and the demo write
    records with timestamps years in the past.

    Args:
        spec: what the cluster should be; its own properties win.
        node_id: the broker.
        addresses: of every broker, by node id.
        data_dir: where the log goes.
    """
    own = addresses[node_id]
    internal_replicas = str(min(3, spec.brokers))
    internal_min_isr = str(min(2, spec.brokers))
    return {
        "process.roles": "broker,controller",
        "node.id": str(node_id),
        "controller.quorum.voters": ",".join(f"{node}@{it.controller.advertised}" for node, it in addresses.items()),
        "controller.listener.names": CONTROLLER,
        "log.dirs": str(data_dir),
        **_listeners(own, spec.security),
        "auto.create.topics.enable": "false",
        "default.replication.factor": internal_replicas,
        "offsets.topic.replication.factor": internal_replicas,
        "offsets.topic.num.partitions": "5",
        "transaction.state.log.replication.factor": internal_replicas,
        "transaction.state.log.min.isr": internal_min_isr,
        "transaction.state.log.num.partitions": "5",
        "share.coordinator.state.topic.replication.factor": internal_replicas,
        "share.coordinator.state.topic.min.isr": internal_min_isr,
        "share.coordinator.state.topic.num.partitions": "5",
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        # A broker that was killed may register again only when its old session has ended.
        "broker.session.timeout.ms": "3000",
        "broker.heartbeat.interval.ms": "500",
        # A broker that registers later than after a minute, the default, ends: on a busy machine a start takes longer.
        "initial.broker.registration.timeout.ms": "180000",
        "log.retention.ms": "-1",
        "log.cleaner.dedupe.buffer.size": str(16 << 20),  # the default of 128 MB is a quarter of the heap
        **(_security(spec.security) if spec.security else {}),
        **{key: value.replace(NODE, str(node_id)) for key, value in spec.properties.items()},
    }


def _listeners(own: Addresses, security: SecuritySpec | None) -> dict[str, str]:
    optional = {INTERNAL: own.internal, ADMIN: own.admin}
    for_brokers_and_clients = {CLIENT: own.client} | {name: it for name, it in optional.items() if it is not None}
    listeners = {**for_brokers_and_clients, CONTROLLER: own.controller}
    protocols = dict.fromkeys(listeners, "PLAINTEXT") | {CLIENT: security.protocol if security else "PLAINTEXT"}
    return {
        "listeners": ",".join(f"{name}://{it.bind}" for name, it in listeners.items()),
        "advertised.listeners": ",".join(f"{name}://{it.advertised}" for name, it in for_brokers_and_clients.items()),
        "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
        "inter.broker.listener.name": INTERNAL if own.internal else CLIENT,
    }


def _security(security: SecuritySpec) -> dict[str, str]:
    prefix = f"listener.name.{CLIENT.lower()}."
    properties = {}
    if security.uses_sasl:
        properties["sasl.enabled.mechanisms"] = "SCRAM-SHA-512"
        properties[f"{prefix}scram-sha-512.sasl.jaas.config"] = (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        )
    if security.uses_tls:
        properties |= {
            f"{prefix}ssl.keystore.type": "PEM",
            f"{prefix}ssl.keystore.location": str(security.key_store),
            f"{prefix}ssl.client.auth": security.client_auth,
        }
        if security.trust_store is not None:
            properties |= {
                f"{prefix}ssl.truststore.type": "PEM",
                f"{prefix}ssl.truststore.location": str(security.trust_store),
            }
    if security.acls:
        super_users = (*security.super_users, "ANONYMOUS")
        properties |= {
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": ";".join(f"User:{user}" for user in super_users),
        }
    return properties


def meta_properties(cluster_id: str, node_id: int) -> dict[str, str]:
    """What `kafka-storage format` writes to `meta.properties`, so that no Java process is needed for it."""
    return {"version": "1", "cluster.id": cluster_id, "node.id": str(node_id), "directory.id": random_id()}


def scram_arguments(security: SecuritySpec | None) -> list[str]:
    """Arguments of `kafka-storage format` that create the users."""
    if security is None or not security.uses_sasl:
        return []
    users = [f"SCRAM-SHA-512=[name={user},password={password}]" for user, password in security.users.items()]
    return [argument for user in users for argument in ("--add-scram", user)]


def random_id() -> str:
    """A random id as Kafka writes them: 22 characters of base64, not starting with a dash."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text


def render(properties: Mapping[str, str]) -> str:
    """The text of a Java properties file."""
    return "".join(f"{key}={_escape(value)}\n" for key, value in properties.items())


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n")
