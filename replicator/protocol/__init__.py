"""A client of Kafka's protocol: sockets, logins, brokers, requests.

One event loop drives all connections of its owner on the owner's thread. Nothing is shared between threads, so there
are no locks. Fetch and Produce, which carry record batches, and requests about groups are encoded by hand; all other
requests use kafka-python's schemas, which stay inside this package.

Read first: `event_loop`, then `connection` (requests in flight on one socket), then `brokers` (one cluster:
connections, leaders, requests).

    event_loop, connection, response_reader, buffer_pool   sockets, requests in flight, responses and their memory
    broker_link, handshake, security, oauth                connecting: backoff, TLS, SASL, re-authentication
    brokers, metadata, metadata_refresher, request_queue   one cluster: leaders, and small requests to any broker
    fetch, produce, primitives, schemas                    bytes of requests and responses, decoded within bounds
    transaction_manager                                    producer id and epoch, AddPartitionsToTxn, EndTxn
    hanging_transactions                                   transactions that lack a marker: found, and ended
    group_requests, group_query, group_coordinators,
    group_transaction, group_codecs                        consumer groups: list, describe, offsets, commits
    capabilities, connect_errors                           which clusters it can serve; brokers that are unreachable
    record_format/                                         record batches: headers, and re-encoding

Surprises of Kafka that are hidden here:

* The last broker of a cluster that shuts down in good order may answer Metadata with topics and no brokers.
  `metadata.ClusterMetadata` keeps the brokers that it has.
* A broker that has not heard of the last election answers with the old leader: leaders are kept with their epochs.
* A commit whose response never came may still reach the coordinator later, inside the next transaction, and commit it
  too early (KIP-890). `transaction_manager` bumps the epoch before that transaction begins.
* A commit is acknowledged before its markers are in the partitions: a reader that looks at once may see nothing yet.
* A coordinator may never write the marker of one partition, when brokers crash at that moment (`hanging_transactions`).
* A broker closes connections that idle, and those whose authentication is too old (KIP-368): neither is an error.
"""
