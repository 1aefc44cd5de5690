"""The measurements, and the configuration of each: in short, and as published."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from bench import failover, latency, memory, offset_map, partitions, takeover, throughput
from bench.backlog import BenchError
from bench.results import Kind
from bench.stage import Say

BATCHES = ("ours-batches",)
OURS = (*BATCHES, "ours-records")
BOTH = (*OURS, "mm2-tuned-eos")
ALL = (*BOTH, "mm2-stock-eos")
FULL_SIZES = ((100, 4_000_000), (1024, 1_000_000), (10_240, 100_000), (10_240, 400_000))
"""Bytes of a record, and how many; 100,000 of 10 KiB take the replicator about a second, so they are drained twice."""
DRAIN = throughput.Options(
    sizes=((100, 1_000_000), (1024, 400_000)), rounds=1, contenders=(*BOTH, "replayer"),
    limit_s=300.0, count_all=True, existing={},
)  # fmt: skip
TINY = replace(DRAIN, sizes=((100, 100_000),), contenders=OURS, batch_records=1)
LATENCY = latency.Options((latency.NOTHING, *BOTH), 1, latency.RECORDS_PER_S, warm_up_s=5.0, window_s=10.0, existing={})
PARTITIONS = partitions.Options(BATCHES, 1, 10, 1000, partitions.RECORDS_PER_S, 5.0, window_s=10.0, existing={})
TAKEOVER = takeover.Options(BATCHES, 1, warm_up_s=5.0, limit_s=420.0, existing={})
FAILOVER = failover.Options((*BATCHES, "mm2-tuned-eos"), 1, warm_up_s=5.0, window_s=10.0)
MEMORY = memory.Options(200, backlog_bytes=1 << 30, buffer_bytes=64 << 20, stall_s=30.0, contender="ours")


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measurement.

    Args:
        measure: takes the configuration; its result is saved, and may have `complaints`.
        short: the configuration of some minutes.
        full: the configuration of what is published.
        is_quick: whether `make bench` runs it too.
    """

    help: str
    measure: Callable[[Any, Say], Any]
    short: Any
    full: Any
    is_quick: bool = True

    def configuration(self, changes: Iterable[str], *, is_full: bool) -> Any:
        """The configuration, with changes as `key=value`; the value is JSON, or a plain text.

        Raises:
            BenchError: there is no such key, or its value has another type.
        """
        options = self.full if is_full else self.short
        for change in changes:
            key, _, text = change.partition("=")
            if key not in {field.name for field in dataclasses.fields(options)}:
                raise BenchError(f"no configuration key {key}; there are: {json.dumps(dataclasses.asdict(options))}")
            options = replace(options, **{key: _value(key, text, getattr(options, key))})
        return options


def _value(key: str, text: str, default: Any) -> Any:
    """The value of a change, with the type of the default."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    if isinstance(default, tuple):
        items = value.split(",") if isinstance(value, str) else value
        value = tuple(tuple(it) if isinstance(it, list) else it for it in items) if isinstance(items, list) else items
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if default is not None and type(value) is not type(default):
        raise BenchError(f"{key}={text}: expected a value like {json.dumps(default)}")
    return value


MEASUREMENTS: dict[Kind, Measurement] = {
    "throughput": Measurement(
        "contenders drain the same backlog in turn",
        throughput.measure,
        DRAIN,
        replace(DRAIN, sizes=FULL_SIZES, rounds=3, contenders=("ours-batches-tuned", *ALL, "replayer")),
    ),
    "tiny": Measurement(
        "the same, with one record in each batch of the source",
        throughput.measure,
        TINY,
        replace(TINY, sizes=((100, 400_000),), rounds=3, contenders=(*BOTH, "replayer")),
    ),
    "latency": Measurement(
        "age of the records when a consumer of the target gets them, under a steady load",
        latency.measure,
        LATENCY,
        replace(LATENCY, contenders=(latency.NOTHING, *ALL), rounds=3, warm_up_s=15.0, window_s=45.0),
    ),
    "partitions": Measurement(
        "CPU of idle partitions",
        partitions.measure,
        PARTITIONS,
        replace(PARTITIONS, rounds=3, warm_up_s=15.0, window_s=60.0),
    ),
    "takeover": Measurement(
        "time without records on a partition after a worker was killed",
        takeover.measure,
        TAKEOVER,
        replace(TAKEOVER, contenders=BOTH, rounds=3, warm_up_s=10.0),
    ),
    "failover": Measurement(
        "groups move to the target: records read again or skipped, and time",
        failover.measure,
        FAILOVER,
        replace(FAILOVER, contenders=(*FAILOVER.contenders, "mm2-stock-eos"), warm_up_s=30.0, window_s=75.0),
    ),
    "memory": Measurement(
        "a backlog on many partitions, and a target that stops answering",
        memory.measure,
        MEMORY,
        replace(MEMORY, partitions=400, contender="ours-batches"),
        is_quick=False,
    ),
    "offset-map": Measurement(
        "ten million runs through one offset map",
        offset_map.measure,
        offset_map.Options(1_000_000),
        offset_map.Options(offset_map.RUNS),
        is_quick=False,
    ),
}
"""In the order in which they run."""
