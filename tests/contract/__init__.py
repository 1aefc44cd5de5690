"""One suite for every data plane, on real brokers.

harness.py     the planes under test, and a driver that does what a task does, without syncs
raw.py         writes what librdkafka can't: a record with timestamp 0
conftest.py    the fixtures `plane` and `kind`
test_*.py      the contract of `replicator.planes.Plane`
"""
