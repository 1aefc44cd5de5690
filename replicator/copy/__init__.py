"""The copy path: from owning a task to committed records.

Promises: A, B and C of docs/ARCHITECTURE.md, across crashes, fencing, rebalances and lost brokers.

Read first: `task` (the five steps from assignment to the first record), then `transaction_loop` (one transaction),
then `assignment` (which partitions run). `positions` and `partition_states` are the pure state under them.
"""
