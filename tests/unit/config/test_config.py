"""Settings: what is accepted, what is refused and in which words, and where secrets may not appear."""

from __future__ import annotations

import copy
import datetime as dt
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from replicator.config import MASK, OWNED_PROPERTIES, Settings, build, config_file, load, shown
from replicator.errors import ConfigError

SAMPLES = sorted((Path(__file__).parents[3] / "config").glob("*.yaml"))
SECRET = "hunter2-is-no-secret"
SASL = {"protocol": "SASL_SSL", "mechanism": "SCRAM-SHA-512", "username": "u"}


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the developer's own environment takes part."""
    for name in [name for name in os.environ if name.startswith("REPLICATOR_")]:
        monkeypatch.delenv(name)


def content(**changes: Any) -> dict[str, Any]:
    """The smallest configuration, with other sections."""
    made: dict[str, Any] = {
        "clusters": {"east": {"bootstrap_servers": "e:9092"}, "west": {"bootstrap_servers": "w:9092"}},
        "flows": {"east->west": {"topics": ["orders"]}},
    }
    return made | copy.deepcopy(changes)


def flow(**keys: Any) -> dict[str, Any]:
    return content(flows={"east->west": {"topics": ["orders"], **keys}})


def west(**keys: Any) -> dict[str, Any]:
    return content(clusters={"east": {"bootstrap_servers": "e:9"}, "west": {"bootstrap_servers": "w:9", **keys}})


def refusal(made: dict[str, Any]) -> str:
    """The text that refuses a configuration."""
    with pytest.raises(ConfigError) as caught:
        build(made)
    return str(caught.value)


def test_two_keys_are_enough() -> None:
    """Everything but the clusters' addresses and the topics has a default."""
    settings = build(content())
    (found,) = settings.all_flows()
    assert (found.name, found.source, found.target) == ("east->west", "east", "west")
    assert (found.group, found.syncs_topic) == ("replicator-east-west", "replicator.east.syncs")
    assert found.source_cluster.bootstrap_servers == "e:9092"
    assert found.topic_filter.matches("orders")
    assert found.naming.remote_topic("orders") == "east.orders"
    assert (settings.http.host, settings.http.port, found.settings.tasks) == ("127.0.0.1", 9464, 4)


NO_REGEX = "is not a regular expression"


@pytest.mark.parametrize(
    ("made", "path", "says"),
    [
        ({}, "clusters", "missing"),
        ({"clusters": {"east": {"bootstrap_servers": "e:9"}}}, "flows", "missing"),
        (content(flow={}), "flow", "unknown key"),
        (content(flows={}), "flows", "at least one"),
        (content(flows={"east->west": {}}), "flows.east->west.topics", "missing"),
        (content(flows={"east-west": {"topics": ["a"]}}), "flows.east-west", "SOURCE->TARGET"),
        (content(flows={"east->north": {"topics": ["a"]}}), "flows.east->north", r"no cluster 'north'.*east, west"),
        (content(flows={"east->east": {"topics": ["a"]}}), "flows.east->east", "the same cluster"),
        (
            content(flows={"east->west": {"topics": ["a"]}, "east -> west": {"topics": ["b"]}}),
            "flows.east -> west",
            "given twice",
        ),
        (flow(topic=["a"]), "flows.east->west.topic", "unknown key"),
        (flow(topics=[]), "flows.east->west.topics", "at least one"),
        (flow(topics=["("]), "flows.east->west.topics", NO_REGEX),
        (flow(topics="orders"), "flows.east->west.topics", "'orders' is not allowed.*list"),
        (flow(exclude_topics=["*x"]), "flows.east->west.exclude_topics", NO_REGEX),
        (flow(naming="suffix"), "flows.east->west.naming", "'suffix' is not allowed.*'prefix' or 'identity'"),
        (flow(separator="/"), "flows.east->west.separator", "'/' is not allowed"),
        (flow(renames={"a": "b c"}), "flows.east->west.renames.a", "'b c' is not allowed"),
        (flow(tasks=0), "flows.east->west.tasks", "0 is not allowed.*greater than or equal to 1"),
        (flow(tasks=1001), "flows.east->west.tasks", "1001 is not allowed"),
        (flow(tasks="many"), "flows.east->west.tasks", "'many' is not allowed.*integer"),
        (flow(start_from="yesterday"), "flows.east->west.start_from", "'yesterday' is not allowed.*earliest, latest"),
        (flow(start_from=5), "flows.east->west.start_from", "5 is not allowed.*ISO time"),
        (flow(on_truncation="ignore"), "flows.east->west.on_truncation", "'ignore' is not allowed.*'pause' or 'skip'"),
        (flow(replication_factor=0), "flows.east->west.replication_factor", "0 is not allowed"),
        (flow(refresh_topics_interval_s=0), "flows.east->west.refresh_topics_interval_s", "0 is not allowed"),
        (flow(data_plane="fast"), "flows.east->west.data_plane", "'fast' is not allowed"),
        (flow(compression="brotli"), "flows.east->west.compression", "'brotli' is not allowed.*'zstd'"),
        (flow(transaction_max_bytes=1), "flows.east->west.transaction_max_bytes", "1 is not allowed"),
        (flow(transaction_max_ms=0), "flows.east->west.transaction_max_ms", "0 is not allowed"),
        (flow(transaction_timeout_s=1000), "flows.east->west.transaction_timeout_s", "1000 is not allowed"),
        (content(clusters={"a b": {"bootstrap_servers": "e:9"}}), "clusters", "'a b' becomes part of topic names"),
        (west(bootstrap_servers="host"), "clusters.west.bootstrap_servers", "'host' is not host:port"),
        (west(bootstrap_servers="a:1,b"), "clusters.west.bootstrap_servers", "'b' is not host:port"),
        (west(bootstrap_servers=""), "clusters.west.bootstrap_servers", "not allowed"),
        (west(bootstrap_server="a:1"), "clusters.west.bootstrap_server", "unknown key"),
        (west(client={"group.id": "mine"}), "clusters.west.client", "group.id can't be set here.*flow's name"),
        (west(client={"x": None}), "clusters.west.client.x", "not allowed|should be"),
        (west(security={"protocol": "TLS"}), "clusters.west.security.protocol", "'SASL_SSL'"),
        (west(security={"user": "x"}), "clusters.west.security.user", "unknown key"),
        (west(security=SASL), "clusters.west.security", "needs mechanism, username, and password"),
        (west(security={"username": "u"}), "clusters.west.security", "need a SASL protocol, not PLAINTEXT"),
        (west(security={"ca_file": "/nowhere/ca"}), "clusters.west.security.ca_file", "can't be read: No such file"),
        (west(security={"protocol": "SSL", "cert_file": __file__}), "clusters.west.security", "need each other"),
        (west(security={"ca_file": __file__}), "clusters.west.security", "need protocol SSL or SASL_SSL"),
        (
            west(security=SASL | {"password_file": "/nowhere/secret"}),
            "clusters.west.security",
            "password_file '/nowhere/secret'.*can't be read: No such file",
        ),
        (content(worker={"buffer_bytes": 1}), "worker.buffer_bytes", "1 is not allowed"),
        (content(worker={"session_timeout_s": 0}), "worker.session_timeout_s", "0 is not allowed"),
        (content(http={"port": 70_000}), "http.port", "70000 is not allowed.*65535"),
        (content(log={"level": "loud"}), "log.level", "'loud' is not allowed.*'warning'"),
        (content(connect_timeout_s=0), "connect_timeout_s", "0 is not allowed"),
    ],
)
def test_a_mistake_names_its_key_and_what_is_allowed(made: dict[str, Any], path: str, says: str) -> None:
    """One line: the key's path, the value where it is no secret, and what would be right."""
    text = refusal(made)
    assert text.startswith(f"{path}:"), text
    assert re.search(says, text), text
    assert "pydantic" not in text


def test_all_mistakes_are_told_at_once() -> None:
    lines = refusal(flow(tasks=0, naming="x", topics=["("])).splitlines()
    assert [line.split(":")[0] for line in lines] == [f"flows.east->west.{k}" for k in ("topics", "naming", "tasks")]


@pytest.mark.parametrize("key", sorted(OWNED_PROPERTIES))
def test_owned_properties_are_refused_with_the_reason(key: str) -> None:
    text = refusal(west(client={key: "x"}))
    assert f"{key} can't be set here ({OWNED_PROPERTIES[key]})" in text


@pytest.mark.parametrize(
    ("given", "moment"),
    [
        ("2026-01-31T06:00:00Z", dt.datetime(2026, 1, 31, 6, tzinfo=dt.UTC)),
        ("2026-01-31T06:00:00+02:00", dt.datetime(2026, 1, 31, 4, tzinfo=dt.UTC)),
        ("2026-01-31", dt.datetime(2026, 1, 31, tzinfo=dt.UTC)),
        (dt.datetime(2026, 1, 31, 6), dt.datetime(2026, 1, 31, 6, tzinfo=dt.UTC)),
        ("earliest", "earliest"),
        ("latest", "latest"),
    ],
)
def test_start_from(given: object, moment: object) -> None:
    """A time without a zone is UTC."""
    assert build(flow(start_from=given)).flows["east->west"].start_from == moment


def test_a_date_of_yaml_is_a_time(tmp_path: Path) -> None:
    """YAML reads an unquoted date by itself."""
    for written in ("2026-01-31", "2026-01-31T00:00:00Z", "'2026-01-31'"):
        text = "clusters: {e: {bootstrap_servers: 'e:9'}, w: {bootstrap_servers: 'w:9'}}\n"
        text += f"flows: {{e->w: {{topics: [a], start_from: {written}}}}}\n"
        assert load(write(tmp_path, text)).flows["e->w"].start_from == dt.datetime(2026, 1, 31, tzinfo=dt.UTC)


# --- secrets ----------------------------------------------------------------------------------------------------------


def with_secrets(**more: Any) -> dict[str, Any]:
    tls = {"password": SECRET, "key_password": SECRET}
    return west(security=SASL | tls, client={"sasl.oauthbearer.client.secret": SECRET, "ssl.key.pem": SECRET}, **more)


def test_secrets_are_masked_wherever_settings_are_shown() -> None:
    settings = build(with_secrets())
    printed = shown(settings)
    security = printed["clusters"]["west"]["security"]
    assert (security["password"], security["key_password"], security["username"]) == (MASK, MASK, "u")
    assert set(printed["clusters"]["west"]["client"].values()) == {MASK}
    assert SECRET not in str(printed)
    assert SECRET not in repr(settings.clusters["west"].security)
    assert SECRET not in settings.clusters["west"].security.model_dump_json()


@pytest.mark.parametrize(
    "damage",
    [
        {"security": SASL | {"password": SECRET, "mechanism": "X"}},
        {"security": SASL | {"password": [SECRET]}},
        {"security": SASL | {"password": {"value": SECRET}}},
        {"security": {"password": SECRET}},
        {"security": {"pasword": SECRET}},
        {"security": SECRET},
        {"security": SASL | {"password": SECRET}, "client": {"sasl.password": SECRET}},
        {"client": {"sasl.oauthbearer.client.secret": [SECRET]}},
        {"client": {"ssl.key.password": SECRET}},
        {"client": SECRET},
        {"bootstrap_servers": "w", "security": SASL | {"password": SECRET}},
    ],
)
def test_secrets_are_in_no_error_text(damage: dict[str, Any]) -> None:
    """Whatever is wrong, with the secret or beside it."""
    assert SECRET not in refusal(west(**damage))


def test_secrets_come_from_files(tmp_path: Path) -> None:
    """Without the line's end that an editor leaves, and with the spaces inside."""
    (tmp_path / "one").write_text(f" {SECRET} \r\n")
    (tmp_path / "two").write_text(SECRET)
    files = {"password_file": str(tmp_path / "one"), "key_password_file": str(tmp_path / "two")}
    security = build(west(security=SASL | files)).clusters["west"].security
    assert security.password is not None
    assert security.key_password is not None
    assert security.password.get_secret_value() == f" {SECRET} "
    assert security.key_password.get_secret_value() == SECRET


def test_an_empty_secret_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    assert "needs mechanism, username" in refusal(west(security=SASL | {"password_file": str(tmp_path / "empty")}))


# --- the environment --------------------------------------------------------------------------------------------------

PASSWORD_VARIABLE = "REPLICATOR_CLUSTERS__WEST__SECURITY__PASSWORD"


@pytest.mark.parametrize("value", [SECRET, "12345", "007", "true", "null", '{"a": 1}', "1.50", " x "])
def test_the_environment_gives_passwords_as_they_are(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A password of digits is no number."""
    monkeypatch.setenv(PASSWORD_VARIABLE, value)
    password = build(west(security=SASL)).clusters["west"].security.password
    assert password is not None
    assert password.get_secret_value() == value


def test_the_environment_wins_over_the_file_and_leaves_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text("from the file")
    monkeypatch.setenv(PASSWORD_VARIABLE, "from the environment")
    monkeypatch.setenv("REPLICATOR_CLUSTERS__EAST__BOOTSTRAP_SERVERS", "other:1")
    monkeypatch.setenv("REPLICATOR_HTTP__PORT", "1234")
    monkeypatch.setenv("REPLICATOR_FLOWS__EAST->WEST__TASKS", "9")
    monkeypatch.setenv("REPLICATOR_FLOWS__EAST->WEST__TOPICS", '["a", "b"]')
    settings = build(west(security=SASL | {"password_file": str(tmp_path / "secret")}, client={"retries": 5}))
    password = settings.clusters["west"].security.password
    assert password is not None
    assert password.get_secret_value() == "from the environment"
    assert settings.clusters["west"].client == {"retries": 5}
    assert settings.clusters["east"].bootstrap_servers == "other:1"
    assert (settings.http.port, settings.http.host) == (1234, "127.0.0.1")
    assert (settings.flows["east->west"].tasks, settings.flows["east->west"].topics) == (9, ["a", "b"])


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("REPLICATOR_HTTP__PORT", "many", "http.port: 'many' is not allowed"),
        ("REPLICATOR_HTTP__PROT", "1", "http.prot: unknown key"),
        ("REPLICATOR_CLUSTERS", "no json", 'environment.*"clusters".*JSON'),
        ("REPLICATOR_FLOWS__EAST->WEST__TOPICS", "orders", 'environment.*"flows".*JSON'),
        ("REPLICATOR_CLUSTERS__WEST__SECURITY", SECRET, "clusters"),
    ],
)
def test_mistakes_in_the_environment_are_refused(
    variable: str, value: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    text = refusal(content())
    assert re.search(says, text), text
    assert SECRET not in text


def test_the_programs_own_variables_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONFIG", "PARENT_PID", "EMBEDDED"):
        monkeypatch.setenv(f"REPLICATOR_{name}", "x")
    assert build(content()).connect_timeout_s == 10


# --- files ------------------------------------------------------------------------------------------------------------


def write(folder: Path, text: str) -> Path:
    file = folder / "replicator.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("clusters: {a: 1, a: 2}", "the key 'a' is given twice"),
        ("clusters: {}\nflows: {}\nclusters: {}", "the key 'clusters' is given twice.*line 3"),
        ("clusters: [", "is not valid YAML"),
        ("", "the keys clusters and flows"),
        ("- clusters", "the keys clusters and flows"),
        ("[a]: b", "is not valid YAML.*plain value"),
        ("{1: 2}", "the keys clusters and flows"),
        ("a: !!python/object:os.system x", "is not valid YAML"),
        ("{{x: 1}: 2}", "is not valid YAML"),
    ],
)
def test_files_that_are_no_configuration(text: str, says: str, tmp_path: Path) -> None:
    """Duplicated keys too, where YAML would silently keep the last."""
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, text))
    assert re.search(says, str(caught.value), re.DOTALL), str(caught.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "replicator.yaml").write_bytes(b"clusters: \xff\xfe")
    with pytest.raises(ConfigError, match=r"replicator\.yaml"):
        load(tmp_path / "replicator.yaml")


def test_a_missing_file_says_how_to_give_another(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"No such file.*-c FILE, or REPLICATOR_CONFIG"):
        load(tmp_path / "none.yaml")


def test_which_file_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The flag, then the environment, then the default."""
    assert config_file(None) == Path("config/replicator.yaml")
    monkeypatch.setenv("REPLICATOR_CONFIG", "/etc/r.yaml")
    assert (config_file(None), config_file("x.yaml")) == (Path("/etc/r.yaml"), Path("x.yaml"))


def test_merged_yaml_anchors_are_no_duplicates(tmp_path: Path) -> None:
    """`<<` shares keys between flows, and may be overridden."""
    text = """
clusters: {e: {bootstrap_servers: "e:9"}, w: {bootstrap_servers: "w:9"}}
flows:
  e->w: &flow {topics: [a], tasks: 2}
  w->e: {<<: *flow, tasks: 3}
"""
    flows = load(write(tmp_path, text)).flows
    assert [(f.topics, f.tasks) for f in flows.values()] == [(["a"], 2), (["a"], 3)]


# --- flows ------------------------------------------------------------------------------------------------------------


def test_a_flow_is_found_by_its_name_however_it_is_spaced() -> None:
    both = content(flows={"east->west": {"topics": ["a"]}, "west -> east": {"topics": ["b"]}})
    settings = build(both)
    assert settings.flow("west->east").settings.topics == ["b"]
    assert settings.flow(" east -> west ").name == "east->west"
    with pytest.raises(ConfigError, match=r"--flow is needed.*east->west"):
        settings.flow()
    with pytest.raises(ConfigError, match=r"no flow 'x->y'.*east->west"):
        settings.flow("x->y")
    assert build(content()).flow().name == "east->west"


# --- the samples ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.name)
def test_every_sample_loads(sample: Path, tmp_path: Path) -> None:
    """With files in the places of the secrets and certificates that it names."""
    assert load_sample(sample, tmp_path).all_flows()


def load_sample(sample: Path, folder: Path) -> Settings:
    made = folder / "file"
    made.write_text("content")
    text = re.sub(r"(_file: )(?!null)[^\s,}]+", rf"\g<1>{made}", sample.read_text())
    return load(write(folder, text))


def test_the_samples_are_there() -> None:
    names = {sample.name for sample in SAMPLES}
    assert {"replicator.yaml", "replicator-full.yaml", "replicator-secured.yaml"} <= names


def test_the_full_sample_has_every_key_with_its_default(tmp_path: Path) -> None:
    """What it says is what the program does when nothing is said; nothing is left out."""
    sample = next(path for path in SAMPLES if path.name == "replicator-full.yaml")
    given = yaml.safe_load(sample.read_text())
    settings = load_sample(sample, tmp_path)
    minimal = {
        "clusters": {alias: {"bootstrap_servers": it["bootstrap_servers"]} for alias, it in given["clusters"].items()},
        "flows": {name: {"topics": it["topics"]} for name, it in given["flows"].items()},
    }
    assert shown(settings) == shown(build(minimal))
    assert set(given) == set(Settings.model_fields)
    for name, section in (("worker", given["worker"]), ("http", given["http"]), ("log", given["log"])):
        assert set(section) == set(shown(settings)[name])
    for kind in ("clusters", "flows"):
        complete = [alias for alias, it in given[kind].items() if set(it) == set(shown(settings)[kind][alias])]
        assert complete, f"one of {kind} shows every key"
    security = next(it["security"] for it in given["clusters"].values() if "security" in it)
    assert set(security) == set(shown(settings)["clusters"][next(iter(given["clusters"]))]["security"])


def test_the_secured_sample_uses_tls_and_secret_files(tmp_path: Path) -> None:
    settings = load_sample(next(path for path in SAMPLES if path.name == "replicator-secured.yaml"), tmp_path)
    securities = [cluster.security for cluster in settings.clusters.values()]
    assert {security.protocol for security in securities} <= {"SASL_SSL", "SSL"}
    assert any(security.password and security.password_file for security in securities)
    assert any(security.cert_file for security in securities)
