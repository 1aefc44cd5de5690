"""Make Kafka ready to run on this machine: jars, a formatted checkpoint, a class archive. Each is made once."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import tempfile
from pathlib import Path

from replicator.deadline import Deadline
from replicator.embedded.jars import RESOLVE_TIMEOUT_S, Kafka, cache_lock, find_java, kafka_dir, resolve_jars
from replicator.embedded.java import format_storage, java_cluster
from replicator.embedded.properties import Addresses, Listener, random_id, render, server_properties
from replicator.embedded.reaper import Reaper
from replicator.embedded.spec import ClusterError, ClusterSpec


@functools.cache
def ensure_kafka() -> Kafka:
    """Kafka's jars and a Java for them; the first call on a machine downloads 55 MB and takes a minute or less.

    Raises:
        ClusterError: Java or Maven is missing, or the download failed.
    """
    java = find_java()
    jars, checkpoint = kafka_dir() / "jars", kafka_dir() / "bootstrap.checkpoint"
    archive = kafka_dir() / f"classes-{java.fingerprint}.jsa"
    if not archive.exists():
        deadline = Deadline(RESOLVE_TIMEOUT_S)
        with cache_lock(deadline):
            resolve_jars(deadline)
            if not checkpoint.exists():
                _make_checkpoint(Kafka(java, jars, checkpoint, None))
            if not archive.exists():
                _make_archive(Kafka(java, jars, checkpoint, None), archive)
    has_archive = archive.stat().st_size > 0
    return Kafka(java, jars, checkpoint, archive if has_archive else None)


def _make_checkpoint(kafka: Kafka) -> None:
    """Format a data directory and keep the part that is the same for every cluster: the feature levels."""
    spec = ClusterSpec("template")
    nowhere = Addresses(*(Listener(f"127.0.0.1:{port}", f"127.0.0.1:{port}") for port in (1, 2)))
    with tempfile.TemporaryDirectory(dir=kafka_dir(), prefix="formatting-") as scratch:
        data = Path(scratch) / "data"
        config = Path(scratch) / "server.properties"
        config.write_text(render(server_properties(spec, 1, {1: nowhere}, data)))
        format_storage(kafka, config, random_id(), [])
        (data / "bootstrap.checkpoint").rename(kafka.checkpoint)


def _make_archive(kafka: Kafka, archive: Path) -> None:
    """Run a broker once and let the JVM dump the classes that it loaded.

    A JVM that cannot do it costs speed only: an empty file then says not to try again.
    """
    scratch = archive.with_name(f"{archive.name}.{os.getpid()}")
    spec = ClusterSpec("archive", jvm_args=(f"-XX:ArchiveClassesAtExit={scratch}", "-Xlog:disable"))
    with contextlib.suppress(FileNotFoundError):
        scratch.unlink()
    with Reaper() as reaper:
        cluster = java_cluster(spec, dataclasses.replace(kafka, class_archive=None), reaper)
        try:
            cluster.start()
        except ClusterError as error:
            raise ClusterError(f"Kafka does not run on this machine: {error}") from error
        cluster.stop()
    if not scratch.exists():
        scratch.touch()
    scratch.rename(archive)
