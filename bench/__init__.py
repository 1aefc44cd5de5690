"""Measurements: throughput, and what moving groups costs, next to MirrorMaker 2; and that memory is bounded.

    python -m bench throughput     both, alternating, on one machine, over the same backlog
    python -m bench failover       groups move to the target: records read twice or never, and time, for both
    python -m bench memory         a backlog on many partitions, and a target that stalls
    python -m bench report         tables from saved results, and docs/benchmarks.md

    files    proc.py         what processes cost, from /proc          backlog.py    topics: fill, watch, clean up
             contenders.py   how each contender is started            throughput.py, memory.py   two of the runs
             results.py      what was measured, as JSON               report.py     tables from it
             failover.py     groups move                              load.py       a source at work, and its groups
             moves.py        what the operator does                   positions.py  where groups go on, on the target
             accounts.py     records read twice, and freshness        failover_report.py, text.py   tables

Everything is measured from outside the contenders, in the same way for each. It needs Linux.
"""
