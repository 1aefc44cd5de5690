"""Exactly-once replication of Kafka topics between clusters. Start reading at docs/ARCHITECTURE.md."""

__version__ = "0.1.0"
