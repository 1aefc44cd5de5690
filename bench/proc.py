"""What processes cost, as the kernel counts it: CPU of all threads, resident memory, children."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

PROC = Path("/proc")
TICKS_PER_S = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def cpu_ticks(stat: str) -> int:
    """User and system time in the text of `/proc/<pid>/stat`; the command in it may hold spaces and parentheses."""
    fields = stat.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def status_bytes(status: str, key: str) -> int:
    """A size in the text of `/proc/<pid>/status`, 0 when it is not there (a process that has ended)."""
    for line in status.splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return 0


def busy_ticks(stat: str) -> int:
    """What all CPUs spent on anything but idling and waiting for disks, in the text of `/proc/stat`."""
    fields = [int(field) for field in stat.splitlines()[0].split()[1:9]]
    return sum(fields) - fields[3] - fields[4]


def _read(pid: int, name: str) -> str:
    try:
        return (PROC / str(pid) / name).read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def tree(pid: int) -> list[int]:
    """A process and all that descend from it; those that end meanwhile are left out."""
    found = [pid]
    for parent in found:
        for children in (PROC / str(parent) / "task").glob("*/children"):
            try:
                found += [int(child) for child in children.read_text().split()]
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def cpu_s(pids: Iterable[int]) -> float:
    """CPU time of these processes so far, all threads, in seconds."""
    return sum(cpu_ticks(stat) for pid in pids if (stat := _read(pid, "stat"))) / TICKS_PER_S


def rss_bytes(pids: Iterable[int]) -> int:
    """Resident memory of these processes now, added up."""
    return sum(status_bytes(_read(pid, "status"), "VmRSS") for pid in pids)


def peak_rss_bytes(pids: Iterable[int]) -> int:
    """The peaks of these processes, added up: for several, at least what they had at one moment."""
    return sum(status_bytes(_read(pid, "status"), "VmHWM") for pid in pids)


def machine_busy_s() -> float:
    """CPU time that the whole machine has spent since it started."""
    return busy_ticks((PROC / "stat").read_text()) / TICKS_PER_S
