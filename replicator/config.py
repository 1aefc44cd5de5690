"""Settings: a YAML file, overridden by the environment, then by flags; an error names the path of the wrong key.

    clusters.<alias>                 ClusterSettings
    clusters.<alias>.security        SecuritySettings, with oauth: OAuthSettings
    flows.<source>-><target>         FlowSettings
    worker, http, log                settings of one process

The environment overrides the file: ``REPLICATOR_CLUSTERS__WEST__SECURITY__PASSWORD`` is
``clusters.west.security.password``.
"""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from replicator.errors import ConfigError
from replicator.names import GroupFilter, Naming, TopicFilter, syncs_topic, worker_group

DEFAULT_FILE = "config/replicator.yaml"
ENVIRONMENT_FILE = "REPLICATOR_CONFIG"
ENVIRONMENT_PREFIX = "REPLICATOR_"
ALIAS = re.compile(r"[A-Za-z0-9._-]{1,100}")
FLOW_NAME = re.compile(r"(?P<source>[A-Za-z0-9._-]+?)\s*->\s*(?P<target>[A-Za-z0-9._-]+)")
MASK = "********"

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
MESSAGES = {
    "dict_type": "it should be keys and values, indented below it",
    "list_type": "it should be a list, such as ['orders', 'payments-.*']",
    "model_type": "it should be keys and values, indented below it",
    "string_pattern_mismatch": "it has another form than is allowed here (see docs/configuration.md)",
    "too_short": "it should have at least one entry",
}
"""Texts for pydantic's types of errors whose own texts speak of Python."""


class _Model(BaseModel):
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


class OAuthSettings(_Model):
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


class SecuritySettings(_Model):
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


class ClusterSettings(_Model):
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


def _patterns(values: list[str]) -> list[str]:
    for pattern in values:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
    return values


def _start_from(value: object) -> object:
    if value in ("earliest", "latest"):
        return value
    if isinstance(value, str):
        try:
            value = dt.datetime.fromisoformat(value)
        except ValueError as error:
            raise ValueError("use earliest, latest, or an ISO time such as 2026-01-31T06:00:00Z") from error
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):  # as YAML reads a date without quotes
        value = dt.datetime.combine(value, dt.time())
    if isinstance(value, dt.datetime):
        return value if value.tzinfo else value.replace(tzinfo=dt.UTC)
    raise ValueError("use earliest, latest, or an ISO time such as 2026-01-31T06:00:00Z")


class FlowSettings(_Model):
    """One direction, ``source->target``."""

    topics: Annotated[list[str], Field(min_length=1)]
    exclude_topics: list[str] = []
    groups: list[str] = [".*"]
    exclude_groups: list[str] = []
    naming: Literal["prefix", "identity"] = "prefix"
    separator: Annotated[str, Field(pattern=r"^[._-]+$")] = "."
    renames: dict[str, Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")]] = {}
    tasks: Annotated[int, Field(ge=1, le=1000)] = 4
    start_from: Annotated[Literal["earliest", "latest"] | dt.datetime, BeforeValidator(_start_from)] = "earliest"
    on_truncation: Literal["pause", "skip"] = "pause"
    replication_factor: Annotated[int, Field(ge=1, le=32)] | None = None
    refresh_topics_interval_s: Annotated[float, Field(ge=0.5, le=86_400)] = 30
    checkpoint_interval_s: Annotated[float, Field(ge=0.1, le=3600)] = 1
    sync_groups: bool = True
    refine_max_records: Annotated[int, Field(ge=0, le=1_000_000_000)] = 1_000_000
    heartbeat_interval_s: Annotated[float, Field(ge=0, le=3600)] = 1
    data_plane: Literal["auto", "records", "batches"] = "auto"
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "lz4"
    transaction_max_bytes: Annotated[int, Field(ge=10_000, le=1_000_000_000)] = 16_777_216
    transaction_max_ms: Annotated[int, Field(ge=1, le=60_000)] = 500
    transaction_timeout_s: Annotated[float, Field(ge=5, le=900)] = 60

    @property
    def transaction_budget_s(self) -> float:
        """What one transaction may take until its commit; the rest of its timeout is for the abort."""
        return self.transaction_timeout_s * 0.75

    @field_validator("topics", "exclude_topics", "groups", "exclude_groups")
    @classmethod
    def _compile(cls, values: list[str]) -> list[str]:
        return _patterns(values)


class WorkerSettings(_Model):
    """One worker process."""

    buffer_bytes: Annotated[int, Field(ge=8_388_608)] = 167_772_160
    session_timeout_s: Annotated[float, Field(ge=1, le=1800)] = 10
    shutdown_timeout_s: Annotated[float, Field(ge=1, le=300)] = 10


class HooksSettings(_Model):
    """Shell commands that get the plan of a move as JSON on stdin; `before_move` stops the move when it fails."""

    before_move: str | None = None
    after_move: str | None = None
    timeout_s: Annotated[float, Field(gt=0, le=3600)] = 60


class HttpSettings(_Model):
    """Where metrics and probes are served."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 9464


class LogSettings(_Model):
    """What is logged, and how. ``auto``: readable on a terminal, JSON elsewhere."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"


class Settings(BaseSettings):
    """The whole configuration of one program."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    clusters: dict[str, ClusterSettings]
    flows: dict[str, FlowSettings]
    worker: WorkerSettings = WorkerSettings()
    http: HttpSettings = HttpSettings()
    hooks: HooksSettings = HooksSettings()
    log: LogSettings = LogSettings()
    connect_timeout_s: Annotated[float, Field(ge=1, le=300)] = 10

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over what `load` passes in, which is the file's content."""
        return (env_settings, init_settings)

    @field_validator("clusters")
    @classmethod
    def _aliases(cls, value: dict[str, ClusterSettings]) -> dict[str, ClusterSettings]:
        for alias in value:
            if not ALIAS.fullmatch(alias):
                raise ValueError(
                    f"the alias {alias!r} becomes part of topic names: letters, digits, '.', '_' and '-' only"
                )
        return value

    @model_validator(mode="after")
    def _flows_name_clusters(self) -> Settings:
        if not self.flows:
            raise ValueError("flows: needs at least one flow, such as 'east->west'")
        seen: set[tuple[str, ...]] = set()
        for name in self.flows:
            match = FLOW_NAME.fullmatch(name)
            if match is None:
                raise ValueError(f"flows.{name}: a flow is named SOURCE->TARGET, such as 'east->west'")
            for alias in match.groups():
                if alias not in self.clusters:
                    known = ", ".join(sorted(self.clusters))
                    raise ValueError(f"flows.{name}: no cluster {alias!r} under clusters (there are: {known})")
            if match["source"] == match["target"]:
                raise ValueError(f"flows.{name}: source and target are the same cluster")
            if match.groups() in seen:
                raise ValueError(f"flows.{name}: this flow is given twice, with different spaces in its name")
            seen.add(match.groups())
        return self

    def flow(self, name: str | None = None) -> Flow:
        """One flow; the only one when `name` is None.

        Raises:
            ConfigError: unknown, or `name` is needed.
        """
        known = ", ".join(sorted(self.flows))
        if name is None:
            if len(self.flows) > 1:
                raise ConfigError("", f"--flow is needed, in quotes; the configuration has several flows: {known}")
            name = next(iter(self.flows))
        wanted = re.sub(r"\s*->\s*", "->", name.strip())
        for key in self.flows:
            if re.sub(r"\s*->\s*", "->", key.strip()) == wanted:
                return Flow.of(self, key)
        raise ConfigError(
            "", f"no flow {name!r} in the configuration (there are: {known}; quote the name, it contains >)"
        )

    def all_flows(self) -> list[Flow]:
        """Every flow, in the file's order."""
        return [Flow.of(self, key) for key in self.flows]


class Flow:
    """A flow with the names and clusters that follow from it.

    Attributes:
        name: ``east->west``.
        source, target: aliases.
        source_cluster, target_cluster: how to reach them.
        settings: the flow's keys.
    """

    def __init__(
        self, source: str, target: str, settings: FlowSettings, clusters: Mapping[str, ClusterSettings]
    ) -> None:
        self.name = f"{source}->{target}"
        self.source = source
        self.target = target
        self.settings = settings
        self.source_cluster = clusters[source]
        self.target_cluster = clusters[target]
        self.naming = Naming(source, settings.naming, settings.separator, settings.renames)
        self.topic_filter = TopicFilter(settings.topics, settings.exclude_topics, self.naming, target)
        self.group_filter = GroupFilter(settings.groups, settings.exclude_groups, source)
        self.syncs_topic = syncs_topic(source)
        self.group = worker_group(source, target)

    @classmethod
    def of(cls, settings: Settings, key: str) -> Flow:
        """The flow under `flows.<key>`, which `Settings` has validated."""
        match = FLOW_NAME.fullmatch(key)
        assert match is not None
        return cls(match["source"], match["target"], settings.flows[key], settings.clusters)


def config_file(given: str | None) -> Path:
    """The file to read: the flag, else ``$REPLICATOR_CONFIG``, else ``config/replicator.yaml``."""
    return Path(given or os.environ.get(ENVIRONMENT_FILE) or DEFAULT_FILE)


def load(file: Path) -> Settings:
    """Read and validate the configuration.

    Raises:
        ConfigError: the file or a value is wrong; the text names every wrong key, one a line.
    """
    try:
        content = yaml.load(file.read_text(), Loader=_UniqueKeys)
    except OSError as error:
        raise ConfigError(
            "", f"can't read the configuration {str(file)!r}: {error.strerror} (-c FILE, or {ENVIRONMENT_FILE})"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError("", f"{file} is not valid YAML: {_yaml_problem(error)}") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError("", f"{file}: expected the keys clusters and flows at the top")
    return build(content)


def _yaml_problem(error: yaml.YAMLError | UnicodeDecodeError) -> str:
    """What is wrong and where, without the text of the line: a secret may stand there."""
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 at byte {error.start}"
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or "it can't be read"
    without_values = re.sub(
        r"(tag|alias|anchor|handle) .*", r"\1 (a value that begins with ! & * or % needs quotes)", problem
    )
    return without_values + (f", line {mark.line + 1}, column {mark.column + 1}" if mark else "")


def build(content: Mapping[str, Any]) -> Settings:
    """Validate `content` under the environment's overrides.

    Raises:
        ConfigError: as `load`.
    """
    try:
        return Settings(**content)
    except ValidationError as error:
        raise ConfigError("", "\n".join(_lines(error))) from None
    except SettingsError as error:  # its text names the field, not the value
        text = f"the environment ({ENVIRONMENT_PREFIX}…): {error} (write lists and mappings as JSON)"
        raise ConfigError("", text) from None


def _lines(error: ValidationError) -> list[str]:
    lines: list[str] = []
    for item in error.errors(include_url=False):
        path = ".".join(str(part) for part in item["loc"] if not _is_union_branch(part))
        message = MESSAGES.get(item["type"]) or item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "unknown key"
        elif item["type"] == "missing":
            message = "missing"
        elif item["input"] is None:
            message = f"has no value; {message[0].lower()}{message[1:]}"
        elif not _may_be_secret(path) and not isinstance(item["input"], dict | list):
            message = f"{item['input']!r} is not allowed: {message[0].lower()}{message[1:]}"
        line = f"{path}: {message}" if path else message
        if line not in lines:
            lines.append(line)
    return lines


def _may_be_secret(path: str) -> bool:
    """Whether a wrong value at `path` must not be shown: under `clusters`, only addresses are shown."""
    return path.startswith("clusters") and not path.endswith(".bootstrap_servers")


def _is_union_branch(part: object) -> bool:
    """Pydantic names the branch of a union in the path; an operator has no such key."""
    return isinstance(part, str) and (part in {"str", "int", "float", "bool", "datetime"} or "[" in part)


def shown(settings: Settings) -> dict[str, Any]:
    """The effective values, for `config show`: secrets masked, also those hidden in a `client` block."""
    content = settings.model_dump(mode="json")
    for cluster in content["clusters"].values():
        for section in (cluster["security"], cluster["security"]["oauth"] or {}):
            for key, value in section.items():
                if re.search("password|secret", key) and not key.endswith("_file") and value is not None:
                    section[key] = MASK
        for key in cluster["client"]:
            if re.search(r"password|secret|\.pem|oauthbearer\.config|jaas", key):
                cluster["client"][key] = MASK
    return content


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that is given twice, where YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a plain value", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)
