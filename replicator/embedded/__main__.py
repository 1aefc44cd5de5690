"""`python -m replicator.embedded`: make Kafka ready for the demo and the tests, or end detached clusters.

python -m replicator.embedded             download what is needed, once, and say which way clusters will be started
python -m replicator.embedded stop DIR    end the clusters that a detached run left in DIR, and remove them
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from replicator.embedded.clusters import Way, choose_way
from replicator.embedded.jars import kafka_version
from replicator.embedded.provision import ensure_kafka
from replicator.embedded.reaper import stop_detached
from replicator.embedded.spec import ClusterError


def main(arguments: Sequence[str]) -> int:
    """Exit code 0 when done, 1 when something is missing (one line says what), 2 for wrong arguments."""
    try:
        match list(arguments):
            case []:
                print(set_up())
            case ["stop", directory]:
                stop_detached(Path(directory))
                print(f"Kafka: the clusters in {directory} are gone")
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except ClusterError as error:
        print(f"Kafka: {error}", file=sys.stderr)
        return 1
    return 0


def set_up() -> str:
    """Make ready what takes long; returns the line that says how clusters will be started."""
    if choose_way() is Way.DOCKER:
        return f"Kafka: containers of apache/kafka:{kafka_version()}, because a Docker engine answers"
    kafka = ensure_kafka()
    return f"Kafka: {kafka_version()} as Java processes ({kafka.java.path}), jars in {kafka.jars}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
