"""The `batches` plane: record batches of the source pass through unopened.

One event loop per task drives every connection to both clusters on the task's thread: while the task waits for a
commit, the next Fetch response arrives and its batches are checked. Tasks share nothing, so there are no locks.

Read first: `plane` (fetch, append, flush, commit), then `fetcher` with `fetch_session` (what is fetched from which
broker), then `producer` with `partition_queue` (batches in flight to the target: order, sequences, repetition). The
connections, the transaction and the record format are in `replicator.protocol`.

Of a batch that passes, these header fields are written: base offset, leader epoch, attributes (codec and the
transactional bit), producer id, epoch and sequence, and the checksum. Records, their codec and their order stay as they
are, byte for byte.

Re-encoded are batches that a broker would refuse as they are, and those of which only some records are to be
replicated: compacted ones (the broker wants an unbroken series of offsets), partly consumed ones, those with
LogAppendTime or a delete horizon, older formats, those larger than the target takes, and long series of tiny ones,
because a request carries one batch per partition. Control batches and those of aborted transactions are left out.

Surprises of Kafka that are hidden here:

* A broker keeps the last five batches of a producer and partition, to recognise duplicates. So at most five batches,
  counted from the oldest that is not acknowledged, are in flight; acknowledged ones among them count. A sixth would
  evict the first, whose response may have been lost (`PartitionQueue.is_sendable`). A batch gets its sequence numbers
  when it is appended, and keeps them however often it is sent.
* Every abort is followed by a new epoch (`TransactionManager.bump_epoch`, KIP-360), after every request in flight was
  answered. Sequences start at 0, and no late request can begin a transaction that is never ended. When a batch without
  a known place got no response, the task does not abort: it begins again, and fencing ends the transaction, with
  markers of a newer epoch, after which no leader takes that batch.
* A commit that was requested more than once is followed by a new epoch before the next transaction begins (KIP-890).
* The transaction stops at the first error that will not pass: brokers would take the batches behind it, and a commit
  would commit them.
* Placements are sorted before they are handed over: a batch whose response was lost is placed after those behind it.
* A response counts only if it was requested at the partition's present position: what was requested before an `assign`
  is dropped.
* A partition that is tried again at the same position keeps the leader epoch that it was read with, so that a source
  log that was truncated is recognised even when it has grown past the position. A new worker does not know that epoch,
  nor does the `records` plane.

Source: KIP-98, KIP-227, KIP-320, KIP-360, KIP-392, KIP-712, KIP-951; clients `DefaultRecordBatch`.
"""
