"""One suite for every data plane, on real brokers.

conftest.py    the fixture `lane`, once for each plane; tests/support/planes.py and lane.py are what drives one
test_*.py      the contract of `replicator.planes.Plane`
"""
