"""What is deployed agrees with the program: image, compose file, manifests, alerts and dashboard."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from replicator.config import HttpSettings, Settings, WorkerSettings, build, load
from replicator.metrics import Metrics
from replicator.worker import process

ROOT = Path(__file__).parents[2]
BASE = ROOT / "k8s/base"
OVERLAY = ROOT / "k8s/overlays/example"
SECRETS = "/run/secrets/replicator"
CONFIG = "/etc/replicator/replicator.yaml"
AFTER_TASKS_S = process.AFTER_TASKS_S + process.EXIT_WITHIN_S
"""A worker's process may last this much longer than worker.shutdown_timeout_s."""

SAMPLE_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@pytest.fixture(autouse=True)
def no_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of whoever runs the tests stays out of the files under test."""
    for name in ("REPLICATOR_HTTP__HOST", "REPLICATOR_HTTP__PORT", "REPLICATOR_CONFIG"):
        monkeypatch.delenv(name, raising=False)


# --- the image --------------------------------------------------------------------------------------------------------


def dockerfile() -> list[tuple[str, str]]:
    """Instructions and their arguments of the final stage, continuation lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    lines = [line.split(None, 1) for line in text.splitlines() if line.strip()]
    last_from = max(index for index, words in enumerate(lines) if words[0] == "FROM")
    return [(words[0], words[1].strip()) for words in lines[last_from:]]


def instruction(name: str) -> str:
    found = [arguments for word, arguments in dockerfile() if word == name]
    assert len(found) == 1, f"{name} is there {len(found)} times"
    return found[0]


def image_environment() -> dict[str, str]:
    pairs = re.findall(r'(\w+)=("[^"]*"|\S+)', instruction("ENV"))
    return {key: value.strip('"') for key, value in pairs}


def test_image_runs_as_a_number_that_is_not_root() -> None:
    """Kubernetes' runAsNonRoot can check a number only."""
    user, group = instruction("USER").split(":")
    assert int(user) > 0
    assert int(group) > 0


def test_image_passes_sigterm_to_python() -> None:
    """Exec form: no shell stands between the signal and the program."""
    assert json.loads(instruction("ENTRYPOINT")) == ["replicator"]
    assert json.loads(instruction("CMD")) == ["run"]
    assert instruction("STOPSIGNAL") == "SIGTERM"


def test_image_has_no_build_step_in_its_final_stage() -> None:
    """The final stage only copies: no compiler, no package manager, no source."""
    words = [word for word, _ in dockerfile()]
    assert "RUN" not in words
    assert [arguments for word, arguments in dockerfile() if word == "COPY"] == [
        "--from=build /opt/replicator /opt/replicator"
    ]


def test_image_healthcheck_asks_for_liveness_on_the_exposed_port() -> None:
    """Liveness, not readiness: an unreachable cluster must not mark the container unhealthy."""
    environment = image_environment()
    command = json.loads(instruction("HEALTHCHECK").partition("CMD")[2])
    assert "/livez" in command[-1]
    assert "REPLICATOR_HTTP__PORT" in command[-1]
    assert environment["REPLICATOR_HTTP__PORT"] == instruction("EXPOSE") == str(HttpSettings().port)
    compile(command[-1], "healthcheck", "exec")


def test_image_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the file says, the probes are reachable from outside the container."""
    environment = {key: value for key, value in image_environment().items() if key.startswith("REPLICATOR_")}
    assert environment["REPLICATOR_CONFIG"] == CONFIG
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    content = {**read_yaml(ROOT / "config/compose.yaml"), "http": {"host": "127.0.0.1", "port": 1}}
    assert build(content).http == HttpSettings(host="0.0.0.0", port=9464)


def test_build_context_holds_only_what_the_wheel_needs() -> None:
    """Everything is ignored but the files that the Dockerfile copies."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    assert "*" in lines
    assert {name for names in copied for name in names.split()} == allowed


# --- compose ----------------------------------------------------------------------------------------------------------


def compose() -> Any:
    return read_yaml(ROOT / "docker-compose.yml")


def test_compose_configuration_reaches_the_brokers_of_the_compose_file() -> None:
    """config/compose.yaml loads, and its addresses are advertised by services of that name."""
    settings = load(ROOT / "config/compose.yaml")
    services = compose()["services"]
    assert settings.clusters
    for cluster in settings.clusters.values():
        service = services[cluster.bootstrap_servers.split(":")[0]]
        advertised = service["environment"]["KAFKA_ADVERTISED_LISTENERS"]
        assert f"INTERNAL://{cluster.bootstrap_servers}" in advertised.split(",")


def test_compose_worker_is_confined_and_waits_for_its_clusters() -> None:
    """Read-only root, no capabilities, its configuration mounted, started when both clusters are healthy."""
    worker = compose()["services"]["replicator"]
    settings = load(ROOT / "config/compose.yaml")
    assert worker["read_only"] is True
    assert worker["cap_drop"] == ["ALL"]
    assert worker["volumes"] == [f"./config/compose.yaml:{CONFIG}:ro"]
    assert {name for name, it in worker["depends_on"].items() if it["condition"] == "service_healthy"} == set(
        settings.clusters
    )
    assert int(worker["stop_grace_period"].rstrip("s")) > settings.worker.shutdown_timeout_s + AFTER_TASKS_S
    assert worker["deploy"]["replicas"] == 2


def test_compose_prometheus_scrapes_every_worker() -> None:
    """By the service's name and the image's port, with the alert rules mounted where the configuration looks."""
    prometheus = read_yaml(ROOT / "monitoring/prometheus.yml")
    (target,) = prometheus["scrape_configs"][0]["dns_sd_configs"]
    assert target["names"] == ["replicator"]
    assert target["port"] == HttpSettings().port
    mounts = [mount.split(":") for mount in compose()["services"]["prometheus"]["volumes"]]
    inside = {parts[1]: ROOT / parts[0] for parts in mounts if parts[0].startswith("./")}
    assert all(file.is_file() for file in inside.values())
    assert set(prometheus["rule_files"]) <= set(inside)


# --- Kubernetes -------------------------------------------------------------------------------------------------------


def pod() -> Any:
    return read_yaml(BASE / "deployment.yaml")["spec"]["template"]["spec"]


def container() -> Any:
    (only,) = pod()["containers"]
    return only


@pytest.fixture
def mounted(tmp_path: Path) -> Path:
    """A folder with the keys of the Secret."""
    for alias in ("east", "west"):
        (tmp_path / f"{alias}-password").write_text("secret\n")
        (tmp_path / f"{alias}-ca.pem").write_text("a certificate\n")
    return tmp_path


def mounted_settings(file: Path, secrets: Path) -> Settings:
    """The configuration of a ConfigMap, with its secret files where this machine has them."""
    text = file.read_text()
    assert SECRETS in text
    return build(yaml.safe_load(text.replace(SECRETS, str(secrets))))


@pytest.mark.parametrize("folder", [BASE, OVERLAY], ids=["base", "overlay"])
def test_configmap_is_a_valid_configuration(folder: Path, mounted: Path) -> None:
    """It is generated from a file that the program accepts, under the name that the container reads."""
    (generator,) = read_yaml(folder / "kustomization.yaml")["configMapGenerator"]
    settings = mounted_settings(folder / generator["files"][0], mounted)
    password = settings.clusters["east"].security.password
    assert password is not None
    assert password.get_secret_value() == "secret"
    mounts = {mount["name"]: mount["mountPath"] for mount in container()["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod()["volumes"]}
    assert f"{mounts['config']}/{generator['files'][0]}" == CONFIG
    assert volumes["config"]["configMap"]["name"] == generator["name"]
    assert mounts["credentials"] == SECRETS


def test_probes_tell_hanging_from_waiting() -> None:
    """Liveness restarts a worker that hangs; readiness, false while a cluster is away, never restarts one."""
    (port,) = container()["ports"]
    assert container()["livenessProbe"]["httpGet"] == {"path": "/livez", "port": port["name"]}
    assert container()["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": port["name"]}
    assert port["containerPort"] == HttpSettings().port
    annotations = read_yaml(BASE / "deployment.yaml")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(port["containerPort"])


def test_pod_can_do_nothing_but_run_the_worker() -> None:
    """Not root, nothing written, no capability, the default seccomp filter, no token, no Service variables."""
    assert pod()["securityContext"]["runAsNonRoot"] is True
    assert f"{pod()['securityContext']['runAsUser']}:{pod()['securityContext']['runAsGroup']}" == instruction("USER")
    assert pod()["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod()["automountServiceAccountToken"] is False
    assert pod()["enableServiceLinks"] is False


@pytest.mark.parametrize("folder", [BASE, OVERLAY], ids=["base", "overlay"])
def test_pod_has_time_to_commit_and_leave(folder: Path, mounted: Path) -> None:
    """SIGKILL comes after the workers' own deadline."""
    settings = mounted_settings(folder / "replicator.yaml", mounted)
    assert pod()["terminationGracePeriodSeconds"] > settings.worker.shutdown_timeout_s + AFTER_TASKS_S
    assert pod()["terminationGracePeriodSeconds"] > WorkerSettings().shutdown_timeout_s + AFTER_TASKS_S


def test_memory_limits_hold_the_buffers(mounted: Path) -> None:
    """The limit covers worker.buffer_bytes of every flow and what Python and librdkafka need besides."""
    patch = yaml.safe_load(read_yaml(OVERLAY / "kustomization.yaml")["patches"][0]["patch"])
    limits = {BASE: container()["resources"]["limits"]["memory"], OVERLAY: patch[0]["value"]["limits"]["memory"]}
    for folder, limit in limits.items():
        settings = mounted_settings(folder / "replicator.yaml", mounted)
        needed = settings.worker.buffer_bytes * len(settings.flows) + 256 * 2**20
        assert int(limit.removesuffix("Mi")) * 2**20 >= needed, folder


def test_rolling_update_adds_a_worker_before_it_removes_one() -> None:
    """So every task has an owner throughout; the disruption budget does not hold a drain when none is ready."""
    strategy = read_yaml(BASE / "deployment.yaml")["spec"]["strategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    budget = read_yaml(BASE / "poddisruptionbudget.yaml")["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_selectors_name_the_pods() -> None:
    """Deployment, budget, spread and metrics Service select the label that the pods carry."""
    spec = read_yaml(BASE / "deployment.yaml")["spec"]
    labels: Mapping[str, str] = spec["template"]["metadata"]["labels"]
    selectors = [
        spec["selector"]["matchLabels"],
        read_yaml(BASE / "poddisruptionbudget.yaml")["spec"]["selector"]["matchLabels"],
        read_yaml(ROOT / "k8s/components/service-monitor/service.yaml")["spec"]["selector"],
        *(each["labelSelector"]["matchLabels"] for each in pod()["topologySpreadConstraints"]),
    ]
    assert all(selector and selector.items() <= labels.items() for selector in selectors)


def test_kustomizations_list_files_that_exist() -> None:
    """Every resource, component and generator file is there."""
    found = list((ROOT / "k8s").rglob("kustomization.yaml"))
    assert len(found) >= 3
    for file in found:
        content = read_yaml(file)
        generated = [name for each in content.get("configMapGenerator", []) for name in each["files"]]
        listed = [*content.get("resources", []), *content.get("components", []), *generated]
        assert listed
        assert all((file.parent / name).exists() for name in listed), file


# --- alerts and dashboard ---------------------------------------------------------------------------------------------


def known_series() -> dict[str, set[str]]:
    """Every series that a worker can expose, with its labels."""
    series: dict[str, set[str]] = {}
    collectors = Metrics().registry._collector_to_names
    for collector in collectors:
        (family,) = collector.describe()  # type: ignore[attr-defined]
        labels = set(collector._labelnames)  # type: ignore[attr-defined]
        for suffix in SAMPLE_SUFFIXES[family.type]:
            series[family.name + suffix] = labels | ({"le"} if suffix == "_bucket" else set())
    assert len(series) >= 10
    return series


def alert_expressions() -> dict[str, str]:
    groups = read_yaml(ROOT / "monitoring/alerts.yml")["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


def dashboard_expressions() -> dict[str, str]:
    panels = json.loads((ROOT / "monitoring/dashboard.json").read_text())["panels"]
    return {
        f"{panel['title']} {target['refId']}": target["expr"] for panel in panels for target in panel.get("targets", [])
    }


def expressions() -> Iterator[tuple[str, str]]:
    yield from alert_expressions().items()
    yield from dashboard_expressions().items()


@pytest.mark.parametrize(("name", "expression"), list(expressions()))
def test_expressions_use_series_and_labels_that_exist(name: str, expression: str) -> None:
    """Alerts and panels ask for what workers expose; the labels in `by (…)` and in selectors exist on them."""
    series = known_series()
    used = set(re.findall(r"\breplicator_\w+", expression))
    assert used <= set(series), f"{name}: {used - set(series)} is not exposed"
    if not used:
        assert expression.startswith("up{"), f"{name} asks for nothing of ours"
        return
    groupings = re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression)
    selectors = re.findall(r"\{([^}]*)\}", expression)
    labels = {label.strip() for grouping in groupings for label in grouping.split(",")}
    labels |= {label for selector in selectors for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector)}
    exposed = set.union(*(series[one] for one in used)) | {"instance", "job"}
    assert labels <= exposed, f"{name}: {labels - exposed} is on none of {sorted(used)}"


def test_alerts_say_what_to_do_and_are_documented() -> None:
    """Every alert has a severity, a summary and a description, and is explained in docs/deployment.md."""
    guide = (ROOT / "docs/deployment.md").read_text()
    rules = read_yaml(ROOT / "monitoring/alerts.yml")["groups"][0]["rules"]
    assert rules
    for rule in rules:
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert set(rule["annotations"]) == {"summary", "description"}
        assert f"`{rule['alert']}`" in guide


def test_dashboard_shows_every_metric() -> None:
    """No metric of a worker is missing from the dashboard."""
    text = " ".join(dashboard_expressions().values())
    metrics = {re.sub(r"_(bucket|count|sum)$", "", name) for name in known_series()}
    assert {name for name in metrics if name not in text} == set()


def test_deployed_files_name_official_images_only() -> None:
    """No registry host in an image's name: short names, or names that an overlay replaces."""
    images = [service["image"] for service in compose()["services"].values()] + [container()["image"]]
    images += re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    assert len(images) >= 5
    assert [image for image in images if re.match(r"[^/]*[.:][^/]*/", image)] == []
