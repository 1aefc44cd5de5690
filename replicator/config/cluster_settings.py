"""How a cluster is reached: addresses, security, properties of its clients. Secrets may stand in files of their own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

OWNED_PROPERTIES = {
    "acks": "always all",
    "auto.offset.reset": "set by start_from",
    "bootstrap.servers": "set by bootstrap_servers",
    "client.id": "set by the program",
    "enable.auto.commit": "always off: positions live in the syncs topic",
    "enable.auto.offset.store": "always off: positions live in the syncs topic",
    "enable.idempotence": "always on",
    "enable.partition.eof": "always on",
    "group.id": "derived from the flow's name",
    "group.instance.id": "set by the program",
    "isolation.level": "always read_committed",
    "partition.assignment.strategy": "set by the program",
    "request.required.acks": "always all",
    "sasl.mechanism": "set by security.mechanism",
    "sasl.mechanisms": "set by security.mechanism",
    "sasl.password": "set by security.password or security.password_file",
    "sasl.username": "set by security.username",
    "security.protocol": "set by security.protocol",
    "session.timeout.ms": "set by worker.session_timeout_s",
    "ssl.key.password": "set by security.key_password",
    "transaction.timeout.ms": "set by transaction_timeout_s",
    "transactional.id": "derived from the flow's name and the task",
}
"""librdkafka properties that a `client` block may not set, and why."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _secret_from_file(path: object) -> str:
    file = Path(str(path))
    try:
        return file.read_text().rstrip("\r\n")
    except OSError as error:
        raise ValueError(f"the secret file can't be read: {error.strerror}") from error


def _with_secret_files(values: Any, *names: str) -> Any:
    """The values, with the secret of each ``<name>_file`` that is given instead of ``<name>``."""
    if not isinstance(values, dict):
        return values
    values = dict(values)
    for name in names:
        file = values.get(f"{name}_file")
        if file is not None and values.get(name) is None:
            try:
                values[name] = _secret_from_file(file)
            except ValueError as error:
                raise ValueError(f"{name}_file {str(file)!r}: {error}") from error
    return values


def _readable(value: str | None) -> str | None:
    if value is not None:
        try:
            with open(value, "rb"):
                pass
        except OSError as error:
            raise ValueError(f"the file can't be read: {error.strerror}") from error
    return value


class OAuthSettings(Section):
    """Where tokens come from: an OpenID Connect provider's client credentials grant (KIP-768)."""

    token_url: Annotated[str, Field(pattern=r"^(https://[^\s/@]+|http://127\.0\.0\.1(:\d+)?)(/\S*)?$")]
    client_id: Annotated[str, Field(min_length=1)]
    client_secret: SecretStr | None = None
    client_secret_file: str | None = None
    scope: str | None = None
    ca_file: str | None = None
    extensions: dict[Annotated[str, Field(pattern=r"^[A-Za-z]+$")], Annotated[str, Field(pattern=r"^[!-+\--~]+$")]] = {}

    @field_validator("ca_file")
    @classmethod
    def _is_readable(cls, value: str | None) -> str | None:
        return _readable(value)

    @field_validator("extensions")
    @classmethod
    def _leave_auth(cls, value: dict[str, str]) -> dict[str, str]:
        if "auth" in value:
            raise ValueError("auth is reserved for the token")
        return value

    @model_validator(mode="before")
    @classmethod
    def _read_secret_files(cls, values: Any) -> Any:
        return _with_secret_files(values, "client_secret")

    @model_validator(mode="after")
    def _is_complete(self) -> OAuthSettings:
        if self.client_secret is None or not self.client_secret.get_secret_value():
            raise ValueError("needs client_secret or client_secret_file, not empty")
        return self


class SecuritySettings(Section):
    """How to authenticate, and which certificates to trust."""

    protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = None
    username: str | None = None
    password: SecretStr | None = None
    password_file: str | None = None
    oauth: OAuthSettings | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    key_password: SecretStr | None = None
    key_password_file: str | None = None
    verify_hostname: bool = True

    @field_validator("ca_file", "cert_file", "key_file")
    @classmethod
    def _is_readable(cls, value: str | None) -> str | None:
        return _readable(value)

    @model_validator(mode="before")
    @classmethod
    def _read_secret_files(cls, values: Any) -> Any:
        return _with_secret_files(values, "password", "key_password")

    @model_validator(mode="after")
    def _is_complete(self) -> SecuritySettings:
        uses_sasl = self.protocol.startswith("SASL")
        uses_tls = self.protocol.endswith("SSL")
        self._check_oauth()
        if uses_sasl and self.oauth is None and not (self.mechanism and self.username and self.password):
            raise ValueError(f"{self.protocol} needs mechanism, username, and password or password_file, not empty")
        if not uses_sasl and (self.mechanism or self.username or self.password):
            raise ValueError(f"mechanism, username and password need a SASL protocol, not {self.protocol}")
        if not uses_tls and (self.ca_file or self.cert_file or self.key_file):
            raise ValueError(f"ca_file, cert_file and key_file need protocol SSL or SASL_SSL, not {self.protocol}")
        if bool(self.cert_file) != bool(self.key_file):
            raise ValueError("cert_file and key_file need each other")
        return self

    def _check_oauth(self) -> None:
        if (self.mechanism == "OAUTHBEARER") != (self.oauth is not None):
            raise ValueError("mechanism OAUTHBEARER and the section oauth need each other")
        if self.oauth is not None and (self.username or self.password):
            raise ValueError("OAUTHBEARER takes client_id and client_secret instead of username and password")


class ClusterSettings(Section):
    """One Kafka cluster."""

    bootstrap_servers: Annotated[str, Field(min_length=1)]
    security: SecuritySettings = SecuritySettings()
    client: dict[str, str | int | float | bool] = {}

    @field_validator("bootstrap_servers")
    @classmethod
    def _are_host_ports(cls, value: str) -> str:
        for server in value.split(","):
            if not re.fullmatch(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\]):\d{1,5}", server.strip()):
                raise ValueError(f"{server.strip()!r} is not host:port (separate several by commas)")
        return value

    @field_validator("client")
    @classmethod
    def _are_free(cls, value: dict[str, str | int | float | bool]) -> dict[str, str | int | float | bool]:
        for key in value:
            if key in OWNED_PROPERTIES:
                raise ValueError(f"{key} can't be set here ({OWNED_PROPERTIES[key]})")
        return value
