"""Measurements: next to MirrorMaker 2 from the same jars, and of bounds that need no comparison.

    python -m bench all            all that follow, one after the other (`make bench`, `make bench-full`)
    python -m bench throughput     contenders drain the same backlog in turn, next to the limit of the target's broker
    python -m bench tiny           the same, from a source whose batches hold one record each
    python -m bench latency        age of the records when a consumer of the target gets them, under a steady load
    python -m bench partitions     CPU of idle partitions
    python -m bench takeover       time without records on a partition after a worker was killed
    python -m bench failover       groups move to the target: records read again or skipped, and time
    python -m bench memory         a backlog on many partitions, and a target that stops answering
    python -m bench offset-map     ten million runs through one offset map
    python -m bench table FILE     the figures of a saved run
    python -m bench.plot           pictures of saved runs, with matplotlib: pip install 'replicator[bench]'

    files    catalog.py      the measurements, and their configurations    results.py   one JSON file for each run
             figures.py      medians and ranges, as a table                plot.py       the pictures
             contenders.py   how each contender is started                 replayer.py   only sends: the broker's limit
             stage.py        two clusters, and the CPU of the work         proc.py       CPU and memory, from /proc
             backlog.py      topics: fill, watch, clean up                 load.py       a producer, and its groups
             live.py         a contender under load                        arrivals.py   when records became visible
             throughput.py, latency.py, partitions.py, takeover.py, failover.py, memory.py, offset_map.py   the runs
             moves.py        the operator's commands                       positions.py  offsets of groups on the target
             accounts.py     records read again or skipped, and freshness

Everything is measured from outside the contenders, in the same way for each. It needs Linux.
"""
