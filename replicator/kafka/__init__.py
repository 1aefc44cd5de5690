"""Clusters through librdkafka.

`cluster` is the only importer of confluent_kafka, and the only translator of its errors.

Promises: every call takes a `Deadline`; whatever fails is raised as one of the classes of `errors`, with what the
operator can do about it.

Read first: `cluster` (clients and errors), then `topics` (what the source has) and `log_reader` (a topic, read to
its end).

Surprises of Kafka and of librdkafka that are hidden here:

* Producers: `Producer.produce` takes the delivery callback as its fifth positional argument; the sixth is an alias,
  and with None as the fifth it is ignored. `begin_transaction` inside an open transaction changes nothing and returns
  the error that made the transaction abortable, if there is one (`cluster.transaction_error`). `init_transactions`,
  `commit_transaction` and `abort_transaction` may be called again after a timeout. A commit whose response never came
  is neither done nor undone: only the next owner's fencing settles it, so it is a `FatalError`.
* Offsets: without an answer from the broker, ListOffsets through the admin client returns offset -1001 and no error;
  after an election it repeats the old leader epoch (FENCED_LEADER_EPOCH) until metadata is requested.
  `topic_queries.list_offsets` hides both.
* Topics: `list_topics` of all leaves out what the principal may not see; requested by name, the topic is an error that
  says so. A consumer goes on at its old offset in a topic that was deleted and created again: compare topic ids.
* Clusters that were down: the last broker that shuts down in good order may answer Metadata with topics and no brokers.
  librdkafka then forgets every broker, and one client in four never returns to the bootstrap servers: no error, no
  event, cached watermarks that do not change (librdkafka issue 5301, open in 2.16). A client that is kept for long has
  to be replaced: the worker's own are watched through their statistics (`cluster.WATCHED`), a task compares the ends of
  quiet partitions with those that another client sees (`replicator.copy.stall_detector`), and other clients are closed
  after a failure.
* Transactions: a commit is acknowledged before its markers are in the partitions, so a reader that looks at once may
  see nothing yet. When two writers commit the same group's offsets, one of them in a transaction, the later one in the
  broker's log wins, whenever the transaction ends. A broker takes the offsets of a transaction also for a group that
  has members. Offsets in an open transaction are "unstable" until it ends or times out.
* Reading: `poll` without records does not prove that there are none; after the process was stopped, the consumer may
  not have fetched yet. Ask for the end offset first (`log_reader`). The end-of-partition event carries the offset
  after trailing markers and aborted records.
* Coordinators: a request to a group's coordinator that times out inside librdkafka ends the process when the cluster
  comes back (librdkafka issue 4605). A broker that stops in good order, starts, or hands a coordinator over answers
  NOT_COORDINATOR to the question for a group's offsets, and librdkafka's admin client then follows a null pointer
  (issue 5040). So requests about groups go through `replicator.protocol`.
* Groups: a consumer of a cooperative group that is closed in the middle of a rebalance may wait for ever, with the
  interpreter's lock (issue 4884); `cluster.leave_group` waits for the rebalance first. Brokers list their groups
  without those whose coordinator is moving, and without an error; a fenced broker lists none. Only the coordinator can
  tell that a group is gone. A group whose first member just joined waits for `group.initial.rebalance.delay.ms` (3 s
  by default).
"""
