"""Two Kafka clusters in memory, and a task that copies between them: real code down to the transport.

Our own code runs unchanged, from `copy.task.Task` down to `protocol.brokers` and `planes.batches`. Only three things
are replaced: connections (`wire`), librdkafka's clients (`librdkafka`), and time (`simulation`).

    simulation   virtual time, and processes that run one at a time and can be killed between any two effects
    log          one partition: batches, producers, last stable offset, aborted transactions, cuts, retention
    coordinator  transactional ids: epochs, fencing, partitions, markers that come late or never, timeouts
    cluster      brokers, topics, leaders, and what the brokers check before they append or answer
    wire         our requests, decoded by kafka-python's schemas, and their answers
    librdkafka   what librdkafka's consumers and admin clients give to `kafka/`
    flow         the two clusters with a task between them: produce, start, kill, disturb
    invariants   what must hold whatever happened (DESIGN's letters)

What of Kafka is modelled, and from where: record batches, sequences and the five remembered batches (KIP-98, core
`ProducerStateManager`); epochs and fencing (KIP-98, KIP-360, core `TransactionCoordinator`); requests that arrive after
the markers of their own epoch, which brokers without KIP-890 append; markers that get lost (KAFKA-20734); topic ids
(KIP-516); leader epochs and logs that diverge (KIP-320, KIP-595); OFFSET_OUT_OF_RANGE, after which librdkafka begins at
`auto.offset.reset`, so that a consumer behind the end of a log gets its first record.

Not modelled: replicas (a high watermark is the end of the log), fetch sessions (brokers that keep none say id 0),
quotas, rights, TLS, compression, groups.
"""
