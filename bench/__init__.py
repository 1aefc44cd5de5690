"""Measurements: next to MirrorMaker 2 from the same jars, and of promises that need no comparison.

    python -m bench all            all that follow, one after the other (`make bench`, `make bench-full`), and plots
    python -m bench throughput     contenders in turn over the same backlog, next to the limit of the target's broker
    python -m bench tiny           the same, from a source whose batches hold one record each
    python -m bench latency        how old records are when a reader of the target gets them, under a steady load
    python -m bench partitions     what partitions cost that have nothing to do
    python -m bench takeover       how long partitions stand still when a worker is killed
    python -m bench failover       groups move to the target: records read twice or never, and time
    python -m bench memory         a backlog on many partitions, and a target that stalls
    python -m bench offset-map     a long life of one offset map
    python -m bench report         tables and plots from saved results, and docs/benchmarks.md

    files    catalog.py      the measurements as commands            results.py   what was measured, as JSON
             contenders.py   how each contender is started           replayer.py  only sends: the broker's limit
             stage.py        two clusters, and what work costs       proc.py      what processes cost, from /proc
             backlog.py      topics: fill, watch, clean up           load.py      a source at work, and its groups
             live.py         a contender under load                  arrivals.py  when records became visible
             throughput.py, latency.py, partitions.py, takeover.py, failover.py, memory.py, offset_map.py     the runs
             moves.py        what the operator does                  positions.py where groups go on, on the target
             accounts.py     records read twice, and freshness       promises.py  bounds, and whether they are kept
             report.py, throughput_report.py, live_report.py, failover_report.py, text.py     tables, the document
             plots.py        which plots there are                   charts.py    bars as SVG

Everything is measured from outside the contenders, in the same way for each. It needs Linux.
"""
