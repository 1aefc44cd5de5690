"""What was measured: plain values, one JSON file for each run of a measurement, with all that a reader needs."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import confluent_kafka

import replicator
from replicator.embedded.jars import find_java, kafka_version

OUT = Path(__file__).parent / "out"
SHORTEST_S = 1.0
PUBLISHED = Path(__file__).parent / "published"
Kind = Literal["throughput", "tiny", "latency", "partitions", "takeover", "failover", "memory", "offset-map"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a contender.

    Args:
        at_s: seconds since its process was started.
        visible: records that a read_committed reader of the target sees.
        cpu_s: CPU time of its processes so far.
        rss_bytes: their resident memory.
    """

    at_s: float
    visible: int
    cpu_s: float
    rss_bytes: int


@dataclass(frozen=True, slots=True)
class Run:
    """One contender drains one backlog.

    Args:
        first_record_s: from the start of the process until a reader sees a record.
        records_per_s: of the whole run, from the start of the process.
        half_records_per_s: of the second half of the records: no start, no warm-up. Of more, where that half took less
            than `SHORTEST_S`.
        cpu_us, half_cpu_us: CPU time per record, whole run and second half.
        peak_rss_bytes: of all its processes.
        markers: offsets on the target that hold no record: partitions times transactions.
        other_cpu: part of the machine's CPU that neither the contender, the brokers nor the bench used. High: not to be
            trusted.
    """

    contender: str
    size_bytes: int
    round: int
    records: int
    wall_s: float
    first_record_s: float
    records_per_s: float
    half_records_per_s: float
    cpu_us: float
    half_cpu_us: float
    peak_rss_bytes: int
    markers: int
    other_cpu: float


def summarise(samples: Sequence[Sample], records: int) -> dict[str, float]:
    """The figures of a run that follow from its samples; the last one is the first that saw every record."""
    end = samples[-1]
    first = next(sample for sample in samples if sample.visible > 0)
    half = _half(samples, records)
    half_records = max(1, records - half.visible)
    return {
        "wall_s": end.at_s,
        "first_record_s": first.at_s,
        "records_per_s": records / end.at_s,
        "half_records_per_s": half_records / max(1e-9, end.at_s - half.at_s),
        "cpu_us": end.cpu_s / records * 1e6,
        "half_cpu_us": (end.cpu_s - half.cpu_s) / half_records * 1e6,
    }


def _half(samples: Sequence[Sample], records: int) -> Sample:
    """From where the second half counts: the look that first saw half of the records, or an earlier one.

    Records become visible by transactions, and looks have distances, too: what lies less than `SHORTEST_S` before the
    end would measure those. Only a look that saw something new is fit: it follows a commit, as the last one does.
    """
    end = samples[-1]
    news = [later for earlier, later in pairwise(samples) if earlier.visible < later.visible < records]
    fit = [it for it in news if end.at_s - it.at_s >= SHORTEST_S]
    half = next((it for it in news if it.visible >= records // 2), None)
    if half in fit:
        return half
    if fit or news:
        return fit[-1] if fit else news[0]
    return next(earlier for earlier, later in pairwise(samples) if later.visible >= records)


def machine() -> dict[str, str]:
    """The machine, as far as it matters for the figures."""
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "CPU": f"{os.cpu_count()} × {cpu[1] if cpu else platform.machine()}",
        "memory": f"{memory / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "load before": f"{os.getloadavg()[0]:.1f}",
    }


def versions() -> dict[str, str]:
    """The versions of everything that is measured."""
    java = subprocess.run([str(find_java().path), "-version"], capture_output=True, text=True, check=False)
    return {
        "Kafka and MirrorMaker 2": kafka_version(),
        "Java": (java.stderr.splitlines() or ["?"])[0],
        "Python": platform.python_version(),
        "confluent-kafka": str(confluent_kafka.__version__),
        "librdkafka": str(confluent_kafka.libversion()[0]),
        "replicator": replicator.__version__,
    }


def commit() -> str:
    """The commit that is measured."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except FileNotFoundError:
        return "no git"
    return done.stdout.strip() or "no git"


def begin(kind: Kind, configuration: dict[str, Any], *, is_full: bool) -> dict[str, Any]:
    """A document without its result: to be made before the measurement, for the load of the machine.

    Args:
        is_full: whether it is measured with the configuration of what is published.
    """
    return {
        "kind": kind,
        "at": f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC",
        "is_full": is_full,
        "machine": machine(),
        "versions": versions(),
        "commit": commit(),
        "configuration": configuration,
    }


def save(document: dict[str, Any], result: Any) -> Path:
    """Write the document with its result to a file of its own under bench/out, and return the path."""
    OUT.mkdir(parents=True, exist_ok=True)
    file = OUT / f"{document['kind']}-{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S}.json"
    file.write_text(json.dumps({**document, "result": result}, indent=1, default=dataclasses.asdict) + "\n")
    return file


def load(file: Path) -> dict[str, Any]:
    """One saved document."""
    document: dict[str, Any] = json.loads(file.read_text())
    return document
