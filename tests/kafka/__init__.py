"""Kafka for the tests.

fixtures.py      pytest options and fixtures: shared clusters, clusters of one's own, unique names
eventually.py    the only way to wait
records.py       read a topic to its stable end; produce; create topics
certificates.py  CAs and PEM files for secured clusters
"""
