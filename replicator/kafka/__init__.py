"""Clusters through librdkafka.

`cluster` is the only importer of confluent_kafka, and the only translator of its errors.

Promises: every call takes a `Deadline`; whatever fails is raised as one of the classes of `errors`, with what the
operator can do about it.

Read first: `cluster` (clients and errors), then `topics` (what the source has) and `log_reader` (a topic, read to
its end).
"""
