"""Where a record of the source is on the target, exactly. Pure: no Kafka, no clock, no files.

A *run* is what one transaction put on one partition. Runs that lie side by side are the *offset map*, which
translates a group's position. Each run is stored as one offset sync in the syncs topic, and compaction keeps fewer
of them the older they are.

Read first: `runs` (what a run is, drawn), then `map` (where a record is), then `translate` (where a group
goes on: each rule, once), then `sync_format` (its bytes).

Invariants:
    D: a translation never passes a record that the group has not read; where it says exact, it is.
"""
