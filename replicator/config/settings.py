"""What the configuration may say, and what follows from it for one flow."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import (
    BeforeValidator,
    Field,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from replicator.config.cluster_settings import ClusterSettings, Section
from replicator.errors import ConfigError
from replicator.names import GroupFilter, Naming, TopicFilter, syncs_topic, worker_group

ENVIRONMENT_PREFIX = "REPLICATOR_"
ALIAS = re.compile(r"[A-Za-z0-9._-]{1,100}")
FLOW_NAME = re.compile(r"(?P<source>[A-Za-z0-9._-]+?)\s*->\s*(?P<target>[A-Za-z0-9._-]+)")


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


class FlowSettings(Section):
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


class WorkerSettings(Section):
    """One worker process."""

    buffer_bytes: Annotated[int, Field(ge=8_388_608)] = 167_772_160
    session_timeout_s: Annotated[float, Field(ge=1, le=1800)] = 10
    shutdown_timeout_s: Annotated[float, Field(ge=1, le=300)] = 10


class HooksSettings(Section):
    """Shell commands that get the plan of a move as JSON on stdin; `before_move` stops the move when it fails."""

    before_move: str | None = None
    after_move: str | None = None
    timeout_s: Annotated[float, Field(gt=0, le=3600)] = 60


class HttpSettings(Section):
    """Where metrics and probes are served."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 9464


class LogSettings(Section):
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
