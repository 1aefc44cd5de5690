"""The properties of librdkafka that every client of a cluster has: who it is, how it reconnects, how it logs in."""

from __future__ import annotations

import os
import socket
from typing import Any

from replicator.config import ClusterSettings, OAuthSettings


def client_id() -> str:
    """``replicator@host/pid``: what brokers log and `status` shows."""
    return f"replicator@{socket.gethostname()}/{os.getpid()}"


def client_defaults() -> dict[str, Any]:
    """What every client gets unless the configuration says otherwise."""
    return {
        "log_level": 0,
        "socket.keepalive.enable": True,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 2000,
        "topic.metadata.refresh.interval.ms": 60_000,
    }


def security_properties(settings: ClusterSettings) -> dict[str, Any]:
    """The `security` block in librdkafka's words."""
    security = settings.security
    password = security.password.get_secret_value() if security.password else None
    key_password = security.key_password.get_secret_value() if security.key_password else None
    properties: dict[str, Any] = {
        "security.protocol": security.protocol,
        "sasl.mechanisms": security.mechanism,
        "sasl.username": security.username,
        "sasl.password": password,
        "ssl.ca.location": security.ca_file,
        "ssl.certificate.location": security.cert_file,
        "ssl.key.location": security.key_file,
        "ssl.key.password": key_password,
    }
    properties |= _oauth_properties(security.oauth)
    if security.protocol.endswith("SSL"):
        properties["ssl.endpoint.identification.algorithm"] = "https" if security.verify_hostname else "none"
    return {key: value for key, value in properties.items() if value is not None}


def _oauth_properties(oauth: OAuthSettings | None) -> dict[str, Any]:
    if oauth is None:
        return {}
    extensions = ",".join(f"{key}={value}" for key, value in oauth.extensions.items())
    return {
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.token.endpoint.url": oauth.token_url,
        "sasl.oauthbearer.client.id": oauth.client_id,
        "sasl.oauthbearer.client.secret": oauth.client_secret.get_secret_value() if oauth.client_secret else None,
        "sasl.oauthbearer.scope": oauth.scope,
        "sasl.oauthbearer.extensions": extensions or None,
        "https.ca.location": oauth.ca_file,
    }
