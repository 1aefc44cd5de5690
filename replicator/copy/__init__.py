"""The copy path: from owning a task to committed records.

Promises: A, B, C and H of docs/ARCHITECTURE.md, across crashes, fencing, rebalances and lost brokers.

Read first: `task` (five steps from the group's assignment to the first record), then `transaction_loop` (what a
transaction holds, and what an error does), then `assignment` (which partitions run). The assignment decides; the loop
applies; `transaction` is the only place that begins, fills, commits and aborts. `positions` and `partition_states` are
the pure state under them. `transaction_recovery` and `sync_repair` are for targets that lose transaction markers, and
`stall_detector` for clients that go silent.

What is surprising about Kafka here:

* librdkafka goes on at its old offset in a topic that was deleted and created again. So each transaction asks the
  source for the topics' ids while its flush runs, unless the plane knows them (`Transaction.flush`).
* A target topic that was deleted and created again (brokers with `auto.create.topics.enable` do that by themselves)
  shows as records that land before the end of what was replicated (`Positions.runs`). The transaction is aborted, and
  the partition stops. But the aborted records make the log longer, so the next ones may land where they should: after
  an abort the topic's id is asked for before anything is committed (`Positions.unconfirmed`), and a stop that only the
  log's end can tell is lasting (ADR 0010).
* A commit whose answer never came is neither done nor undone. Only the next owner's fencing settles it, so it is a
  `FatalError`.
* The end-of-partition event carries the offset after trailing markers and aborted records. It is valid only after the
  records that came with it were appended (`TransactionLoop._fill`).
* The task's clients may go silent without an error (`stall_detector`).
"""
