"""Measurements: our throughput and cost next to MirrorMaker 2's, and the proof that memory is bounded.

    python -m bench throughput     both, alternating, on one machine, over the same backlog
    python -m bench memory         a backlog on many partitions, and a target that stalls
    python -m bench report         tables from saved results, and docs/benchmarks.md

    files    proc.py         what processes cost, from /proc          backlog.py    topics: fill, watch, clean up
             contenders.py   how each contender is started            throughput.py, memory.py   the two runs
             results.py      what was measured, as JSON               report.py     tables from it

Everything is measured from outside the contenders, in the same way for each. It needs Linux.
"""
