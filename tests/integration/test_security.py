"""The `security` block on secured brokers: TLS, SCRAM, own certificates, clear errors; and no secret is ever shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replicator.embedded import Clusters, ClusterSpec, EmbeddedCluster, SecuritySpec, open_clusters
from tests.support.brokers import UniqueName
from tests.support.certificates import Authority
from tests.support.compare import compare
from tests.support.eventually import eventually
from tests.support.flows import REACT_S, FlowBenches
from tests.support.records import NewRecord, create_topic, produce, read_topic
from tests.support.worker_process import WorkerProcess

pytestmark = pytest.mark.xdist_group("security")

SECRET = "s3cret-that-nobody-may-see"
WRONG = "wr0ng-that-nobody-may-see"
RECORDS = [NewRecord(b"%d" % n, b"k", n % 2, 1_000_000 + n, [("h", None)]) for n in range(200)]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), "own-ca")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("foreign"), "foreign-ca")


@pytest.fixture(scope="module")
def secured(authority: Authority) -> Iterator[Clusters]:
    """Two clusters with TLS and SCRAM, and one that wants a certificate from every client."""
    key_store = authority.server()
    scram = SecuritySpec("SASL_SSL", {"replicator": SECRET}, key_store=key_store)
    mtls = SecuritySpec("SSL", key_store=key_store, trust_store=authority.file, client_auth="required")
    specs = [ClusterSpec(name, security=scram) for name in ("east", "west")]
    with open_clusters([*specs, ClusterSpec("mtls", security=mtls)]) as opened:
        yield opened


def scram(authority: Authority, password: str = SECRET, **more: Any) -> dict[str, Any]:
    login = {"mechanism": "SCRAM-SHA-512", "username": "replicator", "password": password}
    return {"protocol": "SASL_SSL", "ca_file": str(authority.file), **login, **more}


def certified(authority: Authority, client: Path) -> dict[str, Any]:
    """A PEM file that holds key and chain serves as both."""
    files = {"ca_file": str(authority.file), "cert_file": str(client), "key_file": str(client)}
    return {"protocol": "SSL", **files}


def config(folder: Path, unique: UniqueName, source: tuple[EmbeddedCluster, dict[str, Any]], target: Any) -> Path:
    """A configuration file with a flow ``<unique east>-><unique west>``."""
    content = {
        "clusters": {
            unique(name): {"bootstrap_servers": cluster.bootstrap_servers, "security": security}
            for name, (cluster, security) in {"east": source, "west": target}.items()
        },
        "flows": {
            f"{unique('east')}->{unique('west')}": {"topics": [unique("orders")], "tasks": 1, "heartbeat_interval_s": 0}
        },
        "connect_timeout_s": 5,
        "http": {"port": 0},
        "log": {"format": "json", "level": "debug"},
    }
    file = folder / "replicator.yaml"
    file.write_text(json.dumps(content))
    return file


def command(file: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """Exit code and all output of a command, which ends soon; no secret is in the output."""
    done = subprocess.run(
        [sys.executable, "-m", "replicator", "-c", str(file), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=REACT_S,
        check=False,
        env=os.environ | environment,
    )
    assert SECRET not in done.stdout
    assert WRONG not in done.stdout
    return done.returncode, done.stdout


def test_tls_and_scram_on_both_sides(
    secured: Clusters, authority: Authority, unique: UniqueName, tmp_path: Path
) -> None:
    """The real process replicates, with one password from a file; its whole log at level debug shows no secret."""
    secret_file = tmp_path / "secret"
    secret_file.write_text(SECRET + "\n")
    from_file = scram(authority, password_file=str(secret_file))
    del from_file["password"]
    file = config(tmp_path, unique, (secured["east"], scram(authority)), (secured["west"], from_file))
    code, output = command(file, "config", "check")
    assert (code, output.count("reached, 1 broker")) == (0, 2), output
    topic = create_topic(secured["east"].admin_servers, unique("orders"), partitions=2)
    produce(secured["east"].admin_servers, topic, RECORDS)
    remote = f"{unique('east')}.{topic}"
    worker = WorkerProcess(["-c", str(file), "run"])
    try:
        worker.await_running(1)

        def is_copied() -> bool:
            outcome = compare(
                read_topic(secured["east"].admin_servers, topic), read_topic(secured["west"].admin_servers, remote)
            )
            assert outcome == (len(RECORDS), 0, 0, 0, 0)
            return True

        eventually(is_copied, REACT_S)
        worker.send(15)
        assert worker.await_exit() == 0
    finally:
        worker.close()
    assert worker.log()
    assert SECRET not in worker.log()


def test_certificates_of_our_own(make_flow: FlowBenches, secured: Clusters, authority: Authority) -> None:
    """mTLS on the source, SCRAM on the target."""
    security = {
        "source": {"security": certified(authority, authority.client("replicator"))},
        "target": {"security": scram(authority)},
    }
    flow = make_flow(secured["mtls"], secured["west"], clusters=security)
    flow.create(flow.topic, partitions=2)
    flow.produce(flow.topic, RECORDS)
    flow.start()
    assert flow.verify(flow.topic).records == len(RECORDS)
    assert SECRET not in str(flow.events)


def test_a_wrong_password_is_said(secured: Clusters, authority: Authority, unique: UniqueName, tmp_path: Path) -> None:
    """At once, with the cluster's name and what to check; `run` waits, not ready, for the password to be right."""
    wrong = scram(authority, WRONG)
    file = config(tmp_path, unique, (secured["east"], scram(authority)), (secured["west"], wrong))
    code, output = command(file, "config", "check")
    assert code == 1
    assert f"clusters.{unique('east')}: reached" in output
    assert f"{unique('west')} ({secured['west'].bootstrap_servers}) refused the connection" in output
    assert "Authentication failed" in output
    assert f"check clusters.{unique('west')}.security: username, password and mechanism" in output
    worker = WorkerProcess(["-c", str(file), "run"])
    try:
        error = worker.await_event("worker_not_ready")["error"]
        assert "Authentication failed" in error
        status, body = worker.probe("/readyz")
        assert status == 503
        assert f"check clusters.{unique('west')}.security" in body
        assert worker.probe("/livez")[0] == 200
        worker.send(15)
        assert worker.await_exit() == 0
    finally:
        worker.close()
    assert WRONG not in worker.log()


def test_an_authority_that_we_do_not_trust_is_said(
    secured: Clusters, authority: Authority, foreign: Authority, unique: UniqueName, tmp_path: Path
) -> None:
    """The broker's certificate is of another authority than `ca_file`."""
    file = config(tmp_path, unique, (secured["east"], scram(foreign)), (secured["west"], scram(authority)))
    code, output = command(file, "config", "check")
    assert code == 1
    assert "certificate verify failed" in output
    assert f"check clusters.{unique('east')}.security.ca_file" in output
    assert f"clusters.{unique('west')}: reached" in output


@pytest.mark.parametrize("kind", ["none", "foreign"])
def test_a_certificate_that_the_broker_does_not_trust_is_said(
    secured: Clusters, authority: Authority, foreign: Authority, unique: UniqueName, tmp_path: Path, kind: str
) -> None:
    """mTLS without a certificate, and with one of another authority."""
    security = certified(authority, foreign.client("replicator"))
    if kind == "none":
        del security["cert_file"], security["key_file"]
    file = config(tmp_path, unique, (secured["mtls"], security), (secured["west"], scram(authority)))
    code, output = command(file, "config", "check")
    assert code == 1
    assert f"{unique('east')} ({secured['mtls'].bootstrap_servers})" in output
    assert "SSL" in output or "certificate" in output
    assert f"clusters.{unique('east')}.security" in output


def test_a_plaintext_client_is_told_of_the_protocol(
    secured: Clusters, authority: Authority, unique: UniqueName, tmp_path: Path
) -> None:
    """The commonest mistake: the security block is missing."""
    file = config(tmp_path, unique, (secured["east"], {}), (secured["west"], scram(authority)))
    code, output = command(file, "config", "check")
    assert code == 1
    assert f"{unique('east')} ({secured['east'].bootstrap_servers}): " in output
    assert f"clusters.{unique('east')}.security" in output


def test_config_show_masks_every_secret(
    secured: Clusters, authority: Authority, unique: UniqueName, tmp_path: Path
) -> None:
    """From the file, from the environment, and hidden in a `client` block; as a table and as JSON."""
    file = config(tmp_path, unique, (secured["east"], scram(authority)), (secured["west"], scram(authority)))
    content = json.loads(file.read_text())
    content["clusters"][unique("east")]["client"] = {"ssl.keystore.password": SECRET, "ssl.key.pem": SECRET}
    file.write_text(json.dumps(content))
    variable = {f"REPLICATOR_CLUSTERS__{unique('west')}__SECURITY__PASSWORD": WRONG}
    for output_format in ("table", "json"):
        code, output = command(file, "config", "show", "-o", output_format, **variable)
        assert code == 0
        assert output.count("********") == 4


@pytest.mark.parametrize(
    "text",
    [
        "clusters: {west: {bootstrap_servers: 'w:9092', security: {password: %s\nflows: {",
        "clusters:\n  west:\n    security:\n      password: @%s\n",
        'clusters:\n  west:\n    security:\n      password: "%s\n',
        "clusters:\n  west:\n    security:\n      password: [%s]\n",
        "clusters:\n  west:\n    security:\n      password: !%s\n",
        "clusters:\n  west:\n    security:\n      password: *%s\n",
        "clusters:\n  west:\n    security: %s\n",
        "clusters:\n  west: %s\nflows: {}\n",
        "clusters:\n  west:\n    bootstrap_servers: 'w:9092'\n    client: {sasl.password: %s}\n",
        "clusters:\n  west:\n    bootstrap_servers: 'w:9092'\n    client: {ssl.key.password: [%s]}\n",
        "clusters:\n  west:\n    bootstrap_servers: 'w:9092'\n    security: {protocol: SASL_SSL, password: %s}\n",
        "clusters:\n  west:\n    bootstrap_servers: 'w:9092'\n    security: {pasword: %s}\n",
        "clusters:\n  west:\n    bootstrap_servers: 'w:9092'\n    client: {no.such.property: %s}\nflows:\n"
        "  east->west: {topics: [a]}\n",
    ],
)
def test_no_mistake_in_the_file_shows_a_secret(tmp_path: Path, text: str) -> None:
    """Whatever is wrong with the line that holds it: exit code 2, and the text of the line is not printed."""
    file = tmp_path / "replicator.yaml"
    file.write_text(text % SECRET)
    code, output = command(file, "config", "check")
    assert code == 2
    assert output.startswith("error:")
    assert "Traceback" not in output
