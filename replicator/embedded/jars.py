"""Kafka's jars from Maven Central, resolved once into a cache, and Java command lines that use them."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from replicator.deadline import Deadline
from replicator.embedded.spec import ClusterError

POM = Path(__file__).with_name("pom.xml")
MIN_JAVA = 17
RESOLVE_TIMEOUT_S = 1200.0
LOCK_POLL_S = 0.1
OUTPUT_TAIL_LINES = 15

QUIET_ARCHIVE = ("-Xshare:auto", "-Xlog:cds=off", "-Xlog:cds+dynamic=off")
LOGGING = (
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
    "-Dorg.slf4j.simpleLogger.showShortLogName=true",
)


@dataclass(frozen=True, slots=True)
class Java:
    """A Java that Kafka runs on."""

    path: Path
    fingerprint: str
    """Changes with the build of the JVM, which class archives depend on."""


@dataclass(frozen=True, slots=True)
class Kafka:
    """Kafka on this machine: brokers, console tools, MirrorMaker 2.

    Args:
        java: what runs it.
        jars: the folder with every jar.
        checkpoint: a freshly formatted `bootstrap.checkpoint`, the same for every cluster without users.
        class_archive: the JVM's memory image of Kafka's loaded classes (AppCDS), which halves the start. None while
            it is being made, or where this JVM cannot make one.
    """

    java: Java
    jars: Path
    checkpoint: Path
    class_archive: Path | None

    @property
    def classpath(self) -> str:
        """Every jar by name, sorted: a class archive holds for exactly this text."""
        return os.pathsep.join(str(jar) for jar in sorted(self.jars.glob("*.jar")))

    def command(
        self, main_class: str, args: Sequence[str] = (), *, heap_mb: int = 256, jvm_args: Sequence[str] = ()
    ) -> list[str]:
        """The command line that runs a class out of the jars.

        Args:
            main_class: e.g. `org.apache.kafka.connect.mirror.MirrorMaker`.
            args: of the program.
            heap_mb: `-Xmx`.
            jvm_args: further arguments of the JVM.
        """
        archive = (f"-XX:SharedArchiveFile={self.class_archive}", *QUIET_ARCHIVE) if self.class_archive else ()
        return [
            str(self.java.path),
            f"-Xmx{heap_mb}m",
            *archive,
            *LOGGING,
            *jvm_args,
            "-cp",
            self.classpath,
            main_class,
            *args,
        ]


@functools.cache
def find_java() -> Java:
    """The Java in `JAVA_HOME`, else on the path.

    Raises:
        ClusterError: there is none, or it is too old.
    """
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=str(Path(home) / "bin")) if home else shutil.which("java")
    if found is None:
        where = f"in JAVA_HOME ({home})" if home else "on the PATH"
        raise ClusterError(f"no Java {where}: install Java {MIN_JAVA} or newer (Debian: openjdk-17-jdk-headless)")
    answer = subprocess.run([found, "-version"], capture_output=True, text=True, timeout=60, check=False)
    version = java_version(answer.stderr)
    if version < MIN_JAVA:
        raise ClusterError(f"{found} is Java {version}; Kafka needs Java {MIN_JAVA} or newer")
    path = Path(found).resolve()
    fingerprint = hashlib.sha256(f"{path}\n{answer.stderr}".encode()).hexdigest()[:12]
    return Java(path, fingerprint)


def java_version(text: str) -> int:
    """The feature release in the output of `java -version`: 17 for `"17.0.15"`, 8 for `"1.8.0_412"`, 0 if unclear."""
    match = re.search(r'version "(?:1\.)?(\d+)', text)
    return int(match[1]) if match else 0


def cache_dir() -> Path:
    """Where the jars are kept: $REPLICATOR_CACHE, else replicator in $XDG_CACHE_HOME, else in ~/.cache."""
    if own := os.environ.get("REPLICATOR_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "replicator"


def kafka_version() -> str:
    """The version in the pom, for jars and containers alike."""
    version = re.search(r"<kafka\.version>(.+?)<", POM.read_text())
    assert version is not None, f"{POM} has no kafka.version"
    return version[1]


def kafka_dir() -> Path:
    """The folder in the cache for exactly this pom."""
    return cache_dir() / f"kafka-{kafka_version()}-{hashlib.sha256(POM.read_bytes()).hexdigest()[:8]}"


@contextlib.contextmanager
def cache_lock(deadline: Deadline) -> Iterator[None]:
    """Hold the cache for this process alone; released by the kernel if we die.

    Raises:
        ClusterError: another process holds it past the deadline.
    """
    cache_dir().mkdir(parents=True, exist_ok=True)
    with (cache_dir() / "lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if deadline.expired:
                    raise ClusterError(f"another process holds {file.name} since {deadline.seconds:g} s") from None
                time.sleep(LOCK_POLL_S)
        yield


def resolve_jars(deadline: Deadline) -> Path:
    """The folder with the jars, downloaded if it is not there. The caller holds the lock.

    It appears complete or not at all: Maven copies to a folder beside it, which is then renamed.

    Raises:
        ClusterError: no Maven, or it failed.
    """
    jars = kafka_dir() / "jars"
    if jars.is_dir():
        return jars
    maven = shutil.which("mvn")
    if maven is None:
        raise ClusterError("no Maven on the PATH: install Maven 3.6 or newer (Debian: maven), or start a Docker engine")
    kafka_dir().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kafka_dir(), prefix="resolving-") as scratch:
        shutil.copy(POM, Path(scratch) / "pom.xml")
        _run_maven(maven, Path(scratch), deadline)
        (Path(scratch) / "jars").rename(jars)
    return jars


def _run_maven(maven: str, folder: Path, deadline: Deadline) -> None:
    command = [
        maven, "-q", "-B", "-f", str(folder / "pom.xml"),
        "dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={folder / 'jars'}",
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=deadline.left_s(), check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"Maven did not finish within {deadline.seconds:g} s") from error
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-OUTPUT_TAIL_LINES:])
        raise ClusterError(f"Maven could not resolve Kafka's jars (a mirror goes into its settings.xml):\n{tail}")
